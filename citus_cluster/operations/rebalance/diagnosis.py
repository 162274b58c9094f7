"""Finding out why a rebalance does not continue, by the checks that a start makes and by what Citus reports."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.blockers import describe_blocker, global_pid
from citus_cluster.model.citus.capacity import lost_slots_problem, missing_capacity, missing_space
from citus_cluster.model.citus.diagnosis import Cause, DiagnosisRow, cause_of_capacity, explain
from citus_cluster.model.citus.movers import missing_logins
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.orphans import Kind, OrphanRow, OrphanState
from citus_cluster.model.citus.rebalance import Job, JobState, ShardGroup, Task, describe_trouble
from citus_cluster.model.citus.rebalance_plan import TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.units import count
from citus_cluster.runtime.citus import blockers as citus_blockers
from citus_cluster.runtime.citus import consistency as citus_consistency
from citus_cluster.runtime.citus import movers as citus_movers
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import slots as citus_slots
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.postgres import Connection, translated

# Citus' daemon starts the queue monitor of a new job within citus.background_task_queue_interval, by default 5 s.
_UNSERVED_S = 6.0
_LOOK_AGAIN_S = 0.5
DROPPABLE = frozenset({Kind.SLOT, Kind.SUBSCRIPTION, Kind.PUBLICATION})
"""What a repair drops although Citus has no record of it: nothing else uses these names, and they hold no rows."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found. ``waiting`` are the tasks that wait for their next attempt."""

    rows: tuple[DiagnosisRow, ...]
    job: Job | None = None
    waiting: int = 0
    orphans: tuple[OrphanRow, ...] = ()
    silent: Mapping[NodeAddress, str] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        return self.job is not None and not self.job.state.is_final

    @property
    def to_clean_up(self) -> int:
        """The number of objects that Citus drops with its next clean-up."""
        return sum(one.state is OrphanState.WAITS for one in self.orphans)

    @property
    def to_drop(self) -> tuple[OrphanRow, ...]:
        """Objects of moves that ended and that Citus does not know of; none while anything moves."""
        if self.is_running or any(one.state is OrphanState.IN_USE for one in self.orphans):
            return ()
        return tuple(one for one in self.orphans if _is_droppable(one))


async def diagnose(conn: Connection, nodes: Sequence[RegisteredNode], silent: Mapping[NodeAddress, str]) -> Diagnosis:
    """Look for every cause for which a rebalance can stand still; ``silent`` nodes are not asked again."""
    async with translated("diagnosing the rebalance"):
        answering = [node for node in nodes if node.is_active and node.address not in silent]
        job = await citus_rebalance.last_job(conn)
        rows = [_silent_row(address, reason) for address, reason in silent.items()]
        tasks = await citus_rebalance.tasks(conn, job.job_id) if job else ()
        waiting = 0
        if job and job.state is not JobState.FINISHED:
            rows += await _troubles(conn, job, tasks)
        if job and not job.state.is_final:
            rows += await _standstill(conn, job, tasks, [node for node in nodes if node.address not in silent])
            rows += await _requirements(conn, job, tasks, answering)
            waiting = sum(task.state == "runnable" and task.retry_count > 0 for task in tasks)
        rows += await _lost_slots(conn, answering)
        orphans = await citus_consistency.orphans(conn, nodes, silent)
    found = Diagnosis((), job, waiting, orphans, silent)
    rows += _left_over(found)
    return Diagnosis(tuple(_unique(rows)), job, waiting, orphans, silent)


def _silent_row(address: NodeAddress, reason: str) -> DiagnosisRow:
    return DiagnosisRow(
        f"silent/{address}", Cause.SILENT_NODE, reason, address.compose_command("unpause"), node=str(address)
    )


async def _troubles(conn: Connection, job: Job, tasks: Sequence[Task]) -> list[DiagnosisRow]:
    troubled = [task for task in tasks if task.is_troubled]
    shard_ids = [task.shard_id for task in troubled if task.shard_id is not None]
    members = await citus_rebalance.shard_groups(conn, shard_ids) if shard_ids else {}
    groups = {shard_id: ShardGroup(table, len(ids), None) for shard_id, (table, ids) in members.items()}
    found = []
    for task in troubled:
        cause, advice = explain(task.message or "")
        if job.state.is_final:
            advice += "; then: citus-cluster rebalance start"
        message = describe_trouble(task, groups)
        found.append(DiagnosisRow(f"task/{task.task_id}", cause, message, advice, False, job.job_id, task.target))
    return found


async def _standstill(
    conn: Connection, job: Job, tasks: Sequence[Task], nodes: Sequence[RegisteredNode]
) -> list[DiagnosisRow]:
    running = [task for task in tasks if task.state == "running"]
    found = []
    ready = any(task.state == "runnable" and not task.is_troubled for task in tasks)
    if ready and not running and not await _is_served(conn):
        message = "The moves are scheduled, but Citus starts none: its queue monitor does not run on the coordinator."
        remedy = (
            "Raise max_worker_processes (settings.coordinator in cluster.yaml, then setup_citus_cluster.py --yes "
            "--up). If citus.background_task_queue_interval is -1, set it to a time. See the coordinator's log if its "
            "maintenance daemon does not run."
        )
        found.append(DiagnosisRow("queue", Cause.WORKER_PROCESSES, message, remedy, False, job.job_id))
    processes = [task.process_id for task in running if task.process_id]
    for session in await citus_blockers.blockers(conn, nodes, processes):
        name = f"blocker/{session.node}/{session.process_id}"
        number = next((node.node_id for node in nodes if node.address == session.node), 0)
        remedy = f"citus-cluster activity terminate {global_pid(number, session.process_id)}"
        if session.process_id == 0:
            remedy = "citus-cluster consistency recover"
        message = describe_blocker(session)
        found.append(DiagnosisRow(name, Cause.BLOCKED, message, remedy, False, job.job_id, str(session.node)))
    return found


