"""The progress of a rebalance, the time left, and its problems, computed from rows of Citus' catalog."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from citus_cluster.model.citus.diagnosis import explain
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.documents import Documented


class JobState(StrEnum):
    """State of Citus' background job; NONE if there has never been one."""

    NONE = "none"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILING = "failing"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in {JobState.NONE, JobState.FINISHED, JobState.CANCELLED, JobState.FAILED}


@dataclass(frozen=True)
class Job:
    """One row of ``pg_dist_background_job``, with the server's time at which it was read."""

    job_id: int
    state: JobState
    started_at: datetime | None
    finished_at: datetime | None
    observed_at: datetime


@dataclass(frozen=True)
class Task:
    """One row of ``pg_dist_background_task``."""

    task_id: int
    state: str
    command: str
    retry_count: int = 0
    message: str | None = None
    not_before: datetime | None = None
    process_id: int | None = None
    target: str | None = None
    """The target of the move, such as ``citus-worker3:5432``; None if unknown."""
    source: str | None = None

    @property
    def shard_id(self) -> int | None:
        """The shard that the task moves (with those colocated with it); None if it copies reference tables."""
        found = re.search(r"citus_move_shard_placement\((\d+)", self.command)
        return int(found[1]) if found else None

    @property
    def holds_writes(self) -> bool:
        """Whether writes to the shard wait for the move, which is then many times as fast as an online one."""
        return "'block_writes'" in self.command

    @property
    def is_done(self) -> bool:
        return self.state == "done"

    @property
    def is_troubled(self) -> bool:
        return self.state == "error" or (self.retry_count > 0 and self.state in {"runnable", "running", "blocked"})


@dataclass(frozen=True)
class ShardGroup:
    """A shard with its colocated shards, which move together."""

    table: str
    shards: int
    size_bytes: int | None


@dataclass(frozen=True)
class Copying:
    """Sum of the rows of ``get_rebalance_progress()`` for one process."""

    process_id: int
    source: NodeAddress
    target: NodeAddress
    phase: str
    copied_bytes: int


@dataclass(frozen=True)
class RunningMoveDocument:
    """A move that is running; its bytes include the colocated shards."""

    table: str
    shard_id: int
    source: str
    target: str
    phase: str
    copied_bytes: int
    size_bytes: int | None


@dataclass(frozen=True)
class RunningMove(Documented):
    """A move that is running; ``size_bytes`` includes the colocated shards."""

    table: str
    shard_id: int
    source: NodeAddress
    target: NodeAddress
    phase: str
    copied_bytes: int
    size_bytes: int | None

    def document(self) -> RunningMoveDocument:
        return RunningMoveDocument(
            table=self.table,
            shard_id=self.shard_id,
            source=str(self.source),
            target=str(self.target),
            phase=self.phase,
            copied_bytes=self.copied_bytes,
            size_bytes=self.size_bytes,
        )


MOVE_BYTES = 100 * 2**20
SHARD_BYTES = 10 * 2**20
"""The cost of a move besides copying, as the bytes that are copied in that time: once, and for each shard of the group.

Slots, subscriptions, catching up, locks: most shards are so small that their bytes hardly matter. Citus itself assumes
100 MB (``citus.rebalancer_by_disk_size_base_cost``). Measured on two cores: an empty shard took 1.3 s, one of 70 MB
1.6 s, and three of 17 MB together 1.8 s.
"""

HELD_MOVE_BYTES = 6 * 2**20
HELD_SHARD_BYTES = 6 * 2**20
"""The same for a move with writes held."""


@dataclass(frozen=True)
class Sample:
    """The progress of a job at one time (of the server's clock).

    ``bytes_done`` includes what running moves have copied; the other two count only finished moves: ``work_ended`` is
    their bytes plus MOVE_BYTES and SHARD_BYTES.
    """

    at: datetime
    bytes_done: int = 0
    bytes_ended: int = 0
    work_ended: int = 0


_SHORTEST_S = 0.5
# Only recent samples count: this many for the rate, and this many ends of moves for the time left.
_LOOKS = 30
_ENDS = 20


@dataclass(frozen=True)
class History:
    """Earlier samples of a job, in time order: the latest ones, and those taken when a move had just ended."""

    recent: tuple[Sample, ...] = ()
    ends: tuple[Sample, ...] = ()

    def after(self, sample: Sample) -> "History":
        """Return the history with one more sample, without samples that are too old to matter."""
        ended = not self.ends or sample.work_ended > self.ends[-1].work_ended
        ends = (*self.ends, sample) if ended else self.ends
        return History((*self.recent, sample)[-_LOOKS:], ends[-_ENDS:])

    def from_here(self) -> "History":
        """Return the history without earlier samples: for a job that was not observed, or was blocked."""
        return History().after(self.recent[-1]) if self.recent else self

    @staticmethod
    def since(started_at: datetime | None) -> "History":
        """Return the history of a job without samples: nothing was done when it started."""
        return History().after(Sample(started_at)) if started_at else History()


