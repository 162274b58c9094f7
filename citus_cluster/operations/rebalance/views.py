"""Views of rebalances: past jobs, the moves of one, and why one does not continue."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from citus_cluster.errors import CitusClusterError, NotFoundError
from citus_cluster.model.citus.diagnosis import DiagnosisRow, HistoryRow, TaskRow
from citus_cluster.model.citus.rebalance import Copying, Job, Task, last_error, remedy
from citus_cluster.model.parameters import parameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.rebalance.diagnosis import diagnose
from citus_cluster.operations.view import View
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.postgres import Connection, translated

MOST_JOBS = 200
Groups = Mapping[int, tuple[str, tuple[int, ...]]]
"""By shard id: the table, and the shards that move together."""


@parameters
class WhichJob:
    """The rebalance whose moves are listed."""

    job: Annotated[int | None, Field(ge=1, description="Job id; by default the latest rebalance.")] = None


async def _read_history(cluster: Cluster, _: object) -> Sequence[HistoryRow]:
    async def work(conn: Connection) -> Sequence[HistoryRow]:
        async with translated("reading the history of rebalances"):
            jobs = await citus_rebalance.jobs(conn, MOST_JOBS)
            tasks = await citus_rebalance.tasks_of(conn, [job.job_id for job in jobs])
            every = [task for found in tasks.values() for task in found]
            groups, sizes = await _groups_and_sizes(conn, every)
        return [_history_row(job, tasks[job.job_id], groups, sizes) for job in jobs]

    return await cluster.on_coordinator(work)


async def _groups_and_sizes(conn: Connection, tasks: Sequence[Task]) -> tuple[Groups, Mapping[int, int]]:
    shard_ids = {task.shard_id for task in tasks if task.shard_id is not None}
    if not shard_ids:
        return {}, {}
    groups = await citus_rebalance.shard_groups(conn, sorted(shard_ids))
    nodes = (await citus_nodes.read_registry(conn)).nodes
    by_node = await citus_tables.shard_sizes(
        conn, [node for node in nodes if node.is_active and node.role == "primary"]
    )
    return groups, {shard_id: size for shards in by_node.values() for shard_id, size in shards.items()}


def _size_of(task: Task, groups: Groups, sizes: Mapping[int, int]) -> int | None:
    members = groups.get(task.shard_id or 0, ("", ()))[1]
    return sum(sizes[one] for one in members) if members and all(one in sizes for one in members) else None


def _history_row(job: Job, tasks: Sequence[Task], groups: Groups, sizes: Mapping[int, int]) -> HistoryRow:
    moves = [task for task in tasks if task.shard_id is not None]
    done = [task for task in moves if task.is_done]
    bytes_of = [_size_of(task, groups, sizes) for task in done]
    known = [one for one in bytes_of if one is not None]
    ended = job.finished_at or (None if job.state.is_final else job.observed_at)
    return HistoryRow(
        job_id=job.job_id,
        state=job.state.value,
        started_at=_utc(job.started_at),
        finished_at=_utc(job.finished_at),
        seconds=(ended - job.started_at).total_seconds() if ended and job.started_at else None,
        moves=len(moves),
        moves_done=len(done),
        moves_failed=sum(task.state == "error" for task in moves),
        retries=sum(task.retry_count for task in tasks),
        size_bytes=sum(known) if len(known) == len(bytes_of) else None,
    )


async def _read_tasks(cluster: Cluster, wanted: WhichJob) -> Sequence[TaskRow]:
    async def work(conn: Connection) -> Sequence[TaskRow]:
        async with translated("reading the moves of the rebalance"):
            job = await citus_rebalance.last_job(conn, wanted.job)
            if job is None:
                if wanted.job is None:
                    return []
                raise NotFoundError(
                    f"No rebalance has the job id {wanted.job}.", hint="To list them: citus-cluster rebalance history"
                )
            tasks = await citus_rebalance.tasks(conn, job.job_id)
            groups, sizes = await _groups_and_sizes(conn, tasks)
            copying = await _copying(conn, tasks)
        return [_task_row(job, task, groups, sizes, copying.get(task.process_id or 0)) for task in tasks]

    return await cluster.on_coordinator(work)


async def _copying(conn: Connection, tasks: Sequence[Task]) -> Mapping[int, Copying]:
    """Return what running moves have copied, unless a node is silent, with which Citus would hang."""
    registry = await citus_nodes.read_registry(conn)
    if registry.coordinator is None or not any(task.state == "running" for task in tasks):
        return {}
    if await citus_probe.silence(conn, registry.nodes):
        return {}
    try:
        found = await citus_rebalance.copying(conn, registry.coordinator.address)
    except CitusClusterError:
        return {}
    return {one.process_id: one for one in found}


def _task_row(job: Job, task: Task, groups: Groups, sizes: Mapping[int, int], copying: Copying | None) -> TaskRow:
    table, members = groups.get(task.shard_id or 0, (None, ()))
    return TaskRow(
        task_id=task.task_id,
        job_id=job.job_id,
        state=task.state,
        table=table,
        shard_id=task.shard_id,
        shards=len(members),
        size_bytes=_size_of(task, groups, sizes),
        source=task.source,
        target=task.target,
        holds_writes=task.holds_writes,
        retries=task.retry_count,
        next_try_at=_utc(task.not_before) if task.state == "runnable" else None,
        process_id=task.process_id if task.state == "running" else None,
        phase=copying.phase if copying else None,
        copied_bytes=copying.copied_bytes if copying else None,
        last_error=last_error(task.message) if task.is_troubled else None,
        remedy=remedy(task.message or "") if task.is_troubled else None,
    )


def _utc(at: datetime | None) -> datetime | None:
    return at.astimezone(UTC) if at else None


async def _read_diagnosis(cluster: Cluster, _: object) -> Sequence[DiagnosisRow]:
    registry, silent = await cluster.seen()

    async def work(conn: Connection) -> Sequence[DiagnosisRow]:
        return (await diagnose(conn, registry.nodes, silent)).rows

    return await cluster.on_coordinator(work)


HISTORY = View(
    name="rebalance-history",
    summary="List the rebalances, with their moves and how long they took.",
    path="rebalance/history",
    command="rebalance history",
    row=HistoryRow,
    key="job_id",
    read=_read_history,
    max_age_s=5,
)

TASKS = View(
    name="rebalance-tasks",
    summary="List the moves of a rebalance, with their state, retries and last error.",
    path="rebalance/tasks",
    command="rebalance tasks",
    row=TaskRow,
    parameters=WhichJob,
    key="task_id",
    read=_read_tasks,
    columns=("task_id", "state", "table", "shards", "size_bytes", "source", "target", "retries", "phase", "last_error"),
)

DIAGNOSIS = View(
    name="rebalance-diagnosis",
    summary="Find out why a rebalance does not continue, and what earlier ones left behind.",
    path="rebalance/diagnosis",
    command="rebalance diagnosis",
    row=DiagnosisRow,
    key="id",
    read=_read_diagnosis,
    columns=("cause", "node", "message", "remedy", "repairs"),
)
