"""Whether a running server uses its newest settings, and making it read them."""

from datetime import datetime

from citus_cluster.runtime.postgres import Connection, bounded

_TIMEOUT_S = 5.0


async def reload_if_stale(conn: Connection, changed_at: datetime) -> bool:
    """Have the server read its settings again if it last did so before ``changed_at``; say whether it did.

    That time comes from the host, since ``pg_stat_file`` cuts it to whole seconds. Where the server did so in the
    future, the clock was put back since, and nothing can be told: it reads them again. What needs a restart is not
    the matter here: for that, Compose recreates the container.
    """
    async with bounded(conn, _TIMEOUT_S):
        cursor = await conn.execute(
            "SELECT CASE WHEN pg_conf_load_time() NOT BETWEEN %s AND clock_timestamp() THEN pg_reload_conf() "
            "ELSE false END",
            [changed_at],
        )
        row = await cursor.fetchone()
    return bool(row and row[0])
