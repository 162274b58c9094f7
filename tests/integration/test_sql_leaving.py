"""Draining workers and taking them out of the node list, on real servers."""

import asyncio
import threading
import time
from collections.abc import Mapping

import pytest
from sql_servers import COORDINATOR, FOURTH, WAITING_WRITERS, WORKERS, Recorder, Servers, on, register
from waiting import eventually

from citus_cluster.errors import InUseError, LockedError, RebalanceError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.citus.rebalance import JobState
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.citus.removal import Departure
from citus_cluster.model.plan.events import Emit, EventKind, ignore
from citus_cluster.operations.nodes import drain
from citus_cluster.operations.nodes import unregistration as unregistration
from citus_cluster.operations.nodes.drain import Drained, DrainPlan
from citus_cluster.operations.nodes.registration import add_worker, reconcile
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.citus.lock import writer_lock
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
MARKS = "SELECT nodename, shouldhaveshards FROM pg_dist_node WHERE groupid <> 0 ORDER BY nodename"
LEFT_ON_THIRD = (
    "SELECT count(*) FROM pg_dist_placement JOIN pg_dist_node USING (groupid) JOIN pg_dist_shard USING (shardid) "
    "JOIN pg_dist_partition USING (logicalrelid) WHERE nodename = 'citus-worker3' AND repmodel <> 't'"
)


def distribute(cluster: Servers, *, key: str = "PRIMARY KEY", rows: int = 20000) -> None:
    cluster.sql(
        COORDINATOR.host,
        f"CREATE TABLE orders (id bigint {key}, payload text)",
        "SELECT create_distributed_table('orders', 'id', shard_count => 6)",
        f"CREATE TABLE lines (id bigint {key}, payload text)",
        "SELECT create_distributed_table('lines', 'id', colocate_with => 'orders')",
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
        "INSERT INTO countries SELECT generate_series(1, 50)",
        f"INSERT INTO orders SELECT id, repeat('x', 100) FROM generate_series(1, {rows}) AS id",
    )


def checksum(cluster: Servers) -> list[tuple[object, ...]]:
    orders = "SELECT count(*), sum(id), sum(length(payload)) FROM orders"
    return [*cluster.sql(COORDINATOR.host, orders), *cluster.sql(COORDINATOR.host, "SELECT sum(id) FROM countries")]


def named(*workers: NodeAddress) -> Mapping[str, NodeAddress]:
    return {worker.host: worker for worker in workers}


def run_drain(
    cluster: Servers, *workers: NodeAddress, emit: Emit = ignore, wait: bool = True, online: bool = False
) -> Drained:
    async def body(conn: Connection) -> Drained:
        return await drain.drain(conn, named(*workers), emit, mode=TransferMode.AUTO, wait=wait, online=online)

    return on(cluster, body)


def run_plan(
    cluster: Servers, *workers: NodeAddress, mode: TransferMode = TransferMode.AUTO, online: bool = False
) -> DrainPlan:
    return on(cluster, lambda conn: drain.plan(conn, named(*workers), mode=mode, online=online))


def deregister(cluster: Servers, worker: NodeAddress, *, force: bool = False, emit: Emit = ignore) -> None:
    async def body(conn: Connection) -> None:
        await unregistration.deregister(conn, await unregistration.look(conn, worker.host, worker), emit, force=force)

    on(cluster, body)


def look(cluster: Servers, worker: NodeAddress) -> Departure:
    return on(cluster, lambda conn: unregistration.look(conn, worker.host, worker))


# --- drain ---


def test_a_drained_worker_holds_nothing_and_no_row_is_lost(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster)
    before = checksum(cluster)
    preview = run_plan(cluster, THIRD)
    assert preview.refusal is None
    assert {move.source for move in preview.moves.moves} == {THIRD}
    assert preview.moves.bytes_after[THIRD] == 0
    assert cluster.sql(COORDINATOR.host, MARKS)[2] == ("citus-worker3", True), "a preview changes nothing"

    result = run_drain(cluster, THIRD, emit=recorder)
    assert result.done
    assert result.rebalance and result.rebalance.state is JobState.FINISHED
    assert "shards" in recorder.text
    assert cluster.sql(COORDINATOR.host, LEFT_ON_THIRD) == [(0,)]
    assert checksum(cluster) == before
    again = Recorder()
    assert run_drain(cluster, THIRD, emit=again).rebalance is None
    assert [event.message for event in again.events] == ["citus-worker3:5432 holds no shards"]
    on(cluster, lambda conn: verify(conn, WORKERS, ignore))


