"""Previewing, starting and stopping a rebalance. Citus does the work in the background."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import psycopg

from citus_cluster.errors import LockedError, RebalanceError, RebalanceRunningError, UsageError
from citus_cluster.model.citus.capacity import missing_capacity, missing_space, scarce_space
from citus_cluster.model.citus.movers import TRUST_HINT, missing_logins, short_timeouts
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, RebalancePlan, TransferMode, describe_holding
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.citus.removal import called
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding, refusal, warns
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
    """Preview the moves that Citus would make now; ``without`` are nodes that are assumed to hold no shards.

    Raises UsageError for options that Citus does not accept, RebalanceError if a node does not answer.
    """
    if options.online and options.mode is TransferMode.BLOCK_WRITES:
        raise UsageError(
            "--online and --mode block_writes cannot be combined: the mode holds writes in every move, "
            "--online in none.",
            hint="Use one of the two.",
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
                raise UsageError(f"Citus does not accept these options: {describe(error)}") from error
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
        # Before Citus 13.2, two moves of colocated tables cannot run at the same time.
        can_hold = options.holds_small and await has_function(conn, citus_rebalance.PARALLEL_SIGNATURE)
        return found.holding_small() if can_hold else found


async def warnings(conn: Connection, preview: RebalancePlan) -> tuple[str, ...]:
    """Return the code of ordinary roles that would run as the superuser, which would prevent a rebalance."""
    async with translated("checking the code that runs during the moves"):
        found = await _untrusted(conn, preview)
    return tuple(f"rebalance start would refuse this without --trust-functions: {one}" for one in found)


async def _untrusted(conn: Connection, preview: RebalancePlan) -> tuple[str, ...]:
    if not preview.moves:
        return ()
    return tuple(map(str, await citus_movers.foreign_code(conn, [move.shard_id for move in preview.moves])))


def _refused(what: str, error: psycopg.DatabaseError) -> RebalanceError:
    hint = error.diag.message_hint
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
        hint = (
            "If a function of the rebalance strategy uses this name: names are searched only in pg_catalog "
            "here, so qualify it "
            "with its schema, or use ALTER FUNCTION ... SET search_path = ...;"
        )
    return RebalanceError(f"{what}: {describe(error)}", hint=hint)


async def _refuse_silent(conn: Connection, registry: Registry) -> None:
    silent = await citus_probe.unreachable_nodes(conn, registry.nodes)
    if silent:
        raise RebalanceError(
            "Shards can only move when every node answers: " + " ".join(silent),
            hint="Start or unpause the node (citus-cluster status). A worker that is lost permanently must be "
            "removed first.",
        )


async def start(conn: Connection, options: RebalanceOptions, emit: Emit) -> int | None:
    """Start a rebalance in the background. Returns its job id, or None, with an event, if there is nothing to move.

    The function first checks for problems that Citus would retry silently. A job that only waits for its next attempt,
    for which Citus waits longer each time, is stopped and started again. Raises RebalanceError (one is running,
    settings, room or replica identities are missing, or code of ordinary roles would run as the superuser), UsageError
    (an option that this Citus does not have), LockedError.
    """
    async with translated("starting the rebalance"):
        await refuse_unsupported(conn, options)
        running = await find_waiting(conn)
        preview = await plan(conn, options)
        if not preview.moves:
            emit(Event(rebalance_watch.STEP, EventKind.SKIPPED, "the shards are already balanced: nothing to move"))
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
    """Start the moves of a checked preview. Returns the job id, or None, with an event, if there are none now.

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


async def find_waiting(conn: Connection) -> int | None:
    """Return a job that only waits for its next attempt, which a start replaces.

    Raises RebalanceRunningError if one moves shards.
    """
    running = await citus_rebalance.running_job_id(conn)
    if running is not None and not await _only_waits(conn, running):
        raise RebalanceRunningError(
            f"A rebalance is already running as job {running}.",
            hint="To follow it: citus-cluster rebalance wait. To stop it: citus-cluster rebalance stop",
        )
    return running


async def _only_waits(conn: Connection, job_id: int) -> bool:
    tasks = await citus_rebalance.tasks(conn, job_id)
    return any(task.is_troubled for task in tasks) and not any(task.state == "running" for task in tasks)


