"""What PgBouncer needs on the coordinator: a role, and a function that returns the secret of one other role to it.

The function exists only on the coordinator. The role exists on every node, because Citus copies each role to a worker
that is added. On a worker, this role owns nothing and has no privileges.

The function returns only SCRAM secrets, with which a reader can check a password but not log in, unlike with an md5
hash. It returns no secrets of superusers and of roles that replicate or bypass row security, which connect to the
coordinator itself, and none of this program's own roles.
"""

from dataclasses import dataclass

from psycopg import sql

from citus_cluster.errors import RoleError
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.pooling import POOLER_ROLE
from citus_cluster.runtime.citus.nodes import prepare_schema
from citus_cluster.runtime.citus.ownership import create_owner_record
from citus_cluster.runtime.citus.roles import silent
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded
from citus_cluster.runtime.scram import hashed, opens

FUNCTION = "citus_cluster.pgbouncer_secret(text)"
_MARK = "Made by citus-cluster: PgBouncer asks as this role for the secrets of the clients that log in."
_SESSIONS = 5
"""PgBouncer opens one, and briefly a second when it replaces the first; the limit must not affect logins of clients."""
_ATTRIBUTES = (
    f"LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT {_SESSIONS} "
    "VALID UNTIL 'infinity'"
)
_BODY = f"""
    SELECT role.rolname::text, role.rolpassword
    FROM pg_authid AS role
    WHERE role.rolname = $1 AND role.rolcanlogin
      AND NOT role.rolsuper AND NOT role.rolreplication AND NOT role.rolbypassrls
      AND role.rolname NOT IN ('{POOLER_ROLE}', '{READER_ROLE}')
      AND NOT EXISTS (SELECT FROM citus_cluster.owner_role AS own WHERE own.rolename = role.rolname)
      AND starts_with(role.rolpassword, 'SCRAM-SHA-256$')
      AND (role.rolvaliduntil IS NULL OR role.rolvaliduntil > now())
"""  # noqa: S608 # our own constants
_LOOK_AT_ROLE = """
SELECT rolpassword, shobj_description(oid, 'pg_authid') = %(mark)s,
       rolcanlogin AND NOT rolsuper AND NOT rolcreatedb AND NOT rolcreaterole AND NOT rolreplication
       AND NOT rolbypassrls AND rolconnlimit = %(sessions)s
       AND (rolvaliduntil IS NULL OR rolvaliduntil = 'infinity')
       AND has_schema_privilege(oid, to_regnamespace('citus_cluster'), 'USAGE')
       AND has_database_privilege(oid, current_database(), 'CONNECT')
FROM pg_authid WHERE rolname = %(role)s
"""
_LOOK_AT_FUNCTION = """
SELECT to_regclass('citus_cluster.owner_role') IS NOT NULL
       AND prosrc = %(body)s AND prosecdef AND provolatile = 's' AND proconfig = '{search_path=pg_catalog}'
       AND proowner = current_user::regrole
       AND (SELECT count(*) = 2 AND bool_and(grantee IN (proowner, to_regrole(%(role)s))) FROM aclexplode(proacl))
FROM pg_proc WHERE oid = to_regprocedure(%(function)s)
"""


@dataclass(frozen=True)
class Pooler:
    """The state of PgBouncer's role and function: whether the role exists, and whether each is correct."""

    exists: bool
    role: bool
    password: bool
    function: bool

    @property
    def ready(self) -> bool:
        return self.exists and self.role and self.password and self.function


async def look_at_pooler(conn: Connection, password: str) -> Pooler:
    """Read the state of PgBouncer's role and function. Raises RoleError for a role that this tool did not create."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(_LOOK_AT_ROLE, {"mark": _MARK, "sessions": _SESSIONS, "role": POOLER_ROLE})
        role = await cursor.fetchone()
        cursor = await conn.execute(_LOOK_AT_FUNCTION, {"body": _BODY, "function": FUNCTION, "role": POOLER_ROLE})
        function = await cursor.fetchone()
    if role is None:
        return Pooler(exists=False, role=False, password=False, function=bool(function and function[0]))
    if not role[1]:
        raise RoleError(
            f"Role {POOLER_ROLE!r} exists, but citus-cluster did not create it, and PgBouncer needs this name. Nothing "
            "was changed.",
            hint=f'Rename it (ALTER ROLE "{POOLER_ROLE}" RENAME TO ...) and set its password again, or remove '
            "pgbouncer from --services.",
        )
    return Pooler(True, bool(role[2]), opens(str(role[0]), password), bool(function and function[0]))


async def prepare_pooler(conn: Connection, password: str, found: Pooler) -> None:
    """Create or correct the role and the function, in one transaction."""
    await create_owner_record(conn)
    role = sql.Identifier(POOLER_ROLE)
    async with silent(conn, POOLER_ROLE):
        cursor = await conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [POOLER_ROLE])
        is_new = await cursor.fetchone() is None
        if is_new:
            await conn.execute(sql.SQL("CREATE ROLE {}").format(role))
        await conn.execute(sql.SQL("ALTER ROLE {} " + _ATTRIBUTES).format(role))
        if not found.password:
            await conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, hashed(conn, POOLER_ROLE, password)))
        # Changes before this apply to every node, changes after it only to the coordinator.
        await prepare_schema(conn)
        if is_new:
            await conn.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, _MARK))
        await conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(conn.info.dbname), role))
        await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA citus_cluster TO {}").format(role))
        await conn.execute(f"DROP FUNCTION IF EXISTS {FUNCTION}")
        await conn.execute(
            sql.SQL(
                "CREATE FUNCTION citus_cluster.pgbouncer_secret(text) RETURNS TABLE (rolname text, secret text) "
                "LANGUAGE sql STABLE STRICT SECURITY DEFINER ROWS 1 SET search_path = pg_catalog AS {}"
            ).format(_BODY)
        )
        await conn.execute(f"REVOKE ALL ON FUNCTION {FUNCTION} FROM PUBLIC")
        await conn.execute(sql.SQL("GRANT EXECUTE ON FUNCTION citus_cluster.pgbouncer_secret(text) TO {}").format(role))


async def has_pooler_role(conn: Connection) -> bool:
    """Return whether the role that this tool creates for PgBouncer exists."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT FROM pg_roles WHERE rolname = %s AND shobj_description(oid, 'pg_authid') = %s", [POOLER_ROLE, _MARK]
        )
        return await cursor.fetchone() is not None