@pytest.mark.usefixtures("only_newest")
def test_several_are_drained_at_once_onto_the_rest(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=1000)
    run_drain(cluster, SECOND, THIRD)
    holders = "SELECT DISTINCT nodename FROM citus_shards WHERE citus_table_type = 'distributed'"
    assert cluster.sql(COORDINATOR.host, holders) == [("citus-worker1",)]


@pytest.mark.usefixtures("only_newest")
def test_a_drain_that_is_refused_changes_nothing(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, key="NOT NULL", rows=100)
    before = cluster.sql(COORDINATOR.host, MARKS)
    with pytest.raises(RebalanceError, match="lines, orders") as caught:
        run_drain(cluster, THIRD, online=True)
    assert "ALTER TABLE orders REPLICA IDENTITY FULL;" in caught.value.details
    preview = run_plan(cluster, THIRD, online=True)
    assert str(preview.refusal) == caught.value.message, "the preview says it too"
    assert preview.moves.moves
    assert run_plan(cluster, THIRD).refusal is None, "small shards need no identity"
    assert run_plan(cluster, THIRD, mode=TransferMode.BLOCK_WRITES).refusal is None
    assert run_plan(cluster, THIRD, mode=TransferMode.FORCE_LOGICAL).warnings
    with pytest.raises(InUseError, match="no node is left that may hold shards") as last:
        run_drain(cluster, *WORKERS)
    assert "'citus-coordinator', 5432, 'shouldhaveshards', true" in str(last.value.hint)
    with pytest.raises(UsageError, match="is the coordinator"):
        run_drain(cluster, COORDINATOR)
    with pytest.raises(UsageError, match="not in the node list"):
        run_drain(cluster, FOURTH)
    full = ["ALTER SYSTEM SET citus.desired_percent_disk_available_after_move = 99.99", "SELECT pg_reload_conf()"]
    room = ["ALTER SYSTEM RESET citus.desired_percent_disk_available_after_move", "SELECT pg_reload_conf()"]
    try:
        cluster.sql(FIRST.host, *full)
        with pytest.raises(RebalanceError, match="citus-worker1:5432: would get"):
            run_drain(cluster, THIRD)
    finally:
        cluster.sql(FIRST.host, *room)
    assert cluster.sql(COORDINATOR.host, MARKS) == before
    for statement in caught.value.details:
        cluster.sql(COORDINATOR.host, statement)
    assert run_drain(cluster, THIRD, online=True).done


