"""The facts about a table that decide whether Citus accepts a change of it, from the coordinator's own catalog."""

from collections.abc import Mapping
from collections.abc import Sequence as Rows
from typing import Any, LiteralString

from psycopg import sql

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import Registry
from citus_cluster.model.citus.table_facts import (
    Column,
    Dependent,
    FollowUp,
    ForeignKey,
    Sequence,
    ServerFacts,
    Session,
    TableFacts,
    UniqueKey,
)
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.runtime.citus import disks as citus_disks
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.citus.decoding import allowed_libraries
from citus_cluster.runtime.citus.relations import HAS_IDENTITY
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.shards import KIND
from citus_cluster.runtime.postgres import Connection, bounded

_FAMILY = """
family AS (
    SELECT %(oid)s::oid AS oid
    UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid::regclass)
)
"""
_RELATION = f"""
WITH {_FAMILY}
SELECT pg_class.oid::regclass::text, {KIND}, relkind::text, pg_get_userbyid(relowner)::text,
       quote_ident(nspname), EXISTS (SELECT FROM pg_dist_schema WHERE schemaid = relnamespace), relpersistence::text,
       coalesce(part.colocationid, 0), column_to_column_name(part.logicalrelid, part.partkey),
       (SELECT count(*) FROM pg_dist_shard WHERE logicalrelid = pg_class.oid),
       CASE WHEN relispartition THEN
           (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = pg_class.oid LIMIT 1) END,
       ARRAY(SELECT oid::regclass::text FROM family WHERE oid <> pg_class.oid ORDER BY 1),
       ARRAY(SELECT nested.oid::regclass::text FROM family JOIN pg_class AS nested USING (oid)
             WHERE oid <> %(oid)s::oid AND nested.relkind = 'p' ORDER BY 1),
       ARRAY(SELECT far.oid::regclass::text FROM family JOIN pg_class AS far USING (oid)
             WHERE far.relkind = 'f' ORDER BY 1),
       CASE WHEN NOT relispartition THEN
           ARRAY(SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = pg_class.oid) ELSE '{{}}' END,
       CASE WHEN relkind <> 'p' THEN
           ARRAY(SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = pg_class.oid) ELSE '{{}}' END,
       ARRAY(SELECT other.logicalrelid::text FROM pg_dist_partition AS other
             WHERE part.colocationid > 0 AND other.colocationid = part.colocationid
             AND other.logicalrelid NOT IN (SELECT oid FROM family) ORDER BY 1),
       (SELECT sum(pg_relation_size(oid))::bigint FROM family),
       (SELECT sum(pg_total_relation_size(oid))::bigint FROM family),
       (SELECT extname::text FROM pg_depend JOIN pg_extension ON pg_extension.oid = refobjid
        WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e' LIMIT 1)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
LEFT JOIN pg_dist_partition AS part ON part.logicalrelid = pg_class.oid
WHERE pg_class.oid = %(oid)s::oid
"""  # noqa: S608 # our own constants
# A hash operator class as GetDefaultOpClass() finds it: of the base type, of all such types, or of one that it is
# binary coercible to.
_COLUMNS = """
SELECT attname::text, quote_ident(attname), format_type(atttypid, atttypmod), attnotnull, attgenerated::text,
       EXISTS (SELECT FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod WHERE amname = 'hash' AND opcdefault
               AND (opcintype = base.oid
                    OR opcintype = CASE base.typtype WHEN 'e' THEN 'anyenum'::regtype WHEN 'c' THEN 'record'::regtype
                        WHEN 'r' THEN 'anyrange'::regtype WHEN 'm' THEN 'anymultirange'::regtype END
                    OR base.typcategory = 'A' AND opcintype = 'anyarray'::regtype
                    OR EXISTS (SELECT FROM pg_cast WHERE castsource = base.oid AND casttarget = opcintype
                               AND castmethod = 'b' AND castcontext = 'i'))),
       coalesce((SELECT collisdeterministic FROM pg_collation WHERE pg_collation.oid = attcollation), true),
       base.oid = 'numeric'::regtype AND atttypmod >= 4 AND ((atttypmod - 4) & 2047) >= 1024
FROM pg_attribute
CROSS JOIN LATERAL (
    WITH RECURSIVE down AS (
        SELECT oid, typbasetype, typtype, typcategory FROM pg_type WHERE oid = atttypid
        UNION ALL
        SELECT pg_type.oid, pg_type.typbasetype, pg_type.typtype, pg_type.typcategory
        FROM down JOIN pg_type ON pg_type.oid = down.typbasetype)
    SELECT oid, typtype, typcategory FROM down WHERE typbasetype = 0) AS base
WHERE attrelid = %s::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_KEYS = f"""
WITH {_FAMILY}
SELECT indrelid::regclass::text, indexrelid::regclass::text, quote_ident(conname), coalesce(indisprimary, false),
       contype IS NOT DISTINCT FROM 'x',
       ARRAY(SELECT attname::text FROM unnest(indkey::smallint[]) WITH ORDINALITY AS key(attnum, place)
             JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = key.attnum
             WHERE contype IS DISTINCT FROM 'x' OR EXISTS (
                 SELECT FROM pg_amop WHERE amopopr = conexclop[place] AND amopstrategy = CASE amopmethod
                     WHEN (SELECT oid FROM pg_am WHERE amname = 'btree') THEN 3
                     WHEN (SELECT oid FROM pg_am WHERE amname = 'hash') THEN 1 END)
             ORDER BY place),
       indexprs IS NULL AND indpred IS NULL AND contype IS DISTINCT FROM 'x'
       AND indnatts = indnkeyatts AND NOT coalesce(condeferrable, false)
