"""Nodes in maintenance, recorded on the coordinator with the state that the end of the maintenance restores."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded


@dataclass(frozen=True)
class Maintenance:
    """The record of one node: its state before, since when (UTC), and why."""

    node_id: int
    was_active: bool
    held_shards: bool
    since: datetime
    reason: str | None


async def read_all(conn: Connection) -> Mapping[int, Maintenance]:
    """Return the records by node id."""
    async with bounded(conn, QUICK_S):
        if not await citus_nodes.has_maintenance(conn):
            return {}
        cursor = await conn.execute(
            "SELECT nodeid, was_active, held_shards, since, reason FROM citus_cluster.maintenance"
        )
        rows = await cursor.fetchall()
    return {row[0]: Maintenance(row[0], row[1], row[2], row[3].astimezone(UTC), row[4]) for row in rows}


async def record(conn: Connection, node_id: int, *, was_active: bool, held_shards: bool, reason: str | None) -> None:
    """Record that a node is in maintenance; an earlier record is kept, because it has the state before."""
    async with bounded(conn, QUICK_S):
        await citus_nodes.prepare_schema(conn)
        await conn.execute(
            """
            CREATE TABLE IF NOT EXISTS citus_cluster.maintenance (
                nodeid integer PRIMARY KEY,
                was_active boolean NOT NULL,
                held_shards boolean NOT NULL,
                since timestamptz NOT NULL DEFAULT now(),
                reason text)
            """
        )
        await conn.execute(
            "COMMENT ON TABLE citus_cluster.maintenance IS 'Nodes that citus-cluster nodes pause has paused, with "
            "the isactive and shouldhaveshards that nodes resume restores.'"
        )
        await conn.execute(
            "INSERT INTO citus_cluster.maintenance (nodeid, was_active, held_shards, reason) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (nodeid) DO NOTHING",
            [node_id, was_active, held_shards, reason],
        )


async def forget(conn: Connection, node_id: int) -> None:
    """Drop the record of a node, if there is one."""
    async with bounded(conn, QUICK_S):
        await citus_nodes.forget_maintenance(conn, node_id)
