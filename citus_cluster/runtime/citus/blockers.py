"""Sessions that block the moves of a rebalance: each node is asked separately, in bounded time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from psycopg import sql

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.blockers import Session, global_pid, split_global_pid
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection

WAITING_S = 3
"""The shortest wait for a lock that is reported."""

# The sessions of a move carry its number, on the nodes too; the apply workers of a target have none. The process of the
# task, which waits itself if writes are held, has no query_start.
_BLOCKERS = """
SELECT json_build_object('sessions', coalesce(json_agg(DISTINCT jsonb_build_object(
    'pid', holder.pid, 'role', blocker.usename, 'application', nullif(blocker.application_name, ''),
    'state', blocker.state, 'began_at', blocker.xact_start,
    'origin', substring(blocker.application_name from '^citus_internal gpid=([0-9]+)$'))), '[]'))
FROM pg_stat_activity AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS holder(pid)
LEFT JOIN pg_stat_activity AS blocker ON blocker.pid = holder.pid
WHERE now() - coalesce(waiting.query_start, waiting.xact_start) > make_interval(secs => {seconds})
  AND (waiting.pid = ANY ({pids}::int[]) OR waiting.backend_type LIKE 'logical replication%'
       OR substring(waiting.application_name from 'gpid=([0-9]+)$') = ANY ({gpids}::text[]))
  AND coalesce(substring(blocker.application_name from 'gpid=([0-9]+)$'), '') <> ALL ({gpids}::text[])
"""
_SESSION = """
SELECT json_build_object('sessions', coalesce(json_agg(jsonb_build_object(
    'pid', pid, 'role', usename, 'application', nullif(application_name, ''), 'state', state,
    'began_at', xact_start)), '[]'))
FROM pg_stat_activity WHERE pid = {pid}
"""


async def blockers(
    conn: Connection, nodes: Sequence[RegisteredNode], process_ids: Sequence[int]
) -> tuple[Session, ...]:
    """Return the sessions that block the moves of these coordinator processes, preferably those of clients.

    A node that does not answer is skipped, because it is reported elsewhere.
    """
    coordinator = next((node for node in nodes if node.is_coordinator and node.role == "primary"), None)
    if coordinator is None or not process_ids:
        return ()
    found: dict[tuple[object, int], Session] = {}
    for node in nodes:
        if not node.is_active:
            continue
        question = sql.SQL(_BLOCKERS).format(
            seconds=WAITING_S,
            pids=list(process_ids) if node is coordinator else [],
            gpids=[str(global_pid(coordinator.node_id, pid)) for pid in process_ids],
        )
        for session in await _ask(conn, node, question):
            known = await _client(conn, nodes, session)
            found[known.node, known.process_id] = known
    return tuple(found.values())


async def _ask(conn: Connection, node: RegisteredNode, question: sql.Composed) -> Iterable[Session]:
    try:
        document = await citus_probe.ask_node(conn, node, question.as_string(conn))
    except CitusClusterError:
        if conn.closed:
            raise
        return ()
    rows = cast("list[Mapping[str, Any]]", document.get("sessions", []))
    return [Session.from_json(node.address, row) for row in rows]


async def _client(conn: Connection, nodes: Sequence[RegisteredNode], session: Session) -> Session:
    """Return the client session for which an internal session works, because a user can act on that one."""
    if session.origin is None:
        return session
    node_id, process_id = split_global_pid(session.origin)
    home = next((node for node in nodes if node.node_id == node_id and node.is_active), None)
    if home is None:
        return session
    return next(iter(await _ask(conn, home, sql.SQL(_SESSION).format(pid=process_id))), session)
