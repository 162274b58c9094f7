"""Rebalancing: preview it, start it, stop it. Citus does the work, in the background."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from citus_cluster.errors import LockedError, RebalanceError, UsageError
from citus_cluster.model.citus.capacity import missing_capacity, missing_space, scarce_space
from citus_cluster.model.citus.movers import TRUST_HINT, missing_logins, short_timeouts
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode, describe_holding
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.units import size
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.citus import movers as citus_movers
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.citus.server import citus_version, has_function
from citus_cluster.runtime.postgres import Connection, describe, translated

_STOP_TIMEOUT_S = 60.0


async def plan(conn: Connection, options: RebalanceOptions, *, without: Sequence[RegisteredNode] = ()) -> RebalancePlan:
    """Preview: the moves that Citus would make now; ``without`` are nodes that are taken to hold no shards any more.

    Raises UsageError for options that Citus does not take, RebalanceError if a node does not answer.
    """
    if options.online and options.mode is TransferMode.BLOCK_WRITES:
        raise UsageError(
            "The mode block_writes holds writes in every move, and online in none.",
            hint="Give one of the two: --online, or --mode block_writes.",
        )
    async with translated("planning the rebalance"):
        registry = await citus_nodes.read_registry(conn)
        await _refuse_silent(conn, registry)
        holders = [node for node in registry.nodes if node.is_active and node.role == "primary"]
        by_node = await citus_tables.shard_sizes(conn, holders)
        sizes = {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}
        try:
            moves = await citus_rebalance.plan_moves(conn, options, sizes, without=[node.node_id for node in without])
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            if "strategy" in str(error):
                raise UsageError(f"Citus does not take these options: {describe(error)}") from error
            raise _refused("Citus cannot plan a rebalance", error) from error
        found = RebalancePlan(
            moves,
            {
                node.address: sum(by_node[node.address].values())
                for node in holders
                if node.address in by_node and (node.should_have_shards or by_node[node.address])
            },
            options.mode,
        )
        # Before Citus 13.2, no two moves of colocated tables may run at a time.
        can_hold = options.holds_small and await has_function(conn, citus_rebalance.PARALLEL_SIGNATURE)
        return found.holding_small() if can_hold else found


async def warnings(conn: Connection, preview: RebalancePlan) -> tuple[str, ...]:
    """Say what would keep a rebalance from starting because code of ordinary roles would run as the superuser."""
    async with translated("looking at what runs during the moves"):
        found = await _untrusted(conn, preview)
    return tuple(f"rebalance start refuses without --trust-functions: {one}" for one in found)


async def _untrusted(conn: Connection, preview: RebalancePlan) -> tuple[str, ...]:
    if not preview.moves:
        return ()
    return tuple(map(str, await citus_movers.foreign_code(conn, [move.shard_id for move in preview.moves])))


def _refused(what: str, error: psycopg.DatabaseError) -> RebalanceError:
    hint = error.diag.message_hint
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
        hint = (
            "If a function of the rebalance strategy uses it: names are looked for in pg_catalog alone here, so write "
            "its schema before it, or ALTER FUNCTION ... SET search_path = ...;"
        )
    return RebalanceError(f"{what}: {describe(error)}", hint=hint)


async def _refuse_silent(conn: Connection, registry: Registry) -> None:
    silent = await citus_probe.unreachable_nodes(conn, registry.nodes)
    if silent:
        raise RebalanceError(
            "Shards can only move when every node answers: " + " ".join(silent),
            hint="Start or unpause it (citus-cluster status); a worker that is lost for good must be removed first.",
        )


async def start(conn: Connection, options: RebalanceOptions, emit: Emit) -> int | None:
    """Start a rebalance in the background; its job id, or None, said in an event, if nothing is to be moved.

    Looks first for what would make Citus retry in silence. A job that only waits for its next attempt, in which Citus
    is more and more patient, is stopped and begun anew. Raises RebalanceError (one is running, settings, room or
    replica identities are missing, or code of ordinary roles would run as the superuser), UsageError (an option that
    this Citus does not have), LockedError.
    """
    async with translated("starting the rebalance"):
        await _refuse_unsupported(conn, options)
        running = await citus_rebalance.running_job_id(conn)
        if running is not None and not await _only_waits(conn, running):
            raise RebalanceError(
                f"A rebalance is running already, as job {running}.",
                hint="citus-cluster rebalance wait follows it, citus-cluster rebalance stop ends it.",
            )
        preview = await plan(conn, options)
        if not preview.moves:
            emit(Event(rebalance_watch.STEP, EventKind.SKIPPED, "the shards are balanced already: nothing to move"))
            return None
        await check(conn, options, preview, emit)
        if running is not None:
            await end(conn, running, emit)
        return await begin(conn, options, preview, emit)


async def begin(
    conn: Connection,
    options: RebalanceOptions,
    preview: RebalancePlan,
    emit: Emit,
    *,
    unburden: Sequence[NodeAddress] = (),
) -> int | None:
    """Start the moves of a preview that was checked; the job's id, or None, said in an event, if there are none now.

    The nodes of ``unburden`` may hold no shards from then on; if no job starts, nothing is changed. Raises
    RebalanceError if Citus refuses, as it does while another rebalance runs.
    """
    async with translated("starting the rebalance"):
        try:
            held = [move.shard_id for move in preview.short_moves]
            job_id = await citus_rebalance.start(conn, options, held=held, unburden=unburden)
        except (psycopg.OperationalError, psycopg.errors.LockNotAvailable):
            raise
        except psycopg.DatabaseError as error:
            raise _refused("Citus refused", error) from error
        if job_id is None:
            emit(Event(rebalance_watch.STEP, EventKind.SKIPPED, "Citus found nothing to move"))
            return None
        moves = "one move" if len(preview.moves) == 1 else f"{len(preview.moves)} moves"
        message = f"rebalance started as job {job_id}: {moves} of shards, {size(preview.size_bytes)}"
        if preview.short_moves:
            message += f"; {describe_holding(preview)}"
        emit(Event(rebalance_watch.STEP, EventKind.STARTED, message, {"job_id": job_id, **preview.as_dict()}))
        return job_id


async def _only_waits(conn: Connection, job_id: int) -> bool:
    tasks = await citus_rebalance.tasks(conn, job_id)
    return any(task.is_troubled for task in tasks) and not any(task.state == "running" for task in tasks)


async def check(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    """Look for what would make Citus retry the moves in silence. Raises RebalanceError, which names it."""
    async with translated("looking at what the moves need"):
        await _refuse_incapable(conn, options)
        await _refuse_full(conn, preview, emit)
        await _refuse_unidentified(conn, options, preview, emit)
        await _refuse_owners(conn, preview, emit)
        await _refuse_untrusted(conn, options, preview, emit)


async def _refuse_owners(conn: Connection, preview: RebalancePlan, emit: Emit) -> None:
    owners = await citus_movers.owners(conn, [move.shard_id for move in preview.moves])
    findings = missing_logins(owners)
    if findings:
        raise RebalanceError(
            "Citus connects as a table's owner to make its shards on another node, and cannot: " + "; ".join(findings),
            hint="Give the tables to a role that may log in: ALTER TABLE ... OWNER TO ...; on the coordinator.",
            details=findings,
        )
    for finding in short_timeouts(owners):
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, finding, {}))


async def _refuse_untrusted(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    found = await _untrusted(conn, preview)
    if not found:
        return
    if options.trust_functions:
        message = f"These run as the superuser while shards are copied, and are trusted: {'; '.join(found)}"
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, message, {"trusted": list(found)}))
        return
    raise RebalanceError(
        "Code of ordinary roles would run as the superuser while shards are copied, so none was moved: "
        + "; ".join(found),
        hint=TRUST_HINT,
        details=found,
    )


async def _refuse_unsupported(conn: Connection, options: RebalanceOptions) -> None:
    if not options.wants_parallel or await has_function(conn, citus_rebalance.PARALLEL_SIGNATURE):
        return
    raise UsageError(
        f"This server runs Citus {await citus_version(conn)}; the parallel flags need Citus 13.2 or newer.",
        hint="Leave the flags out, or upgrade Citus.",
    )


async def _refuse_incapable(conn: Connection, options: RebalanceOptions) -> None:
    registry = await citus_nodes.read_registry(conn)
    primaries = [node for node in registry.nodes if node.is_active and node.role == "primary"]
    try:
        capacities = [await citus_rebalance.capacity(conn, node) for node in primaries]
    except citus_probe.ProbeUnavailableError:
        return
    findings = missing_capacity(capacities, options.mode)
    if findings:
        raise RebalanceError(
            "Shards could not move, so the rebalance was not started: " + "; ".join(findings),
            hint="Mend that on each node named, then run citus-cluster rebalance start again. "
            "(--mode block_writes needs no logical replication, and blocks writes to a shard while it moves.)",
            details=findings,
        )


async def _refuse_full(conn: Connection, preview: RebalancePlan, emit: Emit) -> None:
    largest = preview.largest_moves
    registry = await citus_nodes.read_registry(conn)
    targets = [node for node in registry.nodes if node.role == "primary" and node.address in largest]
    try:
        disks = [await citus_rebalance.disk_space(conn, node) for node in targets]
    except citus_probe.ProbeUnavailableError:
        return
    findings = missing_space(largest, disks)
    if findings:
        raise RebalanceError(
            "There is not enough room for the shards, so none was moved: " + "; ".join(findings),
            hint="Free some space on the disks named, or add a worker on another one, then run the command again.",
            details=findings,
        )
    scarce = scarce_space(preview.growth, disks)
    if scarce:
        message = (
            f"There may not be enough room for all shards: {'; '.join(scarce)}. They fit where nodes share a disk; "
            "on a disk of its own they stop moving once it is that full, and those that have moved stay"
        )
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, message, {"nodes": list(scarce)}))


async def _refuse_unidentified(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    if options.mode is TransferMode.BLOCK_WRITES:
        return
    online = [move.shard_id for move in preview.moves if not move.is_short]
    bare = await citus_rebalance.tables_without_identity(conn, online)
    if not bare:
        return
    names = ", ".join(table for table, _ in bare)
    statements = tuple(statement for _, statement in bare)
    if options.mode is TransferMode.FORCE_LOGICAL:
        message = f"UPDATE and DELETE will fail while their shards move, without replica identity: {names}"
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, message, {"statements": list(statements)}))
        return
    raise RebalanceError(
        f"Tables without primary key or replica identity cannot move while they are written to: {names}.",
        hint="Give each a primary key, or run the listed statements on the coordinator, in this database. Or use "
        "--mode block_writes.",
        details=statements,
    )


async def stop(conn: Connection) -> RebalanceStatus:
    """Stop the running rebalance. Shards that have moved stay where they are. RebalanceError if none runs."""
    async with translated("stopping the rebalance"):
        running = await citus_rebalance.running_job_id(conn)
        if running is None:
            raise RebalanceError("No rebalance is running.")
        await citus_rebalance.stop(conn)
    return await rebalance_watch.status(conn, running)


async def end(conn: Connection, job_id: int, emit: Emit) -> None:
    """Stop a rebalance, and wait until it has ended; LockedError if it does not."""
    step = f"stop:{job_id}"
    emit(Event(step, EventKind.STARTED, f"stopping rebalance {job_id}"))
    with suppress(RebalanceError):  # it has ended meanwhile
        await stop(conn)
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            while not (await rebalance_watch.status(conn, job_id)).state.is_final:  # noqa: ASYNC110 # another process
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise LockedError(
            f"Rebalance {job_id} did not stop within {_STOP_TIMEOUT_S:g} s.",
            hint="citus-cluster rebalance status shows what it waits for; run the command again when it has ended.",
        ) from None
    emit(Event(step, EventKind.DONE, f"rebalance {job_id} is stopped", {"job_id": job_id}))


async def wait_for_running(conn: Connection, emit: Emit) -> None:
    """Wait until a rebalance that runs already, if one does, is finished; raises like :func:`wait`.

    One that only waits for its next attempt is left to :func:`start`.
    """
    async with translated("looking for a running rebalance"):
        running = await citus_rebalance.running_job_id(conn)
        waits = running is not None and await _only_waits(conn, running)
    if running is not None and not waits:
        rebalance_watch.tell_followed(running, emit)
        await rebalance_watch.wait(conn, emit, job_id=running)
