"""Following a rebalance of a cluster in memory, in a time that jumps: what is told, and when it is given up."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import pytest
import virtual_time
from fake_citus import COORDINATOR, NOON, ONE, TWO, FakeCitus, in_place

from citus_cluster.errors import CitusClusterError, RebalanceError, UnreachableError, WorkerUnreachableError
from citus_cluster.model.citus.blockers import Session
from citus_cluster.model.citus.rebalance import NO_REBALANCE, Copying, JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import Move
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.coordinator import lent
from citus_cluster.operations.rebalance import watch
from citus_cluster.runtime.postgres import Connection

T = TypeVar("T")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    """A job that moves one of two shards."""
    found = in_place(monkeypatch, FakeCitus.of(ONE, TWO))
    found.place("orders", {101: [ONE], 102: [ONE]})
    found.moves = [Move("orders", 101, 1000, ONE, TWO), Move("orders", 102, 1000, ONE, TWO)]
    found.run_job(7, JobState.RUNNING, "done", "running")
    return found


class Follow:
    """Follows the job, while ``at`` changes the cluster at moments of the following, in seconds."""

    def __init__(self, cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.events: list[tuple[float, Event]] = []
        self.at: dict[float, Callable[[], None]] = {}
        self.began = self.ended = 0.0
        whole = cluster.last_job

        async def last_job(conn: object, job_id: int | None = None) -> object:
            for moment in sorted(self.at):
                if self.now >= moment:
                    self.at.pop(moment)()
            found = await whole(cluster.connection, job_id)
            return found and replace(found, observed_at=NOON + timedelta(seconds=self.now))

        monkeypatch.setattr("citus_cluster.runtime.citus.rebalance.last_job", last_job)

    @property
    def now(self) -> float:
        return virtual_time.clock() - self.began

    def __call__(self, poll_s: float = 1.0) -> RebalanceStatus:
        async def work() -> RebalanceStatus:
            self.began = virtual_time.clock()
            return await watch.follow(
                lent(self.cluster.connection),
                lambda event: self.events.append((self.now, event)),
                poll_s=poll_s,
                patience_s=0.0,
            )

        return virtual_time.run(work())

    def told(self, kind: EventKind) -> list[str]:
        return [event.message for _, event in self.events if event.kind is kind]


@pytest.fixture
def follow(cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> Follow:
    return Follow(cluster, monkeypatch)


def status(cluster: FakeCitus, **more: object) -> RebalanceStatus:
    return virtual_time.run(watch.status(cluster.connection, **more))  # type: ignore[arg-type]


# One look


def test_a_look_counts_shards_and_bytes(cluster: FakeCitus) -> None:
    found = status(cluster)
    assert (found.job_id, found.shards_done, found.shards_total) == (7, 1, 2)
    assert (found.bytes_done, found.bytes_total, found.problems) == (1000, 2000, ())


def test_there_may_never_have_been_a_rebalance(cluster: FakeCitus) -> None:
    cluster.jobs.clear()
    assert status(cluster) == NO_REBALANCE


def test_an_earlier_job_can_be_looked_at(cluster: FakeCitus) -> None:
    cluster.run_job(9)
    assert (status(cluster).job_id, status(cluster, job_id=7).job_id) == (9, 7)


def test_what_is_being_copied_counts(cluster: FakeCitus) -> None:
    cluster.copying = (Copying(4002, ONE, TWO, "Copying Data", 400),)
    found = status(cluster)
    assert found.bytes_done == 1400
    (move,) = found.moves
    assert (move.shard_id, move.copied_bytes, move.phase) == (102, 400, "Copying Data")


def test_a_shard_that_was_dropped_has_nothing_to_move(cluster: FakeCitus) -> None:
    cluster.placements = [one for one in cluster.placements if one.shard_id == 101]
    found = status(cluster)
    assert (found.shards_total, found.bytes_total) == (2, 1000)


def test_sizes_that_a_caller_knows_are_not_read_again(cluster: FakeCitus) -> None:
    cluster.sizes.clear()
    assert status(cluster, sizes={101: 10, 102: 20}).bytes_total == 30


def test_a_size_that_no_node_tells_is_unknown(cluster: FakeCitus) -> None:
    assert status(cluster, sizes={101: 10}).bytes_total is None


def test_a_node_that_does_not_answer_is_a_problem_of_a_job_that_runs(cluster: FakeCitus) -> None:
    cluster.servers[TWO].silence = "it is paused"
    (problem,) = status(cluster).problems
    assert problem.startswith("citus-worker2:5432 does not answer") and problem.endswith("(citus-cluster status)")
    cluster.end_job(7)
    assert status(cluster).problems == ()


def test_silence_that_a_caller_reports_too_is_told_in_the_same_words(cluster: FakeCitus) -> None:
    assert status(cluster, silent=["citus-worker2:5432 is away."]).problems == ("citus-worker2:5432 is away.",)


def test_workers_that_tell_no_progress_are_told_of(cluster: FakeCitus) -> None:
    cluster.copying_failure = WorkerUnreachableError("It took too long.")
    assert status(cluster).problems == ("the workers do not report their progress",)
    cluster.conn.closed = True
    with pytest.raises(CitusClusterError, match="It took too long"):
        status(cluster)


# Followed to its end


def test_a_rebalance_is_followed_to_its_end(follow: Follow) -> None:
    follow.at[3] = lambda: follow.cluster.end_job(7)
    found = follow()
    assert found.state is JobState.FINISHED
    assert follow.told(EventKind.DONE) == ["finished: 2 of 2 shards, 2.0 kB of 2.0 kB"]
    assert follow.told(EventKind.PROGRESS) == ["running: 1 of 2 shards, 1000 B of 2.0 kB"], "told once"


def test_progress_is_told_when_it_changes(follow: Follow) -> None:
    def copy(done: int) -> Callable[[], None]:
        return lambda: setattr(follow.cluster, "copying", (Copying(4002, ONE, TWO, "Copying Data", done),))

    follow.at = {2: copy(200), 5: copy(500), 8: lambda: follow.cluster.end_job(7)}
    follow()
    lines = [line.split(",")[1].strip() for line in follow.told(EventKind.PROGRESS)]
    assert list(dict.fromkeys(lines)) == ["1000 B of 2.0 kB", "1.2 kB of 2.0 kB", "1.5 kB of 2.0 kB"]


@pytest.mark.parametrize(
    ("state", "told"),
    [(JobState.CANCELLED, "was stopped after 1 of 2 shards"), (JobState.FAILED, "failed after 1 of 2 shards: moving")],
)
def test_a_rebalance_that_does_not_finish_is_an_error_that_says_how_to_go_on(
    follow: Follow, state: JobState, told: str
) -> None:
    def end() -> None:
        cluster = follow.cluster
        cluster.jobs[7] = replace(cluster.jobs[7], state=state)
        done, last = cluster.tasks[7]
        cluster.tasks[7] = [done, replace(last, state="error", message="ERROR:  no space")]

    follow.at[2] = end
    with pytest.raises(RebalanceError, match=f"Rebalance 7 {told}") as caught:
        follow()
    assert "citus-cluster rebalance start" in (caught.value.hint or "")
    assert [line.split(":")[0] for line in follow.told(EventKind.FAILED)] == [state.value]


def test_without_a_rebalance_there_is_nothing_to_follow(follow: Follow) -> None:
    follow.cluster.jobs.clear()
    assert follow().state is JobState.NONE
    assert follow.told(EventKind.SKIPPED) == ["no rebalance exists"]


def test_a_problem_is_told_once_as_soon_as_it_is_there(follow: Follow) -> None:
    def fail() -> None:
        done, last = follow.cluster.tasks[7]
        follow.cluster.tasks[7] = [done, replace(last, state="runnable", retry_count=1, message="ERROR:  no space")]

    follow.at = {2: fail, 6: lambda: follow.cluster.end_job(7)}
    follow()
    (warning,) = follow.told(EventKind.WARNING)
    assert warning.startswith("moving shard 102 of orders to citus-worker2:5432 failed once and is retried")


# Nodes that fall silent


def silence(follow: Follow, reason: str | None) -> Callable[[], None]:
    return lambda: setattr(follow.cluster.servers[TWO], "silence", reason)


def test_a_node_that_is_away_for_a_while_is_told_of_and_of_its_return(follow: Follow) -> None:
    follow.at = {1: silence(follow, "it is paused"), 30: silence(follow, None), 40: lambda: follow.cluster.end_job(7)}
    assert follow().state is JobState.FINISHED
    (warning,) = follow.told(EventKind.WARNING)
    assert warning.startswith("citus-worker2:5432 does not answer the coordinator: it is paused")
    assert follow.told(EventKind.DONE)[0] == "citus-worker2:5432 answers again"


def test_a_node_that_is_away_twice_is_told_of_twice(follow: Follow) -> None:
    follow.at = {
        1: silence(follow, "it is paused"),
        20: silence(follow, None),
        30: silence(follow, "it is paused"),
        50: silence(follow, None),
        60: lambda: follow.cluster.end_job(7),
    }
    follow()
    assert len(follow.told(EventKind.WARNING)) == 2
    assert follow.told(EventKind.DONE).count("citus-worker2:5432 answers again") == 2


def test_a_node_that_stays_away_for_a_minute_ends_the_following(follow: Follow) -> None:
    follow.at = {1: silence(follow, "it is paused")}
    with pytest.raises(RebalanceError, match="Rebalance 7 does not continue: citus-worker2:5432") as caught:
        follow()
    ended_s = follow.events[-1][0]
    assert 60 <= ended_s <= 70
    assert "rebalance wait" in (caught.value.hint or "")
    assert len(caught.value.details) == 1


def test_moves_between_other_nodes_keep_it_going(follow: Follow) -> None:
    follow.at = {1: silence(follow, "it is paused")}
    follow.cluster.moves = [Move("orders", 101, 1000, ONE, COORDINATOR), Move("orders", 102, 1000, ONE, COORDINATOR)]
    follow.cluster.run_job(7, JobState.RUNNING, "running", "running")
    follow.at[40] = lambda: follow.cluster.run_job(7, JobState.RUNNING, "done", "running")
    follow.at[90] = lambda: follow.cluster.end_job(7)
    assert follow().state is JobState.FINISHED


# What holds it up


def test_a_queue_that_nobody_serves_is_noticed_after_some_rounds(follow: Follow) -> None:
    follow.cluster.run_job(7, JobState.SCHEDULED, "runnable", "runnable")
    follow.cluster.is_served = False
    follow.at[60] = lambda: follow.cluster.end_job(7)
    follow()
    (moment,) = [at for at, event in follow.events if event.kind is EventKind.WARNING]
    assert 20 < moment < 23
    assert follow.told(EventKind.WARNING)[0].startswith("scheduled, but Citus starts no task: too few background")


def test_a_queue_that_is_served_or_at_work_is_none(follow: Follow) -> None:
    follow.cluster.run_job(7, JobState.SCHEDULED, "runnable", "runnable")
    follow.at = {40: lambda: follow.cluster.run_job(7, JobState.RUNNING, "runnable", "running")}
    follow.at[41] = lambda: setattr(follow.cluster, "is_served", False)
    follow.at[90] = lambda: follow.cluster.end_job(7)
    follow()
    assert follow.told(EventKind.WARNING) == []


def test_sessions_that_block_a_move_are_named_once_it_stalls(follow: Follow) -> None:
    follow.cluster.blocking = (Session(ONE, 4711, "app", "psql", "idle in transaction", None, None),)
    follow.at[60] = lambda: follow.cluster.end_job(7)
    follow()
    (warning,) = follow.told(EventKind.WARNING)
    assert "waits for session 4711 on citus-worker1:5432" in warning
    (moment,) = [at for at, event in follow.events if event.kind is EventKind.WARNING]
    assert 10 < moment < 13


def test_a_lost_slot_of_a_move_is_named(follow: Follow) -> None:
    follow.cluster.lost_slots[ONE] = ("citus_slot",)
    follow.at[30] = lambda: follow.cluster.end_job(7)
    follow()
    (warning,) = follow.told(EventKind.WARNING)
    assert warning.startswith("citus-worker1:5432: the replication slot citus_slot of a move is lost")


def test_near_its_end_it_is_looked_at_more_often(follow: Follow, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    whole = watch._read_status

    async def read(*arguments: object) -> RebalanceStatus:
        looks.append(follow.now)
        found = await whole(*arguments)  # type: ignore[arg-type]
        left_s = {0: None, 1: 10.0}.get(int(follow.now), 4.0)
        return replace(found, time_left_s=left_s)

    monkeypatch.setattr(watch, "_read_status", read)
    follow.at[3] = lambda: follow.cluster.end_job(7)
    follow()
    assert looks == [pytest.approx(at) for at in (0, 1, 2, 2.25, 2.5, 2.75, 3)]


# Each check on a connection of its own


def through(follow: Follow, *, away: tuple[float, float]) -> RebalanceStatus:
    """Follow while no connection to the coordinator opens from one moment to another."""

    async def on_coordinator(work: Callable[[Connection], Awaitable[T]], /) -> T:
        if away[0] <= follow.now < away[1]:
            raise UnreachableError("Connection refused.")
        return await work(follow.cluster.connection)

    async def body() -> RebalanceStatus:
        follow.began = virtual_time.clock()
        try:
            return await watch.follow(on_coordinator, lambda event: follow.events.append((follow.now, event)), 7)
        finally:
            follow.ended = follow.now

    return virtual_time.run(body())


def test_a_coordinator_that_restarts_does_not_end_the_following(cluster: FakeCitus, follow: Follow) -> None:
    follow.at[50] = lambda: cluster.end_job(7)
    assert through(follow, away=(5, 40)).state is JobState.FINISHED
    told = [event.message for _, event in follow.events if event.step == "silent:coordinator"]
    assert len(told) == 2
    assert told[0].startswith("the coordinator does not answer")
    assert told[1] == "the coordinator answers again"


def test_a_coordinator_that_stays_away_ends_the_following(cluster: FakeCitus, follow: Follow) -> None:
    with pytest.raises(UnreachableError, match="Connection refused"):
        through(follow, away=(5, 1000))
    assert 65 <= follow.ended <= 70
    assert not cluster.jobs[7].state.is_final, "the job is Citus' own"
