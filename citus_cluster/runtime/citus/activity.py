"""Sessions, statements and lock waits of all nodes: each node is asked separately, in bounded time.

``citus_stat_activity`` and ``citus_lock_waits`` ask all nodes at once, and hang with one of them.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from psycopg import sql

from citus_cluster.model.citus.activity import QUERY_CHARACTERS, StatementRow, read_session, silent_row
from citus_cluster.model.citus.locks import Sessions
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection

MOST_SESSIONS = 2000
"""Sessions that one node reports; the longest-running first."""

# The session that asks is left out. Background processes count if they run a statement, such as one of a rebalance.
_SESSIONS = sql.SQL("""
(SELECT coalesce(json_agg(one), '[]') FROM (
    SELECT pid, usename AS role, datname AS database, nullif(application_name, '') AS application,
           substring(application_name from '^citus_[a-z_]+ gpid=([0-9]+)$') AS origin,
           CASE WHEN client_addr IS NULL THEN 'local' ELSE concat_ws(':', host(client_addr), client_port) END AS client,
           backend_type AS kind, state, query_start AS started_at, backend_start AS session_started_at,
           round(extract(epoch FROM clock_timestamp()
               - CASE WHEN state = 'active' THEN query_start ELSE state_change END), 3) AS seconds,
           round(extract(epoch FROM clock_timestamp() - xact_start), 3) AS transaction_seconds,
           CASE WHEN state <> 'idle' THEN nullif(concat_ws(':', wait_event_type, wait_event), '') END AS wait_event,
           left(query, {characters}) AS query
    FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND {condition}
      AND (backend_type = 'client backend' OR (state = 'active' AND query <> '' AND backend_type <> 'walsender'))
    ORDER BY xact_start, query_start LIMIT {most}) AS one)
""")
# pg_blocking_pids() locks the lock table of the server, so it is called only for sessions that wait.
_WAITS = sql.SQL("""
(SELECT coalesce(json_agg(one), '[]') FROM (
    SELECT activity.pid, pg_blocking_pids(activity.pid) AS blockers,
           (SELECT concat_ws(' ', mode, 'on', locktype, CASE WHEN relation IS NOT NULL
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                THEN relation::regclass::text END)
            FROM pg_locks WHERE pg_locks.pid = activity.pid AND NOT granted LIMIT 1) AS lock,
           (SELECT round(extract(epoch FROM clock_timestamp() - waitstart), 3)
            FROM pg_locks WHERE pg_locks.pid = activity.pid AND NOT granted LIMIT 1) AS seconds
    FROM pg_stat_activity AS activity WHERE wait_event_type = 'Lock' LIMIT {most}) AS one)
""")


async def statements(
    conn: Connection, nodes: Sequence[RegisteredNode], known: Mapping[NodeAddress, str] | None = None
) -> tuple[StatementRow, ...]:
    """Return the sessions of all nodes, and one row for each node that does not answer, or is ``known`` not to."""
    question = sql.SQL("SELECT {}").format(_sessions(sql.SQL("true")))
    answers, silent = await citus_probe.ask_all(conn, nodes, question.as_string(conn), known=known)
    rows = [read_session(node, row) for node, answer in answers for row in cast("list[Any]", answer)]
    return (*rows, *(silent_row(address, reason) for address, reason in silent.items()))


async def lock_waits(
    conn: Connection, nodes: Sequence[RegisteredNode], known: Mapping[NodeAddress, str] | None = None
) -> tuple[Sessions, Mapping[NodeAddress, str]]:
    """Return who waits for whom on the nodes, and why nodes do not answer; those ``known`` not to are not asked."""
    question = sql.SQL("SELECT json_build_object('sessions', {sessions}, 'waits', {waits})").format(
        sessions=_sessions(sql.SQL("true")), waits=_WAITS.format(most=MOST_SESSIONS)
    )
    answers, silent = await citus_probe.ask_all(conn, nodes, question.as_string(conn), known=known)
    found = Sessions()
    for node, answer in answers:
        found.add(node, cast("Mapping[str, Any]", answer))
    return found, silent


async def session_of(conn: Connection, node: RegisteredNode, process_id: int) -> StatementRow | None:
    """Return one session of a node; None if it has ended. Errors as in :func:`citus_probe.ask`."""
    condition = sql.SQL("pid = {}").format(process_id)
    question = sql.SQL("SELECT {}").format(_sessions(condition))
    rows = cast("list[Any]", await citus_probe.ask_node(conn, node, question.as_string(conn)))
    return read_session(node, rows[0]) if rows else None


async def signal_session(
    conn: Connection,
    node: RegisteredNode,
    process_id: int,
    *,
    terminate: bool,
    session_started_at: datetime,
    started_at: datetime | None,
) -> bool:
    """Cancel the statement of a session, or end the session, if it is still the same one. Return whether it was.

    The number of a process is used again, so the node compares the start of the session and, for a statement, its start
    in the statement that sends the signal. Errors as in :func:`citus_probe.ask`.
    """
    act = sql.SQL("pg_terminate_backend(pid)" if terminate else "pg_cancel_backend(pid)")
    same = sql.SQL("backend_start = {}::timestamptz").format(session_started_at.isoformat())
    if started_at is not None:
        same += sql.SQL(" AND query_start = {}::timestamptz").format(started_at.isoformat())
    if not terminate:
        same += sql.SQL(" AND state = 'active'")
    question = sql.SQL(
        "SELECT to_json(coalesce(bool_or({act}), false)) FROM pg_stat_activity WHERE pid = {pid} AND {same}"
    ).format(act=act, pid=process_id, same=same)
    return bool(await citus_probe.ask_node(conn, node, question.as_string(conn)))


def _sessions(condition: sql.Composable) -> sql.Composed:
    return _SESSIONS.format(characters=QUERY_CHARACTERS, most=MOST_SESSIONS, condition=condition)
