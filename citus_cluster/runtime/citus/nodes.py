"""The node list: one function for each query and each change."""

from collections.abc import Collection, Mapping

import psycopg

from citus_cluster.model.citus.nodes import NodeAddress, NodeRow, Role
from citus_cluster.model.citus.registration import COORDINATOR_GROUP, RegisteredNode, Registry
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded, set_local

CHANGE_TIMEOUT_S = 45.0
"""Adding a node copies the metadata of all tables to it, which may take long."""
COPY_TIMEOUT_S = 6 * 3600.0
COPY_LOCK_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 5.0
"""A rebalance locks the node list; report this early instead of waiting for hours."""

# Our own objects stay on the coordinator; a schema must not become a tenant.
_LOCAL_ONLY = {"citus.enable_ddl_propagation": "off", "citus.enable_schema_based_sharding": "off"}
IMPATIENT = {"citus.node_connection_timeout": "5000"}
"""A node that stops answering between the probe and the change would hold its locks for half a minute."""


async def read_registry(conn: Connection) -> Registry:
    """Read the node list and our own table, without any lock."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT nodeid, groupid, nodename, nodeport, isactive, noderole::text, shouldhaveshards "
            "FROM pg_dist_node ORDER BY groupid, noderole, nodeid"
        )
        rows = await cursor.fetchall()
        cursor = await conn.execute(
            "SELECT to_regclass('citus_cluster.worker') IS NOT NULL, "
            "to_regclass('citus_cluster.departed') IS NOT NULL, to_regclass('citus_cluster.maintenance') IS NOT NULL"
        )
        recorded, departed, maintained = await cursor.fetchone() or (False, False, False)
        resting = await _resting(conn) if maintained else frozenset()
        nodes = tuple(_node(row, resting) for row in rows)
        if not recorded:
            return Registry(nodes, None)
        cursor = await conn.execute("SELECT nodename, nodeport FROM citus_cluster.worker")
        known = frozenset(NodeAddress(str(row[0]), int(row[1])) for row in await cursor.fetchall())
        return Registry(nodes, known, await _read_released(conn) if departed else {})


async def _resting(conn: Connection) -> frozenset[int]:
    """Return the ids of the nodes in maintenance; the table exists."""
    cursor = await conn.execute("SELECT nodeid FROM citus_cluster.maintenance")
    return frozenset(int(row[0]) for row in await cursor.fetchall())


async def read_rows(conn: Connection) -> tuple[NodeRow, ...]:
    """Read the node list with the number of placements on each node. Whether a node answers is not known here."""
    async with bounded(conn, QUICK_S):
        resting = await _resting(conn) if await has_maintenance(conn) else frozenset()
        cursor = await conn.execute(
            """
            SELECT nodeid, groupid, nodename, nodeport, noderole::text, isactive, shouldhaveshards, hasmetadata,
                   metadatasynced, (SELECT count(*) FROM pg_dist_placement WHERE groupid = node.groupid)
            FROM pg_dist_node AS node ORDER BY groupid, noderole, nodeid
            """
        )
        rows = await cursor.fetchall()
    return tuple(
        NodeRow(
            node=str(NodeAddress(host, port)),
            host=host,
            port=port,
            node_id=node_id,
            group_id=group_id,
            role=Role.COORDINATOR if group_id == COORDINATOR_GROUP else Role.WORKER,
            node_role=node_role,
            is_active=is_active,
            should_have_shards=holds,
            has_metadata=has_metadata,
            metadata_synced=synced,
            shards=shards,
            in_maintenance=node_id in resting,
        )
        for node_id, group_id, host, port, node_role, is_active, holds, has_metadata, synced, shards in rows
    )


async def _read_released(conn: Connection) -> Mapping[NodeAddress, str]:
    # Earlier versions kept the record of a departure when the worker was registered again.
    cursor = await conn.execute(
        "SELECT nodename, nodeport, system_identifier FROM citus_cluster.departed JOIN citus_cluster.worker "
        "USING (nodename, nodeport) WHERE released_at > registered_at AND system_identifier IS NOT NULL"
    )
    return {NodeAddress(str(row[0]), int(row[1])): str(row[2]) for row in await cursor.fetchall()}


def _node(row: tuple[object, ...], resting: Collection[int]) -> RegisteredNode:
    return RegisteredNode(
        node_id=int(str(row[0])),
        group_id=int(str(row[1])),
        address=NodeAddress(str(row[2]), int(str(row[3]))),
        is_active=bool(row[4]),
        role=str(row[5]),
        should_have_shards=bool(row[6]),
        in_maintenance=row[0] in resting,
    )


async def prepare_schema(conn: Connection) -> None:
    """Create the schema of our own tables, and let the rest of the transaction change only the coordinator.

    So it comes last in a transaction that changes other nodes too, such as one that creates a role. Clusters of earlier
    versions have the schema on every node, but only the coordinator has tables in it.
    """
    await set_local(conn, _LOCAL_ONLY)
    # Checked first, because IF NOT EXISTS logs a notice.
    cursor = await conn.execute("SELECT to_regnamespace('citus_cluster') IS NULL")
    row = await cursor.fetchone()
    if row and row[0]:
        await conn.execute("CREATE SCHEMA citus_cluster")


async def create_record(conn: Connection) -> None:
    """Create, only on the coordinator, the table of workers that were registered."""
    async with bounded(conn, QUICK_S):
        await prepare_schema(conn)
        await conn.execute(
            """
            CREATE TABLE IF NOT EXISTS citus_cluster.worker (
                nodename text NOT NULL,
                nodeport integer NOT NULL,
                registered_at timestamptz NOT NULL DEFAULT now(),
                PRIMARY KEY (nodename, nodeport))
            """
        )
        await conn.execute(
            "COMMENT ON TABLE citus_cluster.worker IS 'Workers that citus-cluster has registered once. One that is "
            "here and not in pg_dist_node was removed by an operator, and is not registered again unasked.'"
        )


async def record_worker(conn: Connection, worker: NodeAddress) -> None:
    """Record that a worker is, or was, registered."""
    async with bounded(conn, QUICK_S):
        await _record(conn, worker)


async def _record(conn: Connection, worker: NodeAddress) -> None:
    await conn.execute(
        "INSERT INTO citus_cluster.worker (nodename, nodeport) VALUES (%s, %s) "
        "ON CONFLICT (nodename, nodeport) DO UPDATE SET registered_at = now()",
        [worker.host, worker.port],
    )
    await forget_departure(conn, worker)


async def has_departures(conn: Connection) -> bool:
    """Return, within the caller's transaction, whether the table of workers that have left exists."""
    cursor = await conn.execute("SELECT to_regclass('citus_cluster.departed') IS NOT NULL")
    row = await cursor.fetchone()
    return bool(row and row[0])


