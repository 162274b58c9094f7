"""What prevents a change of how a table is stored, by the rules of Citus, with the statement that mends each finding.

The rules are those of ``create_distributed_table.c``, ``foreign_constraint.c`` and ``alter_table.c`` of Citus 13 and
14; tests compare each finding with what Citus itself accepts.
"""

from collections.abc import Iterable, Iterator, Sequence
from shlex import quote

from citus_cluster.model.citus.table_facts import Column, FollowUp, ForeignKey, ServerFacts, TableFacts, UniqueKey
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.plan.preview import Finding, blocks, warns
from citus_cluster.model.units import count, size

_DISTRIBUTED = {TableKind.DISTRIBUTED, TableKind.SCHEMA, TableKind.SINGLE_SHARD}
_SMALL_INTEGERS = {"smallint", "integer"}
MAX_SHARD_COUNT = 64000


def storable(table: TableFacts) -> Iterator[Finding]:
    """Yield what prevents any kind of Citus table: its persistence, inheritance, partitions and policies."""
    if table.persistence == "t":
        yield blocks(f"{table.name} is a temporary table, which exists in one session only.")
    if table.relkind == "f":
        yield blocks(f"{table.name} is a foreign table; its rows are on another server.")
    if table.extension:
        yield blocks(
            f"{table.name} belongs to the extension {table.extension}.",
            f"ALTER EXTENSION {table.extension} DROP TABLE {table.name};",
        )
    for parent in table.parents:
        yield blocks(f"{table.name} inherits from {parent}.", f"ALTER TABLE {table.name} NO INHERIT {parent};")
    for child in table.children:
        yield blocks(f"{child} inherits from {table.name}.", f"ALTER TABLE {child} NO INHERIT {table.name};")
    for nested in table.nested_partitions:
        yield blocks(
            f"The partition {nested} is partitioned itself; Citus supports one level.",
            f"ALTER TABLE {table.name} DETACH PARTITION {nested};",
        )
    for relation, policy in table.policies:
        yield blocks(
            f"The policy {policy} of {relation} has a subquery, which Citus does not support.",
            f"DROP POLICY {policy} ON {relation};",
        )


def triggered(table: TableFacts, server: ServerFacts) -> Iterator[Finding]:
    """Yield the triggers, which Citus does not create on shards."""
    for relation, trigger in table.triggers:
        if server.unsafe_triggers:
            yield warns(f"The trigger {trigger} of {relation} runs on each shard (citus.enable_unsafe_triggers is on).")
        else:
            yield blocks(
                f"{relation} has the trigger {trigger}, which Citus does not run on shards.",
                f"DROP TRIGGER {trigger} ON {relation};",
            )


def hashable(table: TableFacts, column: Column) -> Iterator[Finding]:
    """Yield why rows cannot be divided by this column."""
    if column.generated == "s":
        yield blocks(
            f"The column {column.quoted} is generated, so it cannot divide the rows.",
            f"ALTER TABLE {table.name} ALTER COLUMN {column.quoted} DROP EXPRESSION;",
        )
    elif column.generated:
        yield blocks(f"The column {column.quoted} is generated when it is read, so no row has a value to divide by.")
    if column.negative_scale:
        yield blocks(
            f"The column {column.quoted} has a negative scale ({column.type}).",
            f"ALTER TABLE {table.name} ALTER COLUMN {column.quoted} TYPE numeric;",
        )
    if not column.has_hash:
        yield blocks(
            f"The type {column.type} of {column.quoted} has no hash function. Choose another column, or another type.",
            f"ALTER TABLE {table.name} ALTER COLUMN {column.quoted} TYPE text USING {column.quoted}::text;",
        )
    elif not column.deterministic:
        yield blocks(
            f"The collation of {column.quoted} is not deterministic, so equal values could be in different shards.",
            f'ALTER TABLE {table.name} ALTER COLUMN {column.quoted} TYPE {column.type} COLLATE "default";',
        )


def unique(table: TableFacts, column: Column, server: ServerFacts) -> Iterator[Finding]:
    """Yield unique keys that Citus cannot enforce, because they do not contain the distribution column."""
    for key in table.unique_keys:
        if column.name in key.columns:
            continue
        what = "exclusion constraint" if key.is_exclusion else "primary key" if key.is_primary else "unique index"
        name = key.constraint or key.name
        if server.unsafe_constraints:
            yield warns(
                f"The {what} {name} of {key.relation} lacks {column.quoted}, so it holds within each shard only "
                "(citus.allow_unsafe_constraints is on)."
            )
            continue
        yield blocks(
            f"The {what} {name} of {key.relation} does not contain the distribution column {column.quoted}. Shards "
            "cannot check it across nodes.",
            _with_column(table, key, column),
        )


