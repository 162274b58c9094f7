"""The declared change of a node's address: the same server at another address, or its promoted standby."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import CitusClusterError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import Instance, RegisteredNode, Registry, stand_in_problem
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes import registration
from citus_cluster.operations.nodes.changes import SCOPE, report
from citus_cluster.operations.nodes.joining import Host, Port
from citus_cluster.operations.nodes.lookup import ChangedNode, NodeName, find_node, find_planned, identify
from citus_cluster.operations.nodes.node_list import changing
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.postgres import Connection, translated

WAIT_FOR_WRITES_S = 10.0
"""How long a change of the address waits for statements that write to the node's shards: Citus' own default."""


@parameters
class NewAddress:
    """A node, and the address that it has from now on."""

    node: NodeName
    host: Host
    port: Port = 5432
    force: Annotated[
        bool,
        Field(
            description="Terminate sessions that still write to the node's shards after 10 seconds, instead of giving "
            "up; for a failover."
        ),
    ] = False


@dataclass(frozen=True)
class Moving:
    """A node, its new address, and the plan."""

    node: RegisteredNode
    address: NodeAddress
    registry: Registry
    preview: Preview


async def _plan(cluster: Cluster, wanted: NewAddress) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the new address"):
            return (await _examine(cluster, conn, wanted)).preview

    return await cluster.on_coordinator(work)


async def _examine(cluster: Cluster, conn: Connection, wanted: NewAddress) -> Moving:
    address = NodeAddress(wanted.host, wanted.port)
    registry = await citus_nodes.read_registry(conn)
    node = await find_node(conn, cluster, wanted.node)
    if node.address == address:
        return Moving(node, address, registry, Preview(()))
    findings: list[Finding] = []
    if registry.find(address):
        findings.append(blocks(f"{address} is the address of another node.", "citus-cluster nodes list"))
    else:
        findings += await _server_findings(conn, node, address, registry)
    findings += _meaning(cluster, node, wanted)
    steps = (
        f"Wait up to {WAIT_FOR_WRITES_S:g} s until no statement writes to the shards on {node.address}"
        + (", then terminate the sessions of those that still do." if wanted.force else "."),
        f"Change the address of node {node.node_id} from {node.address} to {address}; new queries go there at once.",
        "Wait until the other nodes know the new address.",
    )
    return Moving(node, address, registry, Preview(steps, tuple(findings), identify(node)))


def _meaning(cluster: Cluster, node: RegisteredNode, wanted: NewAddress) -> Sequence[Finding]:
    findings = []
    if wanted.force:
        findings.append(
            warns("--force loses the transactions of the sessions that it terminates; their clients get an error.")
        )
    if node.address in (cluster.workers or ()) or (node.is_coordinator and node.address == cluster.coordinator):
        findings.append(
            warns(
                f"cluster.yaml still has {node.address}. It is not registered again under that address, but up and the "
                "admin API go on to expect it there; for a lasting change of addresses, see advertise in "
                "docs/multi-server-setup.md."
            )
        )
    return findings


async def _server_findings(
    conn: Connection, node: RegisteredNode, address: NodeAddress, registry: Registry
) -> Sequence[Finding]:
    """Return what shows that the server at the new address cannot stand in for the node."""
    try:
        instance = await citus_probe.instance(conn, address)
    except citus_probe.ProbeUnavailableError:
        return (blocks("The server at the new address cannot be checked: the coordinator's image lacks dblink."),)
    except UnreachableError as error:
        return (blocks(error.message, error.hint),)
    old = await _old_instance(conn, node)
    findings = [blocks(problem) for problem in [stand_in_problem(instance, old, node, address)] if problem is not None]
    if not findings and node.role == "primary":
        findings += await _missing_shards(conn, node, address)
    if not findings and node.is_coordinator:
        findings += await _unreached(conn, address, registry)
    return findings


async def _old_instance(conn: Connection, node: RegisteredNode) -> Instance | None:
    try:
        return await citus_probe.instance_of(conn, node)
    except UnreachableError:
        if conn.closed:
            raise
        return None


async def _missing_shards(conn: Connection, node: RegisteredNode, address: NodeAddress) -> Sequence[Finding]:
    placed = [one for one in await citus_tables.read_placements(conn) if one.group_id == node.group_id]
    try:
        seen = await citus_tables.presence(conn, replace(node, address=address), placed)
    except CitusClusterError as error:
        return (blocks(error.message, error.hint),)
    if not seen.missing:
        return ()
    return (blocks(f"{count(len(seen.missing), 'shard')} of {node.address} do not exist on the server at {address}."),)


async def _unreached(conn: Connection, address: NodeAddress, registry: Registry) -> Sequence[Finding]:
    """Return the workers that cannot connect to the coordinator at its new address."""
    findings = []
    for worker in registry.nodes:
        if worker.is_coordinator or not worker.is_active:
            continue
        try:
            reached = await citus_probe.reaches(conn, worker.address, address)
        except UnreachableError as error:
            if conn.closed:
                raise
            findings.append(blocks(error.message, error.hint))
            continue
        if not reached:
            findings.append(blocks(f"{worker.address} cannot connect to the coordinator at {address}."))
    return findings


async def _move(cluster: Cluster, wanted: NewAddress, preview: Preview, emit: Emit) -> ChangedNode:
    async def work(conn: Connection) -> ChangedNode:
        node = await find_node(conn, cluster, wanted.node)
        async with changing(conn, node.address, f"changing the address of {node.address}"):
            found = await _examine(cluster, conn, wanted)
            found.preview.refuse()
            if found.preview.steps:
                await _change(conn, found, emit, force=wanted.force)
        changed = bool(found.preview.steps)
        return _moved(node, found.address, emit, changed=changed)

    return await cluster.on_coordinator(work)


def _moved(node: RegisteredNode, address: NodeAddress, emit: Emit, *, changed: bool) -> ChangedNode:
    report(emit, f"move:{address}", changed, f"node {node.node_id} is {address}")
    return ChangedNode(str(address), changed)


async def _completed_move(
    cluster: Cluster, wanted: NewAddress, planned: Mapping[str, object], emit: Emit
) -> ChangedNode | None:
    """Return the node if it has its new address. Another node may have the old address by now; it is not touched."""
    address = NodeAddress(wanted.host, wanted.port)

    async def work(conn: Connection) -> ChangedNode | None:
        found = await find_planned(conn, planned)
        if found is None or found[1] is None or found[1].address != address:
            return None
        async with translated("telling the other nodes the new address"):
            await _spread(conn, address, emit)
        return _moved(found[1], address, emit, changed=True)

    return await cluster.on_coordinator(work)


async def _change(conn: Connection, found: Moving, emit: Emit, *, force: bool) -> None:
    is_worker = not found.node.is_coordinator and found.node.role == "primary"
    if is_worker and found.registry.recorded is None:
        await citus_nodes.create_record(conn)
    if is_worker:
        # Its old address must not be registered again while the files still have it.
        await citus_nodes.record_worker(conn, found.node.address)
    await citus_nodes.move_node(
        conn, found.node.node_id, found.address, recorded=is_worker, force=force, lock_timeout_s=WAIT_FOR_WRITES_S
    )
    await _spread(conn, found.address, emit)


async def _spread(conn: Connection, address: NodeAddress, emit: Emit) -> None:
    """Wait a while until the other nodes know a new address."""
    await registration.wait_until_synced(conn)
    if not await citus_nodes.all_synced(conn):
        message = "not every node knows the new address yet; Citus goes on to tell them in the background"
        emit(Event(f"move:{address}", EventKind.WARNING, message))


MOVE = Change(
    name="nodes-move",
    summary="Change the address of a node: the same server elsewhere, or its promoted standby.",
    path="nodes/move",
    command="nodes move",
    parameters=NewAddress,
    plan=_plan,
    run=_move,
    scope=lambda wanted: SCOPE,
    asks=True,
    completed=_completed_move,
)
