"""Declared views and changes of the node list, on real servers."""

import time
from pathlib import Path

import psycopg
import pytest
from declared_support import messages, preview, read, resumed, run
from sql_drain_support import checksum, distribute, run_drain
from sql_servers import COORDINATOR, WORKERS, Servers, on, register
from waiting import eventually

from citus_cluster.errors import BlockedError, LockedError, NotFoundError, RebalanceError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.parameters import read_parameters
from citus_cluster.operations.nodes.changes import ACTIVATE, DISABLE, SET, Activation, ShardsOf
from citus_cluster.operations.nodes.checks import troubles
from citus_cluster.operations.nodes.joining import (
    ADD,
    ADD_INACTIVE,
    ADD_SECONDARY,
    NewSecondary,
    NewServer,
    NewWorker,
)
from citus_cluster.operations.nodes.leaving import REMOVE, Leaving
from citus_cluster.operations.nodes.lookup import OneNode
from citus_cluster.operations.nodes.maintenance import PAUSE, RESUME, Pause
from citus_cluster.operations.nodes.moving import MOVE, NewAddress
from citus_cluster.operations.nodes.views import ACTIVE, LIST, MESH
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.citus import maintenance
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
NODES = "SELECT nodename, isactive, shouldhaveshards FROM pg_dist_node WHERE groupid <> 0 ORDER BY nodename"


def test_views_of_the_nodes_tell_silent_ones_in_bounded_time(cluster: Servers) -> None:
    register(cluster)
    rows = read(cluster, LIST)
    assert [(row.node, row.role.value, row.answers, row.reason) for row in rows] == [
        ("citus-coordinator:5432", "coordinator", True, None),
        *((str(worker), "worker", True, None) for worker in WORKERS),
    ]
    assert [row.node_name for row in read(cluster, ACTIVE)] == [worker.host for worker in WORKERS]
    mesh = read(cluster, MESH)
    assert len(mesh) == 16
    assert all(row.connects for row in mesh)
    with cluster.paused(FIRST.host), cluster.paused(SECOND.host):
        started = time.monotonic()
        rows = read(cluster, LIST)
        taken_s = time.monotonic() - started
        assert [row.answers for row in rows] == [True, False, False, True]
        assert "citus-worker1:5432 does not answer" in str(rows[1].reason)
        assert len(read(cluster, ACTIVE)) == 3, "metadata, not liveness"
        found = {(row.from_node, row.to_node): row for row in read(cluster, MESH)}
    # One silent node alone would take 4 s if the nodes were asked one after the other.
    assert taken_s < 4 + 3.9
    assert len(found) == 16
    assert found[str(THIRD), str(COORDINATOR)].connects is True
    assert found[str(COORDINATOR), str(FIRST)].connects is False
    assert found[str(FIRST), str(COORDINATOR)].connects is None
    assert found[str(FIRST), str(COORDINATOR)].reason


def test_a_worker_without_only_copies_is_disabled_and_activated(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
    )
    # The first worker needs the synchronous way.
    assert preview(cluster, DISABLE, OneNode(FIRST.host)).findings == ()
    assert run(cluster, DISABLE, OneNode(FIRST.host)) == {"node": str(FIRST), "changed": True}
    assert run(cluster, DISABLE, OneNode(FIRST.host)) == {"node": str(FIRST), "changed": False}
    assert cluster.sql(COORDINATOR.host, NODES)[0] == (FIRST.host, False, True)
    assert read(cluster, LIST)[1].answers is None
    with cluster.paused(FIRST.host):
        cluster.sql(COORDINATOR.host, "INSERT INTO countries VALUES (1)")
        blocked = preview(cluster, ACTIVATE, Activation(FIRST.host))
        assert "does not answer" in messages(blocked.blocking)
        # Another one: the first of the rest in the order of Citus.
        assert preview(cluster, DISABLE, OneNode(SECOND.host)).blocking == ()
    assert run(cluster, ACTIVATE, Activation(str(FIRST)))["changed"] is True
    assert cluster.sql(COORDINATOR.host, NODES)[0] == (FIRST.host, True, True)
    with cluster.paused(THIRD.host):
        assert "citus-worker3:5432 does not answer" in messages(preview(cluster, DISABLE, OneNode(FIRST.host)).blocking)
        later = preview(cluster, DISABLE, OneNode(SECOND.host))
        assert later.blocking == ()
        assert "learns of it only once it answers" in messages(later.warnings)