async def _is_served(conn: Connection) -> bool:
    deadline = asyncio.get_running_loop().time() + _UNSERVED_S
    while not await citus_rebalance.queue_is_served(conn):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_LOOK_AGAIN_S)
    return True


async def _requirements(
    conn: Connection, job: Job, tasks: Sequence[Task], answering: Sequence[RegisteredNode]
) -> list[DiagnosisRow]:
    """Check what the remaining moves need, as a start does."""
    left = [task for task in tasks if not task.is_done and task.shard_id is not None]
    shard_ids = [task.shard_id for task in left if task.shard_id is not None]
    online = [task.shard_id for task in left if task.shard_id is not None and not task.holds_writes]
    if not left:
        return []
    found: list[tuple[Cause, str, str | None]] = []
    primaries = [node for node in answering if node.role == "primary"]
    capacities = [await citus_rebalance.capacity(conn, node) for node in primaries]
    mode = TransferMode.AUTO if online else TransferMode.BLOCK_WRITES
    moving = any(task.state == "running" for task in tasks)
    for one in missing_capacity(capacities, mode):
        cause = cause_of_capacity(one)
        # While a move runs, its own processes and slots count.
        if cause is Cause.WAL_LEVEL or not moving:
            found.append((cause, f"{one}.", "Change this setting, then: citus-cluster rebalance repair"))
    for table, statement in await citus_rebalance.tables_without_identity(conn, online) if online else ():
        found.append((Cause.NO_IDENTITY, f"{table} has no replica identity, so it cannot move online.", statement))
    for one in missing_logins(await citus_movers.owners(conn, shard_ids)):
        remedy = "Give the tables to a role that may log in: ALTER TABLE ... OWNER TO ...;"
        found.append((Cause.OWNER_LOGIN, f"{one}, and Citus creates its shards as that role.", remedy))
    found += await _full_disks(conn, left, primaries)
    return [
        DiagnosisRow(f"requirement/{number}", cause, message, remedy, False, job.job_id)
        for number, (cause, message, remedy) in enumerate(found)
    ]


async def _full_disks(
    conn: Connection, left: Sequence[Task], primaries: Sequence[RegisteredNode]
) -> list[tuple[Cause, str, str | None]]:
    members = await citus_rebalance.shard_groups(conn, [task.shard_id for task in left if task.shard_id is not None])
    by_node = await citus_tables.shard_sizes(conn, primaries)
    sizes = {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}
    largest: Counter[NodeAddress] = Counter()
    for task in left:
        if task.target is None or task.shard_id is None or task.shard_id not in members:
            continue
        target = NodeAddress.parse(task.target)
        together = sum([sizes.get(member, 0) for member in members[task.shard_id][1]])
        largest[target] = max(largest[target], together)
    disks = [await citus_rebalance.disk_space(conn, node) for node in primaries if node.address in largest]
    remedy = "Free some space on this disk, or add a worker on another one."
    return [(Cause.FULL_DISK, one, remedy) for one in missing_space(largest, disks)]


async def _lost_slots(conn: Connection, answering: Sequence[RegisteredNode]) -> list[DiagnosisRow]:
    found = []
    for node in answering:
        try:
            slots = await citus_slots.lost_slots(conn, node)
        except (CitusClusterError, psycopg.Error):
            if conn.closed:
                raise
            continue
        if slots:
            message = lost_slots_problem(node.address, slots)
            remedy = "citus-cluster rebalance stop"
            found.append(
                DiagnosisRow(f"slots/{node.address}", Cause.LOST_SLOT, message, remedy, node=str(node.address))
            )
    return found


def _left_over(found: Diagnosis) -> list[DiagnosisRow]:
    rows = []
    if found.to_clean_up:
        message = f"Citus has not dropped {count(found.to_clean_up, 'object')} of earlier moves yet."
        repairs = not found.silent
        remedy = "citus-cluster rebalance repair" if repairs else "Start or unpause the nodes that do not answer."
        rows.append(DiagnosisRow("cleanup", Cause.CLEANUP, message, remedy, repairs))
    to_drop = {one.id for one in found.to_drop}
    for one in found.orphans:
        if one.state not in {OrphanState.UNRECORDED, OrphanState.GONE_NODE}:
            continue
        repairs = one.id in to_drop
        message = f"{one.kind.value} {one.name} on {one.node} is left over from a move or a split that has ended."
        fix = "citus-cluster rebalance repair" if repairs else one.remedy
        rows.append(DiagnosisRow(f"orphan/{one.id}", Cause.ORPHANS, message, fix, repairs, node=one.node))
    return rows


def _is_droppable(one: OrphanRow) -> bool:
    return one.state is OrphanState.UNRECORDED and one.kind in DROPPABLE


def _unique(rows: Sequence[DiagnosisRow]) -> list[DiagnosisRow]:
    """Drop a requirement that the error of a move has shown already."""
    told = {row.cause for row in rows if row.id.startswith("task/")}
    return [
        row
        for row in rows
        if not (row.id.startswith("requirement/") and row.cause in told and row.cause is Cause.CAPACITY)
    ]
