"""Rebalancing: preview it, start it, watch it, stop it. Citus does the work, in the background."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import psycopg

from citus_cluster.errors import CitusClusterError, LockedError, RebalanceError, UsageError
from citus_cluster.model.blockers import describe_blocker
from citus_cluster.model.capacity import missing_capacity, missing_space, scarce_space
from citus_cluster.model.events import Emit, Event, EventKind
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.rebalance import (
    NO_REBALANCE,
    Copying,
    History,
    JobState,
    RebalanceOptions,
    RebalancePlan,
    RebalanceStatus,
    ShardGroup,
    Task,
    TransferMode,
    build_status,
)
from citus_cluster.model.registration import RegisteredNode, Registry
from citus_cluster.model.units import size
from citus_cluster.runtime import citus_blockers, citus_nodes, citus_probe, citus_rebalance, citus_tables
from citus_cluster.runtime.citus import citus_version, has_function
from citus_cluster.runtime.postgres import Connection, describe, translated

STEP = "rebalance"
# Citus' maintenance daemon looks at the queue every 5 s; after three rounds something is wrong.
_UNSERVED_S = 20.0
_HUNG_S = 30.0
# Without any progress for so long, that is two looks, all nodes are asked whether they answer; and again after as long.
_QUIET_S = 2.0
_ASK_SILENT_AGAIN_S = 3.0
# A server is restarted in less; one that is silent for longer needs a person.
_SILENCE_TOLERATED_S = 60.0
# Without any progress for so long, it is asked who holds it up; and again after as long.
_STALLED_S = 10.0
_STOP_TIMEOUT_S = 60.0
_NEVER = float("inf")
# So near to its end it is looked at more often, so that what waits for it goes on at once.
_SOON_S = 5.0
_POLL_AT_THE_END_S = 0.25


async def plan(conn: Connection, options: RebalanceOptions, *, without: Sequence[RegisteredNode] = ()) -> RebalancePlan:
    """Preview: the moves that Citus would make now; ``without`` are nodes that are taken to hold no shards any more.

    Raises UsageError for options that Citus does not take, RebalanceError if a node does not answer.
    """
    async with translated("planning the rebalance"):
        registry = await citus_nodes.read_registry(conn)
        await _refuse_silent(conn, registry)
        holders = [node for node in registry.nodes if node.is_active and node.role == "primary"]
        by_node = await shard_sizes(conn, holders)
        sizes = {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}
        try:
            moves = await citus_rebalance.plan_moves(conn, options, sizes, without=[node.node_id for node in without])
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            if "strategy" in str(error):
                raise UsageError(f"Citus does not take these options: {describe(error)}") from error
            raise _refused("Citus cannot plan a rebalance", error) from error
        return RebalancePlan(
            moves,
            {
                node.address: sum(by_node[node.address].values())
                for node in holders
                if node.address in by_node and (node.should_have_shards or by_node[node.address])
            },
        )


def _refused(what: str, error: psycopg.DatabaseError) -> RebalanceError:
    hint = error.diag.message_hint
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
        hint = (
            "If a function of the rebalance strategy uses it: names are looked for in pg_catalog alone here, so write "
            "its schema before it, or ALTER FUNCTION ... SET search_path = ...;"
        )
    return RebalanceError(f"{what}: {describe(error)}", hint=hint)


async def _refuse_silent(conn: Connection, registry: Registry) -> None:
    silent = await citus_probe.silent_nodes(conn, registry.nodes)
    if silent:
        raise RebalanceError(
            "Shards can only move when every node answers: " + " ".join(silent),
            hint="Start or unpause it (citus-cluster status); a worker that is lost for good must be removed first.",
            details=silent,
        )


async def shard_sizes(conn: Connection, nodes: Sequence[RegisteredNode]) -> Mapping[NodeAddress, Mapping[int, int]]:
    """Bytes by shard id of the distributed tables on each node; a node that does not answer is left out."""
    distributed = {row.oid for row in await citus_tables.read_tables(conn) if row.moves}
    placements = [p for p in await citus_tables.read_placements(conn) if p.table_oid in distributed]
    found: dict[NodeAddress, Mapping[int, int]] = {}
    for node in nodes:
        here = [placement for placement in placements if placement.group_id == node.group_id]
        try:
            found[node.address] = (await citus_tables.ask_node(conn, node, here)).sizes
        except CitusClusterError:
            if conn.closed:
                raise
    return found


async def start(conn: Connection, options: RebalanceOptions, emit: Emit) -> int | None:
    """Start a rebalance in the background; its job id, or None, said in an event, if nothing is to be moved.

    Looks first for what would make Citus retry in silence. A job that only waits for its next attempt, in which Citus
    is more and more patient, is stopped and begun anew. Raises RebalanceError (one is running, settings, room or
    replica identities are missing), UsageError (an option that this Citus does not have), LockedError.
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
            emit(Event(STEP, EventKind.SKIPPED, "the shards are balanced already: nothing to move"))
            return None
        await check(conn, options, preview, emit)
        if running is not None:
            await end(conn, running, emit)
        try:
            job_id = await citus_rebalance.start(conn, options)
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            raise _refused("Citus refused", error) from error
        if job_id is None:
            emit(Event(STEP, EventKind.SKIPPED, "Citus found nothing to move"))
            return None
        moves = "one move" if len(preview.moves) == 1 else f"{len(preview.moves)} moves"
        message = f"rebalance started as job {job_id}: {moves} of shards, {size(preview.size_bytes)}"
        emit(Event(STEP, EventKind.STARTED, message, {"job_id": job_id, **preview.as_dict()}))
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
        emit(Event(STEP, EventKind.WARNING, message, {"nodes": list(scarce)}))


