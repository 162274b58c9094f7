"""The cluster that a change or a view works on, as its edge reaches it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.runtime.postgres import ConnectionInfo


@dataclass(frozen=True)
class Cluster:
    """A cluster with its coordinator.

    ``coordinator`` is its address in ``pg_dist_node``, and ``workers`` are the workers that its files list; both are
    None for a command that got only a connection string. ``root`` is the directory with the files: the admin API has
    none, and has no access to Docker. ``services`` maps the nodes' services in the files to their addresses, so that a
    user may name a node by its service.
    """

    on_coordinator: OnCoordinator
    info: ConnectionInfo = field(repr=False)
    coordinator: NodeAddress | None = None
    workers: tuple[NodeAddress, ...] | None = None
    root: Path | None = None
    services: Mapping[str, NodeAddress] = field(default_factory=dict)
