"""Declared changes that move shards: rebalances, and their repair."""

from typing import Annotated

from pydantic import Field

from citus_cluster.errors import RebalanceError
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode, describe_holding
from citus_cluster.model.parameters import NoParameters, parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Preview, refusal
from citus_cluster.model.units import count, size
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.rebalance import control, watch
from citus_cluster.operations.rebalance.use_cases import StartedRebalance, carry_out
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.postgres import Connection, translated

Mode = Annotated[TransferMode, Field(description="How shards move.")]
Online = Annotated[bool, Field(description="Hold writes during no move, not even for small shards.")]
TrustFunctions = Annotated[
    bool,
    Field(description="Move shards although functions of ordinary roles run as the superuser meanwhile."),
]
Wait = Annotated[bool, Field(description="Wait until the rebalance is done.")]


@parameters
class NewRebalance:
    """A rebalance to start."""

    strategy: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=63,
            description="Rebalance strategy; by default the server's.",
            examples=["by_disk_size"],
        ),
    ] = None
    mode: Mode = TransferMode.AUTO
    online: Online = False
    drain_only: Annotated[bool, Field(description="Only move shards off nodes that must not hold shards.")] = False
    parallel_transfer_reference_tables: Annotated[
        bool, Field(description="Copy reference tables in parallel, if the server supports it.")
    ] = False
    parallel_transfer_colocated_shards: Annotated[
        bool, Field(description="Move colocated shards in parallel, if the server supports it.")
    ] = False
    trust_functions: TrustFunctions = False
    wait: Wait = False

    @property
    def options(self) -> RebalanceOptions:
        return RebalanceOptions(
            strategy=self.strategy,
            mode=self.mode,
            online=self.online,
            drain_only=self.drain_only,
            parallel_transfer_reference_tables=self.parallel_transfer_reference_tables,
            parallel_transfer_colocated_shards=self.parallel_transfer_colocated_shards,
            trust_functions=self.trust_functions,
        )


def steps_of(moves: RebalancePlan) -> tuple[str, ...]:
    """Return the moves in sentences: what each node gets, and how they move."""
    if not moves.moves:
        return ()
    groups, _ = moves.groups
    found = [f"Move {count(groups, 'shard group')} with {count(len(moves.moves), 'shard')}, {size(moves.size_bytes)}."]
    for node in sorted({move.target for move in moves.moves}):
        coming = [move for move in moves.moves if move.target == node]
        found.append(f"{node} gets {count(len(coming), 'shard')}, {size(sum(move.size_bytes for move in coming))}.")
    if moves.short_moves:
        held = describe_holding(moves)
        found.append(f"{held[0].upper()}{held[1:]}.")
    return tuple(found)


async def _plan_start(cluster: Cluster, wanted: NewRebalance) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("planning the rebalance"):
            await control.refuse_unsupported(conn, wanted.options)
            if wanted.wait and (moving := await control.find_moving(conn)) is not None:
                return Preview((f"Follow rebalance {moving}, which is running.", "Then move what is not balanced yet."))
            try:
                waiting = await control.find_waiting(conn)
                moves = await control.plan(conn, wanted.options)
            except RebalanceError as error:
                return Preview(("Move shards, once the problems are mended.",), (refusal(error),))
            found = await control.findings(conn, wanted.options, moves)
        steps = steps_of(moves)
        if waiting is not None and steps:
            steps = (f"Stop rebalance {waiting}, which only waits for its next attempt.", *steps)
        return Preview(steps, tuple(found) if steps else (), moves)

    return await cluster.on_coordinator(work)


async def _start(cluster: Cluster, wanted: NewRebalance, preview: Preview, emit: Emit) -> StartedRebalance:
    """Start the rebalance, and with ``wait`` follow it to its end.

    The job is Citus' own: it continues if this task is cancelled or its process is killed. ``_stop_started`` stops it,
    and ``_follow_started`` follows it again.
    """
    if not preview.steps:
        emit(Event(watch.STEP, EventKind.SKIPPED, "the shards are already balanced: nothing to move"))
        return StartedRebalance(None)
    return await carry_out(cluster.on_coordinator, wanted.options, emit, wait=wanted.wait)


async def _stop_started(cluster: Cluster, wanted: NewRebalance, emit: Emit) -> None:
    await cluster.on_coordinator(lambda conn: _end(conn, emit))


async def _follow_started(cluster: Cluster, wanted: NewRebalance, job_id: int, emit: Emit) -> StartedRebalance:
    ended = await watch.follow(cluster.on_coordinator, emit, int(job_id)) if wanted.wait else None
    return StartedRebalance(int(job_id), ended)


async def _plan_stop(cluster: Cluster, _: object) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("looking for a running rebalance"):
            running = await citus_rebalance.running_job_id(conn)
        if running is None:
            return Preview(())
        return Preview((f"Stop rebalance {running}. Shards that have moved stay where they are.",))

    return await cluster.on_coordinator(work)


async def _stop(cluster: Cluster, _: object, preview: Preview, emit: Emit) -> RebalanceStatus:
    job_id = await cluster.on_coordinator(lambda conn: _end(conn, emit))
    return await cluster.on_coordinator(lambda conn: watch.status(conn, job_id))


async def _end(conn: Connection, emit: Emit) -> int | None:
    async with translated("looking for a running rebalance"):
        running = await citus_rebalance.running_job_id(conn)
    if running is None:
        emit(Event("stop", EventKind.SKIPPED, "no rebalance is running"))
    else:
        await control.end(conn, running, emit)
    return running


START = Change(
    name="rebalance-start",
    summary="Move shards so that they are balanced across the nodes.",
    path="rebalance",
    command="rebalance start",
    parameters=NewRebalance,
    plan=_plan_start,
    run=_start,
    scope=lambda wanted: "rebalance",
    lasts=lambda wanted: wanted.wait,
    plans_long=True,
    outcome=lambda result: {"job_id": result["job_id"]},
    progress=lambda result: None if result["job_id"] is None or result["rebalance"] else "rebalance",
    stop=_stop_started,
    continues="job_id",
    follow=_follow_started,
)

STOP = Change(
    name="rebalance-stop",
    summary="Stop the running rebalance. Shards that have moved stay where they are.",
    path="rebalance/stop",
    command="rebalance stop",
    parameters=NoParameters,
    plan=_plan_stop,
    run=_stop,
    scope=lambda wanted: "rebalance-stop",
    outcome=lambda result: {"job_id": result["job_id"]},
    # Not among the changes that last: it must not wait for a table that is being copied.
    plans_long=True,
)
