"""The objects of roles, and their reassignment: one function for each query and each change.

Citus connects to the workers as the owner of a table when it moves a shard, and creates the shard there as that owner.
So a role that owns tables must be able to log in between nodes, and to create in the schema, or no shard of its tables
moves (shard_transfer.c).
"""

from collections.abc import Sequence
from typing import Any, cast

from psycopg import sql

from citus_cluster.model.citus.handover import Handover, OwnedObject, OwnerRole, Power, owner_role
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus.nodes import prepare_schema
from citus_cluster.runtime.citus.probe import ask_node
from citus_cluster.runtime.citus.roles import about, add_role, changing, silent
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded

_BATCH = 50
"""Objects in one transaction: Citus changes every shard of each."""

# "reach" follows, from each table, its own parts (indexes, constraints, defaults, policies, triggers, rules), the types
# of its columns with their constraints, and what all these call. Functions in C, and those of superusers and so of
# extensions, are not code that a role could have chosen.
_OWNED = """
WITH RECURSIVE
owned AS (
    SELECT DISTINCT classid, objid FROM pg_shdepend JOIN pg_roles AS owner ON owner.oid = refobjid
    WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o' AND rolname = {role}
      -- Its default privileges, and its passwords for foreign servers, end with the role.
      AND classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass)
      AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
      AND NOT (classid = 'pg_class'::regclass AND relation_is_a_known_shard(objid))),
reach AS (
    SELECT objid AS relation, classid, objid FROM owned WHERE classid = 'pg_class'::regclass
    UNION
    SELECT reach.relation, next.classid, next.objid
    FROM reach, LATERAL (
        SELECT classid, objid FROM pg_depend
        WHERE refclassid = reach.classid AND refobjid = reach.objid AND deptype IN ('a', 'i')
          AND refclassid IN ('pg_class'::regclass, 'pg_type'::regclass)
        UNION ALL
        SELECT refclassid, refobjid FROM pg_depend
        WHERE classid = reach.classid AND objid = reach.objid
          AND refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass)
    ) AS next
    WHERE next.objid >= 16384),
trusted AS (
    SELECT pg_proc.oid FROM pg_proc JOIN pg_roles AS owner ON owner.oid = proowner
    JOIN pg_language ON pg_language.oid = prolang WHERE rolsuper OR lanname IN ('internal', 'c')),
running AS (
    SELECT relation, min(objid::regprocedure::text) AS routine FROM reach
    WHERE classid = 'pg_proc'::regclass AND objid NOT IN (SELECT oid FROM trusted) GROUP BY 1)
SELECT json_build_object('objects', coalesce(json_agg(json_build_object(
    'kind', named.type, 'schema', named.schema, 'identity', named.identity,
    'follows', EXISTS (
        SELECT FROM pg_depend AS its WHERE relkind = 'S' AND its.classid = owned.classid AND its.objid = owned.objid
        AND refclassid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype IN ('a', 'i')),
    'definition', md5(CASE
        WHEN prokind IN ('f', 'p', 'w') THEN pg_get_functiondef(owned.objid)
        WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(owned.objid) END),
    'routine', running.routine,
    'power', CASE
        WHEN relkind IN ('v', 'm') THEN 'VIEW'
        WHEN relhasrules THEN 'RULE'
        WHEN running.routine IS NOT NULL THEN 'CODE'
        WHEN EXISTS (SELECT FROM aclexplode(relacl) WHERE privilege_type = 'TRIGGER' AND grantee <> relowner
                     AND NOT EXISTS (SELECT FROM pg_roles WHERE oid = grantee AND rolsuper)) THEN 'TRIGGER'
        WHEN prosecdef THEN 'DEFINER'
        WHEN prorettype IN ('trigger'::regtype, 'event_trigger'::regtype) THEN 'TRIGGER_FUNCTION'
        WHEN prokind = 'p' THEN 'PROCEDURE'
        WHEN prokind = 'a' THEN 'AGGREGATE'
        WHEN relkind IN ('r', 'p', 'S') OR prokind IN ('f', 'w') THEN NULL
        WHEN owned.classid IN (
            'pg_type'::regclass, 'pg_collation'::regclass, 'pg_operator'::regclass, 'pg_ts_dict'::regclass,
            'pg_ts_config'::regclass, 'pg_statistic_ext'::regclass, 'pg_namespace'::regclass,
            'pg_largeobject'::regclass) THEN NULL
        ELSE 'OTHER' END) ORDER BY owned.classid, owned.objid), '[]'))
FROM owned CROSS JOIN pg_identify_object(owned.classid, owned.objid, 0) AS named
LEFT JOIN pg_class ON owned.classid = 'pg_class'::regclass AND pg_class.oid = owned.objid
LEFT JOIN pg_proc ON owned.classid = 'pg_proc'::regclass AND pg_proc.oid = owned.objid
LEFT JOIN running ON owned.classid = 'pg_class'::regclass AND running.relation = owned.objid
"""

