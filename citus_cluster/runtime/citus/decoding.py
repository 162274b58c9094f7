"""Which libraries may decode the WAL for Citus (``output_plugin_libraries``, since PostgreSQL 17.12 and 18.6).

Splits of shards and the concurrent distribution of tables need Citus' own library, which the default list lacks. Citus
creates its replication slots as the owner of the extension, in new sessions, so a setting of this role is sufficient.
"""

from collections.abc import Sequence

from psycopg import sql

from citus_cluster.runtime.citus.roles import changing
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded

OWN_LIBRARY = "citus"
_PARAMETER = "output_plugin_libraries"
# A session keeps the value with which it began, but only that of new sessions matters.
_LIBRARIES = """
SELECT current_setting(%(name)s, true),
       (SELECT substr(entry, length(%(name)s) + 2)
        FROM pg_db_role_setting
        JOIN pg_roles ON pg_roles.oid = setrole AND rolname = current_user, unnest(setconfig) AS entry
        WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
          AND starts_with(entry, %(name)s || '=')
        ORDER BY setdatabase DESC LIMIT 1),
       (SELECT boot_val FROM pg_settings WHERE name = %(name)s)
"""
KNOWS_THE_LIST = f"SELECT to_json(current_setting('{_PARAMETER}', true) IS NOT NULL)"
"""Query for whether a node has such a list."""


async def allowed_libraries(conn: Connection) -> tuple[str, ...] | None:
    """Return the libraries that new sessions of the connected role may use; None if the server has no such list."""
    own, of_role, _ = await _read(conn)
    return None if own is None else _split(own if of_role is None else of_role)


async def lacks_own_library(conn: Connection) -> tuple[str, ...] | None:
    """Return the list if it is the default, and Citus' library is missing; None if nothing is to be changed.

    A list that somebody has chosen stays as it is.
    """
    own, of_role, default = await _read(conn)
    if own is None or of_role is not None or own != default or OWN_LIBRARY in _split(own):
        return None
    return _split(own)


async def allow_libraries(conn: Connection, libraries: Sequence[str]) -> None:
    """Set the list for the connected role, on every node of the cluster."""
    async with changing(conn):
        await conn.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(
                sql.Identifier(conn.info.user),
                sql.Identifier(_PARAMETER),
                sql.SQL(", ").join(map(sql.Literal, libraries)),
            )
        )


async def _read(conn: Connection) -> tuple[str | None, str | None, str | None]:
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute(_LIBRARIES, {"name": _PARAMETER})).fetchone()
    own, of_role, default = row or (None, None, None)
    return own, of_role, default


def _split(libraries: str) -> tuple[str, ...]:
    return tuple(word.strip().strip('"') for word in libraries.split(",") if word.strip())
