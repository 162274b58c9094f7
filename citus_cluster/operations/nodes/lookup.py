"""Finding a node of the node list by the name that a user gives, for the declared changes and views."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from citus_cluster.model.citus.names import find_named
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
