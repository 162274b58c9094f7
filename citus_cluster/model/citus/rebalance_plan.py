"""What a rebalance would do: its options, its moves, and which of them hold writes, computed from rows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.scheduling import STALL_S, is_small
from citus_cluster.model.documents import Documented


class TransferMode(StrEnum):
    """How Citus copies a shard (``citus.shard_transfer_mode``)."""

    AUTO = "auto"
    FORCE_LOGICAL = "force_logical"
    BLOCK_WRITES = "block_writes"


@dataclass(frozen=True)
class RebalanceOptions:
    """Arguments of ``citus_rebalance_start``; ``strategy`` None means the cluster's default.

    ``online``: small groups of shards move online too. ``trust_functions``: copy shards as the superuser although
    functions of ordinary roles run then.
    """

    strategy: str | None = None
    mode: TransferMode = TransferMode.AUTO
    drain_only: bool = False
    parallel_transfer_reference_tables: bool = False
    parallel_transfer_colocated_shards: bool = False
    trust_functions: bool = False
    online: bool = False

    @property
    def holds_small(self) -> bool:
        """Whether small groups move with writes held, which is many times as fast as online moves."""
        return self.mode is not TransferMode.FORCE_LOGICAL and not self.online

    @property
    def wants_parallel(self) -> bool:
        return self.parallel_transfer_reference_tables or self.parallel_transfer_colocated_shards


@dataclass(frozen=True)
class MoveDocument:
    """One shard that would change its node."""

    table: str
    shard_id: int
    size_bytes: int
    source: str
    target: str
    holds_writes: bool


@dataclass(frozen=True)
class Move(Documented):
    """One shard that changes its node."""

    table: str
    shard_id: int
    size_bytes: int
    source: NodeAddress
    target: NodeAddress
    group: int | None = None
    """The same number for colocated shards, which move together; None for a shard that moves alone."""
    is_short: bool = False
    """Whether it moves with writes held because its group is small."""

    @property
    def together(self) -> tuple[NodeAddress, NodeAddress, int]:
        """A key that all shards of one move share."""
        return self.source, self.target, self.shard_id if self.group is None else self.group

    def document(self) -> MoveDocument:
        return MoveDocument(
            self.table, self.shard_id, self.size_bytes, str(self.source), str(self.target), self.is_short
        )


@dataclass(frozen=True)
class NodeGrowthDocument:
    """Bytes of the shards of one node, before and after a rebalance."""

    node: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class RebalancePlanDocument:
    """The moves that a rebalance would make now, and their totals."""

    moves: tuple[Move, ...]
    size_bytes: int
    groups: int
    groups_holding_writes: int
    writes_held_s: float
    nodes: tuple[NodeGrowthDocument, ...]


@dataclass(frozen=True)
class RebalancePlan(Documented):
    """The moves that Citus would make, in its order, and the bytes of each node before and after them."""

    moves: tuple[Move, ...]
    bytes_before: Mapping[NodeAddress, int]
    mode: TransferMode = TransferMode.AUTO
    """How groups that are not small move."""

    @property
    def bytes_after(self) -> Mapping[NodeAddress, int]:
        after = dict(self.bytes_before)
        for move in self.moves:
            after[move.source] = after.get(move.source, 0) - move.size_bytes
            after[move.target] = after.get(move.target, 0) + move.size_bytes
        return after

    @property
    def size_bytes(self) -> int:
        return sum(move.size_bytes for move in self.moves)

    @property
    def growth(self) -> Mapping[NodeAddress, int]:
        """Bytes by which each node grows; negative if it gives up more than it gets."""
        return {node: after - self.bytes_before.get(node, 0) for node, after in self.bytes_after.items()}

    @property
    def largest_moves(self) -> Mapping[NodeAddress, int]:
        """Bytes of the largest group of colocated shards that each target gets at once."""
        together: Counter[tuple[NodeAddress, NodeAddress, int]] = Counter()
        for move in self.moves:
            together[move.together] += move.size_bytes
        largest: dict[NodeAddress, int] = {}
        for (_, target, _), size_bytes in together.items():
            largest[target] = max(largest.get(target, 0), size_bytes)
        return largest

    @property
    def short_moves(self) -> tuple[Move, ...]:
        """Shards that move with writes held because their group is small."""
        return tuple(move for move in self.moves if move.is_short)

    @property
    def groups(self) -> tuple[int, int]:
        """How many groups of colocated shards move, and how many of them with writes held because they are small."""
        return len({move.together for move in self.moves}), len({move.together for move in self.short_moves})

    def holding_small(self) -> "RebalancePlan":
        """Return the plan with writes held to small groups, unless a group moves twice; in the order of Citus."""
        groups: dict[tuple[NodeAddress, NodeAddress, int], list[Move]] = {}
        for move in self.moves:
            groups.setdefault(move.together, []).append(move)
        times = Counter(key[2] for key in groups)
        short = {
            key
            for key, moves in groups.items()
            if times[key[2]] == 1 and is_small(len(moves), sum(move.size_bytes for move in moves))
        }
        return replace(self, moves=tuple(replace(move, is_short=move.together in short) for move in self.moves))

    def document(self) -> RebalancePlanDocument:
        after = self.bytes_after
        nodes = (NodeGrowthDocument(str(node), self.bytes_before.get(node, 0), after[node]) for node in sorted(after))
        total, held = self.groups
        return RebalancePlanDocument(self.moves, self.size_bytes, total, held, STALL_S if held else 0.0, tuple(nodes))


def describe_holding(plan: RebalancePlan) -> str:
    """Return one line for people: how many groups move with writes held, for how long, and how the others move."""
    total, held = plan.groups
    groups, verb = ("small shard group", "moves") if held == 1 else ("small shard groups", "move")
    found = f"{held} {groups} {verb} with writes held, each usually for less than {STALL_S:g} s"
    if held < total:
        larger, verb = ("larger one", "moves") if total - held == 1 else ("larger ones", "move")
        how = "with writes held for longer" if plan.mode is TransferMode.BLOCK_WRITES else "online"
        found += f"; {total - held} {larger} {verb} {how}"
    return found
