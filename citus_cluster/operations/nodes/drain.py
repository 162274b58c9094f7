"""Draining workers: their shards move to the other nodes, in Citus' own background job."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from citus_cluster.errors import (
    CitusClusterError,
    InUseError,
    LockedError,
    RebalanceError,
    RebalanceRunningError,
    UsageError,
)
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import Departure, called, refuse_drain, refuse_undo, with_hint
from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.units import count
from citus_cluster.operations.coordinator import OnCoordinator, lent
from citus_cluster.operations.nodes.unregistration import look
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import removal as citus_leaving
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.rebalance import running_job_id
from citus_cluster.runtime.postgres import Connection, translated


@dataclass(frozen=True)
class DrainedDocument:
    """The progress of drained workers, and their job."""

    nodes: tuple[Departure, ...]
    drained: bool
    rebalance: RebalanceStatus | None


@dataclass(frozen=True)
class Drained(Documented):
    """The progress of drained workers. ``rebalance`` is the running or finished job; None if none was needed."""

    departures: tuple[Departure, ...]
    rebalance: RebalanceStatus | None

    @property
    def done(self) -> bool:
        """Return whether everything on the workers also exists elsewhere."""
        return not any(found.only_copies for found in self.departures)

    def document(self) -> DrainedDocument:
        return DrainedDocument(self.departures, self.done, self.rebalance)


@dataclass(frozen=True)
class DrainPlan(Documented):
    """The plan of a drain: its moves, its warnings, and why it would be refused (None if it would not)."""

    moves: RebalancePlan
    warnings: tuple[str, ...]
    refusal: CitusClusterError | None

    def document(self) -> Mapping[str, object]:
        """Return the keys of a plan's document and the warnings; ``error`` only if the drain would be refused."""
        plain = {**self.moves.as_dict(), "warnings": self.warnings}
        return {**plain, "error": self.refusal.as_dict()} if self.refusal else plain


async def plan(
    conn: Connection,
    workers: Mapping[str, NodeAddress],
    *,
    mode: TransferMode,
    trust_functions: bool = False,
    online: bool = False,
) -> DrainPlan:
    """Preview the moves of a drain, and the problems that would prevent them. Changes nothing.

    Raises the same errors as :func:`drain` if the moves cannot be determined.
    """
    found = await departures(conn, workers)
    options = RebalanceOptions(mode=mode, drain_only=True, trust_functions=trust_functions, online=online)
    preview = await rebalance.plan(conn, options, without=_nodes(found))
    events: list[Event] = []
    try:
        await rebalance.check(conn, options, preview, events.append)
        refusal = None
    except (RebalanceError, UsageError) as error:
        refusal = error
    return DrainPlan(preview, tuple(event.message for event in events), refusal)


async def drain(
    conn: Connection,
    workers: Mapping[str, NodeAddress],
    emit: Emit,
    *,
    mode: TransferMode,
    wait: bool,
    trust_functions: bool = False,
    online: bool = False,
) -> Drained:
    """Drain workers on one connection, as :func:`carry_out` does."""
    options = RebalanceOptions(mode=mode, drain_only=True, trust_functions=trust_functions, online=online)
    return await carry_out(lent(conn), workers, options, emit, wait=wait, patience_s=0.0)


async def carry_out(
    on_coordinator: OnCoordinator,
    workers: Mapping[str, NodeAddress],
    options: RebalanceOptions,
    emit: Emit,
    *,
    wait: bool,
    patience_s: float = rebalance_watch.PATIENCE_S,
) -> Drained:
    """Move every shard off these workers, which get no new shards from now on.

    ``workers`` maps the user's name of each worker to its address. The function first checks for problems that would
    block the moves, so a refused drain changes nothing. Running it again continues an interrupted drain. With ``wait``,
    a rebalance that is already running is followed first, and a connection is held only for a moment each time. Raises
    UsageError, InUseError, RebalanceError.
    """
    status: RebalanceStatus | None = None
    before: int | None = None
    while True:

        async def look(conn: Connection, before: int | None = before) -> Drained | _Moving:
            return await _begin_or_join(conn, workers, options, emit, wait=wait, before=before)

        found = await on_coordinator(look)
        if isinstance(found, Drained):
            return found if found.rebalance else replace(found, rebalance=status)
        before = found.left if found.left is not None else before
        status = await _follow(on_coordinator, found.departures, found.job_id, emit, patience_s)


@dataclass(frozen=True)
class _Moving:
    """A job to follow; ``left`` is the number of shards when it was started here, None for a job of another."""

    job_id: int
    departures: tuple[Departure, ...]
    left: int | None


