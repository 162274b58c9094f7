"""The role with which the admin API reads: it is a member of pg_monitor, owns nothing, and writes nothing.

It exists on every node, because it asks each node itself: only a superuser may let the coordinator ask another node.
"""

from dataclasses import replace

from psycopg import sql

from citus_cluster.errors import RoleError
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus.nodes import prepare_schema
from citus_cluster.runtime.citus.roles import silent
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, bounded, connect
from citus_cluster.runtime.scram import hashed

_MARK = "Made by citus-cluster: the admin API reads as this role."
_ATTRIBUTES = (
    "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 20 VALID UNTIL 'infinity'"
)
_LOOK = "SELECT coalesce(shobj_description(oid, 'pg_authid') = %s, false) FROM pg_roles WHERE rolname = %s"


async def prepare_reader(conn: Connection, password: str) -> None:
    """Create the role, or correct it and set its password, on every node, in one transaction.

    ``conn`` is a superuser's connection to the coordinator. Raises RoleError for a role that this tool did not create.
    """
    async with bounded(conn, QUICK_S):
        found = await (await conn.execute(_LOOK, [_MARK, READER_ROLE])).fetchone()
    if found is not None and not found[0]:
        raise RoleError(
            f"Role {READER_ROLE!r} exists, but citus-cluster did not create it.",
            hint=f'Rename it: ALTER ROLE "{READER_ROLE}" RENAME TO ...',
        )
    role = sql.Identifier(READER_ROLE)
    async with silent(conn, READER_ROLE):
        if found is None:
            await conn.execute(sql.SQL("CREATE ROLE {}").format(role))
        await conn.execute(sql.SQL("ALTER ROLE {} " + _ATTRIBUTES).format(role))
        await conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, hashed(conn, READER_ROLE, password)))
        await conn.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role))
        await conn.execute(sql.SQL("GRANT pg_monitor TO {}").format(role))
        # Changes before this apply to every node, changes after it only to the coordinator.
        await prepare_schema(conn)
        await conn.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, _MARK))
        await conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(conn.info.dbname), role))
        await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA citus_cluster TO {}").format(role))
        await conn.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA citus_cluster TO {}").format(role))
        # Some of our tables are created only when they are needed.
        await conn.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA citus_cluster GRANT SELECT ON TABLES TO {}").format(role)
        )


async def log_in(info: ConnectionInfo, node: RegisteredNode, *, timeout_s: float) -> None:
    """Log in to a node directly, and out again; ``info`` is the login on the coordinator.

    Raises AuthenticationError, UnreachableError.
    """
    if not node.is_coordinator:
        info = replace(info, host=node.address.host, port=node.address.port)
    await (await connect(info, timeout_s=timeout_s)).close()


async def has_reader_role(conn: Connection) -> bool:
    """Return whether the role exists, and this tool created it."""
    async with bounded(conn, QUICK_S):
        found = await (await conn.execute(_LOOK, [_MARK, READER_ROLE])).fetchone()
    return bool(found and found[0])
