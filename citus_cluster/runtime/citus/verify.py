"""A real distributed write and read, in one transaction that is rolled back."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded, set_local

PREFIX = "citus_cluster_verify_"
ROWS_PER_SHARD = 64
"""Enough rows for each shard to get one: a shard of n gets none with a probability of (1 - 1/n) ** 64n < e**-64."""


@dataclass(frozen=True)
class RoundTrip:
    """The result of the check. ``shard_nodes``: node of each shard. ``read``: shard ids read by router queries."""

    shard_nodes: Mapping[int, NodeAddress]
    read: frozenset[int]
    rows_written: int
    rows_counted: int
    checksum_written: int
    checksum_read: int


async def write_and_read(
    conn: Connection, shard_count: int, *, statement_timeout_s: float, lock_timeout_s: float
) -> RoundTrip:
    """Create a table with one shard for each node, fill and read every shard, and roll back."""
    table = sql.Identifier("public", f"{PREFIX}{conn.info.backend_pid}")
    whole_s = 2 * statement_timeout_s + 0.1 * shard_count
    async with bounded(conn, statement_timeout_s, lock_timeout_s=lock_timeout_s, whole_s=whole_s, rollback=True):
        await set_local(
            conn,
            {"citus.shard_replication_factor": "1", "citus.node_connection_timeout": "5000"},
        )
        await _create(conn, table, shard_count)
        rows = ROWS_PER_SHARD * shard_count
        insert = sql.SQL("INSERT INTO {} SELECT id, id * 7 FROM generate_series(1, %s) AS id")
        await conn.execute(insert.format(table), [rows])
        shard_nodes = await _shard_nodes(conn, table)
        sample = await _one_id_per_shard(conn, table, rows)
        select = sql.SQL("SELECT payload FROM {} WHERE id = %s").format(table)
        read = set()
        for shard_id, row_id in sample.items():
            row = await (await conn.execute(select, [row_id])).fetchone()
            if row and row[0] == row_id * 7:
                read.add(shard_id)
        row = await (
            await conn.execute(sql.SQL("SELECT count(*), sum(payload)::bigint FROM {}").format(table))
        ).fetchone()
        counted, checksum = row or (0, 0)
    return RoundTrip(shard_nodes, frozenset(read), rows, counted, 7 * rows * (rows + 1) // 2, checksum or 0)


async def _create(conn: Connection, table: sql.Identifier, shard_count: int) -> None:
    await conn.execute(sql.SQL("CREATE TABLE {} (id bigint PRIMARY KEY, payload bigint NOT NULL)").format(table))
    await conn.execute(
        sql.SQL("SELECT create_distributed_table({}, 'id', colocate_with => 'none', shard_count => %s)").format(
            table.as_string(conn)
        ),
        [shard_count],
    )


async def _shard_nodes(conn: Connection, table: sql.Identifier) -> Mapping[int, NodeAddress]:
    cursor = await conn.execute(
        "SELECT shardid, nodename, nodeport FROM pg_dist_shard JOIN pg_dist_placement USING (shardid) "
        "JOIN pg_dist_node USING (groupid) WHERE logicalrelid = %s::regclass AND noderole = 'primary'",
        [table.as_string(conn)],
    )
    return {int(row[0]): NodeAddress(str(row[1]), int(row[2])) for row in await cursor.fetchall()}


async def _one_id_per_shard(conn: Connection, table: sql.Identifier, rows: int) -> Mapping[int, int]:
    cursor = await conn.execute(
        "SELECT get_shard_id_for_distribution_column(%s::regclass, id) AS shard_id, min(id) "
        "FROM generate_series(1, %s::bigint) AS id GROUP BY 1",
        [table.as_string(conn), rows],
    )
    return {int(row[0]): int(row[1]) for row in await cursor.fetchall()}


async def leftovers(conn: Connection, *, timeout_s: float) -> tuple[str, ...]:
    """Return what this or an earlier check left on any node: tables, shards, metadata, planned clean-ups."""
    # The nodes run it with their own search path: if all types are exact, no other function is a better match.
    question = sql.SQL(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_class WHERE starts_with(relname::text, {0}::text)) "
        "+ (SELECT count(*) FROM pg_catalog.pg_dist_cleanup WHERE strpos(object_name, {0}::text) > 0)"
    ).format(PREFIX)
    async with bounded(conn, timeout_s, lock_timeout_s=QUICK_S):
        cursor = await conn.execute(
            "SELECT coalesce(nodename || ':' || nodeport, 'the coordinator'), success, result "
            "FROM run_command_on_all_nodes(%s) LEFT JOIN pg_dist_node USING (nodeid) ORDER BY 1",
            [question.as_string(conn)],
        )
        rows = await cursor.fetchall()
    return tuple(f"{name}: {result}" for name, success, result in rows if not success or str(result) != "0")