async def check(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    """Check for problems that Citus would retry silently. Raises RebalanceError, which names them."""
    async with translated("checking the requirements of the moves"):
        for one in _checks(conn, options, preview, emit):
            await one()


async def findings(conn: Connection, options: RebalanceOptions, preview: RebalancePlan) -> list[Finding]:
    """Return everything that :func:`check` refuses, not only the first problem, and its warnings."""
    found: list[Finding] = []
    told: list[Event] = []
    async with translated("checking the requirements of the moves"):
        for one in _checks(conn, options, preview, told.append):
            try:
                await one()
            except RebalanceError as error:
                found.append(refusal(error))
    return [*found, *(warns(event.message, _statements(event)) for event in told)]


def _statements(event: Event) -> str | None:
    found = event.data.get("statements")
    return " ".join(map(str, found)) if isinstance(found, list) else None


def _checks(
    conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit
) -> Sequence[Callable[[], Awaitable[None]]]:
    return (
        lambda: _refuse_maintenance(conn, preview),
        lambda: _refuse_incapable(conn, options),
        lambda: _refuse_full(conn, preview, emit),
        lambda: _refuse_unidentified(conn, options, preview, emit),
        lambda: _refuse_owners(conn, preview, emit),
        lambda: refuse_untrusted(conn, options, preview, emit),
    )


async def _refuse_maintenance(conn: Connection, preview: RebalancePlan) -> None:
    """Refuse to empty a node that is only paused: it may hold no new shards, which is also the mark of a drain."""
    moving = {move.source for move in preview.moves}
    resting = [
        node.address
        for node in (await citus_nodes.read_registry(conn)).nodes
        if node.in_maintenance and node.address in moving
    ]
    if resting:
        names = ", ".join(map(str, resting))
        commands = " ".join(f"citus-cluster nodes resume {called(address)};" for address in resting)
        raise RebalanceError(
            f"{names} is in maintenance, and its shards would move to other nodes; no shard was moved.",
            hint=f"End the maintenance first: {commands}",
        )


async def _refuse_owners(conn: Connection, preview: RebalancePlan, emit: Emit) -> None:
    owners = await citus_movers.owners(conn, [move.shard_id for move in preview.moves])
    findings = missing_logins(owners)
    if findings:
        raise RebalanceError(
            "Citus must connect as a table's owner to create its shards on another node, but cannot: "
            + "; ".join(findings),
            hint="Give the tables to a role that may log in: ALTER TABLE ... OWNER TO ...; on the coordinator.",
            details=findings,
        )
    for finding in short_timeouts(owners):
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, finding, {}))


async def refuse_untrusted(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    """Raise RebalanceError for code of ordinary roles that would run as the superuser; a warning if it is trusted."""
    found = await _untrusted(conn, preview)
    if not found:
        return
    if options.trust_functions:
        message = (
            f"This code runs as the superuser while shards are copied, as --trust-functions allows: {'; '.join(found)}"
        )
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, message, {"trusted": list(found)}))
        return
    raise RebalanceError(
        "Code of ordinary roles would run as the superuser while shards are copied, so no shard was moved: "
        + "; ".join(found),
        hint=TRUST_HINT,
        details=found,
    )


async def refuse_unsupported(conn: Connection, options: RebalanceOptions) -> None:
    """Raise UsageError for options that this Citus does not have."""
    if not options.wants_parallel or await has_function(conn, citus_rebalance.PARALLEL_SIGNATURE):
        return
    raise UsageError(
        f"This server runs Citus {await citus_version(conn)}, but the parallel flags require Citus 13.2 or newer.",
        hint="Omit the flags, or upgrade Citus.",
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
            hint="Fix this on each of these nodes, then run citus-cluster rebalance start again. "
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
            "There is not enough disk space for the shards, so no shard was moved: " + "; ".join(findings),
            hint="Free some space on these disks, or add a worker on another disk, then run the command again.",
            details=findings,
        )
    scarce = scarce_space(preview.growth, disks)
    if scarce:
        message = (
            f"There may not be enough disk space for all shards: {'; '.join(scarce)}. They fit if the nodes "
            "share a disk; "
            "on a separate disk, the moves stop once it is full, and shards that have moved stay"
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
        message = f"UPDATE and DELETE will fail while shards of these tables without replica identity move: {names}"
        emit(Event(rebalance_watch.STEP, EventKind.WARNING, message, {"statements": list(statements)}))
        return
    raise RebalanceError(
        f"Tables without primary key or replica identity cannot move online: {names}.",
        hint="Add a primary key to each, or run the listed statements on the coordinator, in this database, or use "
        "--mode block_writes.",
        details=statements,
    )


async def stop(conn: Connection) -> RebalanceStatus:
    """Stop the running rebalance. Shards that have moved stay where they are. Raises RebalanceError if none runs."""
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
    with suppress(RebalanceError):  # it has ended in between
        await stop(conn)
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            while not (await rebalance_watch.status(conn, job_id)).state.is_final:  # noqa: ASYNC110 # another process
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise LockedError(
            f"Rebalance {job_id} did not stop within {_STOP_TIMEOUT_S:g} s.",
            hint="To see what it waits for: citus-cluster rebalance status. Run the command again when it has ended.",
        ) from None
    emit(Event(step, EventKind.DONE, f"stopped rebalance {job_id}", {"job_id": job_id}))


async def find_moving(conn: Connection) -> int | None:
    """Return the job that moves shards now; None if none does, or one only waits for its next attempt."""
    async with translated("looking for a running rebalance"):
        running = await citus_rebalance.running_job_id(conn)
        return None if running is None or await _only_waits(conn, running) else running
