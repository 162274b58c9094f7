"""Draining workers of a cluster in memory: who is marked, which job is followed, and how it is undone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import virtual_time
from fake_citus import COORDINATOR, ONE, THREE, TWO, FakeCitus, in_place

from citus_cluster.errors import CitusClusterError, InUseError, LockedError, RebalanceError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import JobState
from citus_cluster.model.citus.rebalance_plan import Move, TransferMode
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.nodes import drain as draining
from citus_cluster.operations.nodes.drain import Drained, DrainPlan

NAMED = {"citus-worker2": TWO}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    found = in_place(monkeypatch, FakeCitus.of(ONE, TWO, THREE))
    found.place("orders", {101: [TWO], 102: [ONE]})
    found.moves = [Move("orders", 101, 1000, TWO, ONE)]
    return found


class Run:
    def __init__(self, cluster: FakeCitus) -> None:
        self.cluster = cluster
        self.events: list[Event] = []

    def drain(self, *workers: NodeAddress, wait: bool = True) -> Drained:
        named = {worker.host: worker for worker in workers or (TWO,)}
        return virtual_time.run(
            draining.drain(self.cluster.connection, named, self.events.append, mode=TransferMode.AUTO, wait=wait)
        )

    def undo(self, *workers: NodeAddress) -> Drained:
        named = {worker.host: worker for worker in workers or (TWO,)}
        return virtual_time.run(draining.undo(self.cluster.connection, named, self.events.append))

    def told(self, step: str) -> list[str]:
        return [event.message for event in self.events if event.step.startswith(step)]


def finish(cluster: FakeCitus, job_id: int) -> None:
    """Let Citus end a job: its shards are moved."""
    targets = {move.shard_id: cluster.node(move.target).group_id for move in cluster.moves}
    cluster.placements = [
        replace(placement, group_id=targets.get(placement.shard_id, placement.group_id))
        for placement in cluster.placements
    ]
    cluster.end_job(job_id)
    cluster.moves = []


@pytest.fixture
def moving(cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    """Jobs end at the second look at them."""
    looks = 0
    whole = cluster.last_job

    async def last_job(conn: object, job_id: int | None = None) -> object:
        nonlocal looks
        found = await whole(cluster.connection, job_id)
        if found and not found.state.is_final:
            looks += 1
            if looks == 2:
                finish(cluster, found.job_id)
                looks = 0
        return await whole(cluster.connection, job_id)

    monkeypatch.setattr("citus_cluster.runtime.citus.rebalance.last_job", last_job)
    return cluster


def test_a_worker_is_marked_with_the_start_of_its_moves_and_holds_nothing_at_the_end(moving: FakeCitus) -> None:
    run = Run(moving)
    done = run.drain()
    assert done.done
    assert done.rebalance and done.rebalance.state is JobState.FINISHED
    (started,) = moving.started
    assert started["unburden"] == (TWO,)
    assert started["options"].drain_only
    assert moving.planned[0][1] == (moving.node(TWO).node_id,)
    assert run.told("mark") == ["citus-worker2:5432 gets no new shards from now on"]
    assert run.told("drain") == ["citus-worker2:5432 holds no shards"]
    assert moving.lock_waits == [10]


def test_without_waiting_the_job_goes_on_by_itself(cluster: FakeCitus) -> None:
    done = Run(cluster).drain(wait=False)
    assert not done.done
    assert done.rebalance and (done.rebalance.job_id, done.rebalance.state) == (7, JobState.RUNNING)


def test_an_empty_worker_is_only_marked(cluster: FakeCitus) -> None:
    cluster.moves, cluster.placements = [], []
    run = Run(cluster)
    assert run.drain().rebalance is None
    assert cluster.done == ["citus-worker2 gets no shards"]
    assert cluster.started == []
    run.drain()
    assert cluster.done == ["citus-worker2 gets no shards"], "it is marked already"


def test_moves_between_others_are_not_made_by_a_drain(cluster: FakeCitus) -> None:
    cluster.placements = [one for one in cluster.placements if one.shard_id != 101]
    cluster.moves = [Move("orders", 102, 1000, ONE, THREE)]
    Run(cluster).drain()
    assert cluster.started == []


def test_shards_that_citus_moves_nowhere_are_told_with_the_way_back(cluster: FakeCitus) -> None:
    cluster.moves = []
    with pytest.raises(InUseError, match="still holds 1 shard that Citus cannot move to any other node") as caught:
        Run(cluster).drain()
    assert caught.value.details == ("orders: 1 shard, 1000 B",)
    assert "nodes drain citus-worker2 --undo" in (caught.value.hint or "")
    assert not cluster.node(TWO).should_have_shards


def test_a_job_that_moves_nothing_is_not_started_for_ever(moving: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "finish", FakeCitus.end_job)
    with pytest.raises(InUseError, match="cannot move to any other node"):
        Run(moving).drain()
    assert len(moving.started) == 1


def test_copies_that_every_other_node_has_may_be_dropped(cluster: FakeCitus) -> None:
    cluster.placements, cluster.moves = [], []
    cluster.place("copied", {201: [ONE, TWO, THREE]})
    run = Run(cluster)
    assert run.drain().done
    (warning,) = [event for event in run.events if event.step.startswith("drain")]
    assert warning.kind is EventKind.WARNING
    assert "holds 1 shard that cannot move, because every other node already has a copy" in warning.message


def test_a_rebalance_of_another_is_followed_first_and_refused_without_waiting(moving: FakeCitus) -> None:
    moving.moves = [Move("orders", 102, 1000, ONE, THREE)]
    moving.run_job(3)
    with pytest.raises(RebalanceError, match="already running as job 3") as caught:
        Run(moving).drain(wait=False)
    assert "nodes drain citus-worker2 --wait" in (caught.value.hint or "")
    assert moving.started == []
    run = Run(moving)
    with pytest.raises(InUseError):  # nothing else moves in this cluster
        run.drain()
    assert run.told("rebalance")[0] == "a rebalance is already running as job 3; following it first"


def test_a_drain_that_runs_already_is_followed_with_and_without_waiting(moving: FakeCitus) -> None:
    moving.change(TWO, should_have_shards=False)
    moving.run_job(3)
    done = Run(moving).drain(wait=False)
    assert done.rebalance and done.rebalance.job_id == 3
    run = Run(moving)
    assert run.drain().done
    assert run.told("rebalance")[0] == "rebalance 3 is already moving these shards; following it"
    assert moving.started == []


def test_a_worker_that_may_hold_shards_again_is_not_drained_by_an_old_job(moving: FakeCitus) -> None:
    moving.run_job(3)
    with pytest.raises(RebalanceError, match="already running as job 3"):
        Run(moving).drain(wait=False)


def test_a_job_that_starts_meanwhile_may_be_the_same_drain(moving: FakeCitus) -> None:
    """Nothing was changed where Citus refuses; the other command's job is taken for what it is."""
    moving.start_failure = RebalanceError("A rebalance is already running.")

    def start() -> None:
        moving.start_failure = RebalanceError("A rebalance is already running.")
        moving.change(TWO, should_have_shards=False)
        moving.run_job(5)

    moving.before_lock = start
    done = Run(moving).drain(wait=False)
    assert done.rebalance and done.rebalance.job_id == 5