@pytest.mark.usefixtures("only_newest")
def test_what_a_node_cannot_do_is_said_before(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster)
    held = preview(cluster, DISABLE, OneNode(SECOND.host))
    assert "holds the only copies of" in messages(held.blocking)
    assert "orders (" in messages(held.blocking)
    assert "citus-cluster nodes drain citus-worker2 --wait" in messages(held.blocking)
    with pytest.raises(BlockedError):
        run(cluster, DISABLE, OneNode(SECOND.host))
    with pytest.raises(UsageError, match="coordinator cannot be disabled"):
        preview(cluster, DISABLE, OneNode(COORDINATOR.host))
    with pytest.raises(NotFoundError) as caught:
        preview(cluster, DISABLE, OneNode("citus-worker7"))
    assert "citus-worker1" in str(caught.value.hint)
    with pytest.raises(NotFoundError, match="no such node"):
        preview(cluster, SET, ShardsOf("'; DROP TABLE orders; --", holds_shards=False))


@pytest.mark.usefixtures("only_newest")
def test_a_node_may_hold_shards_or_not(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster)
    with pytest.raises(UsageError, match="holds_shards is missing"):
        preview(cluster, SET, ShardsOf(FIRST.host))
    plan = preview(cluster, SET, ShardsOf(FIRST.host, holds_shards=False))
    assert "any rebalance moves them" in messages(plan.warnings)
    assert run(cluster, SET, ShardsOf(FIRST.host, holds_shards=False))["changed"] is True
    assert run(cluster, SET, ShardsOf(FIRST.host, holds_shards=False))["changed"] is False
    assert cluster.sql(COORDINATOR.host, NODES) == [(FIRST.host, True, False), (SECOND.host, True, True)]
    last = preview(cluster, SET, ShardsOf(SECOND.host, holds_shards=False))
    assert "No other active node may hold shards" in messages(last.blocking)
    assert run(cluster, SET, ShardsOf(COORDINATOR.host, holds_shards=True))["changed"] is True
    assert preview(cluster, SET, ShardsOf(SECOND.host, holds_shards=False)).blocking == ()
    with cluster.paused(FIRST.host):
        silent = preview(cluster, SET, ShardsOf(SECOND.host, holds_shards=False))
        assert "citus-worker1:5432 does not answer" in messages(silent.blocking)
    assert run(cluster, SET, ShardsOf(FIRST.host, holds_shards=True))["changed"] is True


REFERENCE = (
    "CREATE TABLE countries (id int PRIMARY KEY)",
    "SELECT create_reference_table('countries')",
    "INSERT INTO countries SELECT generate_series(1, 10)",
)


