"""The views of the whole cluster, on real servers."""

import time

import pytest
from declared_support import read, run
from sql_servers import COORDINATOR, WORKERS, Servers, register

from citus_cluster.operations.cluster_state.views import DRIFT, SHOW
from citus_cluster.operations.nodes.changes import DISABLE
from citus_cluster.operations.nodes.lookup import OneNode

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


def test_a_cluster_says_what_it_runs_and_how_it_differs_from_its_files(cluster: Servers) -> None:
    register(cluster)
    shown = read(cluster, SHOW)
    image = cluster.image.rpartition(":")[2]
    assert shown.citus_version == image
    assert {node.citus_version for node in shown.nodes} == {image}
    assert (shown.counts.workers, shown.counts.active_workers, shown.counts.holding_shards) == (3, 3, 3)
    assert shown.matches
    assert shown.capabilities["background_rebalance"]
    assert shown.capabilities["tenant_isolation"]
    assert shown.capabilities["concurrent_distribution"]
    assert read(cluster, DRIFT) == ()

    cluster.sql(
        THIRD.host, "ALTER SYSTEM SET max_prepared_transactions = 321", "ALTER SYSTEM SET wal_keep_size = '9MB'"
    )
    cluster.sql(THIRD.host, "SELECT pg_reload_conf()")
    run(cluster, DISABLE, OneNode(SECOND.host))
    try:
        with cluster.paused(FIRST.host):
            started = time.monotonic()
            rows = {row.item: row for row in read(cluster, DRIFT)}
            assert time.monotonic() - started < 20
    finally:
        cluster.sql(THIRD.host, "ALTER SYSTEM RESET max_prepared_transactions", "ALTER SYSTEM RESET wal_keep_size")
        cluster.sql(THIRD.host, "SELECT pg_reload_conf()")
    assert "does not answer" in rows["silent citus-worker1:5432"].message
    assert rows["inactive citus-worker2:5432"].fix == "citus-cluster nodes activate citus-worker2"
    waiting = rows["setting citus-worker3:5432 max_prepared_transactions"]
    assert "waits for a restart" in waiting.message
    assert waiting.fix == "docker compose restart citus-worker3"
    assert not any("wal_keep_size" in item for item in rows)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_node WHERE isactive") == [(3,)]
