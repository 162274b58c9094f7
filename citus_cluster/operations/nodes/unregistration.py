"""Removing a worker on the coordinator: the shards that it still holds, its removal, and the record of it.

The module ``removal`` handles the worker's files and container.
"""

from collections import defaultdict
from collections.abc import Sequence

import psycopg

from citus_cluster.errors import CitusClusterError, InUseError, LockedError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.citus.removal import Departure, HeldTable, find_shard_targets, refuse_removal
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.units import count
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import removal as citus_leaving
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.rebalance import running_job_id
from citus_cluster.runtime.citus.removal import HeldPlacement
from citus_cluster.runtime.postgres import Connection, describe, translated


async def registry(conn: Connection) -> Registry:
    """Return the node list and the record, to find a worker by its name."""
    async with translated("reading the node list"):
        return await citus_nodes.read_registry(conn)


async def look(conn: Connection, name: str, worker: NodeAddress) -> Departure:
    """Read the state of a worker in the cluster. Changes nothing. Raises UnreachableError without a coordinator."""
    async with translated(f"checking {worker}"):
        known = await citus_nodes.read_registry(conn)
        node = known.find(worker)
        others = [one for one in known.nodes if one != node]
        silence, identifier = await _identify(conn, worker, registered=node is not None)
        held = await citus_leaving.held_placements(conn, node.group_id) if node else ()
        return Departure(
            name=name,
            address=worker,
            node=node,
            recorded=worker in (known.recorded or ()),
            coordinator=known.coordinator.address if known.coordinator else None,
            silence=silence,
            identifier=identifier,
            held=await _held_tables(conn, node, held, answers=silence is None),
            shard_targets=find_shard_targets(node, known.nodes),
            standbys=tuple(one.address for one in others if node and one.group_id == node.group_id),
            others_unreachable=await citus_probe.unreachable_nodes(conn, others),
            drained=tuple(one.address for one in others if one.is_drained),
            twin=await _find_twin(conn, known, identifier) if node is None and identifier else None,
        )


async def _identify(conn: Connection, worker: NodeAddress, *, registered: bool) -> tuple[str | None, str | None]:
    """Return why the worker does not answer, and the system identifier if it does."""
    try:
        return None, (await citus_probe.identity(conn, worker, registered=registered)).system_identifier
    except citus_probe.ProbeUnavailableError:
        return None, None
    except UnreachableError as error:
        if conn.closed:
            raise
        return error.message, None


async def _find_twin(conn: Connection, registry: Registry, identifier: str) -> NodeAddress | None:
    for node in registry.nodes:
        if (
            not node.is_coordinator
            and node.is_active
            and (await _identify(conn, node.address, registered=True))[1] == identifier
        ):
            return node.address
    return None


async def _held_tables(
    conn: Connection, node: RegisteredNode | None, held: Sequence[HeldPlacement], *, answers: bool
) -> tuple[HeldTable, ...]:
    by_table: dict[str, list[HeldPlacement]] = defaultdict(list)
    for one in held:
        by_table[one.table].append(one)
    sizes = None
    if node and held and answers:
        try:
            sizes = (await citus_tables.ask_node(conn, node, [one.placement for one in held])).sizes
        except CitusClusterError:
            if conn.closed:
                raise
    return tuple(
        HeldTable(
            table=table,
            shards=len(rows),
            only_copies=sum(not one.elsewhere for one in rows),
            size_bytes=None if sizes is None else sum(sizes.get(one.placement.shard_id, 0) for one in rows),
        )
        for table, rows in by_table.items()
    )


async def deregister(conn: Connection, found: Departure, emit: Emit, *, force: bool) -> None:
    """Remove a worker from the node list, and record that it must not be registered again.

    Idempotent: a worker that is already removed is only recorded. Whether data would be lost is checked again under the
    lock, and by Citus itself. Raises InUseError, LockedError, UnreachableError.
    """
    step = f"deregister:{found.address}"
    async with translated(f"removing {found.address}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        now = await look(conn, found.name, found.address)
        refuse_removal(now, force=force)
        if (await citus_nodes.read_registry(conn)).recorded is None:
            await citus_nodes.create_record(conn)
        if now.node is None:
            await citus_leaving.record_departure(conn, now.address, identifier=now.identifier)
            emit(Event(step, EventKind.SKIPPED, f"{now.address} is no longer in the node list"))
            return
        await _refuse_moves(conn, now, now.node)
        answers = now.silence is None
        if answers and now.node.is_active:
            await _clean_up(conn, now, now.node, emit)
        try:
            await citus_leaving.remove_worker(conn, now.node, answers=answers, identifier=now.identifier)
        except psycopg.Error as error:
            raise await _explain(conn, now, error) from error
        emit(
            Event(
                step,
                EventKind.DONE,
                f"removed {now.address} from the node list; it will not be registered again",
                now.as_dict(),
            )
        )


async def _refuse_moves(conn: Connection, found: Departure, node: RegisteredNode) -> None:
    """Refuse a worker that a running rebalance concerns, because it may be about to get shards."""
    job_id = await running_job_id(conn)
    if job_id is not None and await citus_leaving.is_in_work(conn, job_id, node.node_id):
        raise InUseError(
            f"Rebalance {job_id} moves shards to or from {found.address}; nothing was changed.",
            hint="To follow it: citus-cluster rebalance wait. To stop it: citus-cluster rebalance stop",
        )


async def _clean_up(conn: Connection, found: Departure, node: RegisteredNode, emit: Emit) -> None:
    """Drop leftovers of moves on the worker, which is possible only while it is a node."""
    step = f"clean-up:{found.address}"
    try:
        left = await citus_leaving.clean_up(conn, node.group_id)
    except psycopg.DatabaseError as error:
        if conn.closed:
            raise
        emit(Event(step, EventKind.WARNING, f"not all leftovers of moves were dropped: {describe(error)}"))
        return
    if left:
        things = count(left, "thing")
        emit(Event(step, EventKind.WARNING, f"{things} left by moves on {found.address} could not be dropped"))


async def _explain(conn: Connection, found: Departure, error: psycopg.Error) -> CitusClusterError:
    if conn.closed:
        return UnreachableError(
            f"The connection to the coordinator was lost while {found.address} was being removed: {describe(error)}.",
            hint="Run the command again, which continues.",
        )
    if citus_nodes.is_busy(error):
        job_id = await running_job_id(conn)
        holder = f"rebalance {job_id} is running" if job_id else "another session is changing it"
        return LockedError(
            f"{found.address} cannot be removed now, because the node list is locked: {holder}.",
            hint="Wait until it is done (citus-cluster rebalance wait), then run the command again.",
        )
    return InUseError(
        f"Citus did not remove {found.address}: {describe(error)}; nothing was changed.",
        hint=error.diag.message_hint or "See the coordinator's log.",
    )


async def release(conn: Connection, worker: NodeAddress, *, is_gone: bool) -> None:
    """Allow another server to have the name of a worker that has left and is no longer in cluster.yaml.

    ``is_gone``: the old server cannot come back, so its identifier is not needed to distinguish others from it.
    Idempotent. Raises LockedError.
    """
    async with translated(f"releasing the name of {worker}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        # It may have been registered again in between.
        if (await citus_nodes.read_registry(conn)).find(worker) is None:
            await citus_leaving.release_name(conn, worker, is_gone=is_gone)
