"""Shards that a worker has lost, on real servers: how they are found, named, and made again."""

import re

import pytest
from setup_support import ROOT
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, on, register
from sql_tables import distribute

from citus_cluster.errors import VerificationError
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.nodes.losses import confirmed_loss
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.citus.tables import Presence
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


def test_a_worker_whose_data_are_gone_is_told_and_taken_in_again(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE kinds (id int PRIMARY KEY)",
        "SELECT create_reference_table('kinds')",
        "INSERT INTO kinds SELECT generate_series(1, 10)",
        "CREATE ROLE app LOGIN",
        "GRANT SELECT ON orders, kinds TO app",
    )
    try:
        cluster.stop(FIRST.host)
        cluster.start(FIRST.host)
        cluster.wait(FIRST.host)

        (loss,) = [node.loss for node in on(cluster, overview).nodes if node.loss]
        assert (loss.address, loss.emptied, loss.missing, loss.placed) == (FIRST, True, 9, 9)
        assert {table: len(ids) for table, ids in loss.shards.items()} == {"kinds": 1, "lines": 4, "orders": 4}
        assert loss.reference == {"kinds"}
        assert "app" in loss.roles  # other tests may have left some
        with pytest.raises(
            VerificationError, match="citus-worker1:5432 has lost its data: 9 of the 9 shards"
        ) as caught:
            on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
        assert caught.value.hint and "DROP TABLE lines, orders;" in caught.value.hint

        cluster.sql(COORDINATOR.host, *loss.statements)
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
        assert cluster.sql(FIRST.host, "SELECT count(*) FROM kinds") == [(10,)]
        assert cluster.sql(FIRST.host, "SELECT count(*) FROM pg_roles WHERE rolname = 'app'") == [(1,)]
    finally:
        cluster.take_apart()
        cluster.sql(COORDINATOR.host, "DROP ROLE IF EXISTS app")
        for worker in (FIRST, SECOND):
            cluster.sql(worker.host, "DROP ROLE IF EXISTS app")


def test_a_single_missing_shard_is_named_and_made_anew_as_documented(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=1000)
    (shard_id,) = cluster.sql(
        COORDINATOR.host,
        "SELECT shardid FROM citus_shards WHERE table_name = 'orders'::regclass AND nodename = 'citus-worker2' LIMIT 1",
    )[0]
    cluster.sql(SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"DROP TABLE orders_{shard_id}")

    async def dropped_meanwhile(conn: Connection) -> None:
        # What is asked for the second time has moved, or was dropped.
        node = next(node for node in (await read_registry(conn)).nodes if node.address == SECOND)
        assert await confirmed_loss(conn, node, Presence(node.group_id, (1,)), placed=9) is None

    on(cluster, dropped_meanwhile)
    with pytest.raises(
        VerificationError, match=rf"1 of the 8 shards placed there does not exist: orders \({shard_id}\)"
    ):
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))

    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    (query,) = [block for block in blocks if "worker_apply_shard_ddl_command" in block]
    statements = cluster.sql(COORDINATOR.host, query.replace("102011, 102013", str(shard_id)))
    cluster.sql(SECOND.host, *(str(row[0]) for row in statements))
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    ((rows,),) = cluster.sql(COORDINATOR.host, "SELECT count(*) FROM orders")
    assert 0 < int(str(rows)) < 1000


def test_a_lost_copy_of_a_shard_is_no_loss_of_rows_and_is_made_again(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    cluster.sql(
        COORDINATOR.host,
        "SET citus.shard_replication_factor = 2",
        "CREATE TABLE twice (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('twice', 'id', shard_count => 4)",
        "INSERT INTO twice SELECT generate_series(1, 1000)",
    )
    (shard_id,) = cluster.sql(COORDINATOR.host, "SELECT min(shardid) FROM pg_dist_shard")[0]
    cluster.sql(SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"DROP TABLE twice_{shard_id}")
    with pytest.raises(VerificationError, match=r"No row of twice is lost: citus-worker1:5432 has a copy") as caught:
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    assert caught.value.hint
    assert "DROP" not in caught.value.hint
    assert "citus_copy_shard_placement" in caught.value.hint

    (loss,) = [node.loss for node in on(cluster, overview).nodes if node.loss]
    cluster.sql(COORDINATOR.host, *loss.statements)
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    count = f"SELECT count(*) FROM twice_{shard_id}"
    assert cluster.sql(SECOND.host, count) == cluster.sql(FIRST.host, count)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM twice") == [(1000,)]


def test_shards_that_a_prepared_transaction_makes_are_not_lost(cluster: Servers, recorder: Recorder) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    (shard_id,) = cluster.sql(
        COORDINATOR.host,
        "SELECT shardid FROM citus_shards WHERE table_name = 'orders'::regclass AND nodename = 'citus-worker2' LIMIT 1",
    )[0]
    # As after a crash between the commit on the coordinator and that on the worker; Citus recovers it later.
    cluster.sql(
        SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"ALTER TABLE orders_{shard_id} RENAME TO away"
    )
    prepare = "BEGIN; CREATE TABLE made (id int); PREPARE TRANSACTION 'citus_99_1_1_0'"
    cluster.sql(SECOND.host, f"SET citus.enable_ddl_propagation = off; {prepare}")
    try:
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], recorder))
        assert "citus-worker2:5432 is recovering transactions of Citus" in recorder.text
        assert [node.loss for node in on(cluster, overview).nodes if node.loss] == []
    finally:
        cluster.sql(SECOND.host, "ROLLBACK PREPARED 'citus_99_1_1_0'")
    with pytest.raises(VerificationError, match=rf"does not exist: orders \({shard_id}\)"):
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    cluster.sql(
        SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"ALTER TABLE away RENAME TO orders_{shard_id}"
    )
