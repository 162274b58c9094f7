"""Draining workers, on real servers."""

import asyncio
import time
from contextlib import ExitStack

import pytest
from sql_drain_support import checksum, distribute, look, named, run_drain, run_plan
from sql_servers import COORDINATOR, FOURTH, WAITING_WRITERS, WORKERS, Recorder, Servers, on, register
from sql_tables import moves_held_up

from citus_cluster.errors import InUseError, RebalanceError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.citus.rebalance import JobState
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.plan.events import Event, EventKind, ignore
from citus_cluster.operations.nodes import drain
from citus_cluster.operations.nodes import unregistration as unregistration
from citus_cluster.operations.nodes.drain import Drained
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
    with pytest.raises(InUseError, match="No node would be left to hold shards") as last:
        run_drain(cluster, *WORKERS)
    assert "nodes set citus-coordinator --holds-shards" in str(last.value.hint)
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
    for paused, told in ((THIRD, "so its shards cannot be moved"), (FIRST, "every node answers")):
        started = time.monotonic()
        with cluster.paused(paused.host), pytest.raises((InUseError, RebalanceError), match=told) as caught:
            run_drain(cluster, THIRD)
        assert caught.value.message.count(str(paused)) == 1
        assert time.monotonic() - started < 45
    with (
        cluster.paused(THIRD.host),
        pytest.raises(InUseError, match="so it cannot hold shards again") as undone,
    ):
        on(cluster, lambda conn: drain.undo(conn, named(THIRD), ignore))
    assert "unpause citus-worker3" in str(undone.value.hint)
    assert cluster.sql(COORDINATOR.host, MARKS)[2] == ("citus-worker3", True)


@pytest.mark.usefixtures("only_newest")
@pytest.mark.parametrize("online", [False, True], ids=["writes held", "online"])
def test_what_holds_a_move_up_is_named(
    cluster: Servers, recorder: Recorder, online: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebalance_watch, "_STALLED_S", 2.0)
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
    events = Recorder()
    with moves_held_up(cluster):
        started = run_drain(cluster, THIRD, wait=False)
        assert started.rebalance and not started.rebalance.state.is_final
        again = run_drain(cluster, THIRD, wait=False)
        assert again.rebalance is None or again.rebalance.job_id == started.rebalance.job_id
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
        with moves_held_up(cluster):
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

    async def both(conn: Connection) -> list[Drained | BaseException]:
        async with asyncio.timeout(60):
            async with writer_lock(conn, wait_s=5):
                drains = [asyncio.create_task(one(worker)) for worker in (FIRST, SECOND)]
                while await (await conn.execute(WAITING_WRITERS)).fetchone() != (2,):
                    assert not [task.result() for task in drains if task.done()]
                    await asyncio.sleep(0.1)
            return await asyncio.gather(*drains, return_exceptions=True)

    results = on(cluster, both)
    (refused,) = [result for result in results if isinstance(result, BaseException)]
    assert isinstance(refused, InUseError), refused
    assert "No node would be left to hold shards" in refused.message
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
        with moves_held_up(cluster):
            async with asyncio.timeout(60), writer_lock(conn, wait_s=5):
                draining = asyncio.create_task(one())
                while await (await conn.execute(WAITING_WRITERS)).fetchone() != (1,):  # noqa: ASYNC110 # another session
                    await asyncio.sleep(0.1)
                started = await (await conn.execute("SELECT citus_rebalance_start()")).fetchone()
                assert started and started[0], "this test needs a rebalance that has something to move"
            with pytest.raises(RebalanceError, match="already running as job"):
                await draining
            await rebalance.stop(conn)

    on(cluster, body)
    assert {mark for _, mark in cluster.sql(COORDINATOR.host, MARKS)} == {True}


@pytest.mark.usefixtures("only_newest")
def test_a_rebalance_that_runs_is_followed_first(cluster: Servers, recorder: Recorder) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster)
    register(cluster, THIRD)

    async def body(conn: Connection) -> Drained:
        with ExitStack() as held:
            held.enter_context(moves_held_up(cluster))

            def watch(event: Event) -> None:
                recorder(event)
                if "following it first" in event.message:
                    held.close()

            job_id = await rebalance.start(conn, RebalanceOptions(), ignore)
            with pytest.raises(RebalanceError, match=f"already running as job {job_id}"):
                await drain.drain(conn, named(FIRST), ignore, mode=TransferMode.AUTO, wait=False)
            done = await drain.drain(conn, named(FIRST), watch, mode=TransferMode.AUTO, wait=True)
        assert f"a rebalance is already running as job {job_id}; following it first" in recorder.events[0].message
        return done

    assert on(cluster, body).done
    assert look(cluster, FIRST).shards == 0
