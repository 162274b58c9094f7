"""The extension citus of one server: its versions, and its update.

Every function of Citus fails until the versions match, so only :func:`library_serves` calls one before.
"""

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.extension import OUTDATED, ExtensionVersions
from citus_cluster.runtime.citus.server import QUICK_S, active_workers
from citus_cluster.runtime.postgres import Connection, bounded, bounded_outside

UPDATE_TIMEOUT_S = 300.0
"""The scripts change Citus' own catalog, and wait for sessions that use it."""
_VERSIONS = (
    "SELECT extversion, default_version FROM pg_extension JOIN pg_available_extensions ON name = extname "
    "WHERE extname = 'citus'"
)


async def extension_versions(conn: Connection) -> ExtensionVersions | None:
    """Return the extension's versions on this server; None if the database does not have it."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute(_VERSIONS)).fetchone()
    return ExtensionVersions(str(row[0]), str(row[1])) if row else None


async def library_serves(conn: Connection) -> bool:
    """Return whether Citus answers queries on this server, with its versions of library and extension."""
    try:
        await active_workers(conn)
    except psycopg.Error as error:
        if OUTDATED not in str(error):
            raise
        return False
    return True


async def update_extension(conn: Connection) -> None:
    """Run ALTER EXTENSION citus UPDATE on this server unless it is up to date. Raises CitusClusterError."""
    async with bounded_outside(conn, UPDATE_TIMEOUT_S):
        await conn.execute("ALTER EXTENSION citus UPDATE")
    versions = await extension_versions(conn)
    if versions is None or versions.is_behind:
        raise CitusClusterError("ALTER EXTENSION citus UPDATE left the extension as it was.")


async def finish_upgrade(conn: Connection) -> None:
    """Let the coordinator change the distributed schema if the new version requires it.

    Runs once every node has the new extension; idempotent (``citus_finish_citus_upgrade``, since Citus 11.0).
    """
    async with bounded(conn, QUICK_S):
        row = await (
            await conn.execute("SELECT to_regprocedure('pg_catalog.citus_finish_citus_upgrade()') IS NOT NULL")
        ).fetchone()
    if row and row[0]:
        async with bounded_outside(conn, UPDATE_TIMEOUT_S):
            await conn.execute("SET client_min_messages = warning")
            await conn.execute("CALL pg_catalog.citus_finish_citus_upgrade()")
