"""The cluster that a change or a view works on, as its edge reaches it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import Registry
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.liveness import Liveness
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S
from citus_cluster.runtime.postgres import ConnectionInfo

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Cluster:
    """A cluster with its coordinator.

    ``coordinator`` is its address in ``pg_dist_node``, and ``workers`` are the workers that its files list; both are
    None for a command that got only a connection string. ``root`` is the directory with the files: the admin API has
    none, and has no access to Docker. ``services`` maps the nodes' services in the files to their addresses, so that a
    user may name a node by its service. ``liveness`` is shared by all views of one process.

    ``patience_s`` returns how long a change waits for a server that does not answer yet, and ``lock_wait_s`` is how
    long it waits for another writer.
    """

    on_coordinator: OnCoordinator
    info: ConnectionInfo = field(repr=False)
    coordinator: NodeAddress | None = None
    workers: tuple[NodeAddress, ...] | None = None
    root: Path | None = None
    services: Mapping[str, NodeAddress] = field(default_factory=dict)
    liveness: Liveness = field(default_factory=Liveness, repr=False, compare=False)
    patience_s: Callable[[], float] = lambda: PATIENCE_S
    lock_wait_s: float = WAIT_FOR_LOCK_S

    def complete(self, registry: Registry) -> Registry:
        """Return a node list with the coordinator, which is asked directly, so it need not be in the list."""
        return registry.with_coordinator(self.coordinator or NodeAddress(self.info.host, self.info.port))

    async def seen(self) -> tuple[Registry, Mapping[NodeAddress, str]]:
        """Return the node list, and the active nodes that do not answer with the reason, for a view."""
        registry = await self.on_coordinator(citus_nodes.read_registry)
        return registry, await self.liveness.silence(self.on_coordinator, registry.nodes)