def test_a_worker_without_shards_rests_and_returns_with_what_changed_meanwhile(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(COORDINATOR.host, *REFERENCE)
    done = run(cluster, PAUSE, Pause(THIRD.host, "new kernel"))
    assert (done["changed"], done["disabled"]) == (True, True)
    assert "citus-cluster nodes resume citus-worker3" in done["following"]
    assert run(cluster, PAUSE, Pause(THIRD.host))["changed"] is False
    assert cluster.sql(COORDINATOR.host, NODES)[2] == (THIRD.host, False, False)
    assert [row.in_maintenance for row in read(cluster, LIST)] == [False, False, False, True]
    assert cluster.sql(COORDINATOR.host, "SELECT reason FROM citus_cluster.maintenance") == [("new kernel",)]
    assert cluster.sql(THIRD.host, "SELECT to_regclass('citus_cluster.maintenance')") == [(None,)]
    with cluster.paused(THIRD.host):
        # A worker that is down would make both fail.
        cluster.sql(COORDINATOR.host, "INSERT INTO countries VALUES (11)", "ALTER TABLE countries ADD note text")
        assert register(cluster)[THIRD.host].reason == "it is in maintenance"
        assert on(cluster, look_well) == ()
        assert "does not answer" in messages(preview(cluster, RESUME, Activation(THIRD.host)).blocking)
    blocked = preview(cluster, ACTIVATE, Activation(THIRD.host))
    assert "nodes resume citus-worker3" in messages(blocked.blocking)
    assert run(cluster, RESUME, Activation(THIRD.host))["changed"] is True
    assert run(cluster, RESUME, Activation(THIRD.host))["changed"] is False
    assert cluster.sql(COORDINATOR.host, NODES)[2] == (THIRD.host, True, True)
    assert cluster.sql(THIRD.host, "SELECT count(*), count(note) FROM countries") == [(11, 0)]
    shard = cluster.sql(COORDINATOR.host, "SELECT shard_name('countries', shardid) FROM pg_dist_shard LIMIT 1")
    assert cluster.sql(THIRD.host, f"SELECT count(*) FROM {shard[0][0]}") == [(11,)]


async def look_well(conn: Connection) -> tuple[str, ...]:
    return await troubles(conn, (await read_registry(conn)).nodes)


@pytest.mark.usefixtures("only_newest")
def test_a_worker_with_only_copies_rests_enabled_and_is_restored_exactly(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    plan = preview(cluster, PAUSE, Pause(SECOND.host))
    assert plan.blocking == ()
    assert "stays enabled, because it holds 4 shards: lines (2 shards), orders (2 shards)." in messages(plan.warnings)
    # A run that was interrupted after its first step is continued, and keeps the state before.
    node_id = cluster.sql(COORDINATOR.host, "SELECT nodeid FROM pg_dist_node WHERE nodename = 'citus-worker2'")[0][0]

    async def begin(conn: Connection) -> None:
        await maintenance.record(conn, int(str(node_id)), was_active=True, held_shards=True, reason=None)

    on(cluster, begin)
    done = run(cluster, PAUSE, Pause(SECOND.host))
    assert (done["changed"], done["disabled"]) == (True, False)
    assert cluster.sql(COORDINATOR.host, NODES)[1] == (SECOND.host, True, False)
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE later (id int)",
        "SELECT create_distributed_table('later', 'id', shard_count => 6)",
    )
    on_it = (
        "SELECT count(*) FROM pg_dist_placement JOIN pg_dist_shard USING (shardid) JOIN pg_dist_node USING (groupid) "
        "WHERE logicalrelid = 'later'::regclass AND nodename = 'citus-worker2'"
    )
    assert cluster.sql(COORDINATOR.host, on_it) == [(0,)]
    assert "in maintenance" in messages(preview(cluster, SET, ShardsOf(SECOND.host, holds_shards=True)).blocking)
    with pytest.raises(RebalanceError, match="citus-worker2:5432 is in maintenance"):
        run_drain(cluster, THIRD)
    assert cluster.sql(COORDINATOR.host, NODES)[2] == (THIRD.host, True, True)
    with cluster.paused(SECOND.host):
        assert on(cluster, look_well) == ()
        seen = {node.address: node for node in on(cluster, overview).nodes}
        assert seen[SECOND].condition == "in maintenance"
        assert "does not answer" in messages(preview(cluster, RESUME, Activation(SECOND.host)).blocking)
    run(cluster, RESUME, Activation(SECOND.host))
    assert cluster.sql(COORDINATOR.host, NODES)[1] == (SECOND.host, True, True)
    # One that was drained before stays drained.
    run(cluster, SET, ShardsOf(THIRD.host, holds_shards=False))
    run(cluster, PAUSE, Pause(THIRD.host))
    run(cluster, RESUME, Activation(THIRD.host))
    assert cluster.sql(COORDINATOR.host, NODES)[2] == (THIRD.host, True, False)
    with pytest.raises(UsageError, match="coordinator cannot be paused"):
        preview(cluster, PAUSE, Pause(COORDINATOR.host))


def test_a_worker_gets_another_address_and_keeps_its_data(cluster: Servers, tmp_path: Path) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster)
    before = checksum(cluster)
    address = NodeAddress(cluster.ip_address(FIRST.host))
    assert "address of another node" in messages(preview(cluster, MOVE, NewAddress(FIRST.host, SECOND.host)).blocking)
    stranger = preview(cluster, MOVE, NewAddress(FIRST.host, THIRD.host))
    assert "citus-worker3:5432 belongs to group" in messages(stranger.blocking)
    nobody = preview(cluster, MOVE, NewAddress(FIRST.host, "citus-worker9"))
    assert "cannot resolve the host name" in messages(nobody.blocking)
    wanted = NewAddress(FIRST.host, address.host)
    plan = preview(cluster, MOVE, wanted)
    assert "cluster.yaml still has" in messages(plan.warnings)
    moved = run(cluster, MOVE, wanted)
    assert moved == {"node": str(address), "changed": True}
    assert resumed(cluster, MOVE, wanted, plan, tmp_path) == moved
    assert run(cluster, MOVE, NewAddress(str(address), address.host))["changed"] is False
    assert checksum(cluster) == before
    cluster.sql(SECOND.host, "SELECT count(*) FROM orders")
    assert register(cluster, FIRST, SECOND)[FIRST.host].reason == "an operator removed it from the node list"
    # A statement that writes holds the change up, unless it is forced.
    with cluster.session() as writer:
        writer.execute("BEGIN")
        writer.execute("UPDATE orders SET id = id")
        with pytest.raises(LockedError, match="cannot be changed now"):
            run(cluster, MOVE, NewAddress(str(address), FIRST.host))
        assert "loses the transactions" in messages(
            preview(cluster, MOVE, NewAddress(str(address), FIRST.host, force=True)).warnings
        )
        run(cluster, MOVE, NewAddress(str(address), FIRST.host, force=True))
        with pytest.raises(psycopg.OperationalError):
            writer.execute("SELECT 1")
    assert checksum(cluster) == before
    assert register(cluster, FIRST, SECOND)[FIRST.host].outcome is Outcome.ALREADY


