"""The role that copies shards: a table's owner instead of the superuser, and code that still runs as the superuser.

Citus creates tables, builds indexes and applies changes as the owner of a table. It copies rows as the caller, so a
check constraint, a domain, a generated column or a trigger on the target would run as the superuser.
"""

from collections.abc import Sequence

from citus_cluster.model.citus.movers import ForeignCode, Owner
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.table_changes import LOCK_TIMEOUT_S
from citus_cluster.runtime.citus.tables import MOVING
from citus_cluster.runtime.postgres import Connection, bare_name, bounded

# Tables that move together are copied as one role. Under FORCE ROW LEVEL SECURITY an owner does not see all its rows.
# Reference tables are copied only by the superuser, because the role that copies them writes their metadata.
_TABLES = """
tables AS (
    SELECT its.logicalrelid::oid AS oid, relowner, rolname, rolsuper, rolcanlogin,
           its.repmodel <> 't' AND min(relowner) OVER together = max(relowner) OVER together
           AND bool_and(NOT rolsuper AND NOT relforcerowsecurity) OVER together AS by_owner
    FROM pg_dist_partition AS its JOIN pg_class ON pg_class.oid = its.logicalrelid
    JOIN pg_roles ON pg_roles.oid = relowner
    WINDOW together AS (
        PARTITION BY its.colocationid, CASE WHEN its.colocationid = 0 THEN its.logicalrelid::oid END)
)
"""

