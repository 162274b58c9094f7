"""Questions about one server of a Citus cluster, and the lock that lets one writer at a time work on a cluster."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg

from citus_cluster.errors import LockedError
from citus_cluster.runtime.postgres import Connection, bounded, bounded_rows

QUICK_S = 5.0
"""For questions that the coordinator answers from its own catalog."""

LOCK_KEY = 0x6369_7475_732D_636C
"""Advisory lock of a writer: the bytes of "citus-cl"."""


@asynccontextmanager
async def writer_lock(conn: Connection, *, wait_s: float) -> AsyncIterator[None]:
    """Hold the cluster's advisory lock; raises LockedError, which names the holder, after ``wait_s``."""
    try:
        async with bounded(conn, wait_s + QUICK_S, lock_timeout_s=wait_s):
            await conn.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
    except psycopg.errors.LockNotAvailable:
        raise LockedError(
            f"Another run is at work on this cluster: {await _lock_holder(conn)}.",
            hint="Wait until it is done, and run the command again.",
        ) from None
    try:
        yield
    finally:
        # A broken connection has lost its lock with its session.
        if not conn.closed:
            try:
                async with bounded(conn, QUICK_S):
                    await conn.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])
            except BaseException:
                # A pooled connection lives on, and would hold the lock for as long as it does.
                await conn.close()
                raise


async def _lock_holder(conn: Connection) -> str:
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            """
            SELECT activity.pid, activity.application_name, activity.client_addr::text
            FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
            WHERE locktype = 'advisory' AND granted AND objsubid = 1
              AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              AND (classid::bigint << 32) | objid::bigint = %s
            """,
            [LOCK_KEY],
        )
        row = await cursor.fetchone()
    if row is None:
        return "it has just ended"
    name = row[1] or "without an application name"
    return f"session {row[0]} ({name}{', from ' + row[2] if row[2] else ''})"


async def has_function(conn: Connection, signature: str) -> bool:
    """Say whether the server has a function, by its signature as ``to_regprocedure`` takes it."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT to_regprocedure(%s) IS NOT NULL", [signature])
        row = await cursor.fetchone()
    return bool(row and row[0])


async def citus_version(conn: Connection) -> str:
    """Version of the Citus library, such as ``13.2.2``."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT substring(citus_version() from 'Citus ([^ ]+)')")
        row = await cursor.fetchone()
    return str(row[0]) if row else "unknown"


async def active_workers(conn: Connection) -> Sequence[tuple[str, int]]:
    """Rows of ``citus_get_active_worker_nodes()``: name and port; metadata, not liveness; no coordinator."""
    query = "SELECT node_name, node_port FROM citus_get_active_worker_nodes() ORDER BY 1, 2"
    return [(str(name), int(port)) for name, port in await bounded_rows(conn, query, QUICK_S)]