def test_a_standby_joins_as_a_secondary_and_takes_its_primarys_place(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster)
    before = checksum(cluster)
    with pytest.raises(UsageError, match="primary is missing"):
        preview(cluster, ADD_SECONDARY, NewSecondary(THIRD.host))
    wrong = preview(cluster, ADD_SECONDARY, NewSecondary(THIRD.host, FIRST.host))
    assert "is not a standby of citus-worker1:5432: its data are not a copy" in messages(wrong.blocking)
    assert "pg_basebackup" in messages(wrong.blocking)
    with cluster.standby("citus-standby1", FIRST.host) as standby:
        wanted = NewSecondary(standby.host, FIRST.host)
        assert "citus.use_secondary_nodes" in messages(preview(cluster, ADD_SECONDARY, wanted).warnings)
        assert run(cluster, ADD_SECONDARY, wanted)["changed"] is True
        assert run(cluster, ADD_SECONDARY, wanted)["changed"] is False
        group = next(row.group_id for row in read(cluster, LIST) if row.host == FIRST.host)
        row = next(row for row in read(cluster, LIST) if row.host == standby.host)
        assert (row.node_role, row.answers, row.group_id) == ("secondary", True, group)
        assert "has standbys in the node list" in messages(preview(cluster, REMOVE, Leaving(FIRST.host)).blocking)
        run(cluster, REMOVE, Leaving(standby.host))
        assert standby.host not in {row.host for row in read(cluster, LIST)}

        move = NewAddress(FIRST.host, standby.host)
        assert "is still a standby. Promote it first" in messages(preview(cluster, MOVE, move).blocking)
        cluster.sql(standby.host, "SELECT pg_promote()")
        assert "still accepts writes" in messages(preview(cluster, MOVE, move).blocking)
        cluster.containers[FIRST.host].stop(timeout=10)
        try:
            assert preview(cluster, MOVE, move).blocking == ()
            run(cluster, MOVE, move)
            assert checksum(cluster) == before
            # Citus changes no table until the maintenance daemon has told every node.
            synced = "SELECT bool_and(metadatasynced) FROM pg_dist_node WHERE groupid <> 0"
            eventually(lambda: cluster.sql(COORDINATOR.host, synced) == [(True,)], "every node knows the new address")
            cluster.empty()
            cluster.sql(COORDINATOR.host, "SELECT citus_remove_node('citus-standby1', 5432)")
        finally:
            cluster.containers[FIRST.host].start()
            cluster.wait(FIRST.host)


@pytest.mark.usefixtures("only_newest")
def test_workers_join_and_leave_as_declared_changes(cluster: Servers, tmp_path: Path) -> None:
    register(cluster, FIRST)
    with pytest.raises(UsageError, match="not a host name"):
        read_parameters(NewWorker, {"host": "no host"})
    with pytest.raises(UsageError, match="the coordinator itself"):
        preview(cluster, ADD, NewWorker(COORDINATOR.host))
    absent = preview(cluster, ADD, NewWorker("citus-worker9"))
    assert "It must answer first" in messages(absent.warnings)
    assert run(cluster, ADD, NewWorker(SECOND.host))["node"]["outcome"] == "added"
    assert preview(cluster, ADD, NewWorker(SECOND.host)).steps == ()
    assert run(cluster, ADD, NewWorker(SECOND.host))["node"]["outcome"] == "already"
    assert run(cluster, ADD_INACTIVE, NewServer(THIRD.host))["changed"] is True
    assert run(cluster, ADD_INACTIVE, NewServer(THIRD.host))["changed"] is False
    assert cluster.sql(COORDINATOR.host, NODES)[2] == (THIRD.host, False, True)
    assert register(cluster)[THIRD.host].outcome is Outcome.WITHDRAWN
    run(cluster, ACTIVATE, Activation(THIRD.host))
    distribute(cluster)
    held = preview(cluster, REMOVE, Leaving(THIRD.host))
    assert "still holds the only copy of" in messages(held.blocking)
    assert "orders: 2 shards" in messages(held.blocking)
    run_drain(cluster, THIRD)
    plan = preview(cluster, REMOVE, Leaving(THIRD.host))
    assert "citus-cluster nodes remove citus-worker3" in messages(plan.warnings)
    gone = run(cluster, REMOVE, Leaving(THIRD.host))
    assert gone["following"] == ["citus-cluster nodes remove citus-worker3"]
    assert register(cluster)[THIRD.host].outcome is Outcome.WITHDRAWN
    assert resumed(cluster, REMOVE, Leaving(THIRD.host), plan, tmp_path) == gone
    with pytest.raises(NotFoundError):
        preview(cluster, REMOVE, Leaving(THIRD.host))
