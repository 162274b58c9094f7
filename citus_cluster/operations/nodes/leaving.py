"""The declared removal of a node from the node list. The files and the container need the command on the host."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import CitusClusterError, InUseError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.removal import Departure, called, refuse_removal
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.nodes import unregistration
from citus_cluster.operations.nodes.changes import SCOPE, report
from citus_cluster.operations.nodes.lookup import NodeName, find_node, find_planned, identify
from citus_cluster.operations.nodes.node_list import changing, moves_block, others_block, silent_others
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.postgres import Connection, translated


@parameters
class Leaving:
    """A node to remove."""

    node: NodeName
    force: Annotated[bool, Field(description="Drop copies of shards that other nodes have too.")] = False


@dataclass(frozen=True)
class RemovedNode(Documented):
    """The node that is no longer in the node list; ``following`` is to run on the host, for files and container."""

    node: str
    changed: bool
    following: tuple[str, ...]


async def _plan(cluster: Cluster, wanted: Leaving) -> Preview:
    async def work(conn: Connection) -> Preview:
        async with translated("checking the node"):
            node = await find_node(conn, cluster, wanted.node)
            return await _examine(cluster, conn, wanted, node)

    return await cluster.on_coordinator(work)


async def _examine(cluster: Cluster, conn: Connection, wanted: Leaving, node: RegisteredNode) -> Preview:
    step = f"Remove {node.address} from the node list. It is not registered again unless it is added explicitly."
    if node.role != "primary":
        nodes = (await citus_nodes.read_registry(conn)).nodes
        silent = await silent_others(cluster, conn, nodes, but=node)
        return Preview((step,), others_block(node.address, silent), identify(node))
    findings: list[Finding] = list(await moves_block(conn, node))
    found = await unregistration.look(conn, wanted.node, node.address)
    try:
        refuse_removal(found, force=wanted.force)
    except InUseError as error:
        findings += _refusal(error)
    findings.append(
        warns(
            "Its container keeps running, and cluster.yaml and the volume stay. Only the command on its host changes "
            "them.",
            _on_host(node.address),
        )
    )
    return Preview((step,), tuple(findings), {**found.as_dict(), **identify(node)})


def _refusal(error: CitusClusterError) -> tuple[Finding, ...]:
    message = error.message + (f" ({'; '.join(error.details)})" if error.details else "")
    return (blocks(message, error.hint),)


def _on_host(address: NodeAddress) -> str:
    return f"citus-cluster nodes remove {quote(called(address))}"


async def _remove(cluster: Cluster, wanted: Leaving, preview: Preview, emit: Emit) -> RemovedNode:
    async def work(conn: Connection) -> RemovedNode:
        node = await find_node(conn, cluster, wanted.node)
        if node.role != "primary":
            async with changing(conn, node.address, f"removing {node.address}"):
                await citus_nodes.remove_secondary(conn, node.address)
            report(emit, f"deregister:{node.address}", True, f"removed {node.address} from the node list")
            return _removed(node.address, node.role)
        found: Departure = await unregistration.look(conn, wanted.node, node.address)
        await unregistration.deregister(conn, found, emit, force=wanted.force)
        return _removed(node.address, node.role)

    return await cluster.on_coordinator(work)


def _removed(address: NodeAddress, role: str) -> RemovedNode:
    return RemovedNode(str(address), True, (_on_host(address),) if role == "primary" else ())


async def _completed_removal(
    cluster: Cluster, wanted: Leaving, planned: Mapping[str, object], emit: Emit
) -> RemovedNode | None:
    """Return the removed node if it is gone. Another node may have its address by now; it is not touched."""

    async def work(conn: Connection) -> RemovedNode | None:
        found = await find_planned(conn, planned)
        if found is None or found[1] is not None:
            return None
        address, _ = found
        report(emit, f"deregister:{address}", False, f"{address} is no longer in the node list")
        return _removed(address, str(planned.get("role")))

    return await cluster.on_coordinator(work)


REMOVE = Change(
    name="nodes-remove",
    summary="Remove a drained node from the node list; its files and its container need the command on its host.",
    path="nodes/remove",
    command="nodes remove",
    parameters=Leaving,
    plan=_plan,
    run=_remove,
    scope=lambda wanted: SCOPE,
    asks=True,
    completed=_completed_removal,
)
