"""Queries about one server of a Citus cluster."""

from collections.abc import Sequence

from citus_cluster.runtime.postgres import Connection, bounded, bounded_rows

QUICK_S = 5.0
"""Time limit in seconds of queries that the coordinator answers from its own catalog."""


async def has_function(conn: Connection, signature: str) -> bool:
    """Return whether the server has a function, by its signature as ``to_regprocedure`` takes it."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT to_regprocedure(%s) IS NOT NULL", [signature])
        row = await cursor.fetchone()
    return bool(row and row[0])


async def citus_version(conn: Connection) -> str:
    """Return the version of the Citus library, such as ``13.2.2``."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT substring(citus_version() from 'Citus ([^ ]+)')")
        row = await cursor.fetchone()
    return str(row[0]) if row else "unknown"


async def active_workers(conn: Connection) -> Sequence[tuple[str, int]]:
    """Return the rows of ``citus_get_active_worker_nodes()``: name and port. Metadata, not liveness; no coordinator."""
    query = "SELECT node_name, node_port FROM citus_get_active_worker_nodes() ORDER BY 1, 2"
    return [(str(name), int(port)) for name, port in await bounded_rows(conn, query, QUICK_S)]
