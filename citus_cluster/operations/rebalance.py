"""Rebalancing: preview it, start it, watch it, stop it. Citus does the work, in the background."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import psycopg

from citus_cluster.errors import CitusClusterError, RebalanceError, UsageError
from citus_cluster.model.blockers import describe_blocker
from citus_cluster.model.capacity import missing_capacity, missing_space
from citus_cluster.model.events import Emit, Event, EventKind
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.rebalance import (
    NO_REBALANCE,
    Copying,
    JobState,
    RebalanceOptions,
    RebalancePlan,
    RebalanceStatus,
    Sample,
    ShardGroup,
    Task,
    TransferMode,
    build_status,
)
from citus_cluster.model.registration import RegisteredNode, Registry
from citus_cluster.runtime import citus_blockers, citus_nodes, citus_probe, citus_rebalance, citus_tables
from citus_cluster.runtime.citus import citus_version, has_function
from citus_cluster.runtime.postgres import Connection, describe, translated

STEP = "rebalance"
# The rate is taken over this many of the latest samples, so that it follows what happens now.
_WINDOW = 30
# Citus' maintenance daemon looks at the queue every 5 s; after three rounds something is wrong.
_UNSERVED_S = 20.0
_HUNG_S = 30.0
_ASK_SILENT_AGAIN_S = 10.0
# A server is restarted in less; one that is silent for longer needs a person.
_SILENCE_TOLERATED_S = 60.0
# Without any progress for so long, it is asked who holds it up; and again after as long.
_STALLED_S = 10.0


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
            raise RebalanceError(
                f"Citus cannot plan a rebalance: {describe(error)}", hint=error.diag.message_hint
            ) from error
        return RebalancePlan(
            moves,
            {
                node.address: sum(by_node[node.address].values())
                for node in holders
                if node.address in by_node and (node.should_have_shards or by_node[node.address])
            },
        )


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
    distributed = {row.oid for row in await citus_tables.read_tables(conn) if row.type in {"distributed", "schema"}}
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

    Looks first for what would make Citus retry in silence. Raises RebalanceError (one is running, settings
    or replica identities are missing), UsageError (an option that this Citus does not have).
    """
    async with translated("starting the rebalance"):
        await _refuse_unsupported(conn, options)
        running = await citus_rebalance.running_job_id(conn)
        if running is not None:
            raise RebalanceError(
                f"A rebalance is running already, as job {running}.",
                hint="citus-cluster rebalance wait follows it, citus-cluster rebalance stop ends it.",
            )
        preview = await plan(conn, options)
        if not preview.moves:
            emit(Event(STEP, EventKind.SKIPPED, "the shards are balanced already: nothing to move"))
            return None
        await check(conn, options, preview, emit)
        try:
            job_id = await citus_rebalance.start(conn, options)
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            raise RebalanceError(f"Citus refused: {describe(error)}", hint=error.diag.message_hint) from error
        if job_id is None:
            emit(Event(STEP, EventKind.SKIPPED, "Citus found nothing to move"))
            return None
        moves = "one move" if len(preview.moves) == 1 else f"{len(preview.moves)} moves"
        message = f"rebalance started as job {job_id}: {moves} of shards, {preview.size_bytes / 2**20:.1f} MiB"
        emit(Event(STEP, EventKind.STARTED, message, {"job_id": job_id, **preview.as_dict()}))
        return job_id


async def check(conn: Connection, options: RebalanceOptions, preview: RebalancePlan, emit: Emit) -> None:
    """Look for what would make Citus retry the moves in silence. Raises RebalanceError, which names it."""
    async with translated("looking at what the moves need"):
        await _refuse_incapable(conn, options)
        await _refuse_full(conn, preview)
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


async def _refuse_full(conn: Connection, preview: RebalancePlan) -> None:
    after = preview.bytes_after
    growth = {node: after[node] - preview.bytes_before.get(node, 0) for node in after}
    registry = await citus_nodes.read_registry(conn)
    growing = [node for node in registry.nodes if node.role == "primary" and growth.get(node.address, 0) > 0]
    try:
        findings = missing_space(growth, [await citus_rebalance.disk_space(conn, node) for node in growing])
    except citus_probe.ProbeUnavailableError:
        return
    if findings:
        raise RebalanceError(
            "There is not enough room for the shards, so none was moved: " + "; ".join(findings),
            hint="Free some space on the disks named, or add a worker on another one, then run the command again.",
            details=findings,
        )


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
        hint="Give each a primary key, or run: " + " ".join(statements) + " Or use --mode block_writes.",
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
            memory.silent, memory.silent_again_at = tuple(silent), float("inf")
        return await _read_status(conn, job_id, memory)


@dataclass
class _Memory:
    """What is kept from one look to the next."""

    sizes: Mapping[int, int] | None = None
    """Bytes by shard id; None until they are asked for, once, since that costs a query on every node."""
    groups: dict[int, ShardGroup] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    progress_again_at: float = 0.0
    """When to ask for the progress again (event loop's time): a session that hangs on a node stays for minutes."""
    silent: tuple[str, ...] = ()
    """Which nodes do not answer, and why."""
    silent_since: float | None = None
    silent_again_at: float = 0.0
    """When to ask for them again: each takes some seconds."""


