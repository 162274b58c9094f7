"""Draining workers: their shards move to the other nodes, in Citus' own background job."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from citus_cluster.errors import CitusClusterError, InUseError, LockedError, RebalanceError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import Departure, called, refuse_drain, refuse_undo, with_hint
from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.units import count
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
    """How far workers are drained, and the job that does it."""

    nodes: tuple[Departure, ...]
    drained: bool
    rebalance: RebalanceStatus | None


@dataclass(frozen=True)
class Drained(Documented):
    """How far workers are drained. ``rebalance`` is the job that goes on, or has ended; None if none was needed."""

    departures: tuple[Departure, ...]
    rebalance: RebalanceStatus | None

    @property
    def done(self) -> bool:
        """Nothing is there any more that is not elsewhere too."""
        return not any(found.only_copies for found in self.departures)

    def document(self) -> DrainedDocument:
        return DrainedDocument(self.departures, self.done, self.rebalance)


@dataclass(frozen=True)
class DrainPlan(Documented):
    """What a drain would do now: its moves, what it would warn of, and why it would be refused (None: it would not)."""

    moves: RebalancePlan
    warnings: tuple[str, ...]
    refusal: CitusClusterError | None

    def document(self) -> Mapping[str, object]:
        """Give the keys of a plan's document and the warnings; ``error`` only where the drain would be refused."""
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
    """Preview: the moves that a drain would make now, and what would stop them; changes nothing.

    Raises as :func:`drain` where no moves can be told.
    """
    found = await _look(conn, workers)
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
    """Move every shard off these workers, which get no new ones from now on.

    ``workers`` maps what the user calls each to its address. Looks first for what would hold the moves up, so that a
    drain that is refused changes nothing. Run again it goes on where it was, however it ended. With ``wait``, a
    rebalance that runs already is followed first. Raises UsageError, InUseError, RebalanceError.
    """
    options = RebalanceOptions(mode=mode, drain_only=True, trust_functions=trust_functions, online=online)
    status: RebalanceStatus | None = None
    before: int | None = None
    while True:
        found = await _look(conn, workers)
        job_id = await _running(conn)
        if job_id is None:
            preview = await rebalance.plan(conn, options, without=_nodes(found))
            await rebalance.check(conn, options, preview, emit)
            left = sum(one.shards for one in found)
            moving = any(move.source in workers.values() for move in preview.moves)
            if not moving or (before is not None and left >= before):
                await _mark(conn, workers, found, emit)
                return _conclude(found, status, emit)
            try:
                job_id = await _begin(conn, workers, options, preview, emit)
                before = left
            except (RebalanceError, LockedError):
                # Another one was a moment faster, and its job may be as good as ours; nothing was changed.
                job_id = await _running(conn)
                if job_id is None:
                    raise
                if not wait:
                    await _refuse_other_job(conn, await _look(conn, workers), job_id)
        elif not wait:
            await _refuse_other_job(conn, found, job_id)
        elif await _is_ours(conn, found, job_id):
            emit(Event(rebalance_watch.STEP, EventKind.STARTED, f"rebalance {job_id} is at it already: following it"))
        else:
            rebalance_watch.tell_followed(job_id, emit)
        if job_id is not None and not wait:
            return Drained(found, await rebalance_watch.status(conn, job_id))
        if job_id is not None:
            status = await _follow(conn, found, job_id, emit)


async def _look(conn: Connection, workers: Mapping[str, NodeAddress]) -> tuple[Departure, ...]:
    """Look at each worker; those that leave with it inherit nothing. Raises UsageError, InUseError."""
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
    """Say whether a running job drains these workers, as far as they hold anything."""
    async with translated("looking at the running rebalance"):
        for node, one in zip(_nodes(found), found, strict=True):
            moved = one.shards == 0 or await citus_leaving.moves_off(conn, job_id, node.node_id)
            if node.should_have_shards or not moved:
                return False
    return True


async def _refuse_other_job(conn: Connection, found: Sequence[Departure], job_id: int) -> None:
    if not await _is_ours(conn, found, job_id):
        raise RebalanceError(
            f"A rebalance is running already, as job {job_id}.",
            hint=f"citus-cluster nodes drain {_names(found)} --wait follows it first; citus-cluster rebalance stop "
            "ends it.",
        )


async def _follow(conn: Connection, found: Sequence[Departure], job_id: int, emit: Emit) -> RebalanceStatus:
    try:
        return await rebalance_watch.wait(conn, emit, job_id=job_id)
    except RebalanceError as error:
        raise with_hint(
            error,
            f"Mend the cause, if there is one; then citus-cluster nodes drain {_names(found)} --wait goes on with what "
            "is left; with --undo in place of --wait it lets the workers hold shards again.",
        ) from None


