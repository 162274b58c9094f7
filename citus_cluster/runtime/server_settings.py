"""The settings of a running server: reloading changed files, and the lines that it refuses."""

from datetime import datetime
from typing import LiteralString

from citus_cluster.model.tuning.parameters import UnusedSetting
from citus_cluster.runtime.postgres import Connection, bounded

_TIMEOUT_S = 5.0
UNUSED_SETTINGS: LiteralString = """
    SELECT regexp_replace(file.sourcefile, '^.*/', '') AS file, file.sourceline AS line,
           coalesce(file.name, settings.name) AS name, file.setting, error AS reason,
           current_setting(settings.name, true) AS in_force,
           coalesce(settings.context = 'postmaster', false) AS needs_restart
    FROM pg_file_settings AS file FULL JOIN pg_settings AS settings ON lower(settings.name) = lower(file.name)
    WHERE error IS NOT NULL AND (settings.context = 'postmaster' AND source = 'command line') IS NOT TRUE
       OR pending_restart AND file.name IS NULL
    ORDER BY seqno, 3
"""
"""The lines of the settings files that the server does not use, with the fields of ``UnusedSetting``."""


async def reload_if_stale(conn: Connection, changed_at: datetime) -> bool:
    """Reload the server's settings if it last loaded them before ``changed_at``. Returns whether it reloaded.

    That time comes from the host, because ``pg_stat_file`` truncates it to whole seconds. If the last load is in the
    future, the clock was set back, so the server reloads. For settings that need a restart, Compose recreates the
    container.
    """
    async with bounded(conn, _TIMEOUT_S):
        cursor = await conn.execute(
            "SELECT CASE WHEN pg_conf_load_time() NOT BETWEEN %s AND clock_timestamp() THEN pg_reload_conf() "
            "ELSE false END",
            [changed_at],
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def unused_settings(conn: Connection) -> tuple[UnusedSetting, ...]:
    """Return the lines of the settings files that the server does not use: refused, or waiting for a restart.

    The server reads its files for this query, even without a reload. Settings that its command line overrides are
    skipped, because they are not expected to be used.
    """
    async with bounded(conn, _TIMEOUT_S):
        cursor = await conn.execute(UNUSED_SETTINGS)
        return tuple(
            UnusedSetting(file, line, name, setting, reason, in_force, needs_restart=restart)
            for file, line, name, setting, reason, in_force, restart in await cursor.fetchall()
        )
