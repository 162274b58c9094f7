"""Limits of roles on the servers: one function for each query and each change.

Citus propagates the settings of a role to every node, and also its CONNECTION LIMIT, which must apply only on the
coordinator, because on a worker Citus' own connections count.
"""

from collections.abc import Collection
from typing import cast

from psycopg import sql

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.runtime.citus.probe import ask, tell
from citus_cluster.runtime.citus.roles import changing, read_records
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded, set_local

_LIMITED = """
SELECT json_build_object('roles', coalesce(json_agg(rolname), '[]'))
FROM pg_roles WHERE rolconnlimit >= 0 AND NOT rolsuper
"""


async def set_setting(conn: Connection, role: str, name: str, value: str | None) -> None:
    """Set or reset a parameter of a role on every node."""
    async with changing(conn):
        change = sql.SQL("RESET {}") if value is None else sql.SQL("SET {} = {}")
        parts = (sql.Identifier(name),) if value is None else (sql.Identifier(name), sql.Literal(value))
        await conn.execute(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(role), change.format(*parts)))


async def limit_sessions(conn: Connection, role: str, limit: int | None) -> None:
    """Limit the sessions of a role only on the coordinator."""
    async with bounded(conn, QUICK_S):
        await set_local(conn, {"citus.enable_alter_role_propagation": "off"})
        await conn.execute(_connection_limit(role, limit))


async def lift_sessions(conn: Connection, worker: NodeAddress, roles: Collection[str]) -> tuple[str, ...]:
    """Remove the session limit of these roles on a worker; return those that had one. Errors of ``citus_probe.ask``."""
    found = cast("list[str]", (await ask(conn, worker, _LIMITED))["roles"])
    limited = tuple(role for role in found if role in roles)
    for role in limited:
        await tell(conn, worker, _connection_limit(role, None).as_string(conn))
    return limited


async def lift_on_new_worker(conn: Connection, worker: NodeAddress) -> None:
    """Remove the session limits that Citus has copied to a worker, for roles that are limited here.

    Errors of ``citus_probe.ask``.
    """
    records = await read_records(conn)
    await lift_sessions(conn, worker, {one.name for one in records if one.limits is not None})


def _connection_limit(role: str, limit: int | None) -> sql.Composed:
    number = sql.Literal(-1 if limit is None else limit)
    return sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(role), number)
