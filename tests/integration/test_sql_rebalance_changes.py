"""Rebalances and drains as declared changes, on real servers."""

import asyncio
from typing import Any

import pytest
from declared_support import outcome, preview, reached
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, on, register
from sql_tables import checksum, distribute, moves_held_up

from citus_cluster.errors import NotFoundError, RebalanceError
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalancePlan
from citus_cluster.model.plan.events import Event
from citus_cluster.operations.nodes import drain_changes
from citus_cluster.operations.nodes.drain_changes import Draining, SomeWorkers
from citus_cluster.operations.rebalance import changes
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.rebalance.changes import NewRebalance
from citus_cluster.operations.rebalance.use_cases import StartedRebalance

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
NOTHING = NewRebalance()
FOLLOWED = NewRebalance(wait=True)


def two_of_three(cluster: Servers, **options: Any) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, **options)
    register(cluster, THIRD)


def test_a_rebalance_is_planned_started_and_followed_to_its_end(cluster: Servers, recorder: Recorder) -> None:
    two_of_three(cluster)
    before = checksum(cluster)
    planned = preview(cluster, changes.START, NOTHING)
    assert not planned.findings
    assert isinstance(planned.details, RebalancePlan)
    assert planned.steps[0].startswith(f"Move {planned.details.groups[0]} shard groups with ")
    assert any(step.startswith("citus-worker3:5432 gets ") for step in planned.steps)
    found: RebalanceStatus = outcome(cluster, changes.START, FOLLOWED, planned, recorder).rebalance
    assert (found.state, found.shards_done) == (JobState.FINISHED, found.shards_total)
    first = next(event for event in recorder.events if "job_id" in event.data)
    assert first.data["job_id"] == found.job_id
    assert checksum(cluster) == before
    again = preview(cluster, changes.START, NOTHING)
    assert (again.steps, again.findings) == ((), ())
    assert outcome(cluster, changes.START, NOTHING) == StartedRebalance(None)


@pytest.mark.usefixtures("only_newest")
def test_a_rebalance_goes_on_without_its_task_and_is_followed_again_or_stopped(cluster: Servers) -> None:
    two_of_three(cluster)
    events = Recorder()

    async def begin_and_abandon() -> int:
        """As when the API is killed: the task ends, and nothing is stopped."""
        started = asyncio.Event()
        here = reached(cluster)

        def watch(event: Event) -> None:
            events(event)
            if "job_id" in event.data:
                started.set()

        planned = await changes.START.plan(here, FOLLOWED)
        task = asyncio.create_task(changes.START.run(here, FOLLOWED, planned, watch))
        await asyncio.wait_for(started.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return next(int(str(event.data["job_id"])) for event in events.events if "job_id" in event.data)

    with moves_held_up(cluster):
        job_id = asyncio.run(begin_and_abandon())
        assert not on(cluster, rebalance_watch.status).state.is_final
        with pytest.raises(RebalanceError, match=f"already running as job {job_id}"):
            preview(cluster, changes.START, NOTHING).refuse()
        assert preview(cluster, changes.START, FOLLOWED).steps[0].startswith(f"Follow rebalance {job_id}")
        assert preview(cluster, changes.STOP).steps == (
            f"Stop rebalance {job_id}. Shards that have moved stay where they are.",
        )

        async def follow_and_cancel() -> None:
            """As an operation that is cancelled: what it began is stopped, so what follows it ends."""
            assert changes.START.follow
            assert changes.START.stop
            here = reached(cluster)
            following = asyncio.create_task(changes.START.follow(here, FOLLOWED, job_id, events))
            await changes.START.stop(here, FOLLOWED, events)
            with pytest.raises(RebalanceError, match="was stopped"):
                await following

        asyncio.run(follow_and_cancel())
    assert on(cluster, rebalance_watch.status).state is JobState.CANCELLED
    assert preview(cluster, changes.STOP).steps == ()
    assert outcome(cluster, changes.START, FOLLOWED).rebalance.state is JobState.FINISHED


@pytest.mark.usefixtures("only_newest")
def test_everything_that_prevents_the_moves_is_found_at_once(cluster: Servers) -> None:
    two_of_three(cluster, key="NOT NULL")
    full = "citus.desired_percent_disk_available_after_move"
    cluster.sql(THIRD.host, f"ALTER SYSTEM SET {full} = 99.99", "SELECT pg_reload_conf()")
    try:
        found = preview(cluster, changes.START, NewRebalance(online=True)).blocking
    finally:
        cluster.sql(THIRD.host, f"ALTER SYSTEM RESET {full}", "SELECT pg_reload_conf()")
    assert len(found) == 2
    assert "not enough disk space" in found[0].message
    assert found[1].fix == "ALTER TABLE lines REPLICA IDENTITY FULL; ALTER TABLE orders REPLICA IDENTITY FULL;"


@pytest.mark.usefixtures("only_newest")
def test_workers_are_drained_and_hold_shards_again(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    wanted = Draining((str(THIRD),))
    planned = preview(cluster, drain_changes.DRAIN, wanted)
    assert planned.steps[0] == "Mark citus-worker3:5432, so that it gets no new shards."
    assert not planned.findings
    done = outcome(cluster, drain_changes.DRAIN, wanted, planned, recorder)
    assert done.done
    assert any("job_id" in event.data for event in recorder.events)
    left = "SELECT count(*) FROM citus_shards WHERE nodename = 'citus-worker3'"
    assert cluster.sql(COORDINATOR.host, left) == [(0,)]
    assert preview(cluster, drain_changes.DRAIN, wanted).steps == ()
    undo = SomeWorkers((THIRD.host,))
    assert preview(cluster, drain_changes.UNDO, undo).steps
    outcome(cluster, drain_changes.UNDO, undo)
    assert preview(cluster, drain_changes.UNDO, undo).steps == ()
    last = preview(cluster, drain_changes.DRAIN, Draining(tuple(worker.host for worker in WORKERS)))
    assert "No node would be left" in last.blocking[0].message
    with pytest.raises(NotFoundError):
        preview(cluster, drain_changes.DRAIN, Draining(("citus-worker9",)))
