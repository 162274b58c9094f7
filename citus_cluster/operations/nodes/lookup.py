"""Finding a node of the node list by the name that a user gives, for the declared changes and views."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from citus_cluster.model.citus.names import find_named
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.postgres import Connection, translated

NodeName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=261,
        description="Node, by its service name, HOST or HOST:PORT as in the node list.",
        examples=["citus-worker1"],
    ),
]


@parameters
class OneNode:
    """A node of the cluster."""

    node: NodeName


@dataclass(frozen=True)
class ChangedNode(Documented):
    """The node that was changed; ``changed`` is False if there was nothing to do."""

    node: str
    changed: bool


async def find_node(conn: Connection, cluster: Cluster, name: str) -> RegisteredNode:
    """Return a node of the node list by its service, HOST or HOST:PORT. Raises NotFoundError."""
    async with translated("reading the node list"):
        nodes = (await citus_nodes.read_registry(conn)).nodes
    return find_named(name, nodes, cluster.services)


def identify(node: RegisteredNode) -> Mapping[str, object]:
    """Return what a plan records of a node, so that it can be found although its name has changed."""
    return {
        "node_id": node.node_id,
        "group_id": node.group_id,
        "role": node.role,
        "host": node.address.host,
        "port": node.address.port,
    }


async def find_planned(
    conn: Connection, planned: Mapping[str, object]
) -> tuple[NodeAddress, RegisteredNode | None] | None:
    """Return the address of a node at the time of a plan, and the node as it is now, None if it is gone.

    ``planned`` are the details of the plan. The result is None if they do not name a node.
    """
    match planned:
        case {"node_id": int(node_id), "group_id": int(group_id), "host": str(host), "port": int(port)}:
            pass
        case _:
            return None
    async with translated("reading the node list"):
        nodes = (await citus_nodes.read_registry(conn)).nodes
    now = [node for node in nodes if (node.node_id, node.group_id) == (node_id, group_id)]
    return NodeAddress(host, port), now[0] if now else None