@dataclass(frozen=True)
class RebalanceDocument:
    """The progress of the latest rebalance; state ``none`` if there has never been one.

    Shards and bytes include colocated shards. Null means that a value is unknown.
    """

    state: JobState
    job_id: int | None
    started_at: datetime | None
    finished_at: datetime | None
    observed_at: datetime | None
    tasks: Mapping[str, int]
    shards_done: int
    shards_total: int
    bytes_done: int | None
    bytes_total: int | None
    rate_bytes_per_s: float | None
    time_left_s: float | None
    moves: tuple[RunningMoveDocument, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class RebalanceStatus(Documented):
    """The progress of the latest rebalance. Shards and bytes include colocated shards; None means unknown."""

    state: JobState
    job_id: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    observed_at: datetime | None = None
    tasks: Mapping[str, int] = field(default_factory=dict)
    shards_done: int = 0
    shards_total: int = 0
    bytes_done: int | None = None
    bytes_total: int | None = None
    rate_bytes_per_s: float | None = None
    time_left_s: float | None = None
    moves: tuple[RunningMove, ...] = ()
    problems: tuple[str, ...] = ()
    history: History = field(default=History(), repr=False)
    """For the next sample."""

    def from_here(self) -> "RebalanceStatus":
        """Return the same status, measured from now on: rate and time left are not yet known."""
        return replace(self, history=self.history.from_here(), rate_bytes_per_s=None, time_left_s=None)

    def document(self) -> RebalanceDocument:
        return RebalanceDocument(
            state=self.state,
            job_id=self.job_id,
            started_at=self.started_at,
            finished_at=self.finished_at,
            observed_at=self.observed_at,
            tasks=dict(sorted(self.tasks.items())),
            shards_done=self.shards_done,
            shards_total=self.shards_total,
            bytes_done=self.bytes_done,
            bytes_total=self.bytes_total,
            rate_bytes_per_s=self.rate_bytes_per_s,
            time_left_s=self.time_left_s,
            moves=tuple(move.document() for move in self.moves),
            problems=self.problems,
        )


NO_REBALANCE = RebalanceStatus(JobState.NONE)


def build_status(
    job: Job,
    tasks: Sequence[Task],
    groups: Mapping[int, ShardGroup],
    copying: Sequence[Copying],
    history: History | None = None,
) -> RebalanceStatus:
    """Combine the rows. ``groups`` is keyed by the shard id of a task; ``history`` is that of the previous sample."""
    moving = [task for task in tasks if task.shard_id is not None]
    by_process = {copy.process_id: copy for copy in copying}
    moves = tuple(_running_moves(moving, groups, by_process))
    done = [task for task in moving if task.is_done]
    bytes_total = _sum_sizes(moving, groups)
    bytes_done = _sum_sizes(done, groups)
    history = history if history and history.recent else History.since(job.started_at)
    if bytes_done is not None:
        bytes_ended = bytes_done
        bytes_done += sum(min(move.copied_bytes, move.size_bytes or 0) for move in moves)
        # The progress has no row of a move while the move is being set up and while it ends.
        if job.state is JobState.RUNNING and history.recent and not any(task.is_troubled for task in tasks):
            bytes_done = max(bytes_done, history.recent[-1].bytes_done)
        if job.started_at:
            work_ended = bytes_ended + _overhead(done, groups)
            history = history.after(Sample(job.observed_at, bytes_done, bytes_ended, work_ended))
    rate = left = None
    if bytes_total is not None and not job.state.is_final:
        rate = byte_rate(history)
        running = [task for task in moving if task.state == "running"]
        work = bytes_total + _overhead(moving, groups)
        left = time_left_s(history, job.observed_at, work, _overhead(running, groups))
    return RebalanceStatus(
        state=job.state,
        job_id=job.job_id,
        started_at=job.started_at,
        finished_at=job.finished_at,
        observed_at=job.observed_at,
        tasks=_count(task.state for task in tasks),
        shards_done=sum(_group(groups, task).shards for task in done),
        shards_total=sum(_group(groups, task).shards for task in moving),
        bytes_done=bytes_done,
        bytes_total=bytes_total,
        rate_bytes_per_s=rate,
        time_left_s=left,
        moves=moves,
        problems=tuple(describe_problem(task, groups) for task in tasks if task.is_troubled),
        history=history,
    )


def byte_rate(history: History) -> float | None:
    """Return the bytes per second over the latest samples; None if not yet known."""
    if len(history.recent) < 2:
        return None
    first, last = history.recent[0], history.recent[-1]
    return _per_second(last.bytes_done - first.bytes_done, first, last)


def time_left_s(history: History, now: datetime, work: int, work_running: int) -> float | None:
    """Return the seconds left; None until a move has ended, or MOVE_BYTES were copied.

    ``work``: bytes, MOVE_BYTES and SHARD_BYTES of all moves; ``work_running``: those of running moves, without their
    bytes. The estimate follows from the finished moves, counts down from the last of them, and is corrected by what
    running moves have copied: a shard is often copied in a moment, and then takes as long as an empty one.
    """
    if not history.ends:
        return None
    first, last, latest = history.ends[0], history.ends[-1], history.recent[-1]
    ended, copied = last.work_ended, latest.bytes_done - latest.bytes_ended
    at_best = ended + copied + work_running
    before = first.work_ended + first.bytes_done - first.bytes_ended
    rate = _per_second(ended - before, first, last)
    if rate is None:
        gained = ended + copied - before
        rate = _per_second(gained, first, latest) if gained >= MOVE_BYTES else None
        return (work - ended - copied) / rate if rate else None
    rate = min(rate, _per_second(at_best - before, first, latest) or rate)
    since_last_s = (now - last.at).total_seconds()
    return max(0.0, (work - ended) / rate - since_last_s, (work - at_best) / rate)


def _per_second(amount: int, first: Sample, last: Sample) -> float | None:
    elapsed_s = (last.at - first.at).total_seconds()
    return amount / elapsed_s if elapsed_s >= _SHORTEST_S and amount > 0 else None


def _running_moves(
    tasks: Iterable[Task], groups: Mapping[int, ShardGroup], copying: Mapping[int, Copying]
) -> Iterable[RunningMove]:
    for task in tasks:
        copy = copying.get(task.process_id or 0)
        if task.state != "running" or copy is None or task.shard_id is None:
            continue
        group = _group(groups, task)
        yield RunningMove(
            group.table, task.shard_id, copy.source, copy.target, copy.phase, copy.copied_bytes, group.size_bytes
        )


def _group(groups: Mapping[int, ShardGroup], task: Task) -> ShardGroup:
    # A table that has been dropped has nothing left to move.
    return groups.get(task.shard_id or 0, ShardGroup("a dropped table", 1, 0))


def _sum_sizes(tasks: Iterable[Task], groups: Mapping[int, ShardGroup]) -> int | None:
    sizes = [_group(groups, task).size_bytes for task in tasks]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _overhead(tasks: Sequence[Task], groups: Mapping[int, ShardGroup]) -> int:
    return sum(
        HELD_MOVE_BYTES + HELD_SHARD_BYTES * _group(groups, task).shards
        if task.holds_writes
        else MOVE_BYTES + SHARD_BYTES * _group(groups, task).shards
        for task in tasks
    )


def _count(states: Iterable[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return counts


def remedy(message: str) -> str:
    """Return what to do about the error of a move."""
    return explain(message)[1]


def describe_problem(task: Task, groups: Mapping[int, ShardGroup]) -> str:
    """Return one line for people: what fails, how often, why, and what to do."""
    return f"{describe_trouble(task, groups)}; {remedy(task.message or '')}"


def describe_trouble(task: Task, groups: Mapping[int, ShardGroup]) -> str:
    """Return one line for people: what fails, how often, and why."""
    shard = task.shard_id
    what = (
        f"moving shard {shard} of {_group(groups, task).table}" if shard is not None else "copying the reference tables"
    )
    if task.target:
        what += f" to {task.target}"
    reason = last_error(task.message)
    if task.state == "error":
        return f"{what} failed: {reason}"
    times = "once" if task.retry_count == 1 else f"{task.retry_count} times"
    again = f" at {task.not_before:%H:%M:%S %Z}" if task.not_before and task.state != "running" else ""
    return f"{what} failed {times} and is retried{again}: {reason}"


def last_error(message: str | None) -> str:
    """Return the last error in the message that Citus keeps of a task, without its prefix and context."""
    lines = [line.strip() for line in (message or "").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR|FATAL|PANIC):", line)]
    chosen = errors[-1] if errors else (lines[-1] if lines else "no message was kept")
    return re.sub(r"^(ERROR|FATAL|PANIC):\s*", "", chosen).rstrip(".")
