"""What a table is, as far as Citus asks before it changes how the table is stored. Names are quoted for SQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from citus_cluster.model.citus.tables import TableKind


class FollowUp(StrEnum):
    """What a foreign key does to referencing rows, by PostgreSQL's letters."""

    NO_ACTION = "a"
    RESTRICT = "r"
    CASCADE = "c"
    SET_NULL = "n"
    SET_DEFAULT = "d"


@dataclass(frozen=True)
class Column:
    """One column. ``generated`` is ``s`` (stored), ``v`` (virtual), or empty; ``type`` as SQL writes it."""

    name: str
    quoted: str
    type: str
    not_null: bool
    generated: str
    has_hash: bool
    deterministic: bool
    negative_scale: bool


@dataclass(frozen=True)
class UniqueKey:
    """A unique index, with or without a constraint, or an exclusion constraint.

    ``columns`` are those that it compares for equality. ``plain``: without expressions, a condition, or options that a
    new constraint would lose.
    """

    relation: str
    name: str
    constraint: str | None
    is_primary: bool
    is_exclusion: bool
    columns: tuple[str, ...]
    plain: bool


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key from or to the table: names of both tables, and pairs of columns.

    ``from_kind`` and ``to_kind`` say how Citus stores both. ``to_colocation`` is that of the referenced table, and
    ``to_column`` its distribution column. ``sets_sequence``: it may set a column to the next value of a sequence.
    """

    name: str
    from_table: str
    to_table: str
    from_kind: TableKind
    to_kind: TableKind
    to_colocation: int
    to_column: str | None
    pairs: tuple[tuple[str, str], ...]
    on_delete: FollowUp
    on_update: FollowUp
    sets_sequence: bool


@dataclass(frozen=True)
class Session:
    """A session whose transaction holds a lock on the table that the change conflicts with."""

    pid: int
    application: str
    seconds: int


@dataclass(frozen=True)
class Sequence:
    """A sequence from which a column takes its values, with the type of the column."""

    column: str
    column_quoted: str
    type: str


@dataclass(frozen=True)
class Dependent:
    """A function or a column of another table that uses the table's row type, with the statement that drops it."""

    what: str
    drop: str


@dataclass(frozen=True)
class TableFacts:
    """One table with its partitions.

    ``triggers`` and ``policies`` are pairs of a table and a name. ``parents`` and ``children`` are tables of plain
    inheritance. ``bytes`` is the size of the rows with indexes: on the coordinator for a local table, on all nodes for
    the others, None if a node does not answer. ``dependents``, ``comments``, ``rules`` and the grants of
    ``granted_views`` are lost if the table is created again. ``leftover_bytes``: rows that were copied to the shards,
    and that the coordinator still keeps. ``without_identity`` are tables of the family whose updates cannot be
    replicated.
    """

    oid: int
    name: str
    kind: TableKind
    relkind: str
    owner: str
    schema: str
    schema_distributed: bool
    persistence: str
    colocation_id: int
    distribution_column: str | None
    distribution_type: str | None
    shard_count: int
    partition_of: str | None
    partitions: tuple[str, ...]
    nested_partitions: tuple[str, ...]
    foreign: tuple[str, ...]
    parents: tuple[str, ...]
    children: tuple[str, ...]
    triggers: tuple[tuple[str, str], ...]
    policies: tuple[tuple[str, str], ...]
    unique_keys: tuple[UniqueKey, ...]
    foreign_keys: tuple[ForeignKey, ...]
    columns: tuple[Column, ...]
    sequences: tuple[Sequence, ...]
    views: tuple[str, ...]
    colocated: tuple[str, ...]
    without_identity: tuple[str, ...]
    bytes: int | None
    leftover_bytes: int = 0
    blockers: tuple[Session, ...] = ()
    extension: str | None = None
    has_identity_column: bool = False
    is_clustered: bool = False
    dependents: tuple[Dependent, ...] = ()
    comments: int = 0
    rules: tuple[str, ...] = ()
    granted_views: tuple[str, ...] = ()

    def column(self, name: str) -> Column | None:
        return next((one for one in self.columns if one.name == name), None)

    @property
    def family(self) -> tuple[str, ...]:
        return (self.name, *self.partitions)


@dataclass(frozen=True)
class ServerFacts:
    """What the cluster allows.

    ``plugins`` are the libraries that may decode the WAL, None if there is no such list. ``free_bytes`` is the free
    space on the disk of each node that reports it. ``registered``: the coordinator is in the node list.
    """

    holders: tuple[str, ...]
    silent: tuple[str, ...]
    unsafe_triggers: bool = False
    unsafe_constraints: bool = False
    plugins: tuple[str, ...] | None = None
    user: str = "postgres"
    running_job: int | None = None
    free_bytes: Mapping[str, int] = field(default_factory=dict)
    registered: bool = True
