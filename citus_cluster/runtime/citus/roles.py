"""Ordinary roles: one function for each query and each change.

Citus propagates roles, grants and password hashes to every node, but not the passwords with which a node connects to
the others: each node has its own ``pg_dist_authinfo``. They are sent with logging off, and an error in a transaction
that contains one never repeats the server's message.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from citus_cluster.errors import RoleError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.roles import Access, FoundRole, NodeRoles, RoleRecord, authinfo
from citus_cluster.runtime.citus.nodes import CHANGE_TIMEOUT_S, IMPATIENT, LOCK_TIMEOUT_S, prepare_schema
from citus_cluster.runtime.citus.probe import NO_LOGGING, ask, ask_node
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded, set_local
from citus_cluster.runtime.scram import hashed

# An operator may have switched these off; a role that exists only on one node is useless.
_EVERYWHERE = {
    "citus.enable_ddl_propagation": "on",
    "citus.enable_create_role_propagation": "on",
    "citus.enable_alter_role_propagation": "on",
    "citus.enable_alter_role_set_propagation": "on",
}
_KNOWN = """
SELECT json_build_object(
    'digests', (SELECT coalesce(json_object_agg(rolename, encode(sha256(convert_to(authinfo, 'UTF8')), 'hex')), '{}')
                FROM pg_dist_authinfo WHERE nodeid = 0 AND rolename <> current_user),
    'roles', (SELECT json_object_agg(rolname, json_build_object('connections', rolconnlimit, 'config', rolconfig))
              FROM pg_roles WHERE NOT starts_with(rolname, 'pg_')))
"""
# Connections between nodes belong to a session elsewhere, and end with it. A client may use any application name, so
# this is only information for people; before a role is dropped, all its sessions are ended.
_SESSIONS = """
SELECT json_build_object('count', count(*)) FROM pg_stat_activity
WHERE usename = {role} AND backend_type = 'client backend'
  AND application_name !~ '^citus_(internal|rebalancer|run_command) gpid='
"""
_END_SESSIONS = """
SELECT json_build_object('count', count(pg_terminate_backend(pid))) FROM pg_stat_activity
WHERE usename = {role} AND backend_type = 'client backend'
"""
_REMOVE_ROW = """
WITH gone AS (DELETE FROM pg_dist_authinfo WHERE nodeid = 0 AND rolename = {role} RETURNING 1)
SELECT json_build_object('count', count(*)) FROM gone
"""


async def read_records(conn: Connection) -> tuple[RoleRecord, ...]:
    """Return the roles that this tool created, by name."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute("SELECT to_regclass('citus_cluster.role') IS NOT NULL")).fetchone()
        if not row or not row[0]:
            return ()
        # Earlier versions have no column for limits.
        cursor = await conn.execute(
            "SELECT rolename, access, schemas, to_jsonb(role) -> 'limits' FROM citus_cluster.role ORDER BY 1"
        )
        return tuple(RoleRecord(str(r[0]), Access(r[1]), tuple(r[2]), r[3]) for r in await cursor.fetchall())


async def create_record(conn: Connection) -> None:
    """Create, only on the coordinator, the table of roles that this tool created."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute("SELECT to_regclass('citus_cluster.role') IS NOT NULL")).fetchone()
        if row and row[0]:
            cursor = await conn.execute(
                "SELECT 1 FROM pg_attribute WHERE attrelid = 'citus_cluster.role'::regclass AND attname = 'limits'"
            )
            if await cursor.fetchone() is None:
                await prepare_schema(conn)
                await conn.execute("ALTER TABLE citus_cluster.role ADD COLUMN limits jsonb")
            return
        await prepare_schema(conn)
        await conn.execute(
            """
            CREATE TABLE citus_cluster.role (
                rolename text PRIMARY KEY,
                access text NOT NULL,
                schemas text[] NOT NULL,
                limits jsonb,
                created_at timestamptz NOT NULL DEFAULT now())
            """
        )
        await conn.execute(
            "COMMENT ON TABLE citus_cluster.role IS 'Roles that citus-cluster has made, and what each may do where.'"
        )


async def read_roles(conn: Connection) -> Mapping[str, FoundRole]:
    """Return all roles except PostgreSQL's own, by name."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE NOT starts_with(rolname, 'pg_') ORDER BY 1"
        )
        return {str(name): FoundRole(str(name), login, super_) for name, login, super_ in await cursor.fetchall()}


async def create_schema(conn: Connection, name: str) -> None:
    """Create a schema, on every node, unless it exists."""
    async with changing(conn):
        await conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))


