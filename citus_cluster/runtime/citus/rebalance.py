"""Rebalances: one function for each query and each change."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from citus_cluster.model.citus.capacity import DiskSpace, NodeCapacity
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import Copying, Job, JobState, Task
from citus_cluster.model.citus.rebalance_plan import Move, RebalanceOptions, TransferMode
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import tasks as citus_tasks
from citus_cluster.runtime.citus.movers import hand_to_owners
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.tables import MOVING
from citus_cluster.runtime.postgres import Connection, bare_name, bounded, set_local

PLAN_TIMEOUT_S = 600.0
"""Citus plans in the foreground, which is slow with many partitions."""
PARALLEL_SIGNATURE = "citus_rebalance_start(name,boolean,citus.shard_transfer_mode,boolean,boolean)"
_IMPATIENT = {"citus.node_connection_timeout": "3000"}


async def running_job_id(conn: Connection) -> int | None:
    """Return the job id of the rebalance that is scheduled or running, or None."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT max(job_id) FROM pg_dist_background_job "
            "WHERE job_type = 'rebalance' AND state IN ('scheduled', 'running', 'cancelling', 'failing')"
        )
        row = await cursor.fetchone()
    return row[0] if row else None


async def plan_moves(
    conn: Connection, options: RebalanceOptions, sizes: Mapping[int, int], *, without: Sequence[int] = ()
) -> tuple[Move, ...]:
    """Return the shards that Citus would move, in its order. ``sizes``: bytes by shard id, because Citus reports 0.

    ``without``: ids of nodes to plan without, as if they could hold no shards. This is set only on the coordinator, in
    a transaction that is rolled back.
    """
    async with bounded(conn, PLAN_TIMEOUT_S, rollback=bool(without)):
        await set_local(conn, _IMPATIENT)
        if without:
            # A trigger of the table takes this lock after the change, so two plans at once would deadlock.
            await conn.execute("LOCK TABLE pg_dist_node IN SHARE ROW EXCLUSIVE MODE")
            statement = "UPDATE pg_dist_node SET shouldhaveshards = false WHERE nodeid = ANY (%s)"
            await conn.execute(statement, [list(without)])
        cursor = await conn.execute(
            """
            SELECT table_name::text, shardid, sourcename, sourceport, targetname, targetport, min(shardid) OVER (
                PARTITION BY colocationid, shardminvalue, CASE WHEN colocationid = 0 THEN shardid END)
            FROM get_rebalance_table_shards_plan(drain_only := %s, rebalance_strategy := %s::name) WITH ORDINALITY
            LEFT JOIN pg_dist_shard USING (shardid) LEFT JOIN pg_dist_partition USING (logicalrelid)
            ORDER BY ordinality
            """,
            [options.drain_only, options.strategy],
        )
        rows = await cursor.fetchall()
    return tuple(
        Move(table, shard_id, sizes.get(shard_id, 0), NodeAddress(*source), NodeAddress(*target), group)
        for table, shard_id, source, target, group in (
            (bare_name(row[0]), row[1], row[2:4], row[4:6], row[6]) for row in rows
        )
    )


async def start(
    conn: Connection,
    options: RebalanceOptions,
    *,
    held: Collection[int] = (),
    unburden: Sequence[NodeAddress] = (),
) -> int | None:
    """Start the background job. Return its id, or None if Citus found nothing to move.

    The groups of the shards ``held`` move first, with writes to them held. In the same transaction the nodes of
    ``unburden`` lose the property that they may hold shards; if Citus refuses the job, they keep it. The
    tasks of tables that belong to an ordinary role run as this role.
    """
    arguments = "%(strategy)s::name, %(drain_only)s, %(mode)s::citus.shard_transfer_mode"
    if options.wants_parallel:
        arguments += ", %(parallel_reference)s, %(parallel_colocated)s"
    async with bounded(conn, PLAN_TIMEOUT_S, lock_timeout_s=citus_nodes.LOCK_TIMEOUT_S if unburden else None):
        await set_local(conn, _IMPATIENT)
        for node in unburden:
            await citus_nodes.set_should_have_shards(conn, node, False)
        cursor = await conn.execute(
            f"SELECT citus_rebalance_start({arguments})".encode(),
            {
                "strategy": options.strategy,
                "drain_only": options.drain_only,
                # With this mode Citus does not check for a replica identity here; an online move still does.
                "mode": (TransferMode.BLOCK_WRITES if held else options.mode).value,
                "parallel_reference": options.parallel_transfer_reference_tables,
                "parallel_colocated": options.parallel_transfer_colocated_shards,
            },
        )
        row = await cursor.fetchone()
        job_id = row[0] if row and row[0] else None
        if job_id is not None:
            await hand_to_owners(conn, job_id)
        if job_id is not None and held:
            await citus_tasks.hold_writes(conn, job_id, held, options.mode)
    return job_id


