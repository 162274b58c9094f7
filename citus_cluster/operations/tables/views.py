"""Views of tables and schemas."""

from collections.abc import Sequence

from citus_cluster.model.citus.tables import SchemaListRow, TableListRow
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.postgres import Connection, translated

SIZES_MAX_AGE_S = 15.0
"""Sizes are read from every node."""


async def _read_tables(cluster: Cluster, _: object) -> Sequence[TableListRow]:
    async def work(conn: Connection) -> Sequence[TableListRow]:
        async with translated("listing the tables"):
            registry = await citus_nodes.read_registry(conn)
            sizes = await citus_shards.sizes_by_group(conn, registry.nodes)
            return await citus_relations.list_tables(conn, sizes)

    return await cluster.on_coordinator(work)


async def _read_schemas(cluster: Cluster, _: object) -> Sequence[SchemaListRow]:
    async def work(conn: Connection) -> Sequence[SchemaListRow]:
        async with translated("listing the schemas"):
            registry = await citus_nodes.read_registry(conn)
            sizes = await citus_shards.sizes_by_group(conn, registry.nodes)
            tables = await citus_relations.list_tables(conn, sizes)
            return await citus_relations.list_schemas(conn, registry.nodes, tables)

    return await cluster.on_coordinator(work)


TABLES = View(
    name="tables-list",
    summary="List all tables: distributed, reference, local, and those of distributed schemas.",
    path="tables",
    command="tables list",
    row=TableListRow,
    key="oid",
    superuser=True,  # the sizes of shards in schemas that are closed to others
    read=_read_tables,
    max_age_s=SIZES_MAX_AGE_S,
    columns=("table", "kind", "distribution_column", "colocation_id", "shards", "bytes", "owner", "partition_of"),
)
SCHEMAS = View(
    name="schemas-list",
    summary="List all schemas, and the node of each distributed schema.",
    path="schemas",
    command="schemas list",
    row=SchemaListRow,
    key="schema",
    superuser=True,  # the sizes of shards in schemas that are closed to others
    read=_read_schemas,
    max_age_s=SIZES_MAX_AGE_S,
)