@pytest.mark.usefixtures("only_newest")
def test_a_worker_that_hangs_is_named_in_time(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    for paused, told in ((THIRD, "no shard can be moved off it"), (FIRST, "every node answers")):
        started = time.monotonic()
        with cluster.paused(paused.host), pytest.raises((InUseError, RebalanceError), match=told) as caught:
            run_drain(cluster, THIRD)
        assert caught.value.message.count(str(paused)) == 1
        assert time.monotonic() - started < 45
    with (
        cluster.paused(THIRD.host),
        pytest.raises(InUseError, match="so Citus cannot let it hold shards again") as undone,
    ):
        on(cluster, lambda conn: drain.undo(conn, named(THIRD), ignore))
    assert "unpause citus-worker3" in str(undone.value.hint)
    assert cluster.sql(COORDINATOR.host, MARKS)[2] == ("citus-worker3", True)


@pytest.mark.usefixtures("only_newest")
@pytest.mark.parametrize("online", [False, True], ids=["writes held", "online"])
def test_what_holds_a_move_up_is_named(cluster: Servers, recorder: Recorder, online: bool) -> None:
    register(cluster)
    distribute(cluster, rows=100)

    async def body(conn: Connection) -> Drained:
        async with await cluster.connect() as client:
            process = client.info.backend_pid
            told = asyncio.Event()

            def watch(event: object) -> None:
                recorder(event)  # type: ignore[arg-type]
                if f"session {process} on citus-coordinator:5432" in recorder.text:
                    told.set()

            async with asyncio.TaskGroup() as group:
                await client.execute("BEGIN")
                await client.execute("INSERT INTO orders SELECT i, 'secret' FROM generate_series(-500, -1) AS i")
                work = drain.drain(conn, named(THIRD), watch, mode=TransferMode.AUTO, wait=True, online=online)
                draining = group.create_task(work)
                async with asyncio.timeout(60):
                    await told.wait()
                await client.execute("COMMIT")
                return await draining

    assert on(cluster, body).done
    warning = next(event.message for event in recorder.events if event.kind is EventKind.WARNING)
    assert "idle in transaction" in warning
    assert "pg_terminate_backend" in warning
    assert "secret" not in recorder.text


@pytest.mark.usefixtures("only_newest")
def test_a_drain_is_stopped_undone_and_begun_again(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    started = run_drain(cluster, THIRD, wait=False)
    assert started.rebalance and not started.rebalance.state.is_final
    again = run_drain(cluster, THIRD, wait=False)
    assert again.rebalance is None or again.rebalance.job_id == started.rebalance.job_id
    events = Recorder()
    on(cluster, lambda conn: drain.undo(conn, named(THIRD), events))
    assert cluster.sql(COORDINATOR.host, MARKS)[2] == ("citus-worker3", True)
    assert on(cluster, rebalance_watch.status).state.is_final
    on(cluster, lambda conn: drain.undo(conn, named(THIRD), events))
    assert events.events[-1].kind is EventKind.SKIPPED
    assert run_drain(cluster, THIRD).done


@pytest.mark.usefixtures("only_newest")
def test_a_drain_that_stops_with_the_undoing_of_another_is_named(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=100)

    async def body(conn: Connection) -> Drained:
        async with await cluster.connect() as client, client.transaction(force_rollback=True):
            # Until it ends no move does.
            await client.execute("INSERT INTO orders SELECT generate_series(-500, -1)")
            await drain.drain(conn, named(SECOND, THIRD), ignore, mode=TransferMode.AUTO, wait=False)
            return await drain.undo(conn, named(THIRD), recorder)

    on(cluster, body)
    assert [mark for _, mark in cluster.sql(COORDINATOR.host, MARKS)] == [True, False, True]
    told = [event.message for event in recorder.events if event.kind is EventKind.WARNING]
    assert told == [
        "the drain of citus-worker2 was stopped with it. To continue: citus-cluster nodes drain citus-worker2 --wait"
    ]
    assert run_drain(cluster, SECOND).done


@pytest.mark.usefixtures("only_newest")
def test_two_drains_at_once_leave_a_node_that_may_hold_shards(
    cluster: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine, one drain can reach the lock long after the other.
    monkeypatch.setattr(drain, "WAIT_FOR_LOCK_S", 60)
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)

    async def one(worker: NodeAddress) -> Drained:
        async with await cluster.connect() as conn:
            return await drain.drain(conn, named(worker), ignore, mode=TransferMode.AUTO, wait=True)

    async def both(conn: Connection) -> tuple[Drained | BaseException, ...]:
        async with asyncio.timeout(60):
            async with writer_lock(conn, wait_s=5):
                drains = asyncio.gather(one(FIRST), one(SECOND), return_exceptions=True)
                while await (await conn.execute(WAITING_WRITERS)).fetchone() != (2,):
                    assert not drains.done(), drains.result()
                    await asyncio.sleep(0.1)
            return await drains

    results = on(cluster, both)
    (refused,) = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(refused, InUseError), refused
    assert "no node is left that may hold shards" in refused.message
    assert {mark for _, mark in cluster.sql(COORDINATOR.host, MARKS)} == {False, True}


@pytest.mark.usefixtures("only_newest")
def test_a_drain_that_a_rebalance_forestalls_marks_no_worker(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    assert register(cluster, THIRD)[THIRD.host].outcome is Outcome.ADDED

    async def one() -> Drained:
        async with await cluster.connect() as conn:
            return await drain.drain(conn, named(FIRST), ignore, mode=TransferMode.AUTO, wait=False)

    async def body(conn: Connection) -> None:
        async with await cluster.connect() as client, client.transaction(force_rollback=True), asyncio.timeout(60):
            # Until it ends no move does.
            await client.execute("INSERT INTO orders SELECT generate_series(-500, -1)")
            async with writer_lock(conn, wait_s=5):
                draining = asyncio.create_task(one())
                while await (await conn.execute(WAITING_WRITERS)).fetchone() != (1,):  # noqa: ASYNC110 # another session
                    await asyncio.sleep(0.1)
                started = await (await conn.execute("SELECT citus_rebalance_start()")).fetchone()
                assert started and started[0], "this test needs a rebalance that has something to move"
            with pytest.raises(RebalanceError, match="already running as job"):
                await draining

    on(cluster, body)
    assert {mark for _, mark in cluster.sql(COORDINATOR.host, MARKS)} == {True}
    on(cluster, rebalance.stop)


@pytest.mark.usefixtures("only_newest")
def test_a_rebalance_that_runs_is_followed_first(cluster: Servers, recorder: Recorder) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster)
    register(cluster, THIRD)

    async def body(conn: Connection) -> Drained:
        job_id = await rebalance.start(conn, RebalanceOptions(), ignore)
        with pytest.raises(RebalanceError, match=f"already running as job {job_id}"):
            await drain.drain(conn, named(FIRST), ignore, mode=TransferMode.AUTO, wait=False)
        done = await drain.drain(conn, named(FIRST), recorder, mode=TransferMode.AUTO, wait=True)
        assert f"a rebalance is already running as job {job_id}; following it first" in recorder.events[0].message
        return done

    assert on(cluster, body).done
    assert look(cluster, FIRST).shards == 0


# --- leaving the node list ---


def test_a_worker_leaves_once_it_is_drained_and_stays_away(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    before = checksum(cluster)
    with pytest.raises(InUseError, match="still holds 4 shards that are nowhere else") as caught:
        deregister(cluster, THIRD)
    assert [line.split(",")[0] for line in caught.value.details] == ["lines: 2 shards", "orders: 2 shards"]
    assert "nodes drain citus-worker3 --wait" in str(caught.value.hint)

    run_drain(cluster, THIRD)
    deregister(cluster, THIRD)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_node") == [(3,)]
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_cleanup") == [(0,)]
    shards_left = "SELECT count(*) FROM pg_class WHERE relname ~ '^(orders|lines)_[0-9]+$'"
    assert cluster.sql(THIRD.host, shards_left) == [(0,)], "what the moves left behind was dropped"
    assert register(cluster)[THIRD.host].outcome is Outcome.WITHDRAWN
    deregister(cluster, THIRD)
    assert checksum(cluster) == before
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))

    assert on(cluster, lambda conn: add_worker(conn, None, THIRD, ignore, timeout_s=10)).outcome is Outcome.ADDED
    assert checksum(cluster) == before


def test_one_that_does_not_answer_leaves_when_it_holds_nothing(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=1000)
    with cluster.paused(SECOND.host), pytest.raises(InUseError, match=r"4 shards that are nowhere else would be lost"):
        deregister(cluster, SECOND)
    # The first in the node list is the one on which Citus takes locks.
    run_drain(cluster, FIRST)
    before = checksum(cluster)
    started = time.monotonic()
    with cluster.paused(FIRST.host):
        deregister(cluster, FIRST)
        assert time.monotonic() - started < 20
        assert checksum(cluster) == before
        cluster.sql(COORDINATOR.host, "INSERT INTO countries VALUES (1000)", "DELETE FROM countries WHERE id = 1000")
    assert register(cluster)[FIRST.host].outcome is Outcome.WITHDRAWN


@pytest.mark.usefixtures("only_newest")
def test_another_one_that_hangs_keeps_everybody(cluster: Servers) -> None:
    register(cluster)
    with cluster.paused(FIRST.host), pytest.raises(InUseError, match="not all answer: citus-worker1:5432"):
        deregister(cluster, THIRD)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_node") == [(4,)]


@pytest.mark.usefixtures("only_newest")
def test_a_disabled_one_can_leave(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(COORDINATOR.host, "SELECT citus_disable_node('citus-worker3', 5432, true)")
    with pytest.raises(InUseError, match="is disabled"):
        run_drain(cluster, THIRD)
    deregister(cluster, THIRD)
    assert register(cluster)[THIRD.host].outcome is Outcome.WITHDRAWN


def test_copies_of_shards_go_only_when_they_are_let_go(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(
        COORDINATOR.host,
        "SET citus.shard_replication_factor = 3",
        "CREATE TABLE copied (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('copied', 'id', shard_count => 4)",
        "INSERT INTO copied SELECT generate_series(1, 1000)",
    )
    events = Recorder()
    result = run_drain(cluster, THIRD, emit=events)
    assert result.done
    assert "nodes remove citus-worker3 --force" in events.events[-1].message
    with pytest.raises(InUseError, match="holds 4 shards of which other nodes have copies too"):
        deregister(cluster, THIRD)
    deregister(cluster, THIRD, force=True)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM copied") == [(1000,)]
    left = cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_placement")
    assert left == [(8,)]


@pytest.mark.usefixtures("only_newest")
def test_a_server_that_is_registered_under_another_name_is_not_taken_for_gone(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    container = cluster.containers[THIRD.host]
    container.reload()
    address = NodeAddress(container.attrs["NetworkSettings"]["Networks"][cluster.network.name]["IPAddress"])
    register(cluster, FIRST, SECOND, address)
    with pytest.raises(InUseError, match=f"registered after all, as {address}"):
        deregister(cluster, THIRD)
    deregister(cluster, address)
    deregister(cluster, THIRD)


@pytest.mark.usefixtures("only_newest")
def test_another_server_gets_a_name_that_was_released_and_the_old_one_does_not(cluster: Servers) -> None:
    def outcome() -> Outcome:
        results = on(cluster, lambda conn: reconcile(conn, COORDINATOR, [FIRST, FOURTH], ignore))
        return results[-1].outcome

    def release(*, is_gone: bool = False) -> None:
        on(cluster, lambda conn: unregistration.release(conn, FOURTH, is_gone=is_gone))

    register(cluster, FIRST)
    cluster.start(FOURTH.host)
    try:
        cluster.wait(FOURTH.host)
        assert outcome() is Outcome.ADDED
        deregister(cluster, FOURTH)
        release()
        assert outcome() is Outcome.WITHDRAWN, "it is the server that left"
        deregister(cluster, FOURTH)
        cluster.stop(FOURTH.host)
        cluster.start(FOURTH.host)
        cluster.wait(FOURTH.host)
        assert outcome() is Outcome.WITHDRAWN, "cluster.yaml still named it when it was made anew"
        release()
        # The clock was put back in between.
        cluster.sql(
            COORDINATOR.host, "UPDATE citus_cluster.departed SET left_at = '2000-1-1', released_at = '2000-1-1'"
        )
        assert outcome() is Outcome.ADDED
        assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM citus_cluster.departed") == [(0,)]
        release()
        assert outcome() is Outcome.ALREADY
        cluster.sql(COORDINATOR.host, "SELECT citus_remove_node('citus-worker4', 5432)")
        assert outcome() is Outcome.WITHDRAWN, "what was released before its registration is of the past"
        kept_by_an_earlier_version = "VALUES ('citus-worker4', 5432, 'old', '2000-1-1', '2000-1-1')"
        cluster.sql(COORDINATOR.host, f"INSERT INTO citus_cluster.departed {kept_by_an_earlier_version}")
        assert outcome() is Outcome.WITHDRAWN
        deregister(cluster, FOURTH)
        release()
        assert outcome() is Outcome.WITHDRAWN, "it is the server that left"
    finally:
        cluster.take_apart()
        cluster.stop(FOURTH.host)


@pytest.mark.usefixtures("only_newest")
def test_a_deadlock_with_the_recovery_of_prepared_transactions_is_said_to_be_a_lock(cluster: Servers) -> None:
    """Citus' daemon deletes the same rows; here another session does, in the other order."""
    register(cluster)
    (group,) = cluster.sql(COORDINATOR.host, "SELECT groupid FROM pg_dist_node WHERE nodename = 'citus-worker3'")[0]
    row = f"pg_dist_transaction WHERE groupid = {group} AND gid ="
    for gid in ("first", "second"):
        cluster.sql(COORDINATOR.host, f"INSERT INTO pg_dist_transaction (groupid, gid) VALUES ({group}, '{gid}')")
    refusals: list[BaseException] = []

    def remove() -> None:
        try:
            deregister(cluster, THIRD)
        except LockedError as error:
            refusals.append(error)

    removing = threading.Thread(target=remove)
    with cluster.session() as other:
        other.execute("SET deadlock_timeout = '1min'")  # so that it is the removal that is ended
        other.execute("BEGIN")
        other.execute(f"DELETE FROM {row} 'second'".encode())
        removing.start()
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE '%remove_node%'"
        )
        eventually(lambda: cluster.sql(COORDINATOR.host, waits) != [(0,)], "the removal waits for the row", 30)
        other.execute(f"DELETE FROM {row} 'first'".encode())
        removing.join(timeout=30)
        other.execute("ROLLBACK")
    (refusal,) = refusals
    assert "cannot be removed now" in str(refusal)
    deregister(cluster, THIRD)