_REFERENCE_TABLES = "SELECT logicalrelid FROM pg_dist_partition WHERE repmodel = 't'"
# Volatile only because each call returns another result: for every caller, they change nothing and read no data. Not
# nextval, which advances any sequence as the superuser, and not pg_sleep.
_HARMLESS = (
    "clock_timestamp",
    "gen_random_uuid",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
)
_WITH_PARTITIONS = """
SELECT partition.relid AS logicalrelid FROM unnest(%s::oid[]) AS root(oid)
CROSS JOIN LATERAL (SELECT root.oid AS relid UNION SELECT relid FROM pg_partition_tree(root.oid::regclass)) AS partition
"""
# Tables that are no Citus tables yet, or that get other shards.
_COPIED_TABLES = """
tables AS (
    SELECT pg_class.oid, relowner, rolname, rolsuper, rolcanlogin, false AS by_owner
    FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner WHERE pg_class.oid IN (SELECT logicalrelid FROM moving)
)
"""
_FOREIGN = f"""
, copied AS (
    SELECT oid, rolsuper FROM tables WHERE NOT by_owner AND oid IN (SELECT logicalrelid FROM moving)
), parts AS (
    SELECT copied.oid AS relation, rolsuper, format('check constraint %%I', conname) AS what, conbin::text AS tree,
           pg_constraint.tableoid AS class, pg_constraint.oid AS object
    FROM copied JOIN pg_constraint ON conrelid = copied.oid WHERE conbin IS NOT NULL
    UNION ALL
    SELECT copied.oid, rolsuper, format('generated column %%I', attname), adbin::text, pg_attrdef.tableoid,
           pg_attrdef.oid
    FROM copied JOIN pg_attrdef ON adrelid = copied.oid
    JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE attgenerated <> ''
    UNION ALL
    -- Indexes are built as the owner.
    SELECT copied.oid, rolsuper, format('index %%s', indexrelid::regclass), concat(indexprs::text, indpred::text),
           'pg_class'::regclass, indexrelid
    FROM copied JOIN pg_index ON indrelid = copied.oid WHERE rolsuper AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
    UNION ALL
    SELECT copied.oid, rolsuper, format('condition of trigger %%I', tgname), tgqual::text, pg_trigger.tableoid,
           pg_trigger.oid
    FROM copied JOIN pg_trigger ON tgrelid = copied.oid WHERE tgqual IS NOT NULL
), used AS (
    SELECT copied.oid AS relation, rolsuper, 'a column' AS by, atttypid AS type
    FROM copied JOIN pg_attribute ON attrelid = copied.oid WHERE attnum > 0 AND NOT attisdropped
    UNION
    -- A cast to a domain runs its checks, and names no function. Types that are built in run no code of roles.
    SELECT relation, rolsuper, 'an expression', refobjid
    FROM parts JOIN pg_depend ON classid = class AND objid = object WHERE refclassid = 'pg_type'::regclass
    UNION
    SELECT relation, rolsuper, by, part.type
    FROM used JOIN pg_type ON pg_type.oid = used.type CROSS JOIN LATERAL (
        SELECT typbasetype WHERE typbasetype <> 0
        UNION ALL SELECT typelem WHERE typelem <> 0
        UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = pg_type.oid
        UNION ALL SELECT rngtypid FROM pg_range WHERE rngmultitypid = pg_type.oid
        UNION ALL SELECT atttypid FROM pg_attribute WHERE typrelid <> 0 AND attrelid = typrelid AND attnum > 0
            AND NOT attisdropped
        UNION ALL SELECT refobjid FROM pg_constraint JOIN pg_depend ON classid = pg_constraint.tableoid
            AND objid = pg_constraint.oid WHERE contypid = pg_type.oid AND refclassid = 'pg_type'::regclass
        ) AS part(type)
), expressions AS (
    SELECT relation, rolsuper, what, tree FROM parts
    UNION ALL
    SELECT relation, rolsuper, format('check constraint %%I of domain %%s', conname, type::regtype), conbin::text
    FROM used JOIN pg_constraint ON contypid = type WHERE conbin IS NOT NULL
), calls AS (
    -- Not by pg_depend, which leaves out what is built in, such as functions that run SQL.
    SELECT relation, rolsuper, what, found[1]::oid AS function
    FROM expressions CROSS JOIN LATERAL regexp_matches(tree, ':(?:op)?funcid (\\d+)', 'g') AS matches(found)
    UNION
    SELECT relation, rolsuper, format('type %%s', type::regtype), unnest(ARRAY[rngcanonical, rngsubdiff]::oid[])
    FROM used JOIN pg_range ON rngtypid = type
    UNION
    SELECT copied.oid, true, format('trigger %%I', tgname), tgfoid
    FROM copied JOIN pg_trigger ON tgrelid = copied.oid WHERE NOT tgisinternal
)
SELECT relation::regclass::text, what, function::regprocedure::text,
       CASE WHEN NOT owner.rolsuper THEN owner.rolname::text END
FROM calls JOIN pg_proc ON pg_proc.oid = function JOIN pg_roles AS owner ON owner.oid = proowner
-- Who owns the table has chosen among all functions, and a volatile one does what its caller may.
WHERE NOT owner.rolsuper OR NOT calls.rolsuper AND (
    provolatile = 'v'
    AND NOT (pronamespace = 'pg_catalog'::regnamespace AND proname = ANY ('{{{",".join(_HARMLESS)}}}'))
    OR provolatile = 's' AND proname ~ '_to_xml')
UNION
SELECT relation::regclass::text, by, format('type %%s', type::regtype), owner.rolname::text
FROM used JOIN pg_type ON pg_type.oid = type JOIN pg_roles AS owner ON owner.oid = typowner
-- The owner of a domain may add a check at any time, that of a composite type a column of such a domain.
WHERE NOT owner.rolsuper AND (typtype IN ('d', 'c') OR used.rolsuper AND typtype = 'r')
ORDER BY 1, 2, 3
"""  # noqa: S608 # our own constants

_OWNERS = f"""
WITH moving AS ({MOVING}), {_TABLES}
SELECT rolname::text, rolcanlogin, (
           SELECT substring(setting from '=(.*)') FROM pg_db_role_setting CROSS JOIN unnest(setconfig) AS setting
           WHERE setrole = relowner AND setting LIKE 'statement_timeout=%%'
             AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
           ORDER BY setdatabase DESC LIMIT 1),
       array_agg(oid::regclass::text ORDER BY oid::regclass::text),
       coalesce(array_agg(oid::regclass::text ORDER BY oid::regclass::text) FILTER (WHERE by_owner), '{{}}')
FROM tables WHERE oid IN (SELECT logicalrelid FROM moving) AND NOT rolsuper
GROUP BY relowner, rolname, rolcanlogin ORDER BY 1
"""  # noqa: S608 # our own constants