async def _begin(
    conn: Connection,
    workers: Mapping[str, NodeAddress],
    options: RebalanceOptions,
    preview: RebalancePlan,
    emit: Emit,
) -> int | None:
    """Mark the workers and start their moves, both or neither; the job's id, or None if Citus found nothing to move."""
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
    """Look once more, under the lock: another drain or removal may have taken the last other node meanwhile."""
    return [one.address for one in _nodes(await _look(conn, workers)) if one.should_have_shards]


def _tell_marked(unmarked: Sequence[NodeAddress], emit: Emit) -> None:
    for address in unmarked:
        message = f"{address} gets no new shards from now on"
        emit(Event(f"mark:{address}", EventKind.DONE, message, {"should_have_shards": False}))


@asynccontextmanager
async def _changing(conn: Connection, workers: Mapping[str, NodeAddress]) -> AsyncIterator[None]:
    """Hold the lock of writers for a change of these workers."""
    addresses = ", ".join(map(str, workers.values()))
    try:
        async with translated(f"changing {addresses}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
            yield
    except LockedError as error:
        raise with_hint(
            error, "Run the command again when that is done; citus-cluster rebalance wait follows one."
        ) from None


def _conclude(found: tuple[Departure, ...], status: RebalanceStatus | None, emit: Emit) -> Drained:
    for one in found:
        if one.only_copies:
            raise InUseError(
                f"{one.address} still holds {count(one.only_copies, 'shard')} that Citus moves nowhere.",
                details=[str(table) for table in one.held],
                hint="The rebalance strategy allows them on no other node that may hold shards (see its "
                "shard_allowed_on_node_function in pg_dist_rebalance_strategy). To let the worker hold shards again: "
                f"citus-cluster nodes drain {one.name} --undo",
            )
        step = f"drain:{one.address}"
        if one.shards:
            message = (
                f"{one.address} holds {count(one.shards, 'shard')} of which every other node that may hold them has a "
                f"copy: citus-cluster nodes remove {one.name} --force lets these go"
            )
            emit(Event(step, EventKind.WARNING, message, one.as_dict()))
        else:
            emit(Event(step, EventKind.DONE, f"{one.address} holds no shards", one.as_dict()))
    return Drained(found, status)


async def undo(conn: Connection, workers: Mapping[str, NodeAddress], emit: Emit) -> Drained:
    """Let workers hold shards again, and stop the job that drains them. Shards that have moved stay where they are.

    Says what else the job was at. Idempotent. Raises UsageError, InUseError, LockedError.
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
    """Give the job that was ended for it, if one was."""
    step = f"mark:{found.address}"
    node = found.node
    if node is None or node.should_have_shards:
        message = f"{found.address} may hold shards: there is nothing to undo"
        emit(Event(step, EventKind.SKIPPED, message, {"should_have_shards": True}))
        return None
    ended = None
    job_id = await _running(conn)
    if job_id is not None:
        async with translated("looking at the running rebalance"):
            drains = await citus_leaving.moves_off(conn, job_id, node.node_id)
        if drains:
            await rebalance.end(conn, job_id, emit)
            ended = job_id
    async with _changing(conn, {found.name: found.address}):
        await citus_leaving.set_should_have_shards(conn, [found.address], True)
    emit(Event(step, EventKind.DONE, f"{found.address} may hold shards again", {"should_have_shards": True}))
    return ended


async def _tell_what_stopped(conn: Connection, job_id: int, undone: Collection[NodeAddress], emit: Emit) -> None:
    """Say what else a job was at that was ended: none of it goes on by itself."""
    async with translated("looking at what is left to move"):
        sources = await citus_leaving.unfinished_sources(conn, job_id)
        nodes = (await citus_nodes.read_registry(conn)).nodes
        marked = [node for node in nodes if not (node.is_coordinator or node.should_have_shards) and node.is_active]
        holding = [node.address for node in marked if await citus_leaving.held_placements(conn, node.group_id)]
    step = f"stop:{job_id}"
    if holding:
        names = " ".join(map(called, holding))
        message = f"the drain of {names} was stopped with it: citus-cluster nodes drain {names} --wait goes on"
        emit(Event(step, EventKind.WARNING, message, {"nodes": [str(address) for address in holding]}))
    named = {node.node_id for node in nodes if node.address in undone} | {node.node_id for node in marked}
    if sources - named:
        message = f"rebalance {job_id} had other moves too: citus-cluster rebalance start goes on with them"
        emit(Event(step, EventKind.WARNING, message, {"job_id": job_id}))
