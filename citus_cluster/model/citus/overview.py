"""The cluster at a glance, as ``status`` prints it and the API answers it. None means unknown."""

from dataclasses import dataclass

from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.losses import Loss
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.disks import Disk
from citus_cluster.model.documents import Documented


@dataclass(frozen=True)
class NodeOverviewDocument:
    """A registered node: its role, its shards, and its state."""

    host: str
    port: int
    role: str
    active: bool
    should_have_shards: bool
    postgres_version: str | None
    citus_version: str | None
    extension_version: str | None
    extension_available: str | None
    condition: str
    shard_count: int
    reference_count: int
    shard_bytes: int | None
    loss: Loss | None
    reason: str | None


@dataclass(frozen=True)
class NodeOverview(Documented):
    """One node. ``reason`` says why a value is unknown; ``shard_bytes`` is the size of the shards on this node.

    ``shard_count`` counts every placement, ``reference_count`` those that no rebalance or drain moves: of reference
    tables, which every node has, and of local tables.
    """

    address: NodeAddress
    role: str
    is_active: bool
    should_have_shards: bool
    postgres_version: str | None
    citus_version: str | None
    shard_count: int
    shard_bytes: int | None
    reason: str | None = None
    reference_count: int = 0
    disk: Disk | None = None
    lost_slots: tuple[str, ...] = ()
    in_maintenance: bool = False
    loss: Loss | None = None
    """Shards that the catalog places there and that do not exist."""
    extension: ExtensionVersions | None = None

    @property
    def distributed_count(self) -> int:
        """Shards that can move."""
        return self.shard_count - self.reference_count

    @property
    def is_drained(self) -> bool:
        """It is a worker that no longer gets shards; it may still hold some."""
        return self.role == "worker" and self.is_active and not self.should_have_shards

    @property
    def condition(self) -> str:
        """In a word: active, drained, draining (shards are left on it), disabled, in maintenance, or lost data.

        Data are lost if shards are missing.
        """
        if self.in_maintenance and not self.loss:
            return "in maintenance"
        if not self.is_active:
            return "disabled"
        if self.loss:
            return "lost data"
        return ("draining" if self.distributed_count else "drained") if self.is_drained else "active"

    def document(self) -> NodeOverviewDocument:
        return NodeOverviewDocument(
            host=self.address.host,
            port=self.address.port,
            role=self.role,
            active=self.is_active,
            should_have_shards=self.should_have_shards,
            postgres_version=self.postgres_version,
            citus_version=self.citus_version,
            extension_version=self.extension.installed if self.extension else None,
            extension_available=self.extension.available if self.extension else None,
            condition=self.condition,
            shard_count=self.shard_count,
            reference_count=self.reference_count,
            shard_bytes=self.shard_bytes,
            loss=self.loss,
            reason=self.reason,
        )


@dataclass(frozen=True)
class TableOverview(Documented):
    """One distributed, reference, schema-based or local Citus table; ``size_bytes`` sums all placements."""

    name: str
    type: str
    distribution_column: str | None
    shard_count: int
    size_bytes: int | None
    colocation_id: int


@dataclass(frozen=True)
class Overview(Documented):
    """Nodes (the coordinator first), tables by name, and the latest rebalance."""

    nodes: tuple[NodeOverview, ...]
    tables: tuple[TableOverview, ...]
    rebalance: RebalanceStatus
