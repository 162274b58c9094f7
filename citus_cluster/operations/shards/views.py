"""Views of shards, of the groups that move together, and of the place of a key."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from citus_cluster.model.citus.shards import KeyLocation, ShardGroupRow, ShardListRow, groups_of
from citus_cluster.model.parameters import parameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.tables.names import TableName
from citus_cluster.operations.tables.views import SIZES_MAX_AGE_S
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.postgres import Connection, translated

KeyValue = Annotated[
    str,
    Field(
        max_length=10_000,
        description="Value of the distribution column, as PostgreSQL writes it; any text for a table without one.",
        examples=["42"],
    ),
]


@parameters
class Key:
    """A table, and a value of its distribution column."""

    table: TableName
    value: KeyValue


async def _read_shards(cluster: Cluster, _: object) -> Sequence[ShardListRow]:
    async def work(conn: Connection) -> Sequence[ShardListRow]:
        async with translated("listing the shards"):
            registry = await citus_nodes.read_registry(conn)
            sizes = await citus_shards.sizes_by_group(conn, registry.nodes)
            return await citus_shards.list_placements(conn, registry.nodes, sizes)

    return await cluster.on_coordinator(work)


async def _read_groups(cluster: Cluster, _: object) -> Sequence[ShardGroupRow]:
    # In a thread, because 100,000 shards take half a second, and the admin API serves others meanwhile.
    return await asyncio.to_thread(groups_of, await _read_shards(cluster, None))


async def _read_key(cluster: Cluster, wanted: Key) -> KeyLocation:
    async def work(conn: Connection) -> KeyLocation:
        async with translated("looking for the key"):
            table = await citus_relations.find_table(conn, wanted.table)
            registry = await citus_nodes.read_registry(conn)
            return await citus_shards.locate_key(conn, registry.nodes, table.oid, wanted.value)

    return await cluster.on_coordinator(work)


LIST = View(
    name="shards-list",
    summary="List every placement of every shard, with its size.",
    path="shards",
    command="shards list",
    row=ShardListRow,
    key="placement_id",
    superuser=True,  # the sizes of shards in schemas that are closed to others
    read=_read_shards,
    max_age_s=SIZES_MAX_AGE_S,
    columns=("shard_id", "table", "node", "bytes", "colocation_id", "min_value", "max_value", "state"),
)
GROUPS = View(
    name="shards-groups",
    summary="List the groups of shards that move together, on each node, with their size and skew.",
    path="shards/groups",
    command="shards groups",
    row=ShardGroupRow,
    key="cell",
    superuser=True,  # the sizes of shards in schemas that are closed to others
    read=_read_groups,
    max_age_s=SIZES_MAX_AGE_S,
    columns=("group_id", "colocation_id", "node", "tables", "shards", "bytes", "skew"),
)
WHERE = View(
    name="shards-where",
    summary="Show the shard and the node of one value of a table's distribution column.",
    path="shards/where",
    command="shards where",
    row=KeyLocation,
    parameters=Key,
    superuser=True,  # Citus computes the shard of a value only for a role that may read the table
    read=_read_key,
)