async def has_maintenance(conn: Connection) -> bool:
    """Return, within the caller's transaction, whether the table of nodes in maintenance exists."""
    cursor = await conn.execute("SELECT to_regclass('citus_cluster.maintenance') IS NOT NULL")
    row = await cursor.fetchone()
    return bool(row and row[0])


async def forget_maintenance(conn: Connection, node_id: int) -> None:
    """Drop, within the caller's transaction, the record that a node is in maintenance, if there is one."""
    if await has_maintenance(conn):
        await conn.execute("DELETE FROM citus_cluster.maintenance WHERE nodeid = %s", [node_id])


async def forget_departure(conn: Connection, worker: NodeAddress) -> None:
    """Drop, within the caller's transaction, the record that a worker left: it is, or was, registered since."""
    if await has_departures(conn):
        await conn.execute(
            "DELETE FROM citus_cluster.departed WHERE nodename = %s AND nodeport = %s", [worker.host, worker.port]
        )


async def set_coordinator_host(conn: Connection, coordinator: NodeAddress, *, holds_shards: bool | None) -> None:
    """Register the coordinator's own address before any worker; ``holds_shards`` None does not change that property."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await conn.execute("SELECT citus_set_coordinator_host(%s, %s)", [coordinator.host, coordinator.port])
        if holds_shards is not None:
            await set_should_have_shards(conn, coordinator, holds_shards)


async def move_coordinator(conn: Connection, node_id: int, coordinator: NodeAddress) -> None:
    """Change the coordinator's address on all nodes: ``citus_set_coordinator_host`` did not always reach workers.

    See https://github.com/citusdata/citus/issues/6731.
    """
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        await conn.execute("SELECT citus_update_node(%s, %s, %s)", [node_id, coordinator.host, coordinator.port])


async def all_synced(conn: Connection) -> bool:
    """Return whether every worker has the current node list; the maintenance daemon sends it after a change."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT coalesce(bool_and(metadatasynced), true) FROM pg_dist_node WHERE groupid <> 0"
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def set_should_have_shards(conn: Connection, node: NodeAddress, value: bool) -> None:
    """Set whether a node may hold shards, within the caller's transaction."""
    await conn.execute("SELECT citus_set_node_property(%s, %s, 'shouldhaveshards', %s)", [node.host, node.port, value])


