"""Moving a shard, with all shards that are always on the same node, as a background job of Citus.

The job belongs to Citus: it goes on if this process ends, runs as the owner of the tables where that is possible, and
is followed and stopped like a rebalance.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Annotated, Generic, Protocol, TypeVar

from pydantic import Field

from citus_cluster.errors import NotFoundError, RebalanceRunningError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import Move, RebalanceOptions, RebalancePlan, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import called
from citus_cluster.model.citus.shards import ShardListRow
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding, Preview, blocks, refusal, warns
from citus_cluster.model.units import count, size
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes.lookup import NodeName, find_node
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.tables.distribution import TrustFunctions
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.postgres import Connection, translated

ShardId = Annotated[int, Field(ge=1, description="Number of the shard.", examples=[102008])]
Mode = Annotated[
    TransferMode,
    Field(description="auto needs a replica identity; block_writes holds writes; force_logical holds none."),
]
LIST_HINT = "List the shards: citus-cluster shards list"


@parameters
class Moving:
    """A shard, and the node to which it moves."""

    shard: ShardId
    node: NodeName
    mode: Mode = TransferMode.AUTO
    trust_functions: TrustFunctions = False


@dataclass(frozen=True)
class MovedShards(Documented):
    """The shards that are on the node now; ``job_id`` is Citus' job, None if there was nothing to do."""

    shards: tuple[int, ...]
    source: str
    node: str
    bytes: int | None
    job_id: int | None


@dataclass(frozen=True)
class Group:
    """The placements of a shard and of those that are always on the same node.

    ``silent`` are the nodes that did not answer when the sizes were read, with the reason.
    """

    rows: tuple[ShardListRow, ...]
    silent: Mapping[NodeAddress, str]

    @property
    def source(self) -> str:
        return self.rows[0].node

    @property
    def shard_ids(self) -> tuple[int, ...]:
        return tuple(row.shard_id for row in self.rows)

    @property
    def bytes(self) -> int | None:
        sizes = [row.bytes for row in self.rows]
        return None if None in sizes else sum(one for one in sizes if one is not None)


class _Wanted(Protocol):
    """The parameters that all changes have that move shards."""

    @property
    def mode(self) -> TransferMode: ...

    @property
    def trust_functions(self) -> bool: ...


P = TypeVar("P", bound=_Wanted)


async def find_group(conn: Connection, nodes: Sequence[RegisteredNode], shard: int) -> Group:
    """Return the placements that belong together with a shard. Raises NotFoundError."""
    silent = await citus_probe.silence(conn, nodes)
    sizes = await citus_shards.sizes_by_group(conn, nodes, known=silent)
    rows = await citus_shards.list_placements(conn, nodes, sizes)
    own = next((row for row in rows if row.shard_id == shard), None)
    if own is None:
        raise NotFoundError("There is no such shard. It may have been split or dropped.", hint=LIST_HINT)
    if own.kind is TableKind.REFERENCE:
        return Group((own,), silent)
    return Group(tuple(row for row in rows if row.group_id == own.group_id and row.node == own.node), silent)


def movable(group: Group) -> list[Finding]:
    """Return why the shards of a table cannot move at all."""
    own = group.rows[0]
    if own.kind is TableKind.REFERENCE:
        return [blocks(f"{own.table} is a reference table: every node has a copy, and none moves.")]
    if own.kind is TableKind.CITUS_LOCAL:
        return [
            blocks(
                f"{own.table} is on the coordinator only. Distribute it to place it elsewhere.",
                f"citus-cluster tables distribute {quote(own.table)} COLUMN",
            )
        ]
    return []


def welcomed(node: RegisteredNode) -> list[Finding]:
    """Return why a node cannot get shards."""
    address = node.address
    if not node.is_active:
        return [blocks(f"{address} is not active.", f"citus-cluster nodes activate {called(address)}")]
    if node.role != "primary":
        return [blocks(f"{address} is a secondary: it follows another node.")]
    if not node.should_have_shards:
        fix = f"citus-cluster nodes set {called(address)} --holds-shards"
        return [blocks(f"{address} may not hold shards.", fix)]
    return []


async def plan_move(
    conn: Connection, group: Group, target: RegisteredNode, *, mode: TransferMode, trust_functions: bool
) -> Preview:
    """Return the steps, the findings and the figures of a move; without steps, the shards are there already."""
    moves = moves_of(group, target.address)
    details = {
        "shards": list(group.shard_ids),
        "source": group.source,
        "target": str(target.address),
        "bytes": group.bytes,
    }
    findings = movable(group)
    if not findings and group.source == str(target.address):
        return Preview((), (), details)
    findings += welcomed(target)
    running = await citus_rebalance.running_job_id(conn)
    if running is not None:
        if await citus_rebalance.moves_to(conn, running, group.shard_ids, target.node_id):
            return Preview((f"Follow job {running}, which is already moving these shards.",), (), details)
        error = RebalanceRunningError(f"Rebalance {running} is running.", hint="citus-cluster rebalance wait")
        findings.append(refusal(error))
    findings += [blocks(f"Shards can only move when every node answers: {one}") for one in group.silent.values()]
    if not group.silent:
        options = RebalanceOptions(mode=mode, trust_functions=trust_functions)
        preview = RebalancePlan(moves, {}, mode)
        findings += await rebalance.findings(conn, options, preview)
    if mode is TransferMode.BLOCK_WRITES:
        findings.append(warns(f"Writes to these shards wait while they move ({size(group.bytes)})."))
    tables = ", ".join(dict.fromkeys(row.table for row in group.rows))
    step = f"Move {count(len(group.rows), 'shard')} of {tables} from {group.source} to {target.address}."
    return Preview((step,), tuple(findings), details)


