"""The figures that monitoring collects: the coordinator's catalog in one round trip, and one question for each node."""

from collections.abc import Sequence
from typing import Any, cast

import psycopg

from citus_cluster.model.citus.figures import Catalog, CatalogNode, NodeFigures, TenantUse
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.disks import DISK_QUESTION, disk_of
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.citus.server import QUICK_S, has_function
from citus_cluster.runtime.citus.tables import read_tables
from citus_cluster.runtime.postgres import Connection, bounded

_TENANTS_FUNCTION = "citus_stat_tenants_local(boolean)"
"""Since Citus 11.3."""

# Parameters that a server does not have, and a parameter's unit, are left to the server: current_setting adds the unit.
_CATALOG = """
SELECT (SELECT count(*) FROM pg_dist_cleanup),
       CASE WHEN current_setting('citus.stat_tenants_track', true) IS DISTINCT FROM 'all' THEN NULL
            ELSE (SELECT setting::float8 FROM pg_settings WHERE name = 'citus.stat_tenants_period') END
"""

_TENANTS = psycopg.sql.SQL("""(
    SELECT coalesce(json_agg(json_build_array(colocation_id, tenant_attribute, query_count_in_last_period,
        read_count_in_last_period, cpu_usage_in_last_period)), '[]')
    FROM citus_stat_tenants_local(false) WHERE tenant_attribute IS NOT NULL)""")

# A standby has no current WAL position of its own.
_NODE = psycopg.sql.SQL("""
SELECT json_build_object(
    -- Refused, as every query of Citus, where the library does not fit the extension.
    'serves', (SELECT count(*) FROM citus_get_active_worker_nodes()),
    'internal', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'
                 AND application_name ~ '^citus_(internal|rebalancer|run_command)'),
    'sessions', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    'max_connections', current_setting('max_connections')::int,
    'client_limit', nullif(current_setting('citus.max_client_connections', true)::int, -1),
    'prepared', (SELECT count(*) FROM pg_prepared_xacts),
    'oldest_prepared_s', (SELECT extract(epoch FROM clock_timestamp() - min(prepared))::float8 FROM pg_prepared_xacts),
    'slots', (SELECT coalesce(json_object_agg(state, count), '{{}}') FROM (
        SELECT CASE WHEN wal_status = 'lost' THEN 'lost' WHEN active THEN 'active' ELSE 'inactive' END AS state,
               count(*)
        FROM pg_replication_slots GROUP BY 1) AS slot),
    'slot_lag_bytes', CASE WHEN pg_is_in_recovery() THEN NULL ELSE (
        SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint FROM pg_replication_slots) END,
    -- A logical slot belongs to a move of shards or a subscription, not to a standby.
    'lag_bytes', CASE WHEN pg_is_in_recovery()
        THEN pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint
        ELSE (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint
              FROM pg_stat_replication AS sender LEFT JOIN pg_replication_slots AS slot ON slot.active_pid = sender.pid
              WHERE slot.slot_type IS DISTINCT FROM 'logical') END,
    'lag_s', CASE WHEN NOT pg_is_in_recovery() THEN NULL
        WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END,
    'disk', ({}),
    'tenants', {})
""")


async def read_catalog(conn: Connection) -> Catalog:
    """Return the node list, the tables by kind, and what Citus has yet to clean up."""
    registry = await read_registry(conn)
    kinds = [table.type for table in await read_tables(conn)]
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT nodeid FROM pg_dist_node WHERE metadatasynced")
        synced = {int(row[0]) for row in await cursor.fetchall()}
        row = await (await conn.execute(_CATALOG)).fetchone()
    records, period_s = row or (0, None)
    if period_s is not None and not await has_function(conn, _TENANTS_FUNCTION):
        period_s = None
    return Catalog(
        # The coordinator is the source of the metadata, and Citus records nothing of its own copy.
        nodes=tuple(CatalogNode(node, node.is_coordinator or node.node_id in synced) for node in registry.nodes),
        cleanup_records=int(records),
        tables={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        tenant_period_s=period_s,
    )


async def ask_figures(
    conn: Connection, node: RegisteredNode, *, with_tenants: bool, timeout_s: float = citus_probe.ANSWER_TIMEOUT_S
) -> NodeFigures:
    """Return what a node reports about itself; errors as in :func:`citus_probe.ask`."""
    tenants = _TENANTS if with_tenants else psycopg.sql.SQL("'[]'::json")
    question = _NODE.format(DISK_QUESTION, tenants).as_string(conn)
    found = cast("dict[str, Any]", await citus_probe.ask_node(conn, node, question, timeout_s=timeout_s))
    return NodeFigures(
        external_connections=found["sessions"] - found["internal"],
        internal_connections=found["internal"],
        max_connections=found["max_connections"],
        client_limit=found["client_limit"],
        prepared_transactions=found["prepared"],
        oldest_prepared_s=found["oldest_prepared_s"] or 0.0,
        slots=dict(found["slots"]),
        slot_lag_bytes=found["slot_lag_bytes"] or 0,
        disk=disk_of(node, found["disk"]),
        tenants=_tenants(found["tenants"]),
        lag_bytes=found["lag_bytes"],
        lag_s=found["lag_s"],
    )


def _tenants(rows: Sequence[Sequence[Any]]) -> tuple[TenantUse, ...]:
    return tuple(TenantUse(int(row[0]), str(row[1]), int(row[2]), int(row[3]), float(row[4])) for row in rows)
