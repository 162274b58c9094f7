"""Tables and schemas by name, and the lists of all of them, from the coordinator's own catalog."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psycopg

from citus_cluster.errors import NotFoundError, UsageError
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.tables import SchemaListRow, TableKind, TableListRow
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.shards import KIND, LIST_TIMEOUT_S, Sizes
from citus_cluster.runtime.postgres import Connection, bare_name, bounded, describe

_TABLE_KINDS = ("r", "p", "f")
# Schemas of PostgreSQL, of Citus and of this program, which users do not work with.
_USER_SCHEMAS = """
nspname NOT IN ('information_schema', 'citus', 'citus_internal', 'columnar', 'columnar_internal', 'citus_cluster')
AND nspname !~ '^pg_'
AND NOT EXISTS (SELECT FROM pg_depend WHERE pg_depend.classid = 'pg_namespace'::regclass
                AND pg_depend.objid = pg_namespace.oid AND pg_depend.deptype = 'e')
"""
HAS_IDENTITY = """(relreplident = 'f' OR EXISTS (
    SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisvalid
    AND ((relreplident = 'd' AND indisprimary) OR (relreplident = 'i' AND indisreplident))))"""
"""SQL of whether a row of ``pg_class`` has a replica identity, by the rule of Citus."""

_TABLES = f"""
SELECT pg_class.oid::bigint, pg_class.oid::regclass::text, quote_ident(nspname), {KIND},
       column_to_column_name(part.logicalrelid, part.partkey), nullif(part.colocationid, 0), rolname::text,
       (SELECT amname::text FROM pg_am WHERE pg_am.oid = relam),
       CASE WHEN relkind = 'r' THEN {HAS_IDENTITY} END,
       CASE WHEN relkind = 'p' THEN (SELECT count(*) FROM pg_inherits WHERE inhparent = pg_class.oid) END,
       CASE WHEN relispartition THEN (
           SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = pg_class.oid LIMIT 1) END,
       -- Citus leaves the file of a distributed table on the coordinator; its rows are in the shards.
       CASE WHEN part.logicalrelid IS NULL THEN pg_total_relation_size(pg_class.oid) END
FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_roles ON pg_roles.oid = relowner
LEFT JOIN pg_dist_partition AS part ON part.logicalrelid = pg_class.oid
WHERE relkind IN ('r', 'p', 'f') AND {_USER_SCHEMAS}
  AND NOT EXISTS (SELECT FROM pg_depend WHERE pg_depend.classid = 'pg_class'::regclass
                  AND pg_depend.objid = pg_class.oid AND pg_depend.deptype = 'e')