def test_a_refusal_without_another_job_is_told(cluster: FakeCitus) -> None:
    cluster.start_failure = RebalanceError("There is no room.")
    with pytest.raises(RebalanceError, match="There is no room"):
        Run(cluster).drain()
    assert cluster.node(TWO).should_have_shards


def test_who_waits_for_the_lock_is_told_what_to_wait_for(cluster: FakeCitus) -> None:
    cluster.locked_by = "session 7"
    with pytest.raises(LockedError, match="session 7") as caught:
        Run(cluster).drain()
    assert "citus-cluster rebalance wait" in (caught.value.hint or "")


def test_a_drain_that_fails_says_how_it_goes_on(moving: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "end_job", lambda job_id: FakeCitus.end_job(moving, job_id, JobState.FAILED, "error"))
    with pytest.raises(RebalanceError, match="Rebalance 7 failed") as caught:
        Run(moving).drain()
    assert "nodes drain citus-worker2 --wait" in (caught.value.hint or "")


def test_workers_that_leave_together_are_no_place_for_each_others_shards(cluster: FakeCitus) -> None:
    for worker in (ONE, TWO, THREE):
        cluster.change(worker, should_have_shards=worker is not THREE)
    with pytest.raises(InUseError, match="shards without citus-worker1:5432 and citus-worker2:5432:") as caught:
        Run(cluster).drain(ONE, TWO)
    assert "nodes drain citus-worker3 --undo" in (caught.value.hint or "")
    assert (cluster.done, cluster.started) == ([], [])


