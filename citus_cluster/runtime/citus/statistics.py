"""Statistics that are collected on request: what each node has, how to switch them on, and their rows."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from psycopg import sql

from citus_cluster.model.citus.activity import QUERY_CHARACTERS
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.statistics import (
    Need,
    NodeFeature,
    TenantRow,
    TopStatementRow,
    read_feature,
    read_statement,
    read_tenants,
)
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bare_name, bounded, bounded_outside, set_local

_FEATURE = sql.SQL("""
SELECT json_build_object(
    'libraries', current_setting('shared_preload_libraries'),
    'schema', (SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
               WHERE extname = {extension}),
    'settings', (SELECT json_object_agg(name, current_setting(name, true))
                 FROM unnest({settings}::text[]) AS its(name)))
""")
# citus_stat_statements() finds pg_stat_statements only by the search path, so its parts are joined here.
_STATEMENTS = sql.SQL("""
SELECT coalesce(json_agg(one), '[]') FROM (
    SELECT queryid::text AS query_id, userid AS user_id, dbid AS database_id, toplevel AS top_level,
           pg_get_userbyid(userid) AS role, datname AS database, counted.calls, total_exec_time AS total_ms,
           mean_exec_time AS mean_ms, rows, left(query, {characters}) AS query,
           total_exec_time / nullif(sum(total_exec_time) OVER (), 0) AS share, executor, tenants
    FROM {schema}.pg_stat_statements AS counted LEFT JOIN pg_database ON pg_database.oid = dbid
    LEFT JOIN (
        SELECT queryid, userid, dbid, min(citus_executor_name(executor::int)) AS executor,
               count(DISTINCT partition_key) AS tenants
        FROM citus_query_stats() GROUP BY 1, 2, 3) AS distributed USING (queryid, userid, dbid)
    ORDER BY total_exec_time DESC LIMIT {most}) AS one
""")
_TENANTS = """
SELECT coalesce(json_agg(one), '[]') FROM (
    SELECT colocation_id, tenant_attribute AS tenant, read_count_in_this_period AS reads,
           read_count_in_last_period AS reads_last_period, query_count_in_this_period AS queries,
           query_count_in_last_period AS queries_last_period, cpu_usage_in_this_period AS cpu_seconds,
           cpu_usage_in_last_period AS cpu_seconds_last_period
    FROM citus_stat_tenants_local()) AS one
"""


async def features(
    conn: Connection, nodes: Sequence[RegisteredNode], need: Need, known: Mapping[NodeAddress, str] | None = None
) -> tuple[tuple[NodeFeature, ...], Mapping[NodeAddress, str]]:
    """Return what each node has of a feature, and why nodes do not answer; those ``known`` not to are not asked."""
    question = _FEATURE.format(extension=need.extension or "", settings=list(need.settings))
    answers, silent = await citus_probe.ask_all(conn, nodes, question.as_string(conn), known=known)
    found = (
        read_feature(node.address, node.is_coordinator, cast("Mapping[str, Any]", answer)) for node, answer in answers
    )
    return tuple(found), silent


async def create_extension(conn: Connection, node: RegisteredNode, extension: str) -> None:
    """Create an extension on one node, as the first start of a node does. Errors as in :func:`citus_probe.ask`."""
    statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA public").format(sql.Identifier(extension))
    if not node.is_coordinator:
        await citus_probe.tell(conn, node.address, statement.as_string(conn))
        return
    async with bounded(conn, QUICK_S):
        await set_local(conn, {"citus.enable_ddl_propagation": "off"})
        await conn.execute(statement)


async def set_parameters(conn: Connection, node: RegisteredNode, settings: Mapping[str, str]) -> None:
    """Set parameters of one server with ALTER SYSTEM, and reload them. Errors as in :func:`citus_probe.ask`."""
    statements = [
        sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), value) for name, value in settings.items()
    ]
    for statement in statements:
        if node.is_coordinator:
            async with bounded_outside(conn, QUICK_S):
                await conn.execute(statement)
        else:
            await citus_probe.tell(conn, node.address, statement.as_string(conn))
    await citus_probe.ask_node(conn, node, "SELECT to_json(pg_reload_conf())")


async def top_statements(conn: Connection, node: RegisteredNode, schema: str, most: int) -> tuple[TopStatementRow, ...]:
    """Return the statements that took most time on a node. Errors as in :func:`citus_probe.ask`."""
    question = _STATEMENTS.format(characters=QUERY_CHARACTERS, schema=sql.Identifier(schema), most=most)
    rows = cast("list[Any]", await citus_probe.ask_node(conn, node, question.as_string(conn)))
    return tuple(read_statement(node.address, row) for row in rows)


async def tenants(
    conn: Connection, nodes: Sequence[RegisteredNode], known: Mapping[NodeAddress, str] | None = None
) -> tuple[tuple[TenantRow, ...], Mapping[NodeAddress, str]]:
    """Return the tenants that each node counts, and why nodes do not answer; those ``known`` not to are not asked."""
    answers, silent = await citus_probe.ask_all(conn, nodes, _TENANTS, known=known)
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT colocationid, array_agg(logicalrelid::text ORDER BY logicalrelid::text) FROM pg_dist_partition "
            "WHERE colocationid > 0 GROUP BY 1"
        )
        tables = {row[0]: tuple(map(bare_name, row[1])) for row in await cursor.fetchall()}
    found = [row for node, answer in answers for row in read_tenants(node.address, cast("list[Any]", answer), tables)]
    return tuple(found), silent
