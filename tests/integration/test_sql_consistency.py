"""What is left over in a cluster, on real servers: prepared transactions, leftovers of moves; and restore points."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import psycopg
import pytest
from declared_support import outcome as run
from declared_support import preview as plan
from declared_support import reached, read
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, register
from sql_tables import distribute, moves_held_up
from waiting import eventually

from citus_cluster.errors import BlockedError, UsageError
from citus_cluster.model.citus.orphans import Kind, OrphanState
from citus_cluster.model.citus.prepared import Decision
from citus_cluster.model.plan.events import EventKind
from citus_cluster.operations.consistency import changes, views
from citus_cluster.operations.consistency.changes import NewRestorePoint

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


@contextmanager
def set_on_coordinator(cluster: Servers, **settings: object) -> Iterator[None]:
    """Change settings of Citus while a test runs, so that its daemon does nothing meanwhile."""
    cluster.sql(
        COORDINATOR.host,
        *[f"ALTER SYSTEM SET citus.{name} = '{value}'" for name, value in settings.items()],
        "SELECT pg_reload_conf()",
    )
    try:
        yield
    finally:
        resets = [f"ALTER SYSTEM RESET citus.{name}" for name in settings]
        cluster.sql(COORDINATOR.host, *resets, "SELECT pg_reload_conf()")


def prepare(cluster: Servers, node: str, gid: str, note: str) -> None:
    with cluster.session(node) as conn:
        conn.execute("SET citus.enable_ddl_propagation = off")
        conn.execute("CREATE TABLE IF NOT EXISTS notes_of_prepared (note text)")
        conn.execute("BEGIN")
        conn.execute("INSERT INTO notes_of_prepared VALUES (%s)", [note])
        conn.execute(f"PREPARE TRANSACTION '{gid}'".encode())


def test_prepared_transactions_end_as_their_coordinator_decided(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=10)
    committed, lost, foreign, gone = "citus_0_77_999001_0", "citus_0_77_999002_0", "app's own", "citus_88_5_1_1"
    with set_on_coordinator(cluster, recover_2pc_interval=-1):
        try:
            prepare(cluster, SECOND.host, committed, "kept")
            prepare(cluster, SECOND.host, lost, "dropped")
            prepare(cluster, THIRD.host, foreign.replace("'", "''"), "foreign")
            prepare(cluster, THIRD.host, gone, "gone")
            with cluster.session() as conn:
                conn.execute(
                    "INSERT INTO pg_dist_transaction (groupid, gid) "
                    "SELECT groupid, %s FROM pg_dist_node WHERE nodename = %s",
                    [committed, SECOND.host],
                )
            rows = {row.gid: row for row in read(cluster, views.PREPARED) if row.gid}
            assert {gid: row.decision for gid, row in rows.items()} == {
                committed: Decision.COMMIT,
                lost: Decision.ROLLBACK,
                foreign: Decision.FOREIGN,
                gone: Decision.UNKNOWN,
            }
            assert rows[committed].initiator == "citus-coordinator:5432"
            assert rows[committed].seconds is not None
            preview = plan(cluster, changes.RECOVER)
            assert preview.steps == (
                f"Commit {committed} on citus-worker2:5432, which citus-coordinator:5432 has committed.",
                f"Roll back {lost} on citus-worker2:5432, which citus-coordinator:5432 did not commit.",
            )
            assert any("ROLLBACK PREPARED 'app''s own';" in str(one.fix) for one in preview.warnings)
            done = run(cluster, changes.RECOVER, emit=recorder)
            assert done.ended >= 2
            assert {one.gid for one in done.left} == {foreign, gone}
            notes = cluster.sql(SECOND.host, "SELECT note FROM notes_of_prepared")
            assert notes == [("kept",)]
            assert plan(cluster, changes.RECOVER).steps == ()
        finally:
            for node in (SECOND, THIRD):
                for (gid,) in cluster.sql(node.host, "SELECT gid FROM pg_prepared_xacts"):
                    quoted = str(gid).replace("'", "''")
                    cluster.sql(node.host, f"ROLLBACK PREPARED '{quoted}'")
                cluster.sql(node.host, "SET citus.enable_ddl_propagation = off", "DROP TABLE notes_of_prepared")


@pytest.mark.usefixtures("only_newest")
def test_a_transaction_that_is_running_is_left_alone(cluster: Servers) -> None:
    """Its prepared parts look like leftovers until the coordinator is asked."""
    register(cluster)
    distribute(cluster, rows=10)
    with set_on_coordinator(cluster, recover_2pc_interval=-1), cluster.session() as client:
        client.execute("BEGIN")
        client.execute("UPDATE orders SET payload = 'x'")
        numbers = cluster.sql(
            COORDINATOR.host,
            "SELECT transaction_number FROM get_all_active_transactions() "
            f"WHERE process_id = {client.info.backend_pid} AND transaction_number > 0",
        )
        gid = f"citus_0_{client.info.backend_pid}_{numbers[0][0]}_9"
        prepare(cluster, SECOND.host, gid, "running")
        try:
            (row,) = read(cluster, views.PREPARED)
            assert (row.gid, row.decision) == (gid, Decision.RUNNING)
            assert plan(cluster, changes.RECOVER).steps == ()
        finally:
            client.execute("ROLLBACK")
            cluster.sql(SECOND.host, f"ROLLBACK PREPARED '{gid}'", "SET citus.enable_ddl_propagation = off")
            with cluster.session(SECOND.host) as conn:
                conn.execute("SET citus.enable_ddl_propagation = off")
                conn.execute("DROP TABLE notes_of_prepared")


def test_leftovers_of_moves_are_listed_and_dropped(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    with set_on_coordinator(cluster, defer_shard_delete_interval=-1):
        ((shard, source),) = cluster.sql(
            COORDINATOR.host,
            "SELECT shardid, nodename FROM citus_shards WHERE table_name = 'orders'::regclass ORDER BY 1 LIMIT 1",
        )
        target = next(worker.host for worker in WORKERS if worker.host != source)
        cluster.sql(
            COORDINATOR.host,
            f"SELECT citus_move_shard_placement({shard}, '{source}', 5432, '{target}', 5432, 'block_writes')",
            "INSERT INTO pg_dist_cleanup SELECT nextval('pg_dist_cleanup_recordid_seq'), "
            "nextval('pg_dist_operationid_seq'), 1, 'public.gone_1', 4711, 0",
        )
        slot, publication = "citus_shard_move_slot_7_8_9", "citus_shard_move_publication_7_8_9"
        cluster.sql(
            SECOND.host,
            "SET citus.enable_ddl_propagation = off",
            f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
        )
        with cluster.session(SECOND.host) as conn:
            conn.execute("SET citus.enable_ddl_propagation = off")
            conn.execute(f"CREATE PUBLICATION {publication}".encode())
        try:
            rows = {(row.node, row.name.removeprefix("public.")): row for row in read(cluster, views.ORPHANS)}
            moved = rows[(f"{source}:5432", f"orders_{shard}")]
            assert (moved.kind, moved.state) == (Kind.SHARD, OrphanState.WAITS)
            assert moved.size_bytes is not None
            assert moved.record_id is not None
            assert (f"{target}:5432", f"orders_{shard}") not in rows, "that is where it is placed"
            kept = rows[(str(SECOND), slot)]
            assert (kept.kind, kept.state) == (Kind.SLOT, OrphanState.UNRECORDED)
            assert f"pg_drop_replication_slot('{slot}')" in str(kept.remedy)
            assert rows[(str(SECOND), publication)].state is OrphanState.UNRECORDED
            assert rows[("group 4711", "gone_1")].state is OrphanState.GONE_NODE

            preview = plan(cluster, changes.CLEANUP)
            assert len(preview.steps) == 2, "orders and lines"
            assert all(f"on {source}:5432" in step for step in preview.steps)
            assert len(preview.warnings) == 3
            with cluster.paused(THIRD.host), pytest.raises(BlockedError, match="citus-worker3:5432 does not answer"):
                run(cluster, changes.CLEANUP)
            done = run(cluster, changes.CLEANUP, emit=recorder)
            assert done.dropped == 2
            assert len(done.left) == 3
            exists = f"SELECT to_regclass('public.orders_{shard}') IS NOT NULL"
            assert cluster.sql(str(source), exists) == [(False,)]
            assert cluster.sql(target, exists) == [(True,)]
            again = Recorder()
            assert run(cluster, changes.CLEANUP, emit=again).dropped == 0
            assert again.events[-1].kind is EventKind.SKIPPED
        finally:
            cluster.sql(COORDINATOR.host, "DELETE FROM pg_dist_cleanup WHERE node_group_id = 4711")
            cluster.sql(SECOND.host, f"SELECT pg_drop_replication_slot('{slot}')")
            with cluster.session(SECOND.host) as conn:
                conn.execute("SET citus.enable_ddl_propagation = off")
                conn.execute(f"DROP PUBLICATION {publication}".encode())


@pytest.mark.usefixtures("only_newest")
def test_what_a_running_move_uses_is_not_dropped(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    ((shard, source),) = cluster.sql(
        COORDINATOR.host,
        "SELECT shardid, nodename FROM citus_shards WHERE table_name = 'orders'::regclass ORDER BY 1 LIMIT 1",
    )
    target = next(worker.host for worker in WORKERS if worker.host != source)

    def move() -> None:
        cluster.sql(
            COORDINATOR.host,
            f"SELECT citus_move_shard_placement({shard}, '{source}', 5432, '{target}', 5432, 'force_logical')",
        )

    with moves_held_up(cluster):
        moving = Thread(target=move)
        moving.start()
        eventually(
            lambda: any(row.state is OrphanState.IN_USE for row in read(cluster, views.ORPHANS)), "the move has begun"
        )
        states = {row.state for row in read(cluster, views.ORPHANS)}
        assert states == {OrphanState.IN_USE}
        assert plan(cluster, changes.CLEANUP).steps == ()
    moving.join()


def test_a_restore_point_exists_on_every_node_and_is_recorded(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    assert read(cluster, views.RESTORE_POINTS) == ()
    wanted = NewRestorePoint("before release; it's 12")
    preview = plan(cluster, changes.RESTORE_POINT, wanted)
    assert preview.steps == (
        "Hold back the commits of distributed transactions, and create the restore point before release; it's 12 on "
        "4 nodes.",
    )
    before = {
        node.host: cluster.sql(node.host, "SELECT pg_current_wal_insert_lsn()")[0][0]
        for node in (COORDINATOR, *WORKERS)
    }
    completed = changes.RESTORE_POINT.completed
    assert completed is not None
    assert asyncio.run(completed(reached(cluster), wanted, {}, recorder)) is None
    done = run(cluster, changes.RESTORE_POINT, wanted, emit=recorder)
    (row,) = read(cluster, views.RESTORE_POINTS)
    assert (row.name, row.lsn) == (wanted.name, done.lsn)
    # An operation that was cut off after the commit is resumed, and finds it.
    assert asyncio.run(completed(reached(cluster), wanted, {}, recorder)) == done
    for node, lsn in before.items():
        dump = f"pg_waldump -r XLOG -p $PGDATA/pg_wal -s {lsn} 2>/dev/null | grep RESTORE_POINT"
        assert wanted.name in str(cluster.containers[node].exec_run(["sh", "-c", dump]).output), node
    with pytest.raises(BlockedError, match="of this name exists"):
        run(cluster, changes.RESTORE_POINT, wanted)
    with pytest.raises(UsageError, match="at most 63 bytes"):
        plan(cluster, changes.RESTORE_POINT, NewRestorePoint("é" * 40))
    assert cluster.sql(FIRST.host, "SELECT to_regclass('citus_cluster.restore_point')") == [(None,)]


@pytest.mark.usefixtures("only_newest")
def test_a_silent_node_prevents_a_restore_point_because_commits_would_wait(cluster: Servers) -> None:
    register(cluster)
    with (
        cluster.paused(SECOND.host),
        pytest.raises(BlockedError, match="citus-worker2:5432 does not answer") as refused,
    ):
        run(cluster, changes.RESTORE_POINT, NewRestorePoint("never"))
    assert "unpause citus-worker2" in str(refused.value.hint)
    with pytest.raises(psycopg.errors.UndefinedTable):
        cluster.sql(COORDINATOR.host, "SELECT * FROM citus_cluster.restore_point")