FROM family JOIN pg_index ON indrelid = family.oid
JOIN pg_class AS index ON index.oid = indexrelid
LEFT JOIN pg_constraint ON conindid = indexrelid AND conrelid = indrelid AND contype IN ('p', 'u', 'x')
WHERE (indisunique OR indisexclusion) AND NOT index.relispartition
ORDER BY 1, 2
"""  # noqa: S608 # our own constants
_FOREIGN_KEYS = f"""
WITH {_FAMILY}, keys AS (
    SELECT pg_constraint.* FROM pg_constraint
    WHERE contype = 'f' AND conparentid = 0
      AND (conrelid IN (SELECT oid FROM family) OR confrelid IN (SELECT oid FROM family))
)
SELECT quote_ident(conname), conrelid::regclass::text, confrelid::regclass::text,
       (SELECT {KIND} FROM pg_class LEFT JOIN pg_dist_partition AS part ON part.logicalrelid = pg_class.oid
        WHERE pg_class.oid = conrelid),
       (SELECT {KIND} FROM pg_class LEFT JOIN pg_dist_partition AS part ON part.logicalrelid = pg_class.oid
        WHERE pg_class.oid = confrelid),
       coalesce((SELECT colocationid FROM pg_dist_partition WHERE logicalrelid = confrelid), 0),
       (SELECT column_to_column_name(logicalrelid, partkey) FROM pg_dist_partition WHERE logicalrelid = confrelid),
       ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS key(attnum, place)
             JOIN pg_attribute ON attrelid = conrelid AND pg_attribute.attnum = key.attnum ORDER BY place),
       ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS key(attnum, place)
             JOIN pg_attribute ON attrelid = confrelid AND pg_attribute.attnum = key.attnum ORDER BY place),
       confdeltype::text, confupdtype::text,
       (confdeltype = 'd' OR confupdtype = 'd') AND EXISTS (
           SELECT FROM pg_attrdef JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
           JOIN pg_class ON refclassid = 'pg_class'::regclass AND refobjid = pg_class.oid AND relkind = 'S'
           WHERE adrelid = conrelid AND adnum = ANY (conkey))