async def missing_schemas(conn: Connection, schemas: Sequence[str]) -> tuple[str, ...]:
    """Return those of the schemas that do not exist in this database."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regnamespace(quote_ident(name)) IS NULL",
            [list(schemas)],
        )
        return tuple(str(row[0]) for row in await cursor.fetchall())


@asynccontextmanager
async def changing(conn: Connection) -> AsyncIterator[None]:
    """Open a transaction whose statements Citus propagates to every node, and which ends in bounded time."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, {**IMPATIENT, **_EVERYWHERE})
        yield


# Passwords


async def create_role(conn: Connection, record: RoleRecord, password: str) -> None:
    """Create a role on every node, with its ``pg_dist_authinfo`` row and its record; all or nothing."""
    async with silent(conn, record.name):
        await add_role(conn, record.name, password)
        await _keep_record(conn, record)


async def add_role(conn: Connection, role: str, password: str) -> None:
    """Create a role and its row in the coordinator's ``pg_dist_authinfo``, within :func:`silent`."""
    statement = sql.SQL(
        "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD {}"
    )
    await conn.execute(statement.format(sql.Identifier(role), hashed(conn, role, password)))
    await _keep_row(conn, role, password)


async def change_password(conn: Connection, role: str, password: str) -> None:
    """Change a role's password on every node, and in the coordinator's ``pg_dist_authinfo``; all or nothing."""
    async with silent(conn, role):
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
        await conn.execute(statement.format(sql.Identifier(role), hashed(conn, role, password)))
        await _keep_row(conn, role, password)


async def keep_row(conn: Connection, role: str, password: str) -> None:
    """Write a role's row into the coordinator's ``pg_dist_authinfo``."""
    async with silent(conn, role):
        await _keep_row(conn, role, password)


async def kept_password(conn: Connection, role: str) -> str | None:
    """Return the password in the coordinator's ``pg_dist_authinfo``; None without a row, or if it has none."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT authinfo FROM pg_dist_authinfo WHERE nodeid = 0 AND rolename = %s::name", [role]
        )
        row = await cursor.fetchone()
    try:
        password = conninfo_to_dict(str(row[0])).get("password") if row else None
    except psycopg.ProgrammingError:
        return None
    return None if password is None else str(password)


@asynccontextmanager
async def silent(conn: Connection, role: str) -> AsyncIterator[None]:
    """Open a transaction that logs nothing, on the coordinator and on the nodes to which Citus sends its statements."""
    state = None
    try:
        async with changing(conn):
            # This one keeps the text of utility statements.
            await set_local(conn, {"pg_stat_statements.track_utility": "off"})
            # Citus propagates what SET LOCAL sets after this, but not what set_config() sets.
            await conn.execute("SET LOCAL citus.propagate_set_commands = 'local'")
            for name, value in NO_LOGGING.items():
                await conn.execute(sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(name), value))
            yield
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        state = f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
    if state:
        raise RoleError(
            f"PostgreSQL refused role {role!r} or its password ({state}); nothing was changed.",
            hint="Check that every node is healthy and accepts writes (citus-cluster status), then run the command "
            "again. The server's message is omitted, here and in its log, because it may contain the password. What "
            "the SQLSTATE "
            "means: https://www.postgresql.org/docs/current/errcodes-appendix.html",
        )


async def _keep_row(conn: Connection, role: str, password: str) -> None:
    await conn.execute(
        "INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo) VALUES (0, %s, %s) "
        "ON CONFLICT (rolename, nodeid) DO UPDATE SET authinfo = EXCLUDED.authinfo",
        [role, authinfo(password)],
    )


async def _keep_record(conn: Connection, record: RoleRecord) -> None:
    await conn.execute(
        "INSERT INTO citus_cluster.role (rolename, access, schemas, limits) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (rolename) DO UPDATE "
        "SET access = EXCLUDED.access, schemas = EXCLUDED.schemas, limits = EXCLUDED.limits",
        [
            record.name,
            record.access.value,
            list(record.schemas),
            None if record.limits is None else Jsonb(dict(record.limits)),
        ],
    )


async def keep_record(conn: Connection, record: RoleRecord) -> None:
    """Record the wanted state of a role."""
    async with bounded(conn, QUICK_S):
        await _keep_record(conn, record)


# What single nodes know


async def node_roles(conn: Connection, node: RegisteredNode) -> NodeRoles:
    """Return the roles of one node and the digests of their rows; errors as in ``citus_probe.ask``."""
    found = await ask_node(conn, node, _KNOWN)
    roles = cast("Mapping[str, Mapping[str, Any]]", found["roles"])
    limits = {name: (int(role["connections"]), tuple(role["config"] or ())) for name, role in roles.items()}
    return NodeRoles(cast("Mapping[str, str]", found["digests"]), frozenset(roles), limits)


async def session_count(conn: Connection, node: RegisteredNode, role: str) -> int:
    """Return the number of client sessions of this role on one node."""
    return cast("int", (await ask_node(conn, node, about(conn, _SESSIONS, role)))["count"])


async def end_sessions(conn: Connection, node: RegisteredNode, role: str) -> int:
    """End every session of a role on one node, including those of other nodes. Return how many were open."""
    return cast("int", (await ask_node(conn, node, about(conn, _END_SESSIONS, role)))["count"])


async def remove_row(conn: Connection, node: NodeAddress, role: str) -> bool:
    """Remove a role's row from the ``pg_dist_authinfo`` of one worker. Return whether there was one."""
    return bool((await ask(conn, node, about(conn, _REMOVE_ROW, role)))["count"])


