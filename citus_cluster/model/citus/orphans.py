"""What moves and splits of shards left behind: Citus' own list, and what exists on the nodes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode


class Kind(StrEnum):
    """What is left over (``CleanupObject`` in Citus' shard_cleaner.h)."""

    SHARD = "shard"
    SUBSCRIPTION = "subscription"
    SLOT = "slot"
    PUBLICATION = "publication"
    ROLE = "role"
    DATABASE = "database"
    UNKNOWN = "unknown"


_KINDS = (Kind.UNKNOWN, Kind.SHARD, Kind.SUBSCRIPTION, Kind.SLOT, Kind.PUBLICATION, Kind.ROLE, Kind.DATABASE)


class OrphanState(StrEnum):
    """Whether something is left over, and who drops it."""

    IN_USE = "in_use"
    """An operation that is running uses it."""
    WAITS = "waits"
    """Citus drops it with its next clean-up."""
    GONE_NODE = "gone_node"
    """Its node is no longer in the node list, so Citus never drops it, and keeps the record."""
    SILENT_NODE = "silent_node"
    """Its node does not answer; Citus drops it afterwards."""
    UNRECORDED = "unrecorded"
    """Citus does not know of it, so only a person can drop it."""


@dataclass(frozen=True)
class CleanupRecord:
    """One row of ``pg_dist_cleanup``; ``is_running``: the operation that needs it still holds its lock."""

    record_id: int
    kind: Kind
    name: str
    group_id: int
    is_running: bool

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> "CleanupRecord":
        record_id, kind, name, group_id, is_running = row
        known = _KINDS[kind] if 0 <= kind < len(_KINDS) else Kind.UNKNOWN
        return cls(int(record_id), known, str(name), int(group_id), bool(is_running))


@dataclass(frozen=True)
class Leftover:
    """An object of a move or a split on a node. ``size_bytes`` is that of a shard, or the WAL that a slot keeps."""

    node: NodeAddress
    kind: Kind
    name: str
    is_active: bool
    size_bytes: int | None


@dataclass(frozen=True)
class OrphanRow:
    """One object that a move or a split left behind, or still uses.

    ``size_bytes`` is the size of a shard, or the WAL that a slot keeps. ``remedy`` is what a person must do, if Citus
    does not drop it. A node that does not answer has one row, with ``problem``.
    """

    id: str
    node: str
    kind: Kind
    name: str
    state: OrphanState
    record_id: int | None = None
    size_bytes: int | None = None
    remedy: str | None = None
    problem: str | None = None


def read_leftovers(node: NodeAddress, rows: Iterable[Mapping[str, Any]]) -> Iterable[Leftover]:
    """Read a node's answer (:mod:`citus_cluster.runtime.citus.consistency`)."""
    for row in rows:
        size_bytes = None if row["size_bytes"] is None else int(row["size_bytes"])
        yield Leftover(node, Kind(row["kind"]), row["name"], bool(row["active"]), size_bytes)


def find_orphans(
    records: Sequence[CleanupRecord],
    leftovers: Sequence[Leftover],
    nodes: Sequence[RegisteredNode],
    silent: Mapping[NodeAddress, str],
) -> tuple[OrphanRow, ...]:
    """Combine Citus' list with what exists on the nodes. Names of shards are with their schema, and unquoted."""
    primaries = {node.group_id: node.address for node in nodes if node.role == "primary"}
    existing = {(one.node, one.kind, bare(one.name)): one for one in leftovers}
    rows = []
    recorded = set()
    for record in records:
        address = primaries.get(record.group_id)
        key = (address, record.kind, bare(record.name))
        recorded.add(key)
        found = existing.get(key) if address else None  # type: ignore[arg-type]
        node = str(address) if address else f"group {record.group_id}"
        rows.append(
            OrphanRow(
                id=f"record {record.record_id}",
                node=node,
                kind=record.kind,
                name=record.name,
                state=_state(record, address, silent),
                record_id=record.record_id,
                size_bytes=found.size_bytes if found else None,
                remedy=None if address else _forget(record),
            )
        )
    for key, one in existing.items():
        if key in recorded:
            continue
        state = OrphanState.IN_USE if one.is_active else OrphanState.UNRECORDED
        remedy = None if one.is_active else _remedy(one)
        identifier = f"{one.node}/{one.kind.value}/{one.name}"
        rows.append(OrphanRow(identifier, str(one.node), one.kind, one.name, state, None, one.size_bytes, remedy))
    for address, reason in silent.items():
        row = OrphanRow(str(address), str(address), Kind.UNKNOWN, "", OrphanState.SILENT_NODE, problem=reason)
        rows.append(row)
    return tuple(rows)


def bare(name: str) -> str:
    """Return a name without ``public`` and quotes, which Citus writes into its records in some versions only."""
    return name.replace('"', "").removeprefix("public.")


def _state(record: CleanupRecord, address: NodeAddress | None, silent: Mapping[NodeAddress, str]) -> OrphanState:
    if address is None:
        return OrphanState.GONE_NODE
    if record.is_running:
        return OrphanState.IN_USE
    return OrphanState.SILENT_NODE if address in silent else OrphanState.WAITS


def _forget(record: CleanupRecord) -> str:
    # For people; it is not run.
    return f"DELETE FROM pg_dist_cleanup WHERE record_id = {record.record_id};  -- on the coordinator"  # noqa: S608


def _remedy(one: Leftover) -> str:
    literal = one.name.replace("'", "''")
    quoted = '"' + one.name.replace('"', '""') + '"'
    statement = {
        Kind.SLOT: f"SELECT pg_drop_replication_slot('{literal}');",
        Kind.SUBSCRIPTION: f"ALTER SUBSCRIPTION {quoted} DISABLE; ALTER SUBSCRIPTION {quoted} SET (slot_name = NONE); "
        f"DROP SUBSCRIPTION {quoted};",
        Kind.PUBLICATION: f"DROP PUBLICATION {quoted};",
        Kind.ROLE: f"DROP ROLE {quoted};",
        Kind.SHARD: f"DROP TABLE {one.name};",
    }.get(one.kind, "")
    return f"SET citus.enable_ddl_propagation = off; {statement}  -- on {one.node}"