def _with_column(table: TableFacts, key: UniqueKey, column: Column) -> str:
    dropped = (
        f"ALTER TABLE {key.relation} DROP CONSTRAINT {key.constraint}" if key.constraint else f"DROP INDEX {key.name}"
    )
    if not key.plain:
        return f"{dropped};"
    quoted = {one.name: one.quoted for one in table.columns}
    columns = ", ".join([*(quoted.get(name, name) for name in key.columns), column.quoted])
    if key.constraint:
        kind = "PRIMARY KEY" if key.is_primary else "UNIQUE"
        return f"{dropped}; ALTER TABLE {key.relation} ADD CONSTRAINT {key.constraint} {kind} ({columns});"
    return f"{dropped}; CREATE UNIQUE INDEX ON {key.relation} ({columns});"


def _drop(key: ForeignKey) -> str:
    return f"ALTER TABLE {key.from_table} DROP CONSTRAINT {key.name};"


def _outgoing(table: TableFacts) -> Iterator[ForeignKey]:
    return (key for key in table.foreign_keys if key.from_table in table.family)


def _incoming(table: TableFacts) -> Iterator[ForeignKey]:
    return (key for key in table.foreign_keys if key.from_table not in table.family)


def keys_of_distributed(
    table: TableFacts, column: Column, colocation: int | None, *, together: str | None, concurrently: bool = False
) -> Iterator[Finding]:
    """Yield foreign keys that a distributed table cannot have.

    ``colocation`` is the group that it will join, None if it is a new one. ``together`` is the command that
    lets it join the group of another table, but for that table's name.
    """
    for key in _outgoing(table):
        says = f"The foreign key {key.name} of {key.from_table}"
        if key.sets_sequence:
            yield blocks(f"{says} may set a column to the next value of a sequence.", _drop(key))
            continue
        is_inner = key.to_table in table.family
        if not is_inner and key.to_kind in {TableKind.LOCAL, TableKind.CITUS_LOCAL}:
            yield blocks(
                f"{says} points to {key.to_table}, whose rows are only on the coordinator.",
                # A reference table cannot have a key from a single partition.
                f"SELECT create_reference_table({literal(key.to_table)});"
                if key.from_table == table.name
                else _drop(key),
            )
            continue
        on_key = any(of == column.name for of, _ in key.pairs)
        to_column = column.name if is_inner else key.to_column
        matches = any(of == column.name and to == to_column for of, to in key.pairs)
        if on_key and (
            key.on_delete in {FollowUp.SET_NULL, FollowUp.SET_DEFAULT}
            or key.on_update in {FollowUp.SET_NULL, FollowUp.SET_DEFAULT, FollowUp.CASCADE}
        ):
            yield blocks(
                f"{says} may change the distribution column {column.quoted} of a row (ON DELETE or ON UPDATE).",
                _without_actions(key),
            )
        elif key.to_kind is TableKind.REFERENCE:
            pass
        elif not matches:
            yield blocks(
                f"{says} does not pair {column.quoted} with the distribution column of {key.to_table}, so the rows are "
                "on different nodes.",
                _drop(key),
            )
        elif not is_inner and (colocation is None or colocation != key.to_colocation):
            yield blocks(
                f"{says} points to {key.to_table}, which is not colocated: the rows are on different nodes.",
                f"{together} {quote(key.to_table)}" if together else _drop(key),
            )
        elif not is_inner and concurrently:
            yield blocks(
                f"{says} points to a distributed table; such a table cannot be distributed with --concurrently.",
                _drop(key),
            )
    yield from _keys_to_distributed(table, concurrently=concurrently)


def _keys_to_distributed(table: TableFacts, *, concurrently: bool) -> Iterator[Finding]:
    for key in _incoming(table):
        if key.from_kind in {TableKind.REFERENCE, TableKind.CITUS_LOCAL} or (
            concurrently and key.from_kind is TableKind.LOCAL
        ):
            yield blocks(
                f"{key.from_table} points to {table.name} (foreign key {key.name}). Only distributed tables can point "
                "to a distributed table.",
                _drop(key),
            )
        elif key.from_kind is TableKind.LOCAL:
            yield warns(
                f"{key.from_table} is a local table and points to {table.name} (foreign key {key.name}). Once "
                f"{table.name} is distributed, rows that are inserted there no longer find their row. Distribute "
                f"{key.from_table} too, or drop the key.",
                _drop(key),
            )


