"""The free capacity that a node needs for moves of shards, and what it lacks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import TransferMode
from citus_cluster.model.units import size


@dataclass(frozen=True)
class NodeCapacity:
    """The settings of one node that limit moves, and how much of each is in use."""

    node: str
    wal_level: str
    max_worker_processes: int
    background_workers: int
    max_replication_slots: int
    replication_slots: int
    max_wal_senders: int
    wal_senders: int
    max_logical_replication_workers: int


@dataclass(frozen=True)
class DiskSpace:
    """Free space on the disk of a node, and how much of it Citus leaves free at a move."""

    node: NodeAddress
    available_bytes: int
    kept_free_bytes: int

    def has_room_for(self, size_bytes: int) -> bool:
        """Apply the rule of Citus (``CheckSpaceConstraints``)."""
        return self.available_bytes - size_bytes >= self.kept_free_bytes

    def lacks(self, wanted: str) -> str:
        """Return one line for people. ``wanted`` completes "would get …"."""
        room = max(0, self.available_bytes - self.kept_free_bytes)
        return (
            f"{self.node}: would get {wanted}, but has room for {size(room)} "
            f"({size(self.kept_free_bytes)} must stay free: citus.desired_percent_disk_available_after_move)"
        )


def missing_space(largest_moves: Mapping[NodeAddress, int], disks: Sequence[DiskSpace]) -> tuple[str, ...]:
    """Return a line for each node that lacks the space for a single move (its bytes by node): Citus would refuse it."""
    return tuple(
        disk.lacks(f"{size(size_bytes)} in one move")
        for disk in disks
        if (size_bytes := largest_moves.get(disk.node)) is not None and not disk.has_room_for(size_bytes)
    )


def scarce_space(growth: Mapping[NodeAddress, int], disks: Sequence[DiskSpace]) -> tuple[str, ...]:
    """Return a line for each node that lacks the space for all moves together: ``growth`` in bytes by node.

    This is no reason to refuse: nodes on one machine share a disk, and a move frees as much there as it needs.
    """
    return tuple(
        disk.lacks(f"{size(size_bytes)} in all")
        for disk in disks
        if (size_bytes := growth.get(disk.node, 0)) > 0 and not disk.has_room_for(size_bytes)
    )


def missing_capacity(nodes: Sequence[NodeCapacity], mode: TransferMode) -> tuple[str, ...]:
    """Return a line for each setting that prevents moves on these nodes; Citus would retry for half an hour.

    A move needs two background workers on the coordinator (Citus' queue monitor and an executor) and on a
    target (apply and table synchronization), and a slot and a sender on a source. A move with blocked writes
    needs no logical replication.
    """
    findings = []
    for node in nodes:
        if node.max_worker_processes - node.background_workers < 2:
            findings.append(
                f"{node.node}: {node.background_workers} of {node.max_worker_processes} background workers are in use; "
                "raise max_worker_processes and restart it"
            )
        if mode is not TransferMode.BLOCK_WRITES:
            findings.extend(_missing_for_logical(node))
    return tuple(findings)


def lost_slots_problem(node: NodeAddress, slots: Sequence[str]) -> str:
    """Describe a move whose slot is lost, and what to do.

    Citus 13 and 14 notice nothing for two hours, while source and target retry.
    """
    names = f"slot {slots[0]} of a move is" if len(slots) == 1 else f"slots {', '.join(slots)} of moves are"
    return (
        f"{node}: the replication {names} lost, because more WAL than max_slot_wal_keep_size was written; such a move "
        "cannot finish. Stop it (citus-cluster rebalance stop), raise max_slot_wal_keep_size (settings.worker in "
        "cluster.yaml, then setup_citus_cluster.py --yes --up), and start the rebalance again."
    )


def _missing_for_logical(node: NodeCapacity) -> Iterable[str]:
    if node.wal_level != "logical":
        yield f"{node.node}: wal_level is {node.wal_level}; set it to logical and restart the node"
    if node.max_replication_slots - node.replication_slots < 1:
        yield f"{node.node}: all {node.max_replication_slots} replication slots are in use; raise max_replication_slots"
    if node.max_wal_senders - node.wal_senders < 1:
        yield f"{node.node}: all {node.max_wal_senders} WAL senders are in use; raise max_wal_senders"
    if node.max_logical_replication_workers < 2:
        workers = node.max_logical_replication_workers
        yield f"{node.node}: max_logical_replication_workers is {workers}; 4 or more is needed"