FROM keys ORDER BY 2, 1
"""  # noqa: S608 # our own constants
_TRIGGERS = f"""
WITH {_FAMILY}
SELECT tgrelid::regclass::text, quote_ident(tgname) FROM family JOIN pg_trigger ON tgrelid = family.oid
WHERE NOT tgisinternal AND tgparentid = 0 AND tgname NOT LIKE 'truncate\\_trigger\\_%%' ORDER BY 1, 2
"""  # noqa: S608 # our own constants
_POLICIES = f"""
WITH {_FAMILY}
SELECT polrelid::regclass::text, quote_ident(polname) FROM family JOIN pg_policy ON polrelid = family.oid
WHERE concat(polqual::text, polwithcheck::text) LIKE '%%SUBLINK%%' ORDER BY 1, 2
"""  # noqa: S608 # our own constants
_SEQUENCES = """
SELECT DISTINCT attname::text, quote_ident(attname), format_type(atttypid, NULL)
FROM pg_attribute
JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
JOIN pg_class ON refclassid = 'pg_class'::regclass AND refobjid = pg_class.oid AND relkind = 'S'
WHERE attrelid = %(oid)s::oid
UNION
SELECT attname::text, quote_ident(attname), format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = %(oid)s::oid AND attidentity <> '' ORDER BY 1
"""
_VIEWS = f"""
WITH RECURSIVE {_FAMILY}, found AS (
    SELECT ev_class AS oid FROM pg_depend JOIN pg_rewrite ON classid = 'pg_rewrite'::regclass
        AND objid = pg_rewrite.oid
    WHERE refclassid = 'pg_class'::regclass AND refobjid IN (SELECT oid FROM family) AND ev_class <> refobjid
    UNION
    SELECT ev_class FROM found JOIN pg_depend ON refclassid = 'pg_class'::regclass AND refobjid = found.oid
    JOIN pg_rewrite ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
    WHERE ev_class <> found.oid
)
SELECT found.oid::regclass::text FROM found JOIN pg_class USING (oid) WHERE relkind IN ('v', 'm') ORDER BY 1
"""  # noqa: S608 # our own constants
_DEPENDENTS = f"""
WITH {_FAMILY}, types AS (
    SELECT pg_type.oid FROM family JOIN pg_type ON typrelid = family.oid
    UNION SELECT typarray FROM family JOIN pg_type ON typrelid = family.oid WHERE typarray <> 0
)
SELECT 'function ' || objid::regprocedure::text, format('DROP FUNCTION %%s;', objid::regprocedure)
FROM pg_depend JOIN types ON refclassid = 'pg_type'::regclass AND refobjid = types.oid
WHERE classid = 'pg_proc'::regclass
UNION
SELECT format('column %%I of %%s', attname, objid::regclass),
       format('ALTER TABLE %%s DROP COLUMN %%I;', objid::regclass, attname)
FROM pg_depend JOIN types ON refclassid = 'pg_type'::regclass AND refobjid = types.oid
JOIN pg_class ON pg_class.oid = objid AND relkind IN ('r', 'p')
JOIN pg_attribute ON attrelid = objid AND attnum = objsubid
WHERE classid = 'pg_class'::regclass AND objsubid > 0 AND objid NOT IN (SELECT oid FROM family) ORDER BY 1
"""  # noqa: S608 # our own constants
_LOSSES = f"""
WITH {_FAMILY}
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid IN (SELECT oid FROM family) AND attidentity <> ''),
       EXISTS (SELECT FROM pg_index WHERE indrelid IN (SELECT oid FROM family) AND indisclustered),
       (SELECT count(*) FROM pg_description
        WHERE classoid = 'pg_class'::regclass AND objoid IN (SELECT oid FROM family)),
       ARRAY(SELECT quote_ident(rulename) FROM pg_rewrite
             WHERE ev_class IN (SELECT oid FROM family) AND rulename <> '_RETURN' ORDER BY 1),
       ARRAY(SELECT oid::regclass::text FROM pg_class
             WHERE relacl IS NOT NULL AND oid::regclass::text = ANY (%(views)s) ORDER BY 1)
"""  # noqa: S608 # our own constants
_CONNECTED = """
WITH RECURSIVE found AS (
    SELECT %(oid)s::oid AS oid
    UNION
    SELECT CASE WHEN conrelid = found.oid THEN confrelid ELSE conrelid END
    FROM found JOIN pg_constraint ON contype = 'f' AND conparentid = 0 AND found.oid IN (conrelid, confrelid)
)
SELECT found.oid::bigint FROM found JOIN pg_class USING (oid) WHERE NOT relispartition AND found.oid <> %(oid)s::oid
ORDER BY 1
"""
_BARE = f"""
WITH {_FAMILY}
SELECT pg_class.oid::regclass::text FROM family JOIN pg_class USING (oid)
WHERE relkind = 'r' AND NOT {HAS_IDENTITY} ORDER BY 1
"""  # noqa: S608 # our own constants
# Locks with which a change of the table conflicts, held by transactions that do not end at once.
_SESSIONS = f"""
WITH {_FAMILY}
SELECT DISTINCT activity.pid, coalesce(nullif(application_name, ''), backend_type),
       extract(epoch FROM now() - xact_start)::int
