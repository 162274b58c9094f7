"""Placements of shards, as lists show them, and the groups of shards that are always on the same node."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.documents import Documented


class ShardState(StrEnum):
    """The state of a placement."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    TO_DELETE = "to-delete"
    MISSING = "missing"
    """The catalog places it on a node that answers, but the node does not have it."""
    UNKNOWN = "unknown"
    """The node does not answer."""


@dataclass(frozen=True, slots=True)
class ShardListRow:
    """One placement: a copy of a shard on a node. ``bytes`` includes indexes.

    ``min_value`` and ``max_value`` are the limits of its range of hash values; a table with one shard has none.
    ``group_id`` is the smallest number of the shards that are always on the same node as this one.
    """

    placement_id: int
    shard_id: int
    table: str
    kind: TableKind
    node: str
    bytes: int | None
    colocation_id: int | None
    group_id: int
    min_value: str | None
    max_value: str | None
    state: ShardState


@dataclass(frozen=True, slots=True)
class ShardGroupRow:
    """A group of shards on one node: shards of colocated tables with the same range, which move together.

    ``skew`` is the size compared with the average of the groups of the same colocation: 1 is average.
    """

    cell: str
    group_id: int
    colocation_id: int | None
    kind: TableKind
    node: str
    tables: tuple[str, ...]
    shards: int
    bytes: int | None
    skew: float | None
    min_value: str | None
    max_value: str | None


@dataclass(frozen=True)
class ShardLocation:
    """A node that has the rows, and the name of the table there."""

    node: str
    host: str
    port: int
    table: str
    bytes: int | None


@dataclass(frozen=True)
class KeyLocation(Documented):
    """The place of the rows with one value of the distribution column. A local table has no shard."""

    table: str
    kind: TableKind
    distribution_column: str | None
    value: str
    shard_id: int | None
    min_value: str | None
    max_value: str | None
    locations: tuple[ShardLocation, ...]


def groups_of(rows: Iterable[ShardListRow]) -> tuple[ShardGroupRow, ...]:
    """Put placements together into groups of shards, in the order of their numbers."""
    found: dict[tuple[int, str], list[ShardListRow]] = {}
    for row in rows:
        found.setdefault((row.group_id, row.node), []).append(row)
    sizes = {at: _total(members) for at, members in found.items()}
    averages = _averages({at: members[0].colocation_id for at, members in found.items()}, sizes)
    return tuple(
        ShardGroupRow(
            cell=f"{at[0]}@{at[1]}",
            group_id=at[0],
            colocation_id=members[0].colocation_id,
            kind=members[0].kind,
            node=at[1],
            tables=tuple(dict.fromkeys(row.table for row in members)),
            shards=len(members),
            bytes=sizes[at],
            skew=_skew(sizes[at], averages.get(members[0].colocation_id)),
            min_value=members[0].min_value,
            max_value=members[0].max_value,
        )
        for at, members in sorted(found.items())
    )


def _total(members: Sequence[ShardListRow]) -> int | None:
    sizes = [row.bytes for row in members]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _averages(
    colocations: Mapping[tuple[int, str], int | None], sizes: Mapping[tuple[int, str], int | None]
) -> Mapping[int | None, float]:
    together: dict[int | None, list[int]] = {}
    for at, colocation_id in colocations.items():
        size = sizes[at]
        if colocation_id is not None and size is not None:
            together.setdefault(colocation_id, []).append(size)
    return {colocation_id: sum(found) / len(found) for colocation_id, found in together.items()}


def _skew(size: int | None, average: float | None) -> float | None:
    if size is None or not average:
        return None
    return round(size / average, 3)