async def _begin_or_join(
    conn: Connection,
    workers: Mapping[str, NodeAddress],
    options: RebalanceOptions,
    emit: Emit,
    *,
    wait: bool,
    before: int | None,
) -> Drained | _Moving:
    """Start the moves, or find the job that is running. Return the result if there is nothing to wait for."""
    found = await departures(conn, workers)
    job_id = await _running(conn)
    left: int | None = None
    if job_id is None:
        preview = await rebalance.plan(conn, options, without=_nodes(found))
        await rebalance.check(conn, options, preview, emit)
        now_left = sum(one.shards for one in found)
        moving = any(move.source in workers.values() for move in preview.moves)
        if not moving or (before is not None and now_left >= before):
            await _mark(conn, workers, found, emit)
            return _conclude(found, None, emit)
        try:
            job_id = await _begin(conn, workers, options, preview, emit)
            left = now_left
        except (RebalanceError, LockedError):
            # Another rebalance has just started, and its job may drain these workers too; nothing was changed.
            job_id = await _running(conn)
            if job_id is None:
                raise
            if not wait:
                await _refuse_other_job(conn, await departures(conn, workers), job_id)
    elif not wait:
        await _refuse_other_job(conn, found, job_id)
    elif await _is_ours(conn, found, job_id):
        message = f"rebalance {job_id} is already moving these shards; following it"
        emit(Event(rebalance_watch.STEP, EventKind.STARTED, message, {"job_id": job_id}))
    else:
        rebalance_watch.tell_followed(job_id, emit)
    if job_id is None:  # Citus found nothing to move
        return await _begin_or_join(conn, workers, options, emit, wait=wait, before=left)
    if not wait:
        return Drained(found, await rebalance_watch.status(conn, job_id))
    return _Moving(job_id, found, left)


async def stop(conn: Connection, workers: Mapping[str, NodeAddress], emit: Emit) -> None:
    """Stop the job that drains these workers, if it is running. They stay marked: :func:`undo` unmarks them."""
    job_id = await _running(conn)
    if job_id is not None and await _is_ours(conn, await departures(conn, workers), job_id):
        await rebalance.end(conn, job_id, emit)


async def departures(conn: Connection, workers: Mapping[str, NodeAddress]) -> tuple[Departure, ...]:
    """Check each worker; workers that leave together receive no shards. Raises UsageError, InUseError."""
    found = []
    for name, address in workers.items():
        one = await look(conn, name, address)
        shard_targets, drained = (
            tuple(other for other in others if other not in workers.values())
            for others in (one.shard_targets, one.drained)
        )
        found.append(replace(one, shard_targets=shard_targets, drained=drained))
    refuse_drain(found)
    return tuple(found)


def _nodes(found: Sequence[Departure]) -> tuple[RegisteredNode, ...]:
    return tuple(one.node for one in found if one.node)


def _names(found: Sequence[Departure]) -> str:
    return " ".join(one.name for one in found)


async def _running(conn: Connection) -> int | None:
    async with translated("looking for a running rebalance"):
        return await running_job_id(conn)


async def _is_ours(conn: Connection, found: Sequence[Departure], job_id: int) -> bool:
    """Return whether a running job drains these workers, as far as they hold shards."""
    async with translated("checking the running rebalance"):
        for node, one in zip(_nodes(found), found, strict=True):
            moved = one.shards == 0 or await citus_leaving.moves_off(conn, job_id, node.node_id)
            if node.should_have_shards or not moved:
                return False
    return True


async def _refuse_other_job(conn: Connection, found: Sequence[Departure], job_id: int) -> None:
    if not await _is_ours(conn, found, job_id):
        raise RebalanceRunningError(
            f"A rebalance is already running as job {job_id}.",
            hint=f"To follow it first: citus-cluster nodes drain {_names(found)} --wait. To stop it: citus-cluster "
            "rebalance stop",
        )


async def _follow(
    on_coordinator: OnCoordinator, found: Sequence[Departure], job_id: int, emit: Emit, patience_s: float
) -> RebalanceStatus:
    try:
        return await rebalance_watch.follow(on_coordinator, emit, job_id, patience_s=patience_s)
    except RebalanceError as error:
        raise with_hint(
            error,
            f"Fix the cause, if there is one. To continue: citus-cluster nodes drain {_names(found)} --wait. To "
            "let the "
            "workers hold shards again, use --undo instead of --wait.",
        ) from None


async def _begin(
    conn: Connection,
    workers: Mapping[str, NodeAddress],
    options: RebalanceOptions,
    preview: RebalancePlan,
    emit: Emit,
) -> int | None:
    """Mark the workers and start their moves, both or neither. Returns the job id, or None without moves."""
    async with _changing(conn, workers):
        unmarked = await _unmarked(conn, workers)
        job_id = await rebalance.begin(conn, options, preview, emit, unburden=unmarked)
    _tell_marked(unmarked, emit)
    return job_id


async def _mark(conn: Connection, workers: Mapping[str, NodeAddress], found: Sequence[Departure], emit: Emit) -> None:
    if not any(node.should_have_shards for node in _nodes(found)):
        return
    async with _changing(conn, workers):
        unmarked = await _unmarked(conn, workers)
        await citus_leaving.set_should_have_shards(conn, unmarked, False)
    _tell_marked(unmarked, emit)


