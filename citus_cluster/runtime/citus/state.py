"""What each server of the cluster reports about its versions and settings, and what its version of Citus can do."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.state import ServerReport
from citus_cluster.model.tuning.parameters import UnusedSetting
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded
from citus_cluster.runtime.server_settings import UNUSED_SETTINGS

CAPABILITIES: Mapping[str, str] = {
    "background_rebalance": "citus_rebalance_status(boolean)",
    "parallel_rebalance": "citus_rebalance_start(name,boolean,citus.shard_transfer_mode,boolean,boolean)",
    "concurrent_distribution": (
        "create_distributed_table_concurrently(regclass,text,citus.distribution_type,text,integer)"
    ),
    "schema_based_sharding": "citus_schema_distribute(regnamespace)",
    "schema_move": "citus_schema_move(regnamespace,text,integer,citus.shard_transfer_mode)",
    "shard_split": "citus_split_shard_by_split_points(bigint,text[],integer[],citus.shard_transfer_mode)",
    "tenant_isolation": 'isolate_tenant_to_new_shard(regclass,"any",text,citus.shard_transfer_mode)',
    "tenant_statistics": "citus_stat_tenants(boolean)",
    "statement_statistics": "citus_stat_statements()",
    "statistics_counters": "citus_stat_counters(oid)",
    "distributed_locks": "citus_locks()",
    "restore_points": "citus_create_restore_point(text)",
    "cluster_health_check": "citus_check_cluster_node_health()",
    "node_clones": "citus_add_clone_node(text,integer,text,integer)",
    "write_pause": "citus_pause_node_within_txn(integer,boolean,integer)",
}
"""The function that each feature needs, as ``to_regprocedure`` takes it."""

_QUESTION = f"""
SELECT json_build_object(
    'postgres_version', current_setting('server_version'),
    'citus_version', substring(citus_version() from 'Citus ([^ ]+)'),
    'installed', (SELECT extversion FROM pg_extension WHERE extname = 'citus'),
    'available', (SELECT default_version FROM pg_available_extensions WHERE name = 'citus'),
    'unused', (SELECT coalesce(json_agg(row_to_json(unused)), '[]') FROM ({UNUSED_SETTINGS}) AS unused))
"""  # noqa: S608 # our own constants


async def read_capabilities(conn: Connection) -> Mapping[str, bool]:
    """Return whether the server has the function of each feature."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT name, to_regprocedure(signature) IS NOT NULL FROM unnest(%s::text[], %s::text[]) "
            "AS wanted(name, signature)",
            [list(CAPABILITIES), list(CAPABILITIES.values())],
        )
        return {str(row[0]): bool(row[1]) for row in await cursor.fetchall()}


async def read_unsynced(conn: Connection) -> frozenset[int]:
    """Return the ids of the primaries that do not have the current metadata."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT nodeid FROM pg_dist_node WHERE noderole = 'primary' AND groupid <> 0 "
            "AND NOT (hasmetadata AND metadatasynced)"
        )
        return frozenset(int(row[0]) for row in await cursor.fetchall())


async def ask_report(conn: Connection, node: RegisteredNode, *, timeout_s: float) -> ServerReport:
    """Return what a node reports; errors as in :func:`citus_probe.ask`."""
    found = await citus_probe.ask_node(conn, node, _QUESTION, timeout_s=timeout_s)
    citus_version = found["citus_version"]
    return ServerReport(
        postgres_version=str(found["postgres_version"]).split(" ")[0],
        citus_version=None if citus_version is None else str(citus_version),
        extension=ExtensionVersions(str(found["installed"]), str(found["available"])),
        unused=tuple(UnusedSetting(**row) for row in cast("Sequence[Mapping[str, Any]]", found["unused"])),
    )
