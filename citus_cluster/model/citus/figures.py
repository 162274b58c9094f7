"""The figures of a cluster at one time, as monitoring collects them: nodes, shards, connections, and what is left over.

Pure types, and the decisions about them. Sizes are bytes, durations seconds; None means unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.disks import Disk

MAX_TENANTS = 20
"""The number of tenants that monitoring names, the busiest first: each one is a time series of its own."""
CROWDED_PART = 0.85
"""The used part of a limit of connections that needs attention, as in config/monitoring/alerts.yml."""
OLD_PREPARED_S = 600.0
"""The age of a prepared transaction that needs attention, as in config/monitoring/alerts.yml."""
KEPT_WAL_BYTES = 10e9
"""The WAL that a slot keeps back, or that a standby lacks, that needs attention, as in config/monitoring/alerts.yml."""
_TENANT_LENGTH = 80
"""Characters of a tenant's name that are shown; an application chooses it."""


@dataclass(frozen=True)
class CatalogNode:
    """A row of ``pg_dist_node``, and whether the node has the current metadata."""

    node: RegisteredNode
    metadata_synced: bool


@dataclass(frozen=True)
class TenantUse:
    """The use of one tenant in the last complete period (``citus.stat_tenants_period``) on one or all nodes."""

    colocation_id: int
    tenant: str
    queries: int
    reads: int
    cpu_s: float


@dataclass(frozen=True)
class Catalog:
    """What the coordinator's own catalog holds.

    ``cleanup_records`` counts what Citus has yet to remove (``pg_dist_cleanup``), ``tables`` the tables by kind.
    ``tenant_period_s`` is None unless Citus counts the use of tenants.
    """

    nodes: tuple[CatalogNode, ...]
    cleanup_records: int
    tables: Mapping[str, int]
    tenant_period_s: float | None = None


@dataclass(frozen=True)
class NodeFigures:
    """What one node reports about itself.

    ``external_connections`` are those of clients, ``internal_connections`` those that Citus itself opened.
    ``client_limit`` is ``citus.max_client_connections``, None without a limit. ``oldest_prepared_s`` is the age of the
    oldest prepared transaction, 0 without one. ``slot_lag_bytes`` is the most WAL that any slot keeps back, 0 without
    one. ``lag_bytes`` is the WAL that a standby has not replayed: on a primary that of its furthest standby, on a
    standby its own, for which ``lag_s`` is the age of the last transaction. Both are None where nothing replicates.
    """

    external_connections: int
    internal_connections: int
    max_connections: int
    client_limit: int | None
    prepared_transactions: int
    oldest_prepared_s: float
    slots: Mapping[str, int]
    slot_lag_bytes: int
    disk: Disk | None
    tenants: tuple[TenantUse, ...] = ()
    lag_bytes: int | None = None
    lag_s: float | None = None

    @property
    def connections(self) -> int:
        return self.external_connections + self.internal_connections

    @property
    def connections_part(self) -> float:
        """The used part of the nearest limit of connections."""
        parts = [self.connections / self.max_connections if self.max_connections else 0.0]
        if self.client_limit:
            parts.append(self.external_connections / self.client_limit)
        return max(parts)


@dataclass(frozen=True)
class ShardLoad:
    """The shards of distributed tables on one node, and their size; None if the node did not report it."""

    shards: int
    size_bytes: int | None


@dataclass(frozen=True)
class RebalanceFigures:
    """The latest rebalance, and the tasks that were retried and are not done."""

    status: RebalanceStatus
    troubled_tasks: int = 0
    retries: int = 0


@dataclass(frozen=True)
class NodeAnswers:
    """What the active nodes reported: figures by address, and why the others did not answer."""

    figures: Mapping[NodeAddress, NodeFigures] = field(default_factory=dict)
    silent: Mapping[NodeAddress, str] = field(default_factory=dict)


def busiest_tenants(uses: Iterable[TenantUse], *, limit: int = MAX_TENANTS) -> tuple[TenantUse, ...]:
    """Add up the use of each tenant on all nodes, and return the busiest ones by CPU time and queries."""
    total: dict[tuple[int, str], TenantUse] = {}
    for use in uses:
        key = (use.colocation_id, use.tenant[:_TENANT_LENGTH])
        before = total.get(key, TenantUse(*key, 0, 0, 0.0))
        total[key] = TenantUse(*key, before.queries + use.queries, before.reads + use.reads, before.cpu_s + use.cpu_s)
    ranked = sorted(total.values(), key=lambda one: (-one.cpu_s, -one.queries, one.colocation_id, one.tenant))
    return tuple(ranked[:limit])


def primaries(nodes: Sequence[CatalogNode]) -> tuple[RegisteredNode, ...]:
    """Return the active primaries, which hold the placements."""
    return tuple(one.node for one in nodes if one.node.is_active and one.node.role == "primary")