FROM family JOIN pg_locks ON relation = family.oid AND locktype = 'relation' AND granted
    AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
JOIN pg_stat_activity AS activity USING (pid)
WHERE mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
               'AccessExclusiveLock')
  AND pid <> pg_backend_pid() AND now() - xact_start > interval '1 second' ORDER BY 1
"""  # noqa: S608 # our own constants


async def _all(conn: Connection, query: str, oid: int) -> Rows[Any]:
    cursor = await conn.execute(query.encode(), {"oid": oid})
    return await cursor.fetchall()


async def read_table(conn: Connection, oid: int, *, sizes: citus_shards.Sizes | None = None) -> TableFacts:
    """Return the facts about one table with its partitions; ``sizes`` are those of all nodes, if they are needed."""
    async with bounded(conn, QUICK_S):
        (relation,) = await _all(conn, _RELATION, oid)
        cursor = await conn.execute(_COLUMNS.encode(), [oid])
        columns = tuple(Column(*row) for row in await cursor.fetchall())
        keys = await _all(conn, _KEYS, oid)
        foreign_keys = await _all(conn, _FOREIGN_KEYS, oid)
        triggers = await _all(conn, _TRIGGERS, oid)
        policies = await _all(conn, _POLICIES, oid)
        sequences = await _all(conn, _SEQUENCES, oid)
        views = await _all(conn, _VIEWS, oid)
        bare = await _all(conn, _BARE, oid)
        sessions = await _all(conn, _SESSIONS, oid)
        dependents = await _all(conn, _DEPENDENTS, oid)
        cursor = await conn.execute(_LOSSES.encode(), {"oid": oid, "views": [row[0] for row in views]})
        (losses,) = await cursor.fetchall()
    kind = TableKind(relation[1])
    is_local = kind is TableKind.LOCAL
    column = next((one for one in columns if one.name == relation[8]), None)
    return TableFacts(
        oid=oid,
        name=relation[0],
        kind=kind,
        relkind=relation[2],
        owner=relation[3],
        schema=relation[4],
        schema_distributed=relation[5],
        persistence=relation[6],
        colocation_id=relation[7],
        distribution_column=relation[8],
        distribution_type=column.type if column else None,
        shard_count=relation[9],
        partition_of=relation[10],
        partitions=tuple(relation[11]),
        nested_partitions=tuple(relation[12]),
        foreign=tuple(relation[13]),
        parents=tuple(relation[14]),
        children=tuple(relation[15]),
        triggers=tuple((row[0], row[1]) for row in triggers),
        policies=tuple((row[0], row[1]) for row in policies),
        unique_keys=tuple(_unique_key(row) for row in keys),
        foreign_keys=tuple(_foreign_key(row) for row in foreign_keys),
        columns=columns,
        sequences=tuple(Sequence(*row) for row in sequences),
        views=tuple(row[0] for row in views),
        colocated=tuple(relation[16]),
        without_identity=tuple(row[0] for row in bare),
        bytes=relation[18] if is_local else await _shard_bytes(conn, oid, sizes),
        leftover_bytes=0 if is_local else relation[17] or 0,
        blockers=tuple(Session(*row) for row in sessions),
        extension=relation[19],
        has_identity_column=losses[0],
        is_clustered=losses[1],
        dependents=tuple(Dependent(row[0], row[1]) for row in dependents),
        comments=losses[2],
        rules=tuple(losses[3]),
        granted_views=tuple(losses[4]),
    )


def _unique_key(row: Rows[Any]) -> UniqueKey:
    return UniqueKey(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), row[6])


def _foreign_key(row: Rows[Any]) -> ForeignKey:
    return ForeignKey(
        name=row[0],
        from_table=row[1],
        to_table=row[2],
        from_kind=TableKind(row[3]),
        to_kind=TableKind(row[4]),
        to_colocation=row[5],
        to_column=row[6],
        pairs=tuple(zip(row[7], row[8], strict=True)),
        on_delete=FollowUp(row[9]),
        on_update=FollowUp(row[10]),
        sets_sequence=row[11],
    )


async def _shard_bytes(conn: Connection, oid: int, sizes: citus_shards.Sizes | None) -> int | None:
    if sizes is None:
        return None
    async with bounded(conn, QUICK_S):
        rows = await _all(
            conn,
            f"WITH {_FAMILY} SELECT shardid, groupid FROM pg_dist_shard JOIN pg_dist_placement USING (shardid) "  # noqa: S608
            "WHERE logicalrelid IN (SELECT oid FROM family)",
            oid,
        )
    found = [sizes[group].get(shard) if group in sizes else None for shard, group in rows]
    return None if None in found else sum(size for size in found if size is not None)


async def connected_tables(conn: Connection, oid: int) -> tuple[int, ...]:
    """Return the tables that foreign keys connect with a table, directly or through others, without itself."""
    async with bounded(conn, QUICK_S):
        return tuple(row[0] for row in await _all(conn, _CONNECTED, oid))


async def colocated_tables(conn: Connection, colocation_id: int) -> tuple[int, ...]:
    """Return the tables of a colocation group, without partitions."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT logicalrelid::oid::bigint FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid "
            "WHERE colocationid = %s AND NOT relispartition ORDER BY 1",
            [colocation_id],
        )
        return tuple(row[0] for row in await cursor.fetchall())