async def foreign_code(conn: Connection, shard_ids: Sequence[int]) -> tuple[ForeignCode, ...]:
    """Return code of ordinary roles that would run as the superuser while these shards are copied.

    Checks the tables that move, and the reference tables that are missing on a node, unless they are copied as their
    owner. Functions that a function calls are not checked.
    """
    return await _foreign_code(conn, MOVING, [list(shard_ids)])


async def foreign_code_of_reference_tables(conn: Connection) -> tuple[ForeignCode, ...]:
    """Return the same for all reference tables, which Citus copies to a new node once any role distributes a table."""
    return await _foreign_code(conn, _REFERENCE_TABLES, [])


async def foreign_code_of_tables(conn: Connection, oids: Sequence[int]) -> tuple[ForeignCode, ...]:
    """Return the same for tables, with their partitions, whose rows are copied as the caller into new shards."""
    return await _foreign_code(conn, _WITH_PARTITIONS, [list(oids)], tables_cte=_COPIED_TABLES)


async def hold_definitions(conn: Connection, oids: Sequence[int]) -> bool:
    """Lock tables with their partitions until the caller's transaction ends, so that nobody changes their definition.

    Reads and writes go on. Only on the coordinator, where definitions change: ``LOCK`` would also lock all workers.
    Returns whether these are still the tables: their names may have changed while they were locked by their names.
    """
    async with bounded(conn, LOCK_TIMEOUT_S + QUICK_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await conn.execute(
            f"""
            SELECT lock_relation_if_exists(logicalrelid::regclass::text, 'SHARE UPDATE EXCLUSIVE')
            FROM (SELECT DISTINCT logicalrelid FROM ({_WITH_PARTITIONS}) AS found ORDER BY 1) AS moving
            """.encode(),  # noqa: S608 # our own constant
            [list(oids)],
        )
        cursor = await conn.execute(
            f"""
            SELECT NOT EXISTS (
                SELECT FROM ({_WITH_PARTITIONS}) AS moving WHERE NOT EXISTS (
                    SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
                    AND relation = logicalrelid AND mode = 'ShareUpdateExclusiveLock' AND granted))
            """.encode(),  # noqa: S608 # our own constant
            [list(oids)],
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def _foreign_code(
    conn: Connection, tables: str, parameters: Sequence[object], *, tables_cte: str = _TABLES
) -> tuple[ForeignCode, ...]:
    query = f"WITH RECURSIVE moving AS ({tables}), {tables_cte}{_FOREIGN}"
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(query.encode(), parameters)
        rows = await cursor.fetchall()
    return tuple(ForeignCode(bare_name(row[0]), row[1], row[2], row[3]) for row in rows)


async def owners(conn: Connection, shard_ids: Sequence[int]) -> tuple[Owner, ...]:
    """List the ordinary roles that own tables of these shards, or of reference tables that are copied with them."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(_OWNERS.encode(), [list(shard_ids)])
        rows = await cursor.fetchall()
    return tuple(
        Owner(row[0], row[1], row[2], tuple(map(bare_name, row[3])), tuple(map(bare_name, row[4]))) for row in rows
    )


async def hand_to_owners(conn: Connection, job_id: int) -> None:
    """Make the moves of a job that the caller's transaction has scheduled run as the owners of the tables."""
    await conn.execute(
        f"""
        WITH {_TABLES}
        UPDATE pg_dist_background_task AS task SET owner = relowner
        FROM tables JOIN pg_dist_shard ON logicalrelid = tables.oid
        WHERE by_owner AND job_id = %s
          AND shardid = substring(command from 'citus_move_shard_placement\\((\\d+),')::bigint
        """.encode(),  # noqa: S608 # our own constant
        [job_id],
    )