def keys_of_reference(table: TableFacts) -> Iterator[Finding]:
    """Yield foreign keys that a reference table cannot have."""
    for key in _outgoing(table):
        if key.to_table in table.family:
            continue
        says = f"The foreign key {key.name} of {key.from_table}"
        if key.sets_sequence:
            yield blocks(f"{says} may set a column to the next value of a sequence.", _drop(key))
        elif key.to_kind in _DISTRIBUTED:
            yield blocks(
                f"{says} points to {key.to_table}, whose rows are divided among the nodes; a reference table is on "
                "every node.",
                _drop(key),
            )
        elif key.to_kind in {TableKind.LOCAL, TableKind.CITUS_LOCAL} and not (
            {key.on_delete, key.on_update} <= {FollowUp.NO_ACTION, FollowUp.RESTRICT}
        ):
            yield blocks(
                f"{says} changes rows on every node when {key.to_table} changes, which is only on the coordinator.",
                f"SELECT create_reference_table({literal(key.to_table)});",
            )


def recreated(table: TableFacts, *, alters: bool) -> Iterator[Finding]:
    """Yield what prevents or does not survive that Citus creates a table again, copies the rows, and drops the old one.

    Citus drops the functions and columns that use the row type of the old table without a word, so they block.
    """
    if table.partition_of:
        yield blocks(f"{table.name} is a partition; change the partitioned table {table.partition_of} instead.")
    if table.foreign:
        yield blocks(f"{', '.join(table.foreign)}: the rows of foreign tables are on another server.")
    if table.has_identity_column:
        yield blocks(f"{table.name} has an identity column, which Citus cannot create again with its sequence.")
    if table.is_clustered and alters:
        yield blocks(f"{table.name} is clustered by an index, which Citus cannot do again on a distributed table.")
    for one in table.dependents:
        yield blocks(f"The {one.what} uses the row type of {table.name}, and would be dropped with it.", one.drop)
    if table.rules:
        yield warns(f"The rules {', '.join(table.rules)} of {table.name} are lost. Create them again afterwards.")
    if table.comments:
        yield warns(f"The comments on {table.name} and its columns are lost.")
    if table.granted_views:
        yield warns(f"These views are created again, without their grants: {', '.join(table.granted_views)}.")


def undistributable(table: TableFacts, *, cascade: bool, command: str) -> Iterator[Finding]:
    """Yield what prevents that a table becomes an ordinary one."""
    if table.kind is TableKind.SCHEMA:
        yield blocks(
            f"{table.name} belongs to a distributed schema, which is undistributed as a whole.",
            f"SELECT citus_schema_undistribute({literal(table.schema)});",
        )
        return
    if cascade:
        return
    for key in table.foreign_keys:
        yield blocks(
            f"The foreign key {key.name} connects {key.from_table} with {key.to_table}. --cascade undistributes all "
            "connected tables.",
            command,
        )


def alone(table: TableFacts) -> Iterator[Finding]:
    """Warn of foreign keys that Citus drops when a table leaves the tables that are colocated with it."""
    for key in table.foreign_keys:
        if key.from_kind is TableKind.DISTRIBUTED and key.to_kind is TableKind.DISTRIBUTED:
            yield warns(f"Citus drops the foreign key {key.name} of {key.from_table}. Add it again afterwards.")


def of_schema(table: TableFacts, schema: str) -> Iterator[Finding]:
    """Yield what prevents that a table becomes part of a distributed schema."""
    if table.kind not in {TableKind.LOCAL, TableKind.CITUS_LOCAL}:
        yield blocks(
            f"{table.name} is a {table.kind} table already.", f"SELECT undistribute_table({literal(table.name)});"
        )
    for key in table.foreign_keys:
        inside = key.to_table if key.from_table in table.family else key.from_table
        if inside in table.family or inside.startswith(f"{schema}."):
            continue
        if key.from_table in table.family and key.to_kind is not TableKind.REFERENCE:
            yield blocks(
                f"The foreign key {key.name} of {key.from_table} points to {key.to_table}, which is in another schema "
                "and no reference table.",
                f"SELECT create_reference_table({literal(key.to_table)});"
                if key.to_kind in {TableKind.LOCAL, TableKind.CITUS_LOCAL}
                else _drop(key),
            )
        elif key.from_table not in table.family:
            yield blocks(
                f"{key.from_table} of another schema points to {key.to_table} (foreign key {key.name}).", _drop(key)
            )


