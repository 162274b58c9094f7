"""What can be left over in a cluster: prepared transactions, and objects of moves and splits; and restore points.

Each node is asked separately, in bounded time.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any, cast

from psycopg import sql

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.orphans import CleanupRecord, Kind, Leftover, OrphanRow, find_orphans, read_leftovers
from citus_cluster.model.citus.prepared import Initiator, Prepared, PreparedRow, decide, read_prepared
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.restore_points import RestorePointRow
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.tables import SHARD_NAME
from citus_cluster.runtime.postgres import Connection, bounded, bounded_outside, set_local

RECOVERY_S = 60.0
CLEANUP_S = 600.0
RESTORE_POINT_S = 30.0
"""While a restore point is created, no distributed transaction commits."""

# A commit with WAL of its own, which flushes everything before it.
_FLUSH = "SELECT to_json(pg_logical_emit_message(true, 'citus-cluster', '')::text)"
_PREPARED = """
SELECT coalesce(json_agg(one), '[]') FROM (
    SELECT gid, owner, prepared AS prepared_at,
           round(extract(epoch FROM clock_timestamp() - prepared), 3) AS seconds
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared) AS one
"""
# First the running transactions, then the records: one that ends in between has its record, if it was committed.
_RUNNING = """
SELECT coalesce(json_agg(transaction_number), '[]') FROM get_all_active_transactions()
WHERE NOT worker_query AND transaction_number > 0
"""
_COMMITTED = "SELECT coalesce(json_agg(json_build_array(groupid, gid)), '[]') FROM pg_dist_transaction"
_RECORDS = """
SELECT record_id, object_type, object_name, node_group_id, EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 10 AND mode = 'ExclusiveLock' AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32) | objid::bigint = operation_id)
FROM pg_dist_cleanup ORDER BY record_id
"""
# A node has the metadata of all shards, so it finds itself the tables that are shards placed only on other nodes.
_LEFTOVERS = f"""
SELECT coalesce(json_agg(one), '[]') FROM (
    SELECT 'slot' AS kind, slot_name::text AS name, active,
           pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS size_bytes
    FROM pg_replication_slots WHERE slot_name ~ '^citus_shard_(move|split)_slot_' AND database = current_database()
    UNION ALL
    SELECT 'subscription', subname,
           EXISTS (SELECT FROM pg_stat_subscription AS its WHERE its.subid = it.oid AND its.pid > 0), NULL
    FROM pg_subscription AS it WHERE subname ~ '^citus_shard_(move|split)_subscription_'
      AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL
    SELECT 'publication', pubname, false, NULL
    FROM pg_publication WHERE pubname ~ '^citus_shard_(move|split)_publication_'
    UNION ALL
    SELECT 'role', rolname, false, NULL
    FROM pg_roles WHERE rolname ~ '^citus_shard_(move|split)_subscription_role_'
    UNION ALL
    SELECT 'shard', it.oid::regclass::text, false, pg_total_relation_size(it.oid)
    FROM pg_class AS it
    JOIN pg_dist_shard AS shard ON shard.shardid = substring(it.relname from '_([0-9]{{6,18}})$')::bigint
    WHERE it.relkind IN ('r', 'p') AND to_regclass({SHARD_NAME}) = it.oid AND NOT EXISTS (
        SELECT FROM pg_dist_placement AS its WHERE its.shardid = shard.shardid
          AND its.groupid = (SELECT groupid FROM pg_dist_local_group))) AS one
"""  # noqa: S608 # our own constants


async def prepared_transactions(
    conn: Connection, nodes: Sequence[RegisteredNode], known: Mapping[NodeAddress, str] | None = None
) -> tuple[PreparedRow, ...]:
    """Return the prepared transactions, with what becomes of each. Nodes ``known`` to be silent are not asked."""
    answers, silent = await citus_probe.ask_all(conn, nodes, _PREPARED, known=known)
    found = [one for node, answer in answers for one in read_prepared(node, cast("list[Any]", answer))]
    wanted = {one.initiator for one in found}
    asking = [
        node for node in nodes if node.role == "primary" and node.group_id in wanted and node.address not in silent
    ]
    return decide(found, await _initiators(conn, asking, found), silent)


async def _initiators(
    conn: Connection, nodes: Sequence[RegisteredNode], found: Sequence[Prepared]
) -> Mapping[int, Initiator]:
    if not found:
        return {}
    running, _ = await citus_probe.ask_all(conn, nodes, _RUNNING)
    committed, _ = await citus_probe.ask_all(conn, nodes, _COMMITTED)
    records = {node.group_id: answer for node, answer in committed}
    return {
        node.group_id: Initiator.from_json(node.address, {"running": answer, "committed": records[node.group_id]})
        for node, answer in running
        if node.group_id in records
    }


async def recover(conn: Connection, node: RegisteredNode) -> int:
    """Let a node end the prepared transactions that it began. Return how many; errors as in :func:`citus_probe.ask`."""
    question = "SELECT to_json(recover_prepared_transactions())"
    if not node.is_coordinator:
        return int(str(await citus_probe.ask_node(conn, node, question, timeout_s=RECOVERY_S)))
    # Not as a question to the coordinator, which is rolled back: Citus deletes its records in the transaction.
    async with bounded(conn, RECOVERY_S):
        row = await (await conn.execute(question.encode())).fetchone()
    return int(row[0]) if row else 0


async def orphans(
    conn: Connection, nodes: Sequence[RegisteredNode], known: Mapping[NodeAddress, str] | None = None
) -> tuple[OrphanRow, ...]:
    """Return what moves and splits left behind, and what they use now. Nodes ``known`` to be silent are not asked."""
    # The objects first: one that is created in between has its record by then, and one that is dropped has none.
    found, silent = await leftovers(conn, nodes, known)
    records = await cleanup_records(conn)
    return find_orphans(records, found, nodes, silent)


async def cleanup_records(conn: Connection) -> tuple[CleanupRecord, ...]:
    """Return what Citus has recorded to drop."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(_RECORDS)
        return tuple(CleanupRecord.from_row(row) for row in await cursor.fetchall())