async def _refuse_unidentified(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    if options.mode is TransferMode.BLOCK_WRITES:
        return
    bare = await citus_rebalance.tables_without_identity(conn, [move.shard_id for move in preview.moves])
    if not bare:
        return
    names = ", ".join(table for table, _ in bare)
    statements = tuple(statement for _, statement in bare)
    if options.mode is TransferMode.FORCE_LOGICAL:
        message = f"UPDATE and DELETE will fail while their shards move, without replica identity: {names}"
        emit(Event(STEP, EventKind.WARNING, message, {"statements": list(statements)}))
        return
    raise RebalanceError(
        f"Tables without primary key or replica identity cannot move while they are written to: {names}.",
        hint="Give each a primary key, or run the listed statements on the coordinator, in this database. Or use "
        "--mode block_writes.",
        details=statements,
    )


async def status(
    conn: Connection,
    job_id: int | None = None,
    sizes: Mapping[int, int] | None = None,
    silent: Sequence[str] | None = None,
) -> RebalanceStatus:
    """How far the latest rebalance (or job ``job_id``) is; state NONE if there never was one. Bounded in time.

    ``sizes`` (bytes by shard id) and ``silent`` (why nodes do not answer): where the caller knows them already;
    else every node is asked.
    """
    async with translated("reading the state of the rebalance"):
        memory = _Memory(sizes)
        if silent is not None:
            memory.silent, memory.silent_again_at = {reason: reason for reason in silent}, _NEVER
        return await _read_status(conn, job_id, memory)


@dataclass
class _Memory:
    """What is kept from one look to the next."""

    sizes: Mapping[int, int] | None = None
    """Bytes by shard id; None until they are asked for, once, since that costs a query on every node."""
    groups: dict[int, ShardGroup] = field(default_factory=dict)
    history: History = field(default_factory=History)
    progress_again_at: float = 0.0
    """When to ask for the progress again (event loop's time): a session that hangs on a node stays for minutes."""
    sizes_again_at: float = _NEVER
    """When to ask for the sizes again; never where all are known."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Why nodes do not answer, by address; a reason stays as it was found first."""
    silent_since: float | None = None
    answering_since: float = 0.0
    """When a node that was silent was found to answer again."""
    silent_again_at: float = 0.0
    """When to ask for them again: each takes some seconds."""
    starts_here: bool = False
    """Whether rate and time left are told from the next look on: what was before nobody saw, or is no measure."""
    progress: object = None
    moved_at: float = -_NEVER
    """When there was progress last, as far as was seen."""


async def _read_status(conn: Connection, job_id: int | None, memory: _Memory) -> RebalanceStatus:
    job = await citus_rebalance.last_job(conn, job_id)
    if job is None:
        return NO_REBALANCE
    tasks = await citus_rebalance.tasks(conn, job.job_id)
    troubled = any(task.is_troubled for task in tasks)
    quiet = _now() - memory.moved_at >= _QUIET_S
    if not job.state.is_final and (quiet or troubled or memory.silent):
        await _look_for_silent(conn, memory)
    await _fill_groups(conn, tasks, memory)
    copying: tuple[Copying, ...] = ()
    running = [task for task in tasks if task.state == "running"]
    hangs = any(node in memory.silent for task in running for node in (task.source, task.target))
    if running and not hangs and _now() >= memory.progress_again_at:
        try:
            copying = await _copying(conn)
            memory.progress_again_at = 0.0
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            memory.progress_again_at = _now() + _HUNG_S
            await _look_for_silent(conn, memory)
    found = build_status(job, tasks, memory.groups, copying, memory.history)
    if memory.starts_here and found.history.recent:
        memory.starts_here, found = False, found.from_here()
    memory.history = found.history
    if _progress(found) != memory.progress:
        memory.progress, memory.moved_at = _progress(found), _now()
    if found.state.is_final:
        return found
    if memory.silent:
        found = replace(found, rate_bytes_per_s=None, time_left_s=None)
    unknown = ("the workers do not say how far they are",) if memory.progress_again_at and not memory.silent else ()
    return replace(found, problems=(*found.problems, *_with_advice(memory).values(), *unknown))


def _with_advice(memory: _Memory) -> Mapping[str, str]:
    if memory.silent_again_at == _NEVER:  # whoever gave the reasons says them too, in these words
        return memory.silent
    return {
        node: f"{reason.rstrip('.')}; start or unpause it (citus-cluster status)"
        for node, reason in memory.silent.items()
    }


async def _look_for_silent(conn: Connection, memory: _Memory) -> None:
    if _now() < memory.silent_again_at:
        return
    silence = await citus_probe.silence(conn, (await citus_nodes.read_registry(conn)).nodes)
    before, now = memory.silent, _now()
    memory.silent = {str(node): before.get(str(node), reason) for node, reason in silence.items()}
    memory.silent_again_at = now + _ASK_SILENT_AGAIN_S
    if memory.silent:
        memory.silent_since = now if memory.silent_since is None else memory.silent_since
    elif before:
        memory.silent_since, memory.answering_since = None, now
        memory.starts_here, memory.progress_again_at = True, 0.0
        memory.sizes_again_at = min(memory.sizes_again_at, now)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _copying(conn: Connection) -> tuple[Copying, ...]:
    registry = await citus_nodes.read_registry(conn)
    return await citus_rebalance.copying(conn, registry.coordinator.address) if registry.coordinator else ()


async def _fill_groups(conn: Connection, tasks: Sequence[Task], memory: _Memory) -> None:
    if _now() >= memory.sizes_again_at:
        memory.sizes = None
        memory.groups = {key: group for key, group in memory.groups.items() if group.size_bytes is not None}
    wanted = [task.shard_id for task in tasks if task.shard_id is not None and task.shard_id not in memory.groups]
    if not wanted:
        return
    members = await citus_rebalance.shard_groups(conn, wanted)
    if memory.sizes is None and members:
        registry = await citus_nodes.read_registry(conn)
        holders = [node for node in registry.nodes if node.is_active and node.role == "primary"]
        by_node = await shard_sizes(conn, [node for node in holders if str(node.address) not in memory.silent])
        memory.sizes = {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}
        memory.sizes_again_at = _NEVER if len(by_node) == len(holders) else _now() + _HUNG_S
    sizes = memory.sizes or {}
    for shard_id in wanted:
        table, ids = members.get(shard_id, ("a dropped table", ()))
        known = [sizes[member] for member in ids if member in sizes]
        memory.groups[shard_id] = ShardGroup(table, max(1, len(ids)), sum(known) if len(known) == len(ids) else None)


async def stop(conn: Connection) -> RebalanceStatus:
    """Stop the running rebalance. Shards that have moved stay where they are. RebalanceError if none runs."""
    async with translated("stopping the rebalance"):
        running = await citus_rebalance.running_job_id(conn)
        if running is None:
            raise RebalanceError("No rebalance is running.")
        await citus_rebalance.stop(conn)
        return await _read_status(conn, running, _Memory())


async def end(conn: Connection, job_id: int, emit: Emit) -> None:
    """Stop a rebalance, and wait until it has ended; LockedError if it does not."""
    step = f"stop:{job_id}"
    emit(Event(step, EventKind.STARTED, f"stopping rebalance {job_id}"))
    with suppress(RebalanceError):  # it has ended meanwhile
        await stop(conn)
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            while not (await status(conn, job_id)).state.is_final:  # noqa: ASYNC110 # another process
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
        tell_followed(running, emit)
        await wait(conn, emit, job_id=running)


def tell_followed(job_id: int, emit: Emit) -> None:
    """Say that a rebalance which somebody else started is followed to its end first."""
    message = f"a rebalance is running already, as job {job_id}: following it first"
    emit(Event(STEP, EventKind.STARTED, message, {"job_id": job_id}))


async def wait(conn: Connection, emit: Emit, poll_s: float = 1.0, job_id: int | None = None) -> RebalanceStatus:
    """Follow a rebalance until it ends. Leaving is harmless: the job is Citus', and goes on.

    Emits progress when it changes, and each problem once, as soon as it shows. Returns the last status
    (state NONE or FINISHED); raises RebalanceError if it failed, was stopped, or a node stays silent for a minute.
    """
    memory = _Memory(starts_here=True)
    told: set[str] = set()
    last: Mapping[str, object] = {}
    silent: Mapping[str, str] = {}
    async with translated("following the rebalance"):
        started = asked_at = _now()
        while True:
            found = await _read_status(conn, job_id, memory)
            job_id = found.job_id
            if _now() - max(started, memory.answering_since) > _UNSERVED_S:
                found = await _notice_unserved_queue(conn, found)
            for node in silent.keys() - memory.silent.keys():
                emit(Event(f"silent:{node}", EventKind.DONE, f"{node} answers again", {"job_id": job_id}))
                told.discard(silent[node])
            silent = _with_advice(memory)
            held_up: tuple[str, ...] = ()
            stalled = _now() - max(memory.moved_at, asked_at) > _STALLED_S
            if stalled and not found.state.is_final and not silent:
                asked_at, held_up = _now(), await _find_blockers(conn, found)
            for problem in (*found.problems, *held_up):
                if problem not in told:
                    emit(Event(STEP, EventKind.WARNING, problem, {"job_id": job_id}))
                told.add(problem)
            if found.state.is_final:
                return _conclude(found, emit)
            _refuse_long_silence(found, memory, emit)
            if _visible(found) != last:
                emit(Event(STEP, EventKind.PROGRESS, progress_line(found), found.as_dict()))
                last = _visible(found)
            ends_soon = found.time_left_s is not None and found.time_left_s < _SOON_S
            await asyncio.sleep(min(poll_s, _POLL_AT_THE_END_S) if ends_soon else poll_s)


def _refuse_long_silence(found: RebalanceStatus, memory: _Memory, emit: Emit) -> None:
    # Moves between other nodes may go on all the same.
    if memory.silent_since is None or _now() - max(memory.silent_since, memory.moved_at) < _SILENCE_TOLERATED_S:
        return
    reasons = tuple(memory.silent.values())
    emit(Event(STEP, EventKind.FAILED, progress_line(found), found.as_dict()))
    raise RebalanceError(
        f"Rebalance {found.job_id} does not go on: {' '.join(reasons)}",
        hint="Start or unpause it: the rebalance is Citus' own, and goes on by itself then; to follow it again: "
        "citus-cluster rebalance wait. If the node is lost for good: citus-cluster rebalance stop.",
        details=reasons,
    )


async def _notice_unserved_queue(conn: Connection, found: RebalanceStatus) -> RebalanceStatus:
    waiting = found.tasks.get("runnable", 0) and not found.tasks.get("running", 0) and not found.problems
    if found.state.is_final or not waiting or await citus_rebalance.queue_is_served(conn):
        return found
    problem = (
        "scheduled, but Citus starts no task: too few background workers on the coordinator "
        "(raise max_worker_processes and restart it), or its maintenance daemon does not run (see its log)"
    )
    return replace(found, problems=(problem,))


def _progress(found: RebalanceStatus) -> object:
    return found.shards_done, found.bytes_done, found.moves


async def _find_blockers(conn: Connection, found: RebalanceStatus) -> tuple[str, ...]:
    tasks = await citus_rebalance.tasks(conn, found.job_id or 0)
    processes = [task.process_id for task in tasks if task.state == "running" and task.process_id]
    registry = await citus_nodes.read_registry(conn)
    sessions = await citus_blockers.blockers(conn, registry.nodes, processes)
    return tuple(describe_blocker(session) for session in sessions)


def _visible(found: RebalanceStatus) -> Mapping[str, object]:
    return {key: value for key, value in found.as_dict().items() if key not in {"observed_at", "time_left_s"}}


def progress_line(found: RebalanceStatus) -> str:
    """One line for people, such as ``running: 3 of 8 shards, 42.0 MB of 96.0 MB, 5.1 MB/s, 11 s left``."""
    parts = [f"{found.shards_done} of {found.shards_total} shards"]
    if found.bytes_done is not None and found.bytes_total is not None:
        parts.append(f"{size(found.bytes_done)} of {size(found.bytes_total)}")
    if found.rate_bytes_per_s is not None:
        parts.append(f"{size(found.rate_bytes_per_s)}/s")
    if found.time_left_s is not None:
        parts.append(f"{found.time_left_s:.0f} s left")
    return f"{found.state.value}: " + ", ".join(parts)


def _conclude(found: RebalanceStatus, emit: Emit) -> RebalanceStatus:
    if found.state is JobState.NONE:
        emit(Event(STEP, EventKind.SKIPPED, "there is no rebalance"))
        return found
    if found.state is JobState.FINISHED:
        emit(Event(STEP, EventKind.DONE, progress_line(found), found.as_dict()))
        return found
    emit(Event(STEP, EventKind.FAILED, progress_line(found), found.as_dict()))
    if found.state is JobState.CANCELLED:
        raise RebalanceError(
            f"Rebalance {found.job_id} was stopped after {found.shards_done} of {found.shards_total} shards.",
            hint="citus-cluster rebalance start goes on with what is left.",
        )
    raise RebalanceError(
        f"Rebalance {found.job_id} failed after {found.shards_done} of {found.shards_total} shards: "
        + ("; ".join(found.problems) or "Citus kept no message"),
        hint="Mend the cause, then citus-cluster rebalance start goes on with what is left.",
        details=found.problems,
    )