async def start_move(
    conn: Connection, shard_id: int, source: NodeAddress, target: RegisteredNode, mode: TransferMode
) -> int:
    """Schedule the move of one shard, with its group, as a job like that of a rebalance. Return its id.

    Citus has no function for this, but its queue runs the tasks of any job. It is run as the owner of the tables where
    that is possible.
    """
    async with bounded(conn, PLAN_TIMEOUT_S):
        cursor = await conn.execute(
            """
            WITH job AS (
                INSERT INTO pg_dist_background_job (job_type, description)
                VALUES ('rebalance', format(
                    'Move of shard %%s to %%s:%%s', %(shard)s::bigint, %(host)s::text, %(port)s::int))
                RETURNING job_id
            )
            INSERT INTO pg_dist_background_task (job_id, command, nodes_involved)
            SELECT job_id,
                   format('SELECT pg_catalog.citus_move_shard_placement(%%s,%%s,%%s,%%L)',
                          %(shard)s::bigint, nodeid, %(target)s::int, %(mode)s::text),
                   ARRAY[nodeid, %(target)s::int]
            FROM job, pg_dist_node WHERE nodename = %(source)s AND nodeport = %(source_port)s RETURNING job_id
            """,
            {
                "shard": shard_id,
                "host": target.address.host,
                "port": target.address.port,
                "target": target.node_id,
                "mode": mode.value,
                "source": source.host,
                "source_port": source.port,
            },
        )
        row = await cursor.fetchone()
        assert row is not None, "the source is a node"  # noqa: S101
        await hand_to_owners(conn, row[0])
    return int(row[0])


async def moves_to(conn: Connection, job_id: int, shard_ids: Sequence[int], node_id: int) -> bool:
    """Return whether a job has nothing else to do than to move one of these shards to a node."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            r"""
            SELECT coalesce(bool_and(coalesce(ids[1]::bigint = ANY (%s) AND ids[2]::int = %s, false)), false)
            FROM pg_dist_background_task CROSS JOIN LATERAL
                 regexp_match(command, 'citus_move_shard_placement\((\d+), *\d+, *(\d+) *,') AS ids
            WHERE job_id = %s
            """,
            [list(shard_ids), node_id, job_id],
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


async def stop(conn: Connection) -> None:
    """Cancel the running rebalance. Raises psycopg's error if none runs."""
    async with bounded(conn, QUICK_S):
        await conn.execute("SELECT citus_rebalance_stop()")


async def last_job(conn: Connection, job_id: int | None = None) -> Job | None:
    """Return the latest rebalance, or the one with this id; None if there has never been one."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT job_id, state::text, started_at, finished_at, clock_timestamp() FROM pg_dist_background_job "
            "WHERE job_type = 'rebalance' AND (%(id)s::bigint IS NULL OR job_id = %(id)s) ORDER BY job_id DESC LIMIT 1",
            {"id": job_id},
        )
        row = await cursor.fetchone()
    return Job(row[0], JobState(row[1]), row[2], row[3], row[4]) if row else None


async def jobs(conn: Connection, most: int) -> tuple[Job, ...]:
    """Return the latest rebalances, the newest first."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT job_id, state::text, started_at, finished_at, clock_timestamp() FROM pg_dist_background_job "
            "WHERE job_type = 'rebalance' ORDER BY job_id DESC LIMIT %s",
            [most],
        )
        return tuple(Job(row[0], JobState(row[1]), *row[2:]) for row in await cursor.fetchall())