async def leftovers(
    conn: Connection, nodes: Iterable[RegisteredNode], known: Mapping[NodeAddress, str] | None = None
) -> tuple[tuple[Leftover, ...], Mapping[NodeAddress, str]]:
    """Return the objects of moves and splits on the nodes, and why nodes do not answer."""
    primaries = [node for node in nodes if node.role == "primary"]
    settings = {"citus.override_table_visibility": "off"}
    answers, silent = await citus_probe.ask_all(conn, primaries, _LEFTOVERS, settings=settings, known=known)
    found = [one for node, answer in answers for one in read_leftovers(node.address, cast("list[Any]", answer))]
    return tuple(found), silent


async def clean_up(conn: Connection) -> None:
    """Let Citus drop what it has recorded and no running operation uses; each object is dropped separately."""
    async with bounded_outside(conn, CLEANUP_S):
        await conn.execute("CALL citus_cleanup_orphaned_resources()")


async def read_restore_points(conn: Connection) -> tuple[RestorePointRow, ...]:
    """Return the restore points that this tool has created, the latest first."""
    async with bounded(conn, QUICK_S):
        row = await (await conn.execute("SELECT to_regclass('citus_cluster.restore_point') IS NOT NULL")).fetchone()
        if not row or not row[0]:
            return ()
        cursor = await conn.execute(
            "SELECT name, lsn::text, created_at FROM citus_cluster.restore_point ORDER BY created_at DESC"
        )
        return tuple(RestorePointRow(name, lsn, at.astimezone(UTC)) for name, lsn, at in await cursor.fetchall())


async def create_restore_point(conn: Connection, name: str) -> str:
    """Create a restore point on all nodes, and record it, in one transaction. Return the coordinator's LSN.

    Citus holds back the commits of distributed transactions meanwhile, so no node may be silent.
    """
    async with bounded(conn, RESTORE_POINT_S, lock_timeout_s=RESTORE_POINT_S):
        await set_local(conn, citus_nodes.IMPATIENT)
        row = await (await conn.execute("SELECT citus_create_restore_point(%s)::text", [name])).fetchone()
        lsn = str(row[0]) if row else ""
        await citus_nodes.prepare_schema(conn)
        await conn.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS citus_cluster.restore_point "
                "(name text PRIMARY KEY, lsn pg_lsn NOT NULL, created_at timestamptz NOT NULL DEFAULT now())"
            )
        )
        await conn.execute("INSERT INTO citus_cluster.restore_point (name, lsn) VALUES (%s, %s::pg_lsn)", [name, lsn])
    return lsn


async def flush_wal(conn: Connection, nodes: Sequence[RegisteredNode]) -> Mapping[NodeAddress, str]:
    """Let every node write its WAL to disk. Return why nodes did not.

    A restore point is no commit, so its record stays in the memory of a node that has nothing else to write.
    """
    _, silent = await citus_probe.ask_all(conn, [node for node in nodes if node.role == "primary"], _FLUSH)
    return silent


async def drop_leftover(conn: Connection, node: RegisteredNode, kind: Kind, name: str) -> None:
    """Drop an object of a move that has ended, on one node. Errors as in :func:`citus_probe.ask`."""
    quoted = sql.Identifier(name)
    statements: Sequence[sql.Composed] = ()
    if kind is Kind.SLOT:
        statements = (sql.SQL("SELECT pg_drop_replication_slot({})::text").format(name),)
    elif kind is Kind.PUBLICATION:
        statements = (sql.SQL("DROP PUBLICATION IF EXISTS {}").format(quoted),)
    elif kind is Kind.SUBSCRIPTION:
        # Without its slot, which may be on a node that does not answer, and is dropped by itself.
        statements = (
            sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(quoted),
            sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(quoted),
            sql.SQL("DROP SUBSCRIPTION IF EXISTS {}").format(quoted),
        )
    for statement in statements:
        if node.is_coordinator:
            async with bounded(conn, QUICK_S):
                await set_local(conn, {"citus.enable_ddl_propagation": "off"})
                await conn.execute(statement)
        else:
            await citus_probe.tell(conn, node.address, statement.as_string(conn))
