"""Detecting lost data: shards that the coordinator's catalog places on a node, but that do not exist there."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.losses import Loss
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.plan.events import Emit, Event, EventKind, ignore
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.citus.tables import Placement, Presence, TableRow
from citus_cluster.runtime.postgres import Connection

# A transaction that creates a shard commits on the workers shortly after it commits on the coordinator.
_LOOK_AGAIN_AFTER_S = 1.0


async def find_losses(conn: Connection, nodes: Sequence[RegisteredNode], emit: Emit = ignore) -> tuple[Loss, ...]:
    """Compare the placements with the tables that exist on each node. Nodes that do not answer are skipped.

    Emits a warning for a node whose prepared transactions must be recovered first.
    """
    by_group: dict[int, list[Placement]] = defaultdict(list)
    for placement in await citus_tables.read_placements(conn):
        by_group[placement.group_id].append(placement)
    losses = []
    for node in nodes:
        try:
            seen = await citus_tables.presence(conn, node, by_group[node.group_id])
            losses.append(await confirmed_loss(conn, node, seen, placed=len(by_group[node.group_id]), emit=emit))
        except CitusClusterError:
            if conn.closed:
                raise
    return tuple(loss for loss in losses if loss)


async def confirmed_loss(
    conn: Connection, node: RegisteredNode, seen: Presence, *, placed: int, emit: Emit = ignore
) -> Loss | None:
    """Check the ``seen`` missing shards again, because shards move, and tables are created and dropped.

    Returns None, with a warning, while transactions that a crash left prepared on the node may still create the shards.
    """
    if not node.is_active or node.role != "primary" or not (seen.missing or _is_emptied(node, seen)):
        return None
    await asyncio.sleep(_LOOK_AGAIN_AFTER_S)
    everywhere = await citus_tables.read_placements(conn, seen.missing)
    placements = [placement for placement in everywhere if placement.group_id == node.group_id]
    prepared = {*seen.prepared}
    seen = await citus_tables.presence(conn, node, placements)
    emptied = _is_emptied(node, seen)
    if not (seen.missing or emptied):
        return None
    # A transaction that is being committed is gone at the second check; one that a crash left is still there.
    if not emptied and prepared & {*seen.prepared}:
        message = (
            f"{node.address} is recovering transactions of Citus, which may create the shards that are missing there. "
            "Citus recovers them every minute; check again then"
        )
        emit(Event("verify:data", EventKind.WARNING, message))
        return None
    tables = {table.oid: table for table in await citus_tables.read_tables(conn)}
    shards, reference = _by_table(placements, {*seen.missing}, tables)
    kept = {oid for oid, table in tables.items() if table.name not in reference}
    copies = await _copies(conn, node, [p for p in everywhere if p.shard_id in seen.missing and p.table_oid in kept])
    roles = await _missing_roles(conn, node) if emptied else ()
    return Loss(node.address, placed, shards, reference, emptied, roles, node.is_coordinator, copies)


def _is_emptied(node: RegisteredNode, seen: Presence) -> bool:
    return not node.is_coordinator and seen.group_id != node.group_id


async def _copies(
    conn: Connection, node: RegisteredNode, everywhere: Sequence[Placement]
) -> Mapping[int, tuple[NodeAddress, ...]]:
    """Find the other nodes on which the shards exist, by shard id. Raises if such a node does not answer."""
    by_group: dict[int, list[Placement]] = defaultdict(list)
    for placement in everywhere:
        by_group[placement.group_id].append(placement)
    found: dict[int, tuple[NodeAddress, ...]] = {}
    if not by_group.keys() - {node.group_id}:
        return found
    for other in (await citus_nodes.read_registry(conn)).nodes:
        there = by_group.get(other.group_id, [])
        if other.group_id == node.group_id or other.role != "primary" or not there:
            continue
        missing = {*(await citus_tables.presence(conn, other, there)).missing}
        for placement in there:
            if placement.shard_id not in missing:
                found[placement.shard_id] = (*found.get(placement.shard_id, ()), other.address)
    return found


def _by_table(
    placements: Sequence[Placement], missing: Collection[int], tables: Mapping[int, TableRow]
) -> tuple[Mapping[str, tuple[int, ...]], frozenset[str]]:
    shards: dict[str, tuple[int, ...]] = {}
    reference = set()
    for placement in placements:
        table = tables.get(placement.table_oid)
        if placement.shard_id in missing and table:
            shards[table.name] = (*shards.get(table.name, ()), placement.shard_id)
            if table.type == "reference":
                reference.add(table.name)
    return dict(sorted(shards.items())), frozenset(reference)


async def _missing_roles(conn: Connection, node: RegisteredNode) -> tuple[str, ...]:
    there = await citus_roles.node_roles(conn, node)
    return tuple(sorted(role for role in await citus_roles.read_roles(conn) if role not in there.roles))