async def tasks_of(conn: Connection, job_ids: Sequence[int]) -> Mapping[int, Sequence[Task]]:
    """Return the tasks of several jobs, by job, with what does not need the node list: state, command and retries."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT job_id, task_id, status::text, command, coalesce(retry_count, 0) FROM pg_dist_background_task "
            "WHERE job_id = ANY (%s) ORDER BY task_id",
            [list(job_ids)],
        )
        found: dict[int, list[Task]] = {job_id: [] for job_id in job_ids}
        for job_id, *values in await cursor.fetchall():
            found[job_id].append(Task(*values))
    return found


async def retry_now(conn: Connection, job_id: int) -> int:
    """Let the tasks of a job that wait for their next attempt start at once. Return how many waited."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "UPDATE pg_dist_background_task SET not_before = NULL "
            "WHERE job_id = %s AND status = 'runnable' AND not_before > clock_timestamp()",
            [job_id],
        )
        return cursor.rowcount


async def tasks(conn: Connection, job_id: int) -> tuple[Task, ...]:
    """Return the tasks of a job, in the order in which they were scheduled."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            r"""
            SELECT task_id, status::text, command, coalesce(retry_count, 0), textsend(message), not_before, pid,
                   target.nodename || ':' || target.nodeport, source.nodename || ':' || source.nodeport
            FROM pg_dist_background_task
            CROSS JOIN LATERAL regexp_match(command, 'citus_move_shard_placement\(\d+, *(\d+), *(\d+) *,') AS ids
            LEFT JOIN pg_dist_node AS source ON source.nodeid = ids[1]::int
            LEFT JOIN pg_dist_node AS target ON target.nodeid = ids[2]::int
            WHERE job_id = %s ORDER BY task_id
            """,
            [job_id],
        )
        return tuple(Task(*(*row[:4], _message(row[4]), *row[5:])) for row in await cursor.fetchall())


def _message(sent: bytes | None) -> str | None:
    """Decode a message of a task, in which Citus can leave bytes that are no text (seen after a worker was killed)."""
    return None if sent is None else sent.decode(errors="replace")


async def queue_is_served(conn: Connection) -> bool:
    """Return whether Citus' queue monitor, which starts the tasks of a job, is running."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity "
            "WHERE backend_type LIKE 'Citus Background Task Queue Monitor%')"
        )
        row = await cursor.fetchone()
    return bool(row and row[0])


_COPYING = """
SELECT coalesce(json_agg(json_build_array(
    sessionid, sourcename, sourceport, targetname, targetport, coalesce(phase, 'starting'), copied)), '[]')
FROM (SELECT sessionid, min(sourcename) AS sourcename, min(sourceport) AS sourceport, min(targetname) AS targetname,
             min(targetport) AS targetport, max(status) AS phase, coalesce(sum(target_shard_size), 0)::bigint AS copied
      FROM get_rebalance_progress() GROUP BY sessionid) AS move
"""


async def copying(conn: Connection, coordinator: NodeAddress) -> tuple[Copying, ...]:
    """Return what is being copied now. Raises WorkerUnreachableError if there is no answer in time.

    Uses its own session, because ``get_rebalance_progress()`` connects to workers, and a worker that vanishes would
    block the session for minutes.
    """
    rows = cast("list[list[Any]]", await citus_probe.ask(conn, coordinator, _COPYING, registered=True))
    return tuple(
        Copying(row[0], NodeAddress(row[1], row[2]), NodeAddress(row[3], row[4]), row[5], row[6]) for row in rows
    )


