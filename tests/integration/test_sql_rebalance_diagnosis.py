"""Why a rebalance does not continue: each cause on real servers, and what a repair clears."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from declared_support import outcome, preview, read
from sql_servers import COORDINATOR, FOURTH, WORKERS, Recorder, Servers, on, register
from sql_tables import distribute, moves_held_up
from waiting import eventually

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.diagnosis import Cause, DiagnosisRow
from citus_cluster.model.citus.rebalance import JobState
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.nodes.registration import add_worker
from citus_cluster.operations.rebalance import repair, views
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.rebalance.views import WhichJob

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
START = "SELECT citus_rebalance_start(shard_transfer_mode := '{}')"
STOP = "SELECT citus_rebalance_stop()"
FULL = "citus.desired_percent_disk_available_after_move"


@contextmanager
def set_on(cluster: Servers, node: str, name: str, value: object) -> Iterator[None]:
    cluster.sql(node, f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        cluster.sql(node, f"ALTER SYSTEM RESET {name}", "SELECT pg_reload_conf()")


def diagnosis(cluster: Servers) -> dict[Cause, DiagnosisRow]:
    return {row.cause: row for row in read(cluster, views.DIAGNOSIS)}


def has_ended(cluster: Servers) -> bool:
    return on(cluster, rebalance_watch.status).state.is_final


@contextmanager
def started_and_held(cluster: Servers, start: str) -> Iterator[None]:
    """Start a rebalance of which Citus takes no task before the block ends: the table of its queue is locked."""
    with cluster.session() as starter, cluster.session() as holder:

        def lock() -> None:
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE pg_dist_background_task IN SHARE MODE")

        starter.execute("BEGIN")
        starter.execute(start.encode())
        locking = Thread(target=lock)
        locking.start()
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'pg_dist_background_task'::regclass AND NOT granted"
        eventually(lambda: cluster.sql(COORDINATOR.host, waits) == [(1,)], "the lock is the next")
        starter.execute("COMMIT")
        locking.join()
        try:
            yield
        finally:
            holder.execute("ROLLBACK")


@pytest.mark.usefixtures("only_newest")
def test_everything_that_keeps_moves_from_starting_is_named_with_its_remedy(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, key="NOT NULL", rows=2000)
    cluster.sql(
        COORDINATOR.host,
        "CREATE ROLE keeper LOGIN",
        "GRANT CREATE ON SCHEMA public TO keeper",
        "CREATE TABLE kept (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('kept', 'id', shard_count => 12, colocate_with => 'none')",
        "ALTER TABLE kept OWNER TO keeper",
        "ALTER ROLE keeper NOLOGIN",
    )
    assert diagnosis(cluster) == {}
    with cluster.extra(FOURTH.host, settings={"wal_level": "replica", "max_worker_processes": "3"}):
        on(cluster, lambda conn: add_worker(conn, None, FOURTH, ignore, timeout_s=60))
        with (
            set_on(cluster, FOURTH.host, FULL, 99.99),
            started_and_held(cluster, START.format("force_logical")),
        ):
            found = read(cluster, views.DIAGNOSIS)
            assert {row.cause for row in found} == {
                Cause.WORKER_PROCESSES,
                Cause.WAL_LEVEL,
                Cause.NO_IDENTITY,
                Cause.OWNER_LOGIN,
                Cause.FULL_DISK,
            }
            messages = "\n".join(row.message for row in found)
            assert "of 3 background workers are in use" in messages
            assert "citus-worker4:5432: wal_level is replica" in messages
            assert "kept belong to role keeper, which may not log in" in messages
            assert "citus-worker4:5432: would get" in messages
            assert "ALTER TABLE orders REPLICA IDENTITY FULL;" in {row.remedy for row in found}
            assert not any(row.repairs for row in found)
            planned = preview(cluster, repair.REPAIR)
            assert planned.steps == ()
            assert len(planned.warnings) == len(found)
            with cluster.paused(THIRD.host):
                silent = diagnosis(cluster)[Cause.SILENT_NODE]
                assert silent.node == str(THIRD)
                assert "unpause citus-worker3" in str(silent.remedy)
        cluster.sql(COORDINATOR.host, STOP)
        eventually(lambda: has_ended(cluster), "the rebalance is stopped")
    cluster.empty()
    cluster.sql(COORDINATOR.host, "DROP OWNED BY keeper", "DROP ROLE keeper")


@pytest.mark.usefixtures("only_newest")
def test_the_session_that_holds_the_lock_is_named(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    register(cluster, THIRD)
    with moves_held_up(cluster):
        cluster.sql(COORDINATOR.host, START.format("block_writes"))
        eventually(lambda: Cause.BLOCKED in diagnosis(cluster), "the blocker is found")
        row = diagnosis(cluster)[Cause.BLOCKED]
        assert "idle in transaction" in row.message
        assert "citus-cluster activity terminate " in str(row.remedy)
        assert row.node == str(COORDINATOR)
    eventually(lambda: has_ended(cluster), "the rebalance ends")
    assert Cause.BLOCKED not in diagnosis(cluster)


def test_a_move_that_failed_is_explained_and_retried_at_once_when_repaired(
    cluster: Servers, recorder: Recorder
) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    register(cluster, THIRD)
    # Citus applies the coordinator's setting, our own checks that of the node.
    with set_on(cluster, THIRD.host, FULL, 99.99), set_on(cluster, COORDINATOR.host, FULL, 99.99):
        cluster.sql(COORDINATOR.host, START.format("block_writes"))
        eventually(lambda: any(row.retries for row in read(cluster, views.TASKS, WhichJob())), "a move is retried")
        rows = read(cluster, views.TASKS, WhichJob())
        failed = next(row for row in rows if row.retries)
        assert (failed.target, failed.table in {"orders", "lines"}, failed.shards) == (str(THIRD), True, 2)
        assert "space" in str(failed.last_error)
        assert failed.remedy == "free some space on the target's disk"
        found = [row for row in read(cluster, views.DIAGNOSIS) if row.cause is Cause.FULL_DISK]
        assert any("is retried" in row.message for row in found)
        assert not preview(cluster, repair.REPAIR).steps, "it would fail again"
    later = "UPDATE pg_dist_background_task SET not_before = now() + interval '1 hour' WHERE status = 'runnable'"
    eventually(lambda: cluster.sql(COORDINATOR.host, later + " RETURNING task_id"), "moves wait for an hour")
    planned = preview(cluster, repair.REPAIR)
    assert "Retry at once" in planned.steps[0]
    assert outcome(cluster, repair.REPAIR, emit=recorder).retried >= 1
    eventually(lambda: has_ended(cluster), "the rebalance ends")
    assert on(cluster, rebalance_watch.status).state is JobState.FINISHED
    history = read(cluster, views.HISTORY)[0]
    assert (history.state, history.moves, history.moves_done, history.moves_failed) == (
        "finished",
        len(rows),
        len(rows),
        0,
    )
    assert history.size_bytes is not None
    assert history.seconds is not None
    with pytest.raises(NotFoundError):
        read(cluster, views.TASKS, WhichJob(10**9))


@pytest.mark.usefixtures("only_newest")
def test_what_earlier_moves_left_behind_is_dropped(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    slot, publication, subscription = (
        f"citus_shard_move_{kind}_7_8_9" for kind in ("slot", "publication", "subscription")
    )
    with set_on(cluster, COORDINATOR.host, "citus.defer_shard_delete_interval", -1):
        ((shard, source),) = cluster.sql(
            COORDINATOR.host,
            "SELECT shardid, nodename FROM citus_shards WHERE table_name = 'orders'::regclass ORDER BY 1 LIMIT 1",
        )
        target = next(worker.host for worker in WORKERS if worker.host != source)
        move = f"SELECT citus_move_shard_placement({shard}, '{source}', 5432, '{target}', 5432, 'block_writes')"
        cluster.sql(COORDINATOR.host, move)
        local = "SET citus.enable_ddl_propagation = off"
        cluster.sql(SECOND.host, local, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        # Statements without rows.
        with cluster.session(SECOND.host) as conn, cluster.session(THIRD.host) as other:
            for session in (conn, other):
                session.execute(local)
            conn.execute(f"CREATE PUBLICATION {publication}".encode())
            other.execute(
                f"CREATE SUBSCRIPTION {subscription} CONNECTION 'host=citus-worker2 dbname=postgres' "
                f"PUBLICATION {publication} WITH (connect = false, slot_name = '{slot}')".encode()
            )
        found = read(cluster, views.DIAGNOSIS)
        assert {row.cause for row in found} == {Cause.CLEANUP, Cause.ORPHANS}
        assert all(row.repairs for row in found)
        assert len(preview(cluster, repair.REPAIR).steps) == 4
        done = outcome(cluster, repair.REPAIR, emit=recorder)
        assert (done.dropped, done.retried, done.left) == (5, 0, ())
        assert read(cluster, views.DIAGNOSIS) == ()
        for query in ("SELECT slot_name FROM pg_replication_slots", "SELECT pubname FROM pg_publication"):
            assert cluster.sql(SECOND.host, query) == []
        assert cluster.sql(THIRD.host, "SELECT subname FROM pg_subscription") == []