async def _read_status(conn: Connection, job_id: int | None, memory: _Memory) -> RebalanceStatus:
    job = await citus_rebalance.last_job(conn, job_id)
    if job is None:
        return NO_REBALANCE
    tasks = await citus_rebalance.tasks(conn, job.job_id)
    await _fill_groups(conn, tasks, memory)
    copying: tuple[Copying, ...] = ()
    if any(task.state == "running" for task in tasks) and _now() >= memory.progress_again_at:
        try:
            copying = await _copying(conn)
            memory.progress_again_at = 0.0
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            memory.progress_again_at = _now() + _HUNG_S
    found = build_status(job, tasks, memory.groups, copying, memory.samples[-_WINDOW:])
    if found.bytes_done is not None:
        memory.samples.append(Sample(job.observed_at, found.bytes_done))
    hangs = memory.progress_again_at > 0.0
    if found.state.is_final or not (hangs or any(task.is_troubled for task in tasks)):
        memory.silent_since = None
        return found
    await _look_for_silent(conn, memory)
    unknown = ("the workers do not say how far they are",) if hangs and not memory.silent else ()
    return replace(found, problems=(*found.problems, *memory.silent, *unknown))


async def _look_for_silent(conn: Connection, memory: _Memory) -> None:
    if _now() < memory.silent_again_at:
        return
    memory.silent = await citus_probe.silent_nodes(conn, (await citus_nodes.read_registry(conn)).nodes)
    memory.silent_again_at = _now() + _ASK_SILENT_AGAIN_S
    if not memory.silent:
        memory.silent_since = None
    elif memory.silent_since is None:
        memory.silent_since = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _copying(conn: Connection) -> tuple[Copying, ...]:
    registry = await citus_nodes.read_registry(conn)
    return await citus_rebalance.copying(conn, registry.coordinator.address) if registry.coordinator else ()


async def _fill_groups(conn: Connection, tasks: Sequence[Task], memory: _Memory) -> None:
    wanted = [task.shard_id for task in tasks if task.shard_id is not None and task.shard_id not in memory.groups]
    if not wanted:
        return
    members = await citus_rebalance.shard_groups(conn, wanted)
    if memory.sizes is None and members:
        registry = await citus_nodes.read_registry(conn)
        holders = [node for node in registry.nodes if node.is_active and node.role == "primary"]
        by_node = await shard_sizes(conn, holders)
        memory.sizes = {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}
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


async def wait_for_running(conn: Connection, emit: Emit) -> None:
    """Wait until a rebalance that runs already, if one does, is finished; raises like :func:`wait`."""
    async with translated("looking for a running rebalance"):
        running = await citus_rebalance.running_job_id(conn)
    if running is not None:
        emit(Event(STEP, EventKind.STARTED, f"a rebalance is running already, as job {running}: following it first"))
        await wait(conn, emit, job_id=running)


async def wait(conn: Connection, emit: Emit, poll_s: float = 1.0, job_id: int | None = None) -> RebalanceStatus:
    """Follow a rebalance until it ends. Leaving is harmless: the job is Citus', and goes on.

    Emits progress when it changes, and each problem once, as soon as it shows. Returns the last status
    (state NONE or FINISHED); raises RebalanceError if it failed, was stopped, or a node stays silent for a minute.
    """
    memory = _Memory()
    told: set[str] = set()
    last: Mapping[str, object] = {}
    progress: object = None
    held_up: tuple[str, ...] = ()
    async with translated("following the rebalance"):
        started = moved_at = _now()
        while True:
            found = await _read_status(conn, job_id, memory)
            job_id = found.job_id
            if _now() - started > _UNSERVED_S:
                found = await _notice_unserved_queue(conn, found)
            if _progress(found) != progress or found.state.is_final:
                progress, moved_at, held_up = _progress(found), _now(), ()
            elif _now() - moved_at > _STALLED_S:
                moved_at, held_up = _now(), await _find_blockers(conn, found)
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
            await asyncio.sleep(poll_s)


def _refuse_long_silence(found: RebalanceStatus, memory: _Memory, emit: Emit) -> None:
    if memory.silent_since is None or _now() - memory.silent_since < _SILENCE_TOLERATED_S:
        return
    emit(Event(STEP, EventKind.FAILED, progress_line(found), found.as_dict()))
    raise RebalanceError(
        f"Rebalance {found.job_id} does not go on: {' '.join(memory.silent)}",
        hint="Start or unpause it: the rebalance is Citus' own, and goes on by itself then; to follow it again: "
        "citus-cluster rebalance wait. If the node is lost for good: citus-cluster rebalance stop.",
        details=memory.silent,
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
    """One line for people, such as ``running: 3 of 8 shards, 42 of 96 MiB, 5.1 MiB/s, 11 s left``."""
    parts = [f"{found.shards_done} of {found.shards_total} shards"]
    if found.bytes_done is not None and found.bytes_total is not None:
        parts.append(f"{found.bytes_done / 2**20:.1f} of {found.bytes_total / 2**20:.1f} MiB")
    if found.rate_bytes_per_s is not None:
        parts.append(f"{found.rate_bytes_per_s / 2**20:.1f} MiB/s")
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
