"""Declared changes that move all shards off workers, and that undo it."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import CitusClusterError, InUseError, RebalanceError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.citus.removal import refuse_undo
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Preview, refusal
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes import drain
from citus_cluster.operations.nodes.drain import Drained
from citus_cluster.operations.nodes.lookup import NodeName, find_node
from citus_cluster.operations.nodes.unregistration import look
from citus_cluster.operations.rebalance import control
from citus_cluster.operations.rebalance.changes import Mode, Online, TrustFunctions, steps_of
from citus_cluster.runtime.postgres import Connection, translated

Names = Annotated[tuple[NodeName, ...], Field(min_length=1, description="Workers, by service name, HOST or HOST:PORT.")]


@parameters
class SomeWorkers:
    """Workers that were drained."""

    names: Names


@parameters
class Draining:
    """Workers to drain."""

    names: Names
    mode: Mode = TransferMode.AUTO
    online: Online = False
    trust_functions: TrustFunctions = False

    @property
    def options(self) -> RebalanceOptions:
        return RebalanceOptions(
            mode=self.mode, drain_only=True, trust_functions=self.trust_functions, online=self.online
        )


async def _find(conn: Connection, cluster: Cluster, names: Sequence[str]) -> Mapping[str, NodeAddress]:
    async with translated("looking for the workers"):
        return {name: (await find_node(conn, cluster, name)).address for name in dict.fromkeys(names)}


async def _plan_drain(cluster: Cluster, wanted: Draining) -> Preview:
    async def work(conn: Connection) -> Preview:
        workers = await _find(conn, cluster, wanted.names)
        called = ", ".join(map(str, workers.values()))
        try:
            departures = await drain.departures(conn, workers)
            await control.find_waiting(conn)
            nodes = [one.node for one in departures if one.node]
            moves = await control.plan(conn, wanted.options, without=nodes)
        except (InUseError, RebalanceError, UsageError) as error:
            return Preview((f"Move all shards off {called}.",), (refusal(error),))
        found = await control.findings(conn, wanted.options, moves)
        marks = [one.address for one in departures if one.node and one.node.should_have_shards]
        steps = tuple(f"Mark {address}, so that it gets no new shards." for address in marks) + steps_of(moves)
        return Preview(steps, tuple(found), moves)

    return await cluster.on_coordinator(work)


async def _drain(cluster: Cluster, wanted: Draining, preview: Preview, emit: Emit) -> Drained:
    """Drain the workers, and follow the moves to their end.

    The job is Citus' own: it continues if this task is cancelled or its process is killed. ``_stop`` stops it; the
    workers stay marked until the drain is undone. Running the change again continues it.
    """
    workers = await cluster.on_coordinator(lambda conn: _find(conn, cluster, wanted.names))
    return await drain.carry_out(cluster.on_coordinator, workers, wanted.options, emit, wait=True)


async def _stop(cluster: Cluster, wanted: Draining, emit: Emit) -> None:
    async def work(conn: Connection) -> None:
        await drain.stop(conn, await _find(conn, cluster, wanted.names), emit)

    await cluster.on_coordinator(work)


async def _follow(cluster: Cluster, wanted: Draining, job_id: object, emit: Emit) -> Drained:
    return await _drain(cluster, wanted, Preview(()), emit)


async def _plan_undo(cluster: Cluster, wanted: SomeWorkers) -> Preview:
    async def work(conn: Connection) -> Preview:
        steps, findings = [], []
        workers = await _find(conn, cluster, wanted.names)
        for name, address in workers.items():
            try:
                found = await look(conn, name, address)
                refuse_undo(found)
            except CitusClusterError as error:
                findings.append(refusal(error))
                continue
            if found.node and not found.node.should_have_shards:
                steps.append(f"Stop the moves off {address}, if there are any, and let it hold shards again.")
        return Preview(tuple(steps), tuple(findings))

    return await cluster.on_coordinator(work)


async def _undo(cluster: Cluster, wanted: SomeWorkers, preview: Preview, emit: Emit) -> Drained:
    async def work(conn: Connection) -> Drained:
        return await drain.undo(conn, await _find(conn, cluster, wanted.names), emit)

    return await cluster.on_coordinator(work)


DRAIN = Change(
    name="nodes-drain",
    summary="Move all shards off workers, so that they can be removed.",
    path="nodes/drain",
    command="nodes drain",
    parameters=Draining,
    plan=_plan_drain,
    run=_drain,
    scope=lambda wanted: "rebalance",
    lasts=True,
    stop=_stop,
    continues="job_id",
    follow=_follow,
)

UNDO = Change(
    name="nodes-drain-undo",
    summary="Stop the drain of workers, and let them hold shards again.",
    path="nodes/drain-undo",
    command="nodes drain --undo",
    parameters=SomeWorkers,
    plan=_plan_undo,
    run=_undo,
    scope=lambda wanted: "nodes-drain-undo",
    # As a stop of a rebalance: it must not wait for a table that is being copied.
    plans_long=True,
)
