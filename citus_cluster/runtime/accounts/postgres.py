"""A role of an application on a PostgreSQL server without Citus: with its own schema, or with its own databases."""

from collections.abc import Sequence

from psycopg import sql

from citus_cluster.errors import RoleError, UnreachableError
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import Account
from citus_cluster.model.components.pg14 import LOGIN
from citus_cluster.runtime.accounts import AccountLogin
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, bounded, connect, translated
from citus_cluster.runtime.probes import Doubt
from citus_cluster.runtime.probes.pair import pair_status
from citus_cluster.runtime.scram import hashed, opens

_MARK = "Made by citus-cluster for an example application."
_TIMEOUT_S = 10.0
_ATTRIBUTES = "LOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS"
_LOOK = """
SELECT rolpassword, shobj_description(oid, 'pg_authid') = %(mark)s,
       rolcanlogin AND NOT rolsuper AND NOT rolcreaterole AND NOT rolreplication AND NOT rolbypassrls
       AND rolcreatedb = %(databases)s
       AND (%(databases)s OR EXISTS (SELECT FROM pg_namespace WHERE nspname = rolname AND nspowner = pg_authid.oid))
FROM pg_authid WHERE rolname = %(name)s
"""


async def make_on_pair(target: Target, password: str, logins: Sequence[AccountLogin], _doubt: Doubt) -> list[Account]:
    """Make roles on the primary, which can be either server; see MakeAccounts."""
    servers = {
        service: ConnectionInfo(address.host, address.port, LOGIN.user, LOGIN.database, password)
        for service, address in target.addresses.items()
    }
    primary = (await pair_status(servers, synchronous=target.synchronous)).primary
    if primary is None:
        raise UnreachableError(
            "No server of the PostgreSQL 14 pair accepts writes, so the roles of the examples were not checked.",
            hint="citus-cluster pg14 status says why. Then run citus-cluster up again.",
        )
    async with (
        translated("creating the roles of the examples", server="The PostgreSQL 14 server"),
        await connect(servers[primary.service], timeout_s=_TIMEOUT_S) as conn,
    ):
        return [one.account for one in logins if await _make_role(conn, one)]


async def _make_role(conn: Connection, login: AccountLogin) -> bool:
    """Create or correct the role, and the schema of its name unless it creates databases.

    ``conn`` is a superuser's. Returns whether anything had to change. Raises RoleError for a role or a schema of this
    name that was not made here.
    """
    name, creates_databases = login.account.name, login.account.creates_databases
    role = sql.Identifier(name)
    async with bounded(conn, _TIMEOUT_S):
        # Otherwise, with synchronous replication, it waits for a replica that may be down.
        await conn.execute("SET LOCAL synchronous_commit = 'local'")
        # The admin API may do the same now.
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [_MARK])
        cursor = await conn.execute(_LOOK, {"mark": _MARK, "databases": creates_databases, "name": name})
        found = await cursor.fetchone()
        if found and not found[1]:
            raise _foreign("Role", name)
        right_password = found is not None and opens(str(found[0]), login.password)
        if found and right_password and found[2]:
            return False
        if found is None:
            await conn.execute(sql.SQL("CREATE ROLE {}").format(role))
            await conn.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, _MARK))
        may = "CREATEDB" if creates_databases else "NOCREATEDB"
        await conn.execute(sql.SQL(f"ALTER ROLE {{}} {_ATTRIBUTES} {may}").format(role))
        if not right_password:
            # The hash: the server may log its statements.
            await conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, hashed(conn, name, login.password)))
        if not creates_databases:
            await _make_schema(conn, name)
    return True


async def _make_schema(conn: Connection, name: str) -> None:
    role = sql.Identifier(name)
    await conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {}").format(role, role))
    cursor = await conn.execute("SELECT nspowner = %s::regrole FROM pg_namespace WHERE nspname = %s", [name, name])
    row = await cursor.fetchone()
    if row is None or not row[0]:
        raise _foreign("Schema", name)


def _foreign(kind: str, name: str) -> RoleError:
    return RoleError(
        f"{kind} {name!r} exists on the PostgreSQL 14 primary, but citus-cluster did not create it, and an example "
        "application needs this name. It was not changed.",
        hint=f'Rename it: ALTER {kind.upper()} "{name}" RENAME TO ...; or remove the example from --services.',
    )
