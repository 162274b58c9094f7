"""Replication slots on the Citus nodes that are lost, so that moves of shards wait for them forever."""

from typing import cast

import psycopg

from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection

LOST_SLOTS = psycopg.sql.SQL("""
SELECT coalesce(json_agg(slot_name ORDER BY slot_name), '[]') FROM pg_replication_slots
WHERE wal_status = 'lost' AND starts_with(slot_name, 'citus_shard_')
""")
"""Query for the names of lost slots of moves and splits (multi_logical_replication.c)."""


async def lost_slots(conn: Connection, node: RegisteredNode) -> tuple[str, ...]:
    """Return the lost slots of a node; errors as in :func:`citus_probe.ask`."""
    return names_of(await citus_probe.ask_node(conn, node, LOST_SLOTS.as_string(conn)))


def names_of(answer: object) -> tuple[str, ...]:
    return tuple(cast("list[str]", answer))