def moves_of(group: Group, target: NodeAddress) -> tuple[Move, ...]:
    """Return the moves as a rebalance would plan them."""
    source = NodeAddress.parse(group.source)
    return tuple(Move(row.table, row.shard_id, row.bytes or 0, source, target, row.group_id) for row in group.rows)


@dataclass(frozen=True)
class Mover(Generic[P]):
    """Runs, follows and stops the moves of a change. ``find`` finds the shards that move, and the node to which."""

    find: Callable[[Connection, Cluster, P], Awaitable[tuple[Group, RegisteredNode]]]

    async def run(self, cluster: Cluster, wanted: P, preview: Preview, emit: Emit) -> MovedShards:
        """Start the job, or find the one that runs, and follow it to its end; no connection is held meanwhile."""

        async def work(conn: Connection) -> MovedShards:
            async with translated("starting the move"):
                group, target = await self.find(conn, cluster, wanted)
                options = RebalanceOptions(mode=wanted.mode, trust_functions=wanted.trust_functions)
                return await _start(conn, group, target, preview, emit, options)

        moved = await cluster.on_coordinator(work)
        if moved.job_id is not None:
            await rebalance_watch.follow(cluster.on_coordinator, emit, moved.job_id)
        return moved

    async def follow(self, cluster: Cluster, wanted: P, job_id: int, emit: Emit) -> MovedShards:
        """Follow the job of a move that was interrupted to its end."""
        await rebalance_watch.follow(cluster.on_coordinator, emit, int(job_id))

        async def work(conn: Connection) -> MovedShards:
            async with translated("looking for the shards"):
                group, target = await self.find(conn, cluster, wanted)
                return MovedShards(group.shard_ids, group.source, str(target.address), group.bytes, int(job_id))

        return await cluster.on_coordinator(work)

    async def stop(self, cluster: Cluster, wanted: P, emit: Emit) -> None:
        """End the job of a move that is cancelled; the shards stay where they are."""

        async def work(conn: Connection) -> None:
            async with translated("stopping the move"):
                group, target = await self.find(conn, cluster, wanted)
                job_id = await citus_rebalance.running_job_id(conn)
                if job_id is not None and await citus_rebalance.moves_to(conn, job_id, group.shard_ids, target.node_id):
                    await rebalance.end(conn, job_id, emit)

        await cluster.on_coordinator(work)


async def _start(
    conn: Connection,
    group: Group,
    target: RegisteredNode,
    preview: Preview,
    emit: Emit,
    options: RebalanceOptions,
) -> MovedShards:
    source = group.source
    if not preview.steps or source == str(target.address):
        emit(Event("move", EventKind.SKIPPED, f"the shards are on {target.address} already"))
        return MovedShards(group.shard_ids, source, str(target.address), group.bytes, None)
    async with writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        job_id = await citus_rebalance.running_job_id(conn)
        if job_id is None:
            # Again, because who owns a table may have changed it since the plan.
            moves = RebalancePlan(moves_of(group, target.address), {}, options.mode)
            await rebalance.refuse_untrusted(conn, options, moves, emit)
            job_id = await citus_rebalance.start_move(
                conn, group.shard_ids[0], NodeAddress.parse(source), target, options.mode
            )
        elif not await citus_rebalance.moves_to(conn, job_id, group.shard_ids, target.node_id):
            raise RebalanceRunningError(
                f"Rebalance {job_id} has just started.", hint="Follow it first: citus-cluster rebalance wait"
            )
    message = f"job {job_id} moves {count(len(group.rows), 'shard')} to {target.address}"
    emit(Event(rebalance_watch.STEP, EventKind.STARTED, message, {"job_id": job_id}))
    return MovedShards(group.shard_ids, source, str(target.address), group.bytes, job_id)


async def _plan(cluster: Cluster, wanted: Moving) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the shard"):
            group, target = await _find(conn, cluster, wanted)
            return await plan_move(conn, group, target, mode=wanted.mode, trust_functions=wanted.trust_functions)

    return await cluster.on_coordinator(work)


async def _find(conn: Connection, cluster: Cluster, wanted: Moving) -> tuple[Group, RegisteredNode]:
    registry = await citus_nodes.read_registry(conn)
    return await find_group(conn, registry.nodes, wanted.shard), await find_node(conn, cluster, wanted.node)


_MOVER = Mover(_find)
MOVE = Change(
    name="shards-move",
    summary="Move a shard, with those that are always on the same node, to another node.",
    path="shards/move",
    command="shards move",
    parameters=Moving,
    plan=_plan,
    run=_MOVER.run,
    scope=lambda wanted: "rebalance",
    lasts=True,
    continues="job_id",
    follow=_MOVER.follow,
    stop=_MOVER.stop,
)
