"""The overview of the cluster, in bounded time: the data of a node that hangs are unknown."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.losses import Loss
from citus_cluster.model.citus.overview import NodeOverview, Overview, TableOverview
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.operations.nodes.losses import confirmed_loss
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.citus.tables import NodeAnswer, Placement
from citus_cluster.runtime.postgres import Connection, describe, translated

BUDGET_S = 15.0
"""After this time no further node is asked; the remaining ones are unknown."""
AT_ONCE = 3
"""Nodes that are asked at the same time, each over its own session: sizes of thousands of shards take time."""


async def overview(conn: Connection, connect_again: Callable[[], Awaitable[Connection]] | None = None) -> Overview:
    """Return nodes, tables and the latest rebalance. Raises UnreachableError if the coordinator is down.

    With ``connect_again``, which opens one more session, several nodes are asked at once.
    """
    deadline = time.monotonic() + BUDGET_S
    async with translated("reading the state of the cluster"):
        registry = await citus_nodes.read_registry(conn)
        by_group: dict[int, list[Placement]] = defaultdict(list)
        for placement in await citus_tables.read_placements(conn):
            by_group[placement.group_id].append(placement)
        answers = await _ask_all(conn, connect_again, registry.nodes, by_group, deadline)
        losses = await _losses(conn, registry.nodes, by_group, answers)
        rows = await citus_tables.read_tables(conn)
        movable = {row.oid for row in rows if row.moves}
        nodes = tuple(
            _describe_node(node, by_group[node.group_id], movable, answers, losses) for node in registry.nodes
        )
        sizes = _sizes(registry.nodes, by_group, answers)
        shards = {(p.table_oid, p.shard_id) for group in by_group.values() for p in group}
        shard_counts = Counter(table_oid for table_oid, _ in shards)
        tables = tuple(
            TableOverview(
                name=row.name,
                type=row.type,
                distribution_column=row.distribution_column,
                shard_count=shard_counts[row.oid],
                size_bytes=sizes.get(row.oid, 0),
                colocation_id=row.colocation_id,
            )
            for row in rows
        )
        known: dict[int, int] = {}
        for answer in answers.values():
            known |= answer.sizes if isinstance(answer, NodeAnswer) else {}
        silent = [node.reason for node in nodes if node.reason and node.is_active]
        return Overview(nodes, tables, await rebalance_watch.status(conn, sizes=known, silent=silent))


async def _ask_all(
    conn: Connection,
    connect_again: Callable[[], Awaitable[Connection]] | None,
    nodes: Sequence[RegisteredNode],
    by_group: Mapping[int, list[Placement]],
    deadline: float,
) -> Mapping[int, NodeAnswer | str]:
    """Answer of each node, by node id."""
    answers: dict[int, NodeAnswer | str] = {}
    left: Iterator[RegisteredNode] = iter(nodes)

    async def ask(session: Connection) -> None:
        for node in left:
            answers[node.node_id] = await _answer(session, node, by_group.get(node.group_id, []), deadline)

    async def ask_beside(open_session: Callable[[], Awaitable[Connection]]) -> None:
        try:
            session = await open_session()
        except CitusClusterError:
            return  # no session is free: the first session asks all nodes
        async with session:
            await ask(session)

    beside = [connect_again] * (min(AT_ONCE, len(nodes)) - 1) if connect_again else []
    asking = [ask(conn), *(ask_beside(open_session) for open_session in beside)]
    tasks = [asyncio.create_task(one) for one in asking]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return answers


async def _answer(
    conn: Connection, node: RegisteredNode, placements: list[Placement], deadline: float
) -> NodeAnswer | str:
    """The node's answer, or the reason why it did not answer."""
    if time.monotonic() >= deadline:
        return "not asked, because other nodes took too long to answer"

    def ask(timeout_s: float) -> Awaitable[NodeAnswer]:
        return citus_tables.ask_node(conn, node, placements, timeout_s=timeout_s)

    try:
        return await citus_probe.ask_patiently(ask)
    except CitusClusterError as error:
        return error.message
    except psycopg.errors.QueryCanceled:
        return f"{node.address} did not answer within {citus_probe.AGAIN_TIMEOUT_S:g} s"
    except psycopg.Error as error:
        if conn.closed:
            raise
        return describe(error)


async def _losses(
    conn: Connection,
    nodes: Sequence[RegisteredNode],
    by_group: Mapping[int, list[Placement]],
    answers: Mapping[int, NodeAnswer | str],
) -> Mapping[int, Loss]:
    """Return the losses of each node that answered, by node id."""
    found: dict[int, Loss] = {}
    for node in nodes:
        answer = answers[node.node_id]
        if isinstance(answer, str):
            continue
        try:
            loss = await confirmed_loss(conn, node, answer.presence, placed=len(by_group.get(node.group_id, [])))
        except CitusClusterError:
            if conn.closed:
                raise
            continue  # it stopped answering in between; the next check reports this
        if loss:
            found[node.node_id] = loss
    return found


def _describe_node(
    node: RegisteredNode,
    placements: Sequence[Placement],
    movable: Set[int],
    answers: Mapping[int, NodeAnswer | str],
    losses: Mapping[int, Loss],
) -> NodeOverview:
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
        shard_count=len(placements),
        disk=known.disk if known else None,
        lost_slots=known.lost_slots if known else (),
        in_maintenance=node.in_maintenance,
        reference_count=sum(placement.table_oid not in movable for placement in placements),
        shard_bytes=sum(known.sizes.values()) if known else None,
        reason=answer if isinstance(answer, str) else None,
        loss=losses.get(node.node_id),
        extension=known.extension if known else None,
    )


def _sizes(
    nodes: tuple[RegisteredNode, ...],
    by_group: Mapping[int, list[Placement]],
    answers: Mapping[int, NodeAnswer | str],
) -> Mapping[int, int | None]:
    """Return bytes by table; None if a primary with a placement of it did not answer."""
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
