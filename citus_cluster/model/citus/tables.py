"""Tables and schemas of a cluster, as lists show them: sizes in bytes, and texts that SQL accepts as names."""

from dataclasses import dataclass
from enum import StrEnum


class TableKind(StrEnum):
    """How Citus stores a table."""

    DISTRIBUTED = "distributed"
    """Its rows are divided among shards by a column."""
    REFERENCE = "reference"
    """Every node has a full copy."""
    SCHEMA = "schema"
    """It is one shard, which belongs to a distributed schema."""
    SINGLE_SHARD = "single-shard"
    """It is one shard without a distribution column, and no part of a distributed schema."""
    CITUS_LOCAL = "citus-local"
    """It is on the coordinator, and in Citus' metadata, so that it can be joined and referenced on every node."""
    LOCAL = "local"
    """An ordinary table of the coordinator."""


@dataclass(frozen=True)
class TableListRow:
    """One table. ``bytes`` counts all copies with their indexes, and is None if a node with a part does not answer.

    ``table`` is the name as SQL accepts it, without ``public``. A partitioned table has no rows of its own:
    ``partitions`` is their number, and each is a row of the list, with ``partition_of``. ``identity`` says whether
    UPDATE and DELETE can be replicated, so that its shards can move without holding writes; None for a partitioned
    table, where its partitions decide.
    """

    oid: int
    table: str
    schema: str
    kind: TableKind
    distribution_column: str | None
    colocation_id: int | None
    shards: int
    bytes: int | None
    owner: str
    access_method: str | None
    identity: bool | None
    partitions: int | None = None
    partition_of: str | None = None


@dataclass(frozen=True)
class SchemaListRow:
    """One schema. ``distributed``: all its tables are on one node, as one tenant; ``node`` is that node."""

    schema: str
    owner: str
    distributed: bool
    colocation_id: int | None
    node: str | None
    tables: int
    bytes: int | None