async def shard_groups(conn: Connection, shard_ids: Sequence[int]) -> Mapping[int, tuple[str, tuple[int, ...]]]:
    """Return for each shard its table, and the ids of the shards that move together with it, including itself."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            """
            SELECT moved.shardid, min(moved.logicalrelid::text), array_agg(shard.shardid ORDER BY shard.shardid)
            FROM pg_dist_shard AS moved
            JOIN pg_dist_partition AS its USING (logicalrelid)
            JOIN pg_dist_partition AS other ON other.logicalrelid = its.logicalrelid
              OR (its.colocationid > 0 AND other.colocationid = its.colocationid)
            JOIN pg_dist_shard AS shard ON shard.logicalrelid = other.logicalrelid
              AND shard.shardminvalue IS NOT DISTINCT FROM moved.shardminvalue
            WHERE moved.shardid = ANY (%s)
            GROUP BY moved.shardid
            """,
            [list(shard_ids)],
        )
        return {row[0]: (bare_name(row[1]), tuple(row[2])) for row in await cursor.fetchall()}


_CAPACITY = """
SELECT json_build_object(
    'wal_level', current_setting('wal_level'),
    'max_worker_processes', current_setting('max_worker_processes')::int,
    'background_workers', (SELECT count(*) FROM pg_stat_activity WHERE backend_type NOT IN (
        'client backend', 'autovacuum launcher', 'autovacuum worker', 'background writer', 'checkpointer',
        'archiver', 'startup', 'walreceiver', 'walsender', 'walwriter', 'walsummarizer', 'slotsync worker',
        'io worker', 'parallel worker')),
    'max_replication_slots', current_setting('max_replication_slots')::int,
    'replication_slots', (SELECT count(*) FROM pg_replication_slots),
    'max_wal_senders', current_setting('max_wal_senders')::int,
    'wal_senders', (SELECT count(*) FROM pg_stat_replication),
    'max_logical_replication_workers', current_setting('max_logical_replication_workers')::int)
"""


async def capacity(conn: Connection, node: RegisteredNode) -> NodeCapacity:
    """Return a node's settings and usage that a move depends on; errors as in :func:`citus_probe.ask`."""
    return NodeCapacity(
        node=str(node.address), **cast("dict[str, Any]", await citus_probe.ask_node(conn, node, _CAPACITY))
    )


_DISK = """
SELECT json_build_object('available_bytes', available_disk_size, 'kept_free_bytes', CASE
    WHEN coalesce(current_setting('citus.check_available_space_before_move', true), 'on') <> 'on' THEN 0
    ELSE (total_disk_size / 100 * current_setting('citus.desired_percent_disk_available_after_move')::float8)::bigint
    END)
FROM citus_local_disk_space_stats()
"""


async def disk_space(conn: Connection, node: RegisteredNode) -> DiskSpace:
    """Return the free space on a node's disk, by the rule of Citus; errors as in :func:`citus_probe.ask`."""
    return DiskSpace(node.address, **cast("dict[str, Any]", await citus_probe.ask_node(conn, node, _DISK)))


async def tables_without_identity(conn: Connection, shard_ids: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Return the tables whose updates cannot be replicated, each with the statement that corrects it.

    Checks the tables of these shards, the tables colocated with them, and, if a node still lacks its copy,
    the reference tables; by the rule of Citus (``RelationCanPublishAllModifications``).
    """
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            f"""
            WITH moving AS ({MOVING}
            ), bare AS (
                SELECT oid FROM pg_class WHERE oid IN (SELECT logicalrelid FROM moving)
                  AND relkind <> 'p' AND relreplident <> 'f'
                  AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisvalid
                      AND ((relreplident = 'd' AND indisprimary) OR (relreplident = 'i' AND indisreplident)))
            )
            SELECT bare.oid::regclass::text, (
                SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                WHERE indrelid = bare.oid AND indisunique AND indimmediate AND indisvalid
                  AND indpred IS NULL AND indexprs IS NULL
                  AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = bare.oid
                                  AND attnum = ANY (indkey) AND NOT attnotnull)
                ORDER BY relname LIMIT 1)
            FROM bare ORDER BY 1
            """.encode(),  # noqa: S608 # our own constant
            [list(shard_ids)],
        )
        rows = await cursor.fetchall()
    return tuple((bare_name(table), _mending(bare_name(table), index)) for table, index in rows)


def _mending(table: str, index: str | None) -> str:
    if index is None:
        return f"ALTER TABLE {table} REPLICA IDENTITY FULL;"
    # regclass has quoted the table's name; the index's name is unquoted.
    quoted = index.replace('"', '""')
    return f'ALTER TABLE {table} REPLICA IDENTITY USING INDEX "{quoted}";'
