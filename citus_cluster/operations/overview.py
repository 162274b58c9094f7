"""The cluster at a glance, in bounded time: what a node that hangs does not say is unknown."""

import time
from collections import defaultdict
from collections.abc import Mapping

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.registration import RegisteredNode
from citus_cluster.operations import rebalance
from citus_cluster.runtime import citus_nodes, citus_tables
from citus_cluster.runtime.citus_tables import NodeAnswer, Placement
from citus_cluster.runtime.postgres import Connection, describe, translated

BUDGET_S = 15.0
"""After this long no further node is asked; those left are unknown."""


async def overview(conn: Connection) -> Overview:
    """Nodes, tables and the latest rebalance. Raises UnreachableError if the coordinator is away."""
    deadline = time.monotonic() + BUDGET_S
    async with translated("reading the state of the cluster"):
        registry = await citus_nodes.read_registry(conn)
        by_group: dict[int, list[Placement]] = defaultdict(list)
        for placement in await citus_tables.read_placements(conn):
            by_group[placement.group_id].append(placement)
        answers: dict[int, NodeAnswer | str] = {}
        for node in registry.nodes:
            answers[node.node_id] = await _answer(conn, node, by_group[node.group_id], deadline)
        nodes = tuple(_describe_node(node, len(by_group[node.group_id]), answers) for node in registry.nodes)
        sizes = _sizes(registry.nodes, by_group, answers)
        tables = tuple(
            TableOverview(
                name=row.name,
                type=row.type,
                distribution_column=row.distribution_column,
                shard_count=len({p.shard_id for group in by_group.values() for p in group if p.table_oid == row.oid}),
                size_bytes=sizes.get(row.oid, 0),
                colocation_id=row.colocation_id,
            )
            for row in await citus_tables.read_tables(conn)
        )
        known: dict[int, int] = {}
        for answer in answers.values():
            known |= answer.sizes if isinstance(answer, NodeAnswer) else {}
        silent = [node.reason for node in nodes if node.reason and node.is_active]
        return Overview(nodes, tables, await rebalance.status(conn, sizes=known, silent=silent))


async def _answer(
    conn: Connection, node: RegisteredNode, placements: list[Placement], deadline: float
) -> NodeAnswer | str:
    """What the node says, or why it says nothing."""
    if time.monotonic() >= deadline:
        return "not asked: other nodes took too long to answer"
    try:
        return await citus_tables.ask_node(conn, node, placements)
    except CitusClusterError as error:
        return error.message
    except psycopg.Error as error:
        if conn.closed:
            raise
        return describe(error)


def _describe_node(node: RegisteredNode, shard_count: int, answers: Mapping[int, NodeAnswer | str]) -> NodeOverview:
    answer = answers[node.node_id]
    known = answer if isinstance(answer, NodeAnswer) else None
    role = "coordinator" if node.is_coordinator else "worker"
    return NodeOverview(
        address=node.address,
        role=role if node.role == "primary" else f"{role} {node.role}",
        is_active=node.is_active,
        should_have_shards=node.should_have_shards,
        postgres_version=known.postgres_version if known else None,
        citus_version=known.citus_version if known else None,
        shard_count=shard_count,
        shard_bytes=sum(known.sizes.values()) if known else None,
        reason=answer if isinstance(answer, str) else None,
    )


def _sizes(
    nodes: tuple[RegisteredNode, ...],
    by_group: Mapping[int, list[Placement]],
    answers: Mapping[int, NodeAnswer | str],
) -> Mapping[int, int | None]:
    """Bytes by table; None as soon as one primary with a placement of it did not answer."""
    sizes: dict[int, int | None] = {}
    for node in nodes:
        if node.role != "primary":
            continue
        answer = answers[node.node_id]
        for placement in by_group[node.group_id]:
            before = sizes.get(placement.table_oid, 0)
            if before is None or isinstance(answer, str):
                sizes[placement.table_oid] = None
            else:
                sizes[placement.table_oid] = before + answer.sizes.get(placement.shard_id, 0)
    return sizes