async def schema_tables(conn: Connection, schema_oid: int) -> tuple[int, ...]:
    """Return the tables of a schema, without partitions."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT oid::bigint FROM pg_class WHERE relnamespace = %s::oid AND relkind IN ('r', 'p', 'f') "
            "AND NOT relispartition ORDER BY 1",
            [schema_oid],
        )
        return tuple(row[0] for row in await cursor.fetchall())


async def is_distributed_schema(conn: Connection, schema_oid: int) -> bool:
    """Return whether a schema is distributed."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT EXISTS (SELECT FROM pg_dist_schema WHERE schemaid = %s::oid)", [schema_oid])
        row = await cursor.fetchone()
    return bool(row and row[0])


async def first_shard(conn: Connection, table_oid: int) -> int | None:
    """Return the smallest number of a table's shards."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT min(shardid) FROM pg_dist_shard WHERE logicalrelid = %s::oid", [table_oid])
        row = await cursor.fetchone()
    return row[0] if row else None


async def extensions_in(conn: Connection, schema_oid: int) -> tuple[str, ...]:
    """Return the extensions whose objects are in a schema, or that own it, quoted."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT quote_ident(extname) FROM pg_extension WHERE extnamespace = %s::oid ORDER BY 1", [schema_oid]
        )
        return tuple(row[0] for row in await cursor.fetchall())


async def has_nulls(conn: Connection, table: LiteralString, column: str) -> bool:
    """Return whether a column has a row without a value. ``table`` is a quoted name.

    Raises QueryCanceled if that takes too long, and LockNotAvailable.
    """
    async with bounded(conn, QUICK_S):
        await conn.execute("SET LOCAL row_security = off")
        cursor = await conn.execute(
            sql.SQL("SELECT EXISTS (SELECT 1 FROM {} WHERE {} IS NULL)").format(
                sql.SQL(table),  # quoted by regclass
                sql.Identifier(column),
            )
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def read_server(conn: Connection, registry: Registry, silent: Mapping[NodeAddress, str]) -> ServerFacts:
    """Return what the nodes allow; ``silent`` are those that do not answer, with the reason."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT coalesce(current_setting('citus.enable_unsafe_triggers', true), 'off') = 'on', "
            "coalesce(current_setting('citus.allow_unsafe_constraints', true), 'off') = 'on', "
            "quote_ident(current_user)"
        )
        row = await cursor.fetchone()
    triggers, constraints, user = row or (False, False, "postgres")
    plugins = await allowed_libraries(conn)
    disks = await citus_disks.read_disks(conn) if not silent else ()
    return ServerFacts(
        free_bytes={disk.holder: disk.available_bytes for disk in disks},
        holders=tuple(
            str(node.address)
            for node in registry.nodes
            if node.is_active and node.should_have_shards and node.role == "primary"
        ),
        silent=tuple(silent.values()),
        unsafe_triggers=triggers,
        unsafe_constraints=constraints,
        plugins=plugins,
        user=user,
        running_job=await citus_rebalance.running_job_id(conn),
        registered=registry.coordinator is not None,
    )
