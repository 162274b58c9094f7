"""Workers that leave: what one still holds, its removal from the node list, and the record of it."""

from collections.abc import Iterable
from dataclasses import dataclass

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus.nodes import CHANGE_TIMEOUT_S, IMPATIENT, LOCK_TIMEOUT_S
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.tables import SHARD_NAME, Placement
from citus_cluster.runtime.postgres import Connection, bare_name, bounded, bounded_outside, set_local

_CLEANUP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class HeldPlacement:
    """A copy of a shard on a node, its table, and whether another active node has a copy too."""

    placement: Placement
    table: str
    elsewhere: bool


async def held_placements(conn: Connection, group_id: int) -> tuple[HeldPlacement, ...]:
    """Return every placement of a group, except those of reference tables, which each node has."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            f"""
            SELECT shard.logicalrelid::oid, shard.shardid, {SHARD_NAME}, here.groupid,
                   shard.logicalrelid::text,
                   EXISTS (SELECT FROM pg_dist_placement AS other JOIN pg_dist_node AS node USING (groupid)
                           WHERE other.shardid = here.shardid AND other.groupid <> here.groupid
                             AND node.isactive AND node.noderole = 'primary')
            FROM pg_dist_placement AS here JOIN pg_dist_shard AS shard USING (shardid)
            JOIN pg_dist_partition AS its ON its.logicalrelid = shard.logicalrelid
            WHERE here.groupid = %s AND its.repmodel <> 't'
            ORDER BY shard.logicalrelid::text, shard.shardid
            """,  # noqa: S608 # our own constant
            [group_id],
        )
        rows = await cursor.fetchall()
    return tuple(HeldPlacement(Placement(*row[:4]), bare_name(row[4]), bool(row[5])) for row in rows)


async def moves_off(conn: Connection, job_id: int, node_id: int) -> bool:
    """Return whether a rebalance has, or had, moves of shards off a node."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT EXISTS (SELECT FROM pg_dist_background_task WHERE job_id = %s "
            r"AND substring(command from 'citus_move_shard_placement\(\d+,\s*(\d+),')::int = %s)",
            [job_id, node_id],
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def unfinished_sources(conn: Connection, job_id: int) -> frozenset[int]:
    """Return the ids of the nodes that a rebalance was still to move shards off when it ended."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            r"SELECT DISTINCT substring(command from 'citus_move_shard_placement\(\d+,\s*(\d+),')::int "
            "FROM pg_dist_background_task WHERE job_id = %s AND status <> 'done'",
            [job_id],
        )
        return frozenset(int(row[0]) for row in await cursor.fetchall() if row[0] is not None)


async def is_in_work(conn: Connection, job_id: int, node_id: int) -> bool:
    """Return whether a rebalance has moves to or from a node that have not ended."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT EXISTS (SELECT FROM pg_dist_background_task, LATERAL regexp_match(command, "
            r"'citus_move_shard_placement\(\d+,\s*(\d+),\s*(\d+)') AS move(nodes) "
            "WHERE job_id = %s AND status NOT IN ('done', 'cancelled', 'error') AND %s = ANY (nodes::int[]))",
            [job_id, node_id],
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def set_should_have_shards(conn: Connection, workers: Iterable[NodeAddress], value: bool) -> None:
    """Set, in one transaction, whether nodes may hold shards; no shard moves."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        for worker in workers:
            await citus_nodes.set_should_have_shards(conn, worker, value)


async def clean_up(conn: Connection, group_id: int) -> int:
    """Let Citus drop what moves have left behind. Return how much of it remains on one group of nodes."""
    if not await _waiting_for_cleanup(conn, group_id):
        return 0
    async with bounded_outside(conn, _CLEANUP_TIMEOUT_S):
        await conn.execute("CALL pg_catalog.citus_cleanup_orphaned_resources()")
    return await _waiting_for_cleanup(conn, group_id)


async def _waiting_for_cleanup(conn: Connection, group_id: int) -> int:
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute("SELECT count(*) FROM pg_dist_cleanup WHERE node_group_id = %s", [group_id])
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def remove_worker(conn: Connection, node: RegisteredNode, *, answers: bool, identifier: str | None) -> None:
    """Remove a worker from the node list and record that it left, in one transaction.

    Citus refuses if the worker holds the only copy of a shard. Citus would also connect to a worker that does not
    answer, unless it is disabled first. ``identifier`` is the system identifier of the server, if known.
    """
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        host, port = node.address.host, node.address.port
        if node.is_active and not answers:
            await conn.execute("SELECT citus_disable_node(%s, %s, true)", [host, port])
        await conn.execute("SELECT citus_remove_node(%s, %s)", [host, port])
        # Objects that were still to be dropped there stay in its volume: they can no longer be dropped.
        await conn.execute("DELETE FROM pg_dist_cleanup WHERE node_group_id = %s", [node.group_id])
        await citus_nodes.forget_maintenance(conn, node.node_id)
        await citus_nodes.forget_departure(conn, node.address)
        await _record_departure(conn, node.address, identifier)


async def record_departure(conn: Connection, worker: NodeAddress, *, identifier: str | None) -> None:
    """Record that a worker that is not in the node list must stay out of it; an earlier record is kept."""
    async with bounded(conn, QUICK_S):
        await _record_departure(conn, worker, identifier)


async def _record_departure(conn: Connection, worker: NodeAddress, identifier: str | None) -> None:
    await citus_nodes.prepare_schema(conn)
    if not await citus_nodes.has_departures(conn):
        await conn.execute(
            """
            CREATE TABLE citus_cluster.departed (
                nodename text NOT NULL,
                nodeport integer NOT NULL,
                system_identifier text,
                left_at timestamptz NOT NULL DEFAULT now(),
                released_at timestamptz,
                PRIMARY KEY (nodename, nodeport))
            """
        )
        await conn.execute(
            "COMMENT ON TABLE citus_cluster.departed IS 'Workers that have left, with the system identifier of the "
            "server. Once released, another server may be registered under the name; this one only when asked for.'"
        )
    await conn.execute(
        """
        INSERT INTO citus_cluster.departed AS known (nodename, nodeport, system_identifier) VALUES (%s, %s, %s)
        ON CONFLICT (nodename, nodeport) DO UPDATE SET left_at = now(), released_at = NULL,
            system_identifier = coalesce(EXCLUDED.system_identifier, CASE WHEN known.left_at > (
                SELECT registered_at FROM citus_cluster.worker AS its
                WHERE its.nodename = known.nodename AND its.nodeport = known.nodeport) THEN known.system_identifier END)
        """,
        [worker.host, worker.port, identifier],
    )
    # The departure is then later than the registration, even if the clock was set back.
    await conn.execute(
        "INSERT INTO citus_cluster.worker (nodename, nodeport, registered_at) VALUES (%s, %s, '-infinity') "
        "ON CONFLICT (nodename, nodeport) DO UPDATE SET registered_at = EXCLUDED.registered_at",
        [worker.host, worker.port],
    )


async def release_name(conn: Connection, worker: NodeAddress, *, is_gone: bool) -> None:
    """Allow another server to be registered under the name of one that left: cluster.yaml no longer names it.

    If the server that left is unknown, because it did not answer, any server is allowed if that one certainly
    ``is_gone``.
    """
    async with bounded(conn, QUICK_S):
        await conn.execute(
            "UPDATE citus_cluster.departed SET released_at = clock_timestamp(), "
            "system_identifier = CASE WHEN %s THEN coalesce(system_identifier, 'unknown') ELSE system_identifier END "
            "WHERE nodename = %s AND nodeport = %s AND released_at IS NULL",
            [is_gone, worker.host, worker.port],
        )
