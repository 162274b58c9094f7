"""The lock that lets one writer at a time work on a cluster.

Any role may take an advisory lock with any key, and pg_locks shows the keys of others. So the lock is a row that names
a session, in a table that only superusers can access; the row is valid as long as that session lives.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from citus_cluster.errors import LockedError
from citus_cluster.runtime.citus.nodes import prepare_schema
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded, bounded_rows

ADVISORY_KEY = 0x6369_7475_732D_636C
"""The bytes of "citus-cl": the advisory lock that the first versions took, and nothing else."""

WAIT_FOR_LOCK_S = 10.0
"""How long a change of the node list or of roles waits for another change."""
_POLL_S = 0.2
_HOLDERS = f"""
SELECT activity.pid, activity.usename, activity.application_name, activity.client_addr::text,
       to_char(taken_at AT TIME ZONE 'UTC', 'HH24:MI:SS')
FROM citus_cluster.writer JOIN pg_stat_activity AS activity USING (pid, backend_start)
WHERE pid <> pg_backend_pid()
UNION ALL
SELECT activity.pid, activity.usename, activity.application_name, activity.client_addr::text, NULL
FROM pg_locks JOIN pg_stat_activity AS activity USING (pid) JOIN pg_roles ON pg_roles.oid = usesysid
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND pid <> pg_backend_pid() AND rolsuper
  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32) | objid::bigint = {ADVISORY_KEY}
LIMIT 1
"""  # noqa: S608 # our own constant


@asynccontextmanager
async def writer_lock(conn: Connection, *, wait_s: float) -> AsyncIterator[None]:
    """Hold the cluster's writers' lock. Raises LockedError, which names the holder, after ``wait_s``.

    ``conn`` must not be in a transaction. If taking or releasing the lock is interrupted, the connection is closed, so
    that the lock ends with its session.
    """
    try:
        holder = await _take_in_time(conn, wait_s)
    except BaseException:
        # It is unknown whether the server has granted the lock.
        await conn.close()
        raise
    if holder is not None:
        raise LockedError(
            f"Another run is working on this cluster: {holder}.",
            hint="Wait until it is done, then run the command again.",
        )
    try:
        yield
    finally:
        # A broken connection has lost its lock with its session.
        if not conn.closed:
            try:
                await _release(conn)
            except BaseException:
                # A pooled connection stays open, and would hold the lock.
                await conn.close()
                raise


async def _take_in_time(conn: Connection, wait_s: float) -> str | None:
    """Take the lock, or return its holder when the time is up."""
    deadline = time.monotonic() + wait_s
    await _have_table(conn)
    while True:
        rows = await bounded_rows(conn, _HOLDERS, QUICK_S)
        if not rows and await _take(conn):
            return None
        if time.monotonic() >= deadline:
            return _describe(rows[0]) if rows else "it has just ended"
        await asyncio.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))


async def _have_table(conn: Connection) -> None:
    """Create the table of the lock, only on the coordinator."""
    if await bounded_rows(conn, "SELECT to_regclass('citus_cluster.writer')", QUICK_S) != [(None,)]:
        return
    try:
        async with bounded(conn, QUICK_S):
            await prepare_schema(conn)
            await conn.execute(
                """
                CREATE TABLE citus_cluster.writer (
                    pid integer NOT NULL,
                    backend_start timestamptz NOT NULL,
                    taken_at timestamptz NOT NULL DEFAULT clock_timestamp())
                """
            )
            await conn.execute(
                "COMMENT ON TABLE citus_cluster.writer IS 'The session that changes the cluster now. The row of a "
                "session that has ended means nothing.'"
            )
    except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable, psycopg.errors.DuplicateSchema):
        # Another run has just created it, perhaps only the schema.
        await _have_table(conn)


async def _take(conn: Connection) -> bool:
    """Take the lock unless another session holds it."""
    try:
        async with bounded(conn, QUICK_S):
            # Serialized, so that each run sees what the others have committed.
            await conn.execute("LOCK TABLE citus_cluster.writer IN SHARE ROW EXCLUSIVE MODE")
            # For runs of the first versions. It does not matter whether we get it: an ordinary role may hold it.
            await conn.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_KEY])
            cursor = await conn.execute(_HOLDERS.encode())
            if await cursor.fetchone() is None:
                await conn.execute("DELETE FROM citus_cluster.writer")
                await conn.execute(
                    "INSERT INTO citus_cluster.writer (pid, backend_start) "
                    "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
                )
                return True
            await _release_advisory(conn)
    except psycopg.errors.LockNotAvailable:
        await _release_advisory(conn)
    return False


async def _release(conn: Connection) -> None:
    async with bounded(conn, QUICK_S):
        await conn.execute("DELETE FROM citus_cluster.writer WHERE pid = pg_backend_pid()")
        await _release_advisory(conn)


async def _release_advisory(conn: Connection) -> None:
    # Checked first, because releasing a lock that is not held logs a warning.
    await conn.execute(
        f"SELECT pg_advisory_unlock({ADVISORY_KEY}) FROM pg_locks WHERE pid = pg_backend_pid() "  # noqa: S608
        f"AND locktype = 'advisory' AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = {ADVISORY_KEY}"
    )


def _describe(row: tuple[object, ...]) -> str:
    pid, role, application, address, since = row
    facts = [str(application or "without an application name"), f"role {role}"]
    facts += [f"from {address}"] if address else []
    facts += [f"since {since} UTC"] if since else []
    return f"session {pid} ({', '.join(facts)})"