async def remove_own_row(conn: Connection, role: str) -> bool:
    """Like :func:`remove_row`, for the coordinator."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute(about(conn, _REMOVE_ROW, role).encode())).fetchone()
    return bool(row and row[0]["count"])


def about(conn: Connection, question: LiteralString, role: str) -> str:
    """Insert a role's name into a query."""
    return sql.SQL(question).format(role=role).as_string(conn)


# Leaving


async def databases_with(conn: Connection, role: str) -> tuple[str, ...]:
    """Return the other databases of the coordinator in which a role owns objects or has privileges."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT DISTINCT datname FROM pg_shdepend JOIN pg_database ON pg_database.oid = dbid "
            "JOIN pg_roles ON pg_roles.oid = refobjid "
            "WHERE refclassid = 'pg_authid'::regclass AND rolname = %s AND datname <> current_database() ORDER BY 1",
            [role],
        )
        return tuple(str(row[0]) for row in await cursor.fetchall())


async def refuse_tasks(conn: Connection, role: str) -> None:
    """Raise RoleError while a background job has tasks of this role that are not done.

    The catalog does not protect an owner of tasks, and Citus starts no task of any job if one owner does not exist.
    """
    async with bounded(conn, QUICK_S):
        await _refuse_tasks(conn, role)


async def _refuse_tasks(conn: Connection, role: str) -> None:
    cursor = await conn.execute(
        "SELECT DISTINCT job_id FROM pg_dist_background_task JOIN pg_roles ON pg_roles.oid = owner "
        "WHERE rolname = %s AND status IN ('blocked', 'runnable', 'running', 'cancelling') ORDER BY 1",
        [role],
    )
    jobs = [str(row[0]) for row in await cursor.fetchall()]
    if jobs:
        raise RoleError(
            f"Role {role!r} is needed: background job {', '.join(jobs)} has tasks that run as this role and are not "
            "done. The role was not dropped.",
            hint="Wait until the job is done (citus-cluster rebalance wait) or stop it (citus-cluster rebalance stop), "
            "then run the command again.",
        )


async def forbid_login(conn: Connection, role: str) -> None:
    """Revoke the login of this role on every node."""
    async with changing(conn):
        await conn.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role)))


async def drop_role(conn: Connection, role: str, *, new_owner: str | None) -> None:
    """Drop a role on every node, with its privileges, its row on the coordinator, and its record; all or nothing.

    Its objects go to ``new_owner`` first; without one, the caller has made sure that it owns nothing. Raises
    RoleError like :func:`refuse_tasks`.
    """
    name = sql.Identifier(role)
    async with changing(conn):
        # A run that schedules tasks now either has done so before this, or finds the new owner.
        await conn.execute("LOCK TABLE pg_dist_background_task IN SHARE MODE")
        await _refuse_tasks(conn, role)
        if new_owner is not None:
            await conn.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(name, sql.Identifier(new_owner)))
        await conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
        await conn.execute(sql.SQL("DROP ROLE {}").format(name))
        await conn.execute("DELETE FROM pg_dist_authinfo WHERE nodeid = 0 AND rolename = %s", [role])
        await _forget(conn, role)


async def forget(conn: Connection, role: str) -> None:
    """Remove the record of a role."""
    async with bounded(conn, QUICK_S):
        await _forget(conn, role)


async def _forget(conn: Connection, role: str) -> None:
    await conn.execute("DELETE FROM citus_cluster.role WHERE rolename = %s", [role])