ORDER BY 3, 2
"""  # noqa: S608 # our own constants
_SHARDS = """
SELECT logicalrelid::oid::bigint, array_agg(DISTINCT shardid), array_agg(shardid), array_agg(groupid)
FROM pg_dist_shard JOIN pg_dist_placement USING (shardid) GROUP BY logicalrelid
"""
_SCHEMAS = f"""
SELECT quote_ident(nspname), rolname::text, tenant.colocationid, count(pg_class.oid), array_agg(pg_class.oid::bigint)
FROM pg_namespace
JOIN pg_roles ON pg_roles.oid = nspowner
LEFT JOIN pg_dist_schema AS tenant ON tenant.schemaid = pg_namespace.oid
LEFT JOIN pg_class ON relnamespace = pg_namespace.oid AND relkind IN ('r', 'p', 'f')
WHERE {_USER_SCHEMAS}
GROUP BY 1, 2, 3 ORDER BY 1
"""  # noqa: S608 # our own constants


@dataclass(frozen=True)
class Relation:
    """A table: ``name`` is what SQL accepts with only ``pg_catalog`` in the search path."""

    oid: int
    name: str
    kind: TableKind


async def find_table(conn: Connection, text: str) -> Relation:
    """Find a table by its name as SQL accepts it, with ``public`` in the search path.

    Raises NotFoundError, and UsageError for a text that is no name, and for what is no table of a user.
    """
    try:
        async with bounded(conn, QUICK_S):
            # Only for this one function, which runs no code of other roles.
            await conn.execute("SELECT set_config('search_path', 'pg_catalog, public', true)")
            cursor = await conn.execute("SELECT to_regclass(%s)::oid::bigint", [text])
            row = await cursor.fetchone()
            oid = row[0] if row else None
            await conn.execute("SELECT set_config('search_path', 'pg_catalog', true)")
            if oid is None:
                raise NotFoundError("There is no such table.", hint=await _suggest(conn, text))
            cursor = await conn.execute(
                f"SELECT pg_class.oid::regclass::text, relkind::text, {KIND}, "  # noqa: S608
                f"relpersistence <> 't' AND NOT ({_USER_SCHEMAS}) "
                "FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
                "LEFT JOIN pg_dist_partition AS part ON part.logicalrelid = pg_class.oid WHERE pg_class.oid = %s",
                [oid],
            )
            found = await cursor.fetchone()
    except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError, psycopg.errors.FeatureNotSupported) as error:
        raise UsageError(
            f"This is not the name of a table: {describe(error)}.",
            hint='Write the name as in SQL, with double quotes around special characters: orders, sales."Odd Name".',
        ) from error
    if found is None or found[1] not in _TABLE_KINDS:
        raise UsageError("This is not a table, but a view, an index, or a sequence.")
    if found[3]:
        raise UsageError(f"{found[0]} is a system table: it belongs to PostgreSQL, an extension, or citus-cluster.")
    return Relation(oid, found[0], TableKind(found[2]))


async def _suggest(conn: Connection, text: str) -> str:
    cursor = await conn.execute(
        "SELECT oid::regclass::text FROM pg_class "
        "WHERE relkind IN ('r', 'p', 'f') AND lower(relname) = lower(%s) "
        "AND relnamespace <> 'pg_catalog'::regnamespace ORDER BY 1 LIMIT 3",
        [text.rpartition(".")[2].strip('"')],
    )
    names = [bare_name(row[0]) for row in await cursor.fetchall()]
    if names:
        return f"Is it one of these? {', '.join(names)}"
    return (
        "List the tables: citus-cluster tables list. Write a name as in SQL, with double quotes around special "
        'characters: sales."Odd Name".'
    )


async def find_schema(conn: Connection, text: str) -> tuple[int, str]:
    """Return the OID and the quoted name of a schema; errors as in :func:`find_table`."""
    try:
        async with bounded(conn, QUICK_S):
            cursor = await conn.execute(
                "SELECT oid::bigint, quote_ident(nspname) FROM pg_namespace WHERE oid = to_regnamespace(%s)", [text]
            )
            row = await cursor.fetchone()
    except (psycopg.errors.InvalidName, psycopg.errors.SyntaxError) as error:
        raise UsageError(
            f"This is not the name of a schema: {describe(error)}.",
            hint='Write the name as in SQL, with double quotes around special characters: sales, "Odd Name".',
        ) from error
    if row is None:
        raise NotFoundError("There is no such schema.", hint="List the schemas: citus-cluster schemas list")
    return row[0], row[1]


async def list_tables(conn: Connection, sizes: Sizes) -> tuple[TableListRow, ...]:
    """Return every table that belongs to no extension and no system schema."""
    async with bounded(conn, LIST_TIMEOUT_S):
        cursor = await conn.execute(_SHARDS)
        placed = {row[0]: row[1:] for row in await cursor.fetchall()}
        cursor = await conn.execute(_TABLES.encode())
        rows = await cursor.fetchall()
    found = []
    for row in rows:
        oid, name, schema, kind, column, colocation, owner, method, identity, partitions, parent, local_bytes = row
        shards, placements, groups = placed.get(oid, ([], [], []))
        found.append(
            TableListRow(
                oid=oid,
                table=bare_name(name),
                schema=schema,
                kind=TableKind(kind),
                distribution_column=column,
                colocation_id=colocation,
                shards=len(shards),
                bytes=local_bytes if local_bytes is not None else _sum(sizes, placements, groups),
                owner=owner,
                access_method=method,
                identity=identity,
                partitions=partitions,
                partition_of=None if parent is None else bare_name(parent),
            )
        )
    return tuple(found)


def _sum(sizes: Sizes, shards: Iterable[int], groups: Iterable[int]) -> int | None:
    total = 0
    for shard, group in zip(shards, groups, strict=True):
        if group not in sizes:
            return None
        total += sizes[group].get(shard) or 0
    return total


async def list_schemas(
    conn: Connection, nodes: Iterable[RegisteredNode], tables: Iterable[TableListRow]
) -> tuple[SchemaListRow, ...]:
    """Return every schema of users, with the number and size of its tables."""
    by_oid = {table.oid: table for table in tables}
    names = {node.group_id: str(node.address) for node in nodes if node.role == "primary"}
    homes = await _homes(conn)
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(_SCHEMAS.encode())
        rows = await cursor.fetchall()
    found = []
    for schema, owner, colocation, count, oids in rows:
        sizes = [by_oid[oid].bytes for oid in oids if oid in by_oid]
        home = homes.get(colocation) if colocation else None
        found.append(
            SchemaListRow(
                schema=schema,
                owner=owner,
                distributed=colocation is not None,
                colocation_id=colocation,
                node=names.get(home) if home is not None else None,
                tables=count,
                bytes=None if None in sizes else sum(size for size in sizes if size is not None),
            )
        )
    return tuple(found)


async def _homes(conn: Connection) -> Mapping[int, int]:
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT colocationid, min(groupid) FROM pg_dist_schema JOIN pg_dist_partition USING (colocationid) "
            "JOIN pg_dist_shard USING (logicalrelid) JOIN pg_dist_placement USING (shardid) GROUP BY 1"
        )
        return {row[0]: row[1] for row in await cursor.fetchall()}
