"""One collection of figures, in parts that can fail and be repeated separately; each is bounded in time.

A node that hangs costs its part some seconds, and hides nothing of the others.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence, Set

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.figures import (
    Catalog,
    NodeAnswers,
    NodeFigures,
    RebalanceFigures,
    ShardLoad,
    primaries,
)
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.citus import figures as citus_figures
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.postgres import Connection, describe, translated

NODES_BUDGET_S = 20.0
"""After this time no further node is asked; the remaining ones are not judged."""


async def read_catalog(conn: Connection) -> Catalog:
    """Return what the coordinator's catalog holds. Raises CitusClusterError."""
    async with translated("reading the figures of the cluster"):
        return await citus_figures.read_catalog(conn)


async def ask_nodes(conn: Connection, catalog: Catalog) -> NodeAnswers:
    """Ask every active node for its figures, one after the other. Raises if the coordinator itself goes away."""
    deadline = time.monotonic() + NODES_BUDGET_S
    figures: dict[NodeAddress, NodeFigures] = {}
    silent: dict[NodeAddress, str] = {}
    for one in catalog.nodes:
        node = one.node
        if not node.is_active or time.monotonic() >= deadline:
            continue
        try:
            figures[node.address] = await citus_figures.ask_figures(
                conn, node, with_tenants=catalog.tenant_period_s is not None
            )
        except CitusClusterError as error:
            if conn.closed:
                raise
            silent[node.address] = error.message
        except psycopg.Error as error:
            if conn.closed:
                raise
            silent[node.address] = f"{node.address} does not serve queries: {describe(error)}"
    return NodeAnswers(figures, silent)


async def read_shards(
    conn: Connection, catalog: Catalog, silent: Set[NodeAddress]
) -> tuple[Mapping[NodeAddress, ShardLoad], Mapping[int, int]]:
    """Return the load of each primary, and bytes by shard id. Nodes in ``silent`` are not asked for sizes."""
    async with translated("reading the shards"):
        distributed = {row.oid for row in await citus_tables.read_tables(conn) if row.moves}
        placements = await citus_tables.read_placements(conn)
        count = Counter(one.group_id for one in placements if one.table_oid in distributed)
        holders = primaries(catalog.nodes)
        sizes = await citus_tables.shard_sizes(conn, [node for node in holders if node.address not in silent])
    known: dict[int, int] = {}
    for of_node in sizes.values():
        known |= of_node
    loads = {
        node.address: ShardLoad(
            count[node.group_id], sum(sizes[node.address].values()) if node.address in sizes else None
        )
        for node in holders
    }
    return loads, known


async def read_rebalance(conn: Connection, sizes: Mapping[int, int], silent: Sequence[str]) -> RebalanceFigures:
    """Return the latest rebalance; ``sizes`` are bytes by shard id, ``silent`` why nodes do not answer."""
    status = await rebalance_watch.status(conn, sizes=sizes, silent=silent)
    if status.job_id is None or status.state.is_final:
        return RebalanceFigures(status)
    async with translated("reading the tasks of the rebalance"):
        tasks = [task for task in await citus_rebalance.tasks(conn, status.job_id) if task.is_troubled]
    return RebalanceFigures(status, len(tasks), sum(task.retry_count for task in tasks))
