"""Following a rebalance: its progress, its problems, and its result."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from citus_cluster.errors import AuthenticationError, CitusClusterError, RebalanceError, UnreachableError
from citus_cluster.model.citus.blockers import describe_blocker
from citus_cluster.model.citus.capacity import lost_slots_problem
from citus_cluster.model.citus.rebalance import (
    NO_REBALANCE,
    Copying,
    History,
    JobState,
    RebalanceStatus,
    ShardGroup,
    Task,
    build_status,
)
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.units import size
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.runtime.citus import blockers as citus_blockers
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import slots as citus_slots
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.postgres import Connection, translated

STEP = "rebalance"
# Citus' maintenance daemon checks the queue every 5 s by default; after three rounds there is a problem.
_UNSERVED_S = 20.0
_HUNG_S = 30.0
# After this time without progress, that is two checks, all nodes are tested; and again after the same time.
_QUIET_S = 2.0
_ASK_SILENT_AGAIN_S = 3.0
# A restart takes less time; a server that does not answer for longer needs a person.
_SILENCE_TOLERATED_S = 60.0
PATIENCE_S = 60.0
"""How long the coordinator may be away, for example while it restarts, before following a rebalance ends."""
# After this time without progress, the blocking sessions are queried; and again after the same time.
_STALLED_S = 10.0
_NEVER = float("inf")
# This close to its end, it is checked more often, so that a command that waits for it continues at once.
_SOON_S = 5.0
_POLL_AT_THE_END_S = 0.25


async def status(
    conn: Connection,
    job_id: int | None = None,
    sizes: Mapping[int, int] | None = None,
    silent: Sequence[str] | None = None,
) -> RebalanceStatus:
    """Return the progress of the latest rebalance (or job ``job_id``); state NONE if there is none. Bounded in time.

    ``sizes`` (bytes by shard id) and ``silent`` (why nodes do not answer) are given if the caller knows them already;
    otherwise every node is asked.
    """
    async with translated("reading the state of the rebalance"):
        memory = _Memory(sizes)
        if silent is not None:
            memory.silent, memory.silent_again_at = {reason: reason for reason in silent}, _NEVER
        return await _read_status(conn, job_id, memory)


@dataclass
class _Memory:
    """The state between two checks."""

    sizes: Mapping[int, int] | None = None
    """Bytes by shard id; None until they are read, once, because that costs a query on every node."""
    groups: dict[int, ShardGroup] = field(default_factory=dict)
    history: History = field(default_factory=History)
    progress_again_at: float = 0.0
    """When to read the progress again (event loop's time): a session that hangs on a node stays for minutes."""
    sizes_again_at: float = _NEVER
    """When to read the sizes again; never if all are known."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Why nodes do not answer, by address; the first reason is kept."""
    silent_since: float | None = None
    answering_since: float = 0.0
    """When a node was found to answer again."""
    silent_again_at: float = 0.0
    """When to test the nodes again: each takes some seconds."""
    starts_here: bool = False
    """Whether rate and time left are shown from the next check on: earlier progress was not observed."""
    progress: object = None
    moved_at: float = -_NEVER
    """The time of the last observed progress."""


async def _read_status(conn: Connection, job_id: int | None, memory: _Memory) -> RebalanceStatus:
    job = await citus_rebalance.last_job(conn, job_id)
    if job is None:
        return NO_REBALANCE
    tasks = await citus_rebalance.tasks(conn, job.job_id)
    troubled = any(task.is_troubled for task in tasks)
    quiet = _now() - memory.moved_at >= _QUIET_S
    if not job.state.is_final and (quiet or troubled or memory.silent):
        await _look_for_silent(conn, memory)
    await _fill_groups(conn, tasks, memory)
    copying: tuple[Copying, ...] = ()
    running = [task for task in tasks if task.state == "running"]
    hangs = any(node in memory.silent for task in running for node in (task.source, task.target))
    if running and not hangs and _now() >= memory.progress_again_at:
        try:
            copying = await _copying(conn)
            memory.progress_again_at = 0.0
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            memory.progress_again_at = _now() + _HUNG_S
            await _look_for_silent(conn, memory)
    found = build_status(job, tasks, memory.groups, copying, memory.history)
    if memory.starts_here and found.history.recent:
        memory.starts_here, found = False, found.from_here()
    memory.history = found.history
    if _progress(found) != memory.progress:
        memory.progress, memory.moved_at = _progress(found), _now()
    if found.state.is_final:
        return found
    if memory.silent:
        found = replace(found, rate_bytes_per_s=None, time_left_s=None)
    unknown = ("the workers do not report their progress",) if memory.progress_again_at and not memory.silent else ()
    return replace(found, problems=(*found.problems, *_with_advice(memory).values(), *unknown))


def _with_advice(memory: _Memory) -> Mapping[str, str]:
    if memory.silent_again_at == _NEVER:  # the caller that gave the reasons reports them too, in the same words
        return memory.silent
    return {
        node: f"{reason.rstrip('.')}; start or unpause it (citus-cluster status)"
        for node, reason in memory.silent.items()
    }


async def _look_for_silent(conn: Connection, memory: _Memory) -> None:
    if _now() < memory.silent_again_at:
        return
    silence = await citus_probe.silence(conn, (await citus_nodes.read_registry(conn)).nodes)
    before, now = memory.silent, _now()
    memory.silent = {str(node): before.get(str(node), reason) for node, reason in silence.items()}
    memory.silent_again_at = now + _ASK_SILENT_AGAIN_S
    if memory.silent:
        memory.silent_since = now if memory.silent_since is None else memory.silent_since
    elif before:
        memory.silent_since, memory.answering_since = None, now
        memory.starts_here, memory.progress_again_at = True, 0.0
        memory.sizes_again_at = min(memory.sizes_again_at, now)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _copying(conn: Connection) -> tuple[Copying, ...]:
    registry = await citus_nodes.read_registry(conn)
    return await citus_rebalance.copying(conn, registry.coordinator.address) if registry.coordinator else ()


async def _fill_groups(conn: Connection, tasks: Sequence[Task], memory: _Memory) -> None:
    if _now() >= memory.sizes_again_at:
        memory.sizes = None
        memory.groups = {key: group for key, group in memory.groups.items() if group.size_bytes is not None}
    wanted = [task.shard_id for task in tasks if task.shard_id is not None and task.shard_id not in memory.groups]
    if not wanted:
        return
    members = await citus_rebalance.shard_groups(conn, wanted)
    if memory.sizes is None and members:
        registry = await citus_nodes.read_registry(conn)
        holders = [node for node in registry.nodes if node.is_active and node.role == "primary"]
        by_node = await citus_tables.shard_sizes(
            conn, [node for node in holders if str(node.address) not in memory.silent]
        )
        memory.sizes = {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}
        memory.sizes_again_at = _NEVER if len(by_node) == len(holders) else _now() + _HUNG_S
    sizes = memory.sizes or {}
    for shard_id in wanted:
        table, ids = members.get(shard_id, ("a dropped table", ()))
        known = [sizes[member] for member in ids if member in sizes]
        memory.groups[shard_id] = ShardGroup(table, max(1, len(ids)), sum(known) if len(known) == len(ids) else None)


def tell_followed(job_id: int, emit: Emit) -> None:
    """Report that a rebalance that another command started is followed to its end first."""
    message = f"a rebalance is already running as job {job_id}; following it first"
    emit(Event(STEP, EventKind.STARTED, message, {"job_id": job_id}))


async def follow(
    on_coordinator: OnCoordinator,
    emit: Emit,
    job_id: int | None = None,
    *,
    poll_s: float = 1.0,
    patience_s: float = PATIENCE_S,
) -> RebalanceStatus:
    """Follow a rebalance until it ends. An interruption is harmless: the job belongs to Citus, and continues.

    Emits progress when it changes, and each problem once, as soon as it occurs. Each check uses a connection only for
    a moment. Returns the last status (state NONE or FINISHED). Raises RebalanceError if the rebalance failed, was
    stopped, or a node does not answer for a minute, and UnreachableError if the coordinator does not for ``patience_s``
    seconds.
    """
    followed = _Followed(emit, job_id)
    lost_at: float | None = None
    while True:
        try:
            found = await on_coordinator(followed.check)
        except AuthenticationError:
            raise
        except UnreachableError as error:
            lost_at = _now() if lost_at is None else lost_at
            if _now() - lost_at >= patience_s:
                raise
            followed.lose(error)
            await asyncio.sleep(poll_s)
            continue
        lost_at = None
        if found.state.is_final:
            return _conclude(found, emit)
        ends_soon = found.time_left_s is not None and found.time_left_s < _SOON_S
        await asyncio.sleep(min(poll_s, _POLL_AT_THE_END_S) if ends_soon else poll_s)


class _Followed:
    """A rebalance that is followed: what was observed and told, from check to check."""

    def __init__(self, emit: Emit, job_id: int | None) -> None:
        self._emit = emit
        self._job_id = job_id
        self._memory = _Memory(starts_here=True)
        self._told: set[str] = set()
        self._last: Mapping[str, object] = {}
        self._silent: Mapping[str, str] = {}
        self._started = self._asked_at = _now()
        self._is_lost = False

    def lose(self, error: UnreachableError) -> None:
        """Report that the coordinator does not answer, once each time."""
        if not self._is_lost:
            message = f"the coordinator does not answer; the rebalance continues once it does: {error.message}"
            self._emit(Event("silent:coordinator", EventKind.WARNING, message))
        self._is_lost = True

    def warn(self, problem: str) -> None:
        """Report a problem, once."""
        if problem not in self._told:
            self._emit(Event(STEP, EventKind.WARNING, problem, {"job_id": self._job_id} if self._job_id else {}))
        self._told.add(problem)

    async def check(self, conn: Connection) -> RebalanceStatus:
        """Look once, and report what is new. Raises RebalanceError if a node has not answered for too long."""
        async with translated("following the rebalance"):
            memory = self._memory
            found = await _read_status(conn, self._job_id, memory)
            self._job_id = found.job_id
            if self._is_lost:
                self._is_lost = False
                self._emit(Event("silent:coordinator", EventKind.DONE, "the coordinator answers again"))
            if _now() - max(self._started, memory.answering_since) > _UNSERVED_S:
                found = await _notice_unserved_queue(conn, found)
            for node in self._silent.keys() - memory.silent.keys():
                self._emit(Event(f"silent:{node}", EventKind.DONE, f"{node} answers again", {"job_id": self._job_id}))
                self._told.discard(self._silent[node])
            self._silent = _with_advice(memory)
            held_up: tuple[str, ...] = ()
            stalled = _now() - max(memory.moved_at, self._asked_at) > _STALLED_S
            if stalled and not found.state.is_final and not self._silent:
                self._asked_at, held_up = _now(), await find_blockers(conn, found)
        for problem in (*found.problems, *held_up):
            self.warn(problem)
        if found.state.is_final:
            return found
        _refuse_long_silence(found, memory, self._emit)
        if _visible(found) != self._last:
            self._emit(Event(STEP, EventKind.PROGRESS, progress_line(found), found.as_dict()))
            self._last = _visible(found)
        return found


def _refuse_long_silence(found: RebalanceStatus, memory: _Memory, emit: Emit) -> None:
    # Moves between other nodes may continue.
    if memory.silent_since is None or _now() - max(memory.silent_since, memory.moved_at) < _SILENCE_TOLERATED_S:
        return
    reasons = tuple(memory.silent.values())
    emit(Event(STEP, EventKind.FAILED, progress_line(found), found.as_dict()))
    raise RebalanceError(
        f"Rebalance {found.job_id} does not continue: {' '.join(reasons)}",
        hint="Start or unpause the node; the rebalance then continues. To follow it again: "
        "citus-cluster rebalance wait. If the node is lost permanently: citus-cluster rebalance stop",
        details=reasons,
    )


async def _notice_unserved_queue(conn: Connection, found: RebalanceStatus) -> RebalanceStatus:
    waiting = found.tasks.get("runnable", 0) and not found.tasks.get("running", 0) and not found.problems
    if found.state.is_final or not waiting or await citus_rebalance.queue_is_served(conn):
        return found
    problem = (
        "scheduled, but Citus starts no task: too few background workers on the coordinator "
        "(raise max_worker_processes and restart it), or its maintenance daemon does not run (see its log)"
    )
    return replace(found, problems=(problem,))


def _progress(found: RebalanceStatus) -> object:
    return found.shards_done, found.bytes_done, found.moves


async def find_blockers(conn: Connection, found: RebalanceStatus) -> tuple[str, ...]:
    """Return the sessions that block running moves, and slots of moves that are lost, one line for each."""
    tasks = await citus_rebalance.tasks(conn, found.job_id or 0)
    processes = [task.process_id for task in tasks if task.state == "running" and task.process_id]
    registry = await citus_nodes.read_registry(conn)
    sessions = await citus_blockers.blockers(conn, registry.nodes, processes)
    lost = [await _find_lost_slots(conn, node) for node in registry.nodes if node.is_active]
    return (*(describe_blocker(session) for session in sessions), *(problem for problem in lost if problem))


async def _find_lost_slots(conn: Connection, node: RegisteredNode) -> str | None:
    try:
        slots = await citus_slots.lost_slots(conn, node)
    except (CitusClusterError, psycopg.Error):
        if conn.closed:
            raise
        return None  # a node that does not answer is reported separately
    return lost_slots_problem(node.address, slots) if slots else None


def _visible(found: RebalanceStatus) -> Mapping[str, object]:
    return {key: value for key, value in found.as_dict().items() if key not in {"observed_at", "time_left_s"}}


def progress_line(found: RebalanceStatus) -> str:
    """Return one line, such as ``running: 3 of 8 shards, 42.0 MB of 96.0 MB, 5.1 MB/s, 11 s left``."""
    parts = [f"{found.shards_done} of {found.shards_total} shards"]
    if found.bytes_done is not None and found.bytes_total is not None:
        parts.append(f"{size(found.bytes_done)} of {size(found.bytes_total)}")
    if found.rate_bytes_per_s is not None:
        parts.append(f"{size(found.rate_bytes_per_s)}/s")
    if found.time_left_s is not None:
        parts.append(f"{found.time_left_s:.0f} s left")
    return f"{found.state.value}: " + ", ".join(parts)


def _conclude(found: RebalanceStatus, emit: Emit) -> RebalanceStatus:
    if found.state is JobState.NONE:
        emit(Event(STEP, EventKind.SKIPPED, "no rebalance exists"))
        return found
    if found.state is JobState.FINISHED:
        emit(Event(STEP, EventKind.DONE, progress_line(found), found.as_dict()))
        return found
    emit(Event(STEP, EventKind.FAILED, progress_line(found), found.as_dict()))
    if found.state is JobState.CANCELLED:
        raise RebalanceError(
            f"Rebalance {found.job_id} was stopped after {found.shards_done} of {found.shards_total} shards.",
            hint="To continue with the remaining moves: citus-cluster rebalance start",
        )
    raise RebalanceError(
        f"Rebalance {found.job_id} failed after {found.shards_done} of {found.shards_total} shards: "
        + ("; ".join(found.problems) or "Citus kept no message"),
        hint="Fix the cause. To continue with the remaining moves: citus-cluster rebalance start",
        details=found.problems,
    )