async def _unmarked(conn: Connection, workers: Mapping[str, NodeAddress]) -> list[NodeAddress]:
    """Check again under the lock: another drain or removal may have taken the last other node in between."""
    return [one.address for one in _nodes(await departures(conn, workers)) if one.should_have_shards]


def _tell_marked(unmarked: Sequence[NodeAddress], emit: Emit) -> None:
    for address in unmarked:
        message = f"{address} gets no new shards from now on"
        emit(Event(f"mark:{address}", EventKind.DONE, message, {"should_have_shards": False}))


@asynccontextmanager
async def _changing(conn: Connection, workers: Mapping[str, NodeAddress]) -> AsyncIterator[None]:
    """Hold the writers' lock for a change of these workers."""
    addresses = ", ".join(map(str, workers.values()))
    try:
        async with translated(f"changing {addresses}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
            yield
    except LockedError as error:
        raise with_hint(
            error, "Wait until it is done (citus-cluster rebalance wait), then run the command again."
        ) from None


def _conclude(found: tuple[Departure, ...], status: RebalanceStatus | None, emit: Emit) -> Drained:
    for one in found:
        if one.only_copies:
            raise InUseError(
                f"{one.address} still holds {count(one.only_copies, 'shard')} that Citus cannot move to any "
                "other node.",
                details=[str(table) for table in one.held],
                hint="The rebalance strategy does not allow them on any other node (see its "
                "shard_allowed_on_node_function in pg_dist_rebalance_strategy). To let the worker hold shards again: "
                f"citus-cluster nodes drain {one.name} --undo",
            )
        step = f"drain:{one.address}"
        if one.shards:
            message = (
                f"{one.address} holds {count(one.shards, 'shard')} that cannot move, because every other node "
                "already has "
                f"a copy. To drop these copies: citus-cluster nodes remove {one.name} --force"
            )
            emit(Event(step, EventKind.WARNING, message, one.as_dict()))
        else:
            emit(Event(step, EventKind.DONE, f"{one.address} holds no shards", one.as_dict()))
    return Drained(found, status)


async def undo(conn: Connection, workers: Mapping[str, NodeAddress], emit: Emit) -> Drained:
    """Let workers hold shards again, and stop the job that drains them. Shards that have moved stay where they are.

    Reports the other moves of the job. Idempotent. Raises UsageError, InUseError, LockedError.
    """
    ended = []
    for name, address in workers.items():
        one = await look(conn, name, address)
        refuse_undo(one)
        ended.append(await _undo_one(conn, one, emit))
    for job_id in ended:
        if job_id is not None:
            await _tell_what_stopped(conn, job_id, workers.values(), emit)
    return Drained(tuple([await look(conn, name, address) for name, address in workers.items()]), None)


async def _undo_one(conn: Connection, found: Departure, emit: Emit) -> int | None:
    """Return the job that was stopped for it, if any."""
    step = f"mark:{found.address}"
    node = found.node
    if node is None or node.should_have_shards:
        message = f"{found.address} may already hold shards: nothing to undo"
        emit(Event(step, EventKind.SKIPPED, message, {"should_have_shards": True}))
        return None
    ended = None
    job_id = await _running(conn)
    if job_id is not None:
        async with translated("checking the running rebalance"):
            drains = await citus_leaving.moves_off(conn, job_id, node.node_id)
        if drains:
            await rebalance.end(conn, job_id, emit)
            ended = job_id
    async with _changing(conn, {found.name: found.address}):
        await citus_leaving.set_should_have_shards(conn, [found.address], True)
    emit(Event(step, EventKind.DONE, f"{found.address} may hold shards again", {"should_have_shards": True}))
    return ended


async def _tell_what_stopped(conn: Connection, job_id: int, undone: Collection[NodeAddress], emit: Emit) -> None:
    """Report the other moves of a stopped job, because they do not continue automatically."""
    async with translated("checking the remaining moves"):
        sources = await citus_leaving.unfinished_sources(conn, job_id)
        nodes = (await citus_nodes.read_registry(conn)).nodes
        marked = [node for node in nodes if not (node.is_coordinator or node.should_have_shards) and node.is_active]
        holding = [node.address for node in marked if await citus_leaving.held_placements(conn, node.group_id)]
    step = f"stop:{job_id}"
    if holding:
        names = " ".join(map(called, holding))
        message = f"the drain of {names} was stopped with it. To continue: citus-cluster nodes drain {names} --wait"
        emit(Event(step, EventKind.WARNING, message, {"nodes": [str(address) for address in holding]}))
    named = {node.node_id for node in nodes if node.address in undone} | {node.node_id for node in marked}
    if sources - named:
        message = f"rebalance {job_id} had other moves too. To continue them: citus-cluster rebalance start"
        emit(Event(step, EventKind.WARNING, message, {"job_id": job_id}))