# While Citus moves a shard, a superuser that Citus creates is a member of the table's owner.
_POWERS = """
SELECT array_remove(ARRAY[
    CASE WHEN rolsuper THEN 'it is a superuser' END,
    CASE WHEN rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
         THEN 'one of CREATEROLE, CREATEDB, REPLICATION, BYPASSRLS' END,
    CASE WHEN EXISTS (SELECT FROM pg_auth_members WHERE member = role.oid) THEN 'it is a member of other roles' END,
    CASE WHEN EXISTS (SELECT FROM pg_auth_members JOIN pg_roles AS other ON other.oid = member
                      WHERE roleid = role.oid AND NOT other.rolsuper) THEN 'it has members' END,
    (SELECT 'privileges on ' || string_agg(DISTINCT what, ', ') FROM (
        SELECT CASE WHEN dbid IN (0, here.oid) THEN pg_describe_object(classid, objid, objsubid)
                    ELSE 'objects of another database' END AS what
        FROM pg_shdepend, (SELECT oid FROM pg_database WHERE datname = current_database()) AS here
        WHERE refclassid = 'pg_authid'::regclass AND refobjid = role.oid AND deptype = 'a'
          AND NOT (classid = 'pg_database'::regclass AND objid = here.oid)
          AND NOT (classid = 'pg_namespace'::regclass AND dbid = here.oid
                   AND objid = to_regnamespace(quote_ident(%(schema)s))) LIMIT 4) AS granted)
], NULL) FROM pg_roles AS role WHERE rolname = %(role)s
"""


async def owned_objects(conn: Connection, node: RegisteredNode, role: str) -> tuple[OwnedObject, ...]:
    """Return the objects of a role on one node, in this database or shared, without shards."""
    found = await ask_node(conn, node, about(conn, _OWNED, role))
    return tuple(_owned_object(one) for one in cast("list[dict[str, Any]]", found["objects"]))


def _owned_object(found: dict[str, Any]) -> OwnedObject:
    power = found.pop("power")
    return OwnedObject(**found, power=Power[power] if power else None)


async def read_owner_roles(conn: Connection) -> dict[str, str]:
    """Return the owner roles that this tool created: name and schema."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute("SELECT to_regclass('citus_cluster.owner_role') IS NOT NULL")).fetchone()
        if not row or not row[0]:
            return {}
        cursor = await conn.execute("SELECT rolename, schemaname FROM citus_cluster.owner_role ORDER BY 1")
        return {str(name): str(schema) for name, schema in await cursor.fetchall()}


async def look_at_owner_role(conn: Connection, schema: str) -> OwnerRole:
    """Read whether the owner role of a schema exists, and its forbidden privileges."""
    name = owner_role(schema)
    recorded = await read_owner_roles(conn)
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(_POWERS, {"role": name, "schema": schema})
        row = await cursor.fetchone()
    return OwnerRole(name, schema, row is not None, recorded.get(name) == schema, tuple(row[0]) if row else ())


async def create_owner_record(conn: Connection) -> None:
    """Create, only on the coordinator, the table of owner roles."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute("SELECT to_regclass('citus_cluster.owner_role') IS NULL")).fetchone()
        if row and row[0]:
            await prepare_schema(conn)
            await conn.execute(
                "CREATE TABLE citus_cluster.owner_role (rolename text PRIMARY KEY, schemaname text NOT NULL UNIQUE)"
            )
            await conn.execute(
                "COMMENT ON TABLE citus_cluster.owner_role IS 'Roles that own what dropped roles left, one a schema.'"
            )


async def add_owner_role(conn: Connection, schema: str, password: str) -> None:
    """Create the owner role of a schema on every node, with its row in the coordinator's ``pg_dist_authinfo``."""
    name = owner_role(schema)
    await create_owner_record(conn)
    async with silent(conn, name):
        await add_role(conn, name, password)
        await conn.execute(
            "INSERT INTO citus_cluster.owner_role (rolename, schemaname) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [name, schema],
        )


async def let_own(conn: Connection, schema: str) -> None:
    """Grant the owner role of a schema the privileges that Citus and foreign keys require of a table's owner."""
    role = sql.Identifier(owner_role(schema))
    async with changing(conn):
        await conn.execute(sql.SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(sql.Identifier(schema), role))
        await conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(conn.info.dbname), role))


async def alter_owners(conn: Connection, handover: Handover) -> None:
    """Change the owners of single objects, some in each transaction; completed changes stay."""
    altered: Sequence[OwnedObject] = tuple(handover.altered())
    for start in range(0, len(altered), _BATCH):
        async with changing(conn):
            for one in altered[start : start + _BATCH]:
                # The keywords are our own constants; the server quotes the identity.
                statement = f"ALTER {one.altered_as} {one.identity} OWNER TO "
                new_owner = sql.Identifier(handover.new_owners[one]).as_string(conn)
                await conn.execute((statement + new_owner).encode())
