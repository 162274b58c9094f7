"""Replication slots on the Citus nodes: those that moves of shards wait for in vain."""

from typing import cast

import psycopg

from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection

LOST_SLOTS = psycopg.sql.SQL("""
SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots
WHERE wal_status = 'lost' AND starts_with(slot_name, 'citus_shard_')
""")
"""Asks a node for the names of slots whose log is gone, of moves and splits (multi_logical_replication.c)."""


async def lost_slots(conn: Connection, node: RegisteredNode) -> tuple[str, ...]:
    """Ask a node for them; errors as in :func:`citus_probe.ask`."""
    return names_of(await citus_probe.ask_node(conn, node, LOST_SLOTS.as_string(conn)))


def names_of(answer: object) -> tuple[str, ...]:
    return tuple(cast("list[str]", answer))