# The preview


def preview(cluster: FakeCitus) -> DrainPlan:
    return virtual_time.run(draining.plan(cluster.connection, NAMED, mode=TransferMode.FORCE_LOGICAL))


def test_a_preview_changes_nothing_and_tells_what_would_be_refused(cluster: FakeCitus) -> None:
    found = preview(cluster)
    assert [move.shard_id for move in found.moves.moves] == [101]
    assert (found.warnings, found.refusal) == ((), None)
    assert cluster.planned[0][1] == (cluster.node(TWO).node_id,)
    cluster.foreign_code = ("trigger t",)
    refusal = preview(cluster).refusal
    assert isinstance(refusal, RebalanceError) and "trigger t" in refusal.message
    assert (cluster.done, cluster.started) == ([], [])


def test_a_preview_has_the_warnings_of_the_drain(cluster: FakeCitus) -> None:
    cluster.unidentified = (("orders", "ALTER TABLE orders REPLICA IDENTITY FULL;"),)
    (warning,) = preview(cluster).warnings
    assert "without replica identity move: orders" in warning


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda cluster: cluster.change(TWO, is_active=False), "is disabled"),
        (lambda cluster: setattr(cluster.servers[TWO], "silence", "it is paused"), "it is paused"),
        (lambda cluster: cluster.nodes.pop(2), "is not in the node list"),
    ],
)
def test_a_worker_whose_shards_cannot_move_is_not_drained(
    cluster: FakeCitus, break_it: Callable[[FakeCitus], None], told: str
) -> None:
    break_it(cluster)
    with pytest.raises(CitusClusterError, match=told):
        preview(cluster)


# Undoing it


def test_a_worker_may_hold_shards_again(cluster: FakeCitus) -> None:
    cluster.change(TWO, should_have_shards=False)
    run = Run(cluster)
    run.undo()
    assert cluster.done == ["citus-worker2 may hold shards"]
    assert run.told("mark") == ["citus-worker2:5432 may hold shards again"]
    run.undo()
    assert cluster.done == ["citus-worker2 may hold shards"]
    assert run.events[-1].kind is EventKind.SKIPPED
    assert run.events[-1].message == "citus-worker2:5432 may already hold shards: nothing to undo"


def test_the_job_that_drains_it_is_stopped_and_no_other(cluster: FakeCitus) -> None:
    cluster.change(TWO, should_have_shards=False)
    cluster.run_job(7)
    Run(cluster).undo()
    assert cluster.jobs[7].state is JobState.CANCELLED
    cluster.change(TWO, should_have_shards=False)
    cluster.moves = [Move("orders", 102, 1000, ONE, THREE)]
    cluster.run_job(8)
    Run(cluster).undo()
    assert cluster.jobs[8].state is JobState.RUNNING


def test_what_was_stopped_with_it_is_told(cluster: FakeCitus) -> None:
    for worker in (TWO, THREE):
        cluster.change(worker, should_have_shards=False)
    cluster.place("items", {301: [THREE]})
    cluster.moves = [
        Move("orders", 101, 1000, TWO, ONE),
        Move("items", 301, 1000, THREE, ONE),
        Move("orders", 102, 1000, ONE, COORDINATOR),
    ]
    cluster.run_job(7)
    run = Run(cluster)
    run.undo()
    assert run.told("stop:7")[-2:] == [
        "the drain of citus-worker3 was stopped with it. To continue: citus-cluster nodes drain citus-worker3 --wait",
        "rebalance 7 had other moves too. To continue them: citus-cluster rebalance start",
    ]


def test_where_nothing_else_was_stopped_nothing_is_told(cluster: FakeCitus) -> None:
    for worker in (TWO, THREE):
        cluster.change(worker, should_have_shards=False)
    cluster.run_job(7)
    run = Run(cluster)
    run.undo()
    assert run.told("stop:7") == ["stopping rebalance 7", "stopped rebalance 7"]


def test_a_worker_that_citus_cannot_tell_is_not_undone(cluster: FakeCitus) -> None:
    cluster.change(TWO, should_have_shards=False)
    cluster.servers[ONE].silence = "it is paused"
    with pytest.raises(InUseError, match="not all answer"):
        Run(cluster).undo()
    with pytest.raises(UsageError, match="is not in the node list"):
        Run(cluster).undo(NodeAddress("citus-worker7"))
    assert cluster.done == []