def _without_actions(key: ForeignKey) -> str:
    of = ", ".join(_quote(one) for one, _ in key.pairs)
    to = ", ".join(_quote(one) for _, one in key.pairs)
    return (
        # Two statements: Citus refuses to add a constraint together with another change.
        f"ALTER TABLE {key.from_table} DROP CONSTRAINT {key.name}; ALTER TABLE {key.from_table} ADD CONSTRAINT "
        f"{key.name} FOREIGN KEY ({of}) REFERENCES {key.to_table} ({to});"
    )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def sequences(table: TableFacts) -> Iterator[Finding]:
    """Yield columns whose values workers cannot generate, because each node needs a range of its own."""
    for one in table.sequences:
        if one.type in _SMALL_INTEGERS:
            yield warns(
                f"Only the coordinator can generate values of {one.column_quoted}, because its type is {one.type}: an "
                "INSERT that a client sends to a worker fails unless it gives a value.",
                f"ALTER TABLE {table.name} ALTER COLUMN {one.column_quoted} TYPE bigint;",
            )


def waits(table: TableFacts, what: str) -> Iterator[Finding]:
    """Yield how long the change holds ``what`` (writes, or reads and writes), and sessions that it waits for."""
    amount = "an unknown number of bytes" if table.bytes is None else size(table.bytes)
    if table.bytes is None or table.bytes > 0:
        yield warns(f"{what} of {table.name} wait until its rows are copied ({amount} with indexes).")
    for session in table.blockers:
        yield warns(
            f"Session {session.pid} ({session.application}) has used {table.name} in a transaction for "
            f"{session.seconds} s. The change waits for it.",
            f"SELECT pg_terminate_backend({session.pid});",
        )


def served(server: ServerFacts, *, shard_count: int | None = None, places: bool = True) -> Iterator[Finding]:
    """Yield nodes that do not answer, and a number of shards that does not fit the nodes.

    ``places``: the change places shards of distributed tables, which not every node may hold.
    """
    for reason in server.silent:
        yield blocks(f"Every node takes part in the change, but one does not answer: {reason}")
    if not server.registered:
        # Citus would then register the coordinator as localhost, which no worker could reach later.
        yield blocks("The coordinator is not in the node list.", "citus-cluster up")
    elif not server.holders and places:
        yield blocks(
            "No node may hold shards.",
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true) "
            "FROM pg_dist_node WHERE isactive AND noderole = 'primary';",
        )
    elif shard_count is not None and shard_count < len(server.holders):
        yield warns(
            f"{count(shard_count, 'shard')} for {count(len(server.holders), 'node')}: some nodes get none of the rows."
        )
    if server.running_job is not None:
        yield warns(
            f"Rebalance {server.running_job} is running, and holds locks for which the change may wait.",
            "citus-cluster rebalance wait",
        )


def roomy(server: ServerFacts, size_bytes: int | None, *, nodes: int) -> Iterator[Finding]:
    """Warn of disks that may be too small for rows that are divided evenly among ``nodes``.

    A warning, because rows are seldom divided evenly, and nodes may share a disk; PostgreSQL undoes a copy for which
    the disk is too small.
    """
    share = (size_bytes or 0) // max(nodes, 1)
    for node in server.holders:
        free = server.free_bytes.get(node)
        if free is not None and share > free:
            yield warns(f"{node} has {size(free)} free, and its part of the rows is about {size(share)}.")


def decodes(server: ServerFacts) -> Iterator[Finding]:
    """Yield that Citus may not decode the WAL, which a split without waiting writes needs.

    PostgreSQL 17.12, 18.6 and newer allow only the plug-ins of a list.
    """
    if server.plugins is not None and "citus" not in server.plugins and "*" not in server.plugins:
        libraries = ", ".join(literal(name) for name in (*server.plugins, "citus"))
        yield blocks(
            "PostgreSQL does not allow Citus to decode the changes of a shard (output_plugin_libraries).",
            f"ALTER ROLE {server.user} SET output_plugin_libraries = {libraries};",
        )


def identified(tables: Iterable[str]) -> Iterator[Finding]:
    """Warn that rows cannot be updated while the table is copied online."""
    for table in tables:
        yield warns(
            f"{table} has no primary key and no replica identity: UPDATE and DELETE fail while it is copied.",
            f"ALTER TABLE {table} REPLICA IDENTITY FULL;",
        )


def untrusted(found: Sequence[str], *, trusted: bool) -> Iterator[Finding]:
    """Yield code of ordinary roles that would run as the superuser while rows are copied."""
    for one in found:
        if trusted:
            yield warns(f"This runs as the superuser while rows are copied, as --trust-functions allows: {one}.")
        else:
            yield blocks(
                f"This would run as the superuser while rows are copied: {one}. Review it; --trust-functions allows it."
            )