async def add_worker(conn: Connection, worker: NodeAddress, *, unburden: NodeAddress | None, timeout_s: float) -> None:
    """Register a worker and record it, in one transaction.

    ``unburden`` names the coordinator if it must not get new shards from now on.
    """
    async with bounded(conn, timeout_s, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        if unburden:
            await set_should_have_shards(conn, unburden, False)
        await conn.execute("SELECT citus_add_node(%s, %s)", [worker.host, worker.port])
        await _record(conn, worker)


async def activate_worker(conn: Connection, worker: NodeAddress, *, timeout_s: float) -> None:
    """Activate a disabled worker, and record it, in one transaction."""
    async with bounded(conn, timeout_s, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        await conn.execute("SELECT citus_activate_node(%s, %s)", [worker.host, worker.port])
        await _record(conn, worker)


async def copy_reference_tables(conn: Connection) -> None:
    """Copy the reference tables to every active node that lacks them: Citus does it only before it places a shard.

    Writes to them wait meanwhile if one of them has no replica identity.
    """
    async with bounded(conn, COPY_TIMEOUT_S, lock_timeout_s=COPY_LOCK_TIMEOUT_S, whole_s=COPY_TIMEOUT_S):
        cursor = await conn.execute(
            """
            SELECT bool_or(relreplident = 'n' OR relreplident = 'd' AND NOT EXISTS (
                SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary))
            FROM pg_dist_partition JOIN pg_class ON pg_class.oid = logicalrelid WHERE repmodel = 't'
            """
        )
        row = await cursor.fetchone()
        mode = "block_writes" if row and row[0] else "auto"
        await conn.execute("SELECT replicate_reference_tables(%s::citus.shard_transfer_mode)", [mode])


async def add_inactive(conn: Connection, worker: NodeAddress) -> None:
    """Add a worker to the node list without activating it, and record it, in one transaction."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        await conn.execute("SELECT citus_add_inactive_node(%s, %s)", [worker.host, worker.port])
        await _record(conn, worker)


async def add_secondary(conn: Connection, standby: NodeAddress, primary: NodeAddress) -> None:
    """Add a standby to the group of its primary."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        await conn.execute(
            "SELECT citus_add_secondary_node(%s, %s, %s, %s)", [standby.host, standby.port, primary.host, primary.port]
        )


async def disable_node(conn: Connection, node: NodeAddress, *, synchronous: bool) -> None:
    """Disable a node. ``synchronous``: every other node knows it at once, for which every one must answer."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        await conn.execute("SELECT citus_disable_node(%s, %s, %s)", [node.host, node.port, synchronous])


async def remove_secondary(conn: Connection, node: NodeAddress) -> None:
    """Remove a standby from the node list; it holds no placement of its own."""
    async with bounded(conn, CHANGE_TIMEOUT_S, lock_timeout_s=LOCK_TIMEOUT_S):
        await set_local(conn, IMPATIENT)
        await conn.execute("SELECT citus_remove_node(%s, %s)", [node.host, node.port])


async def move_node(
    conn: Connection, node_id: int, address: NodeAddress, *, recorded: bool, force: bool, lock_timeout_s: float
) -> None:
    """Change the address of a node, and record the new one if it is a worker's (``recorded``), in one transaction.

    Citus locks the node's shards, so it waits for the statements that write to them. With ``force``, it terminates
    the sessions of those that have not ended after ``lock_timeout_s``.
    """
    whole_s = lock_timeout_s + CHANGE_TIMEOUT_S
    async with bounded(conn, whole_s, lock_timeout_s=whole_s if force else lock_timeout_s):
        await set_local(conn, IMPATIENT)
        await conn.execute(
            "SELECT citus_update_node(%s, %s, %s, force => %s, lock_cooldown => %s)",
            [node_id, address.host, address.port, force, round(lock_timeout_s * 1000)],
        )
        if recorded:
            await _record(conn, address)


async def node_health(conn: Connection, timeout_s: float) -> list[tuple[NodeAddress, NodeAddress, bool | None]]:
    """Return rows of ``citus_check_cluster_node_health()``: from, to, and whether it connects (None: from is down)."""
    async with bounded(conn, timeout_s):
        await set_local(conn, IMPATIENT)
        cursor = await conn.execute(
            "SELECT from_nodename, from_nodeport, to_nodename, to_nodeport, result "
            "FROM citus_check_cluster_node_health()"
        )
        return [
            (NodeAddress(str(row[0]), int(row[1])), NodeAddress(str(row[2]), int(row[3])), row[4])
            for row in await cursor.fetchall()
        ]


def is_busy(error: psycopg.Error) -> bool:
    """Return whether a change failed because another session, such as a rebalance, holds the node list.

    In the background, Citus recovers prepared transactions, and deletes the same rows of ``pg_dist_transaction`` as the
    removal of a node, in another order: one of the two then ends as a deadlock.
    """
    return isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)
