"""The order and the mode in which Citus' queue runs the moves of a rebalance.

Moves are arranged in Citus' own tables, in the transaction that schedules them, so the remaining moves continue after
any process is killed.
"""

from collections.abc import Collection, Mapping

from citus_cluster.model.citus.rebalance_plan import TransferMode
from citus_cluster.model.citus.scheduling import LANES, Scheduled, arrange
from citus_cluster.runtime.postgres import Connection

# A move with writes held also locks the reference tables that its tables refer to, because a write there may cascade.
_SCHEDULED = r"""
SELECT task_id, ids[1]::bigint, ids[2]::int, ids[3]::int,
       ARRAY(SELECT depends_on FROM pg_dist_background_task_depend AS its WHERE its.task_id = task.task_id),
       EXISTS (SELECT FROM pg_dist_shard JOIN pg_dist_partition AS its USING (logicalrelid)
               JOIN pg_dist_partition AS other ON other.logicalrelid = its.logicalrelid
                 OR (its.colocationid > 0 AND other.colocationid = its.colocationid)
               JOIN pg_constraint ON conrelid = other.logicalrelid AND contype = 'f'
               JOIN pg_dist_partition AS referred ON referred.logicalrelid = confrelid AND referred.repmodel = 't'
               WHERE shardid = ids[1]::bigint)
FROM pg_dist_background_task AS task
LEFT JOIN LATERAL regexp_match(command, 'citus_move_shard_placement\((\d+), *(\d+), *(\d+) *,') AS ids ON true
WHERE job_id = %s ORDER BY task_id
"""


async def hold_writes(conn: Connection, job_id: int, shard_ids: Collection[int], otherwise: TransferMode) -> None:
    """Make a job that the caller's transaction has scheduled move these shards first, with writes held.

    The job was scheduled to hold writes in every move; the other moves, and the copies of reference tables, get the
    mode ``otherwise``.
    """
    cursor = await conn.execute(_SCHEDULED.encode(), [job_id])
    scheduled = [
        Scheduled(task_id, shard_id, source, target, frozenset(depends_on), locks_shared)
        for task_id, shard_id, source, target, depends_on, locks_shared in await cursor.fetchall()
    ]
    arrangement = arrange(scheduled, shard_ids, await _lanes(conn))
    await conn.execute(
        "UPDATE pg_dist_background_task SET command = replace(command, quote_literal('block_writes'), "
        "quote_literal(%s)) WHERE job_id = %s AND task_id <> ALL (%s)",
        [otherwise.value, job_id, list(arrangement.lanes)],
    )
    # Citus runs one task at a time (citus.max_background_task_executors_per_node) for each of these numbers. No node
    # has a negative one, so each lane moves one group at a time, and a node may receive from two others at once.
    await conn.execute(
        "UPDATE pg_dist_background_task AS task SET nodes_involved = ARRAY[-1 - lane] "
        "FROM unnest(%s::bigint[], %s::int[]) AS its(task_id, lane) WHERE its.task_id = task.task_id",
        [list(arrangement.lanes), list(arrangement.lanes.values())],
    )
    await _depend(conn, job_id, arrangement.depends_on)


async def _lanes(conn: Connection) -> int:
    """Return how many lanes can run in parallel, if each lane takes as many tasks as Citus allows for a node.

    A task that is ready and finds no executor makes Citus count its nodes as busy until the queue is empty.
    """
    cursor = await conn.execute(
        "SELECT current_setting('citus.max_background_task_executors')::int "
        "/ current_setting('citus.max_background_task_executors_per_node')::int"
    )
    row = await cursor.fetchone()
    return max(1, min(LANES, row[0] if row else 1))


async def _depend(conn: Connection, job_id: int, depends_on: Mapping[int, Collection[int]]) -> None:
    pairs = [(task_id, other) for task_id, others in depends_on.items() for other in others]
    await conn.execute("DELETE FROM pg_dist_background_task_depend WHERE job_id = %s", [job_id])
    await conn.execute(
        "INSERT INTO pg_dist_background_task_depend (job_id, task_id, depends_on) "
        "SELECT %s, task_id, depends_on FROM unnest(%s::bigint[], %s::bigint[]) AS its(task_id, depends_on)",
        [job_id, [task_id for task_id, _ in pairs], [other for _, other in pairs]],
    )
    await conn.execute(
        """
        UPDATE pg_dist_background_task AS task SET status = (CASE WHEN EXISTS (
            SELECT FROM pg_dist_background_task_depend AS its WHERE its.task_id = task.task_id)
            THEN 'blocked' ELSE 'runnable' END)::citus_task_status
        WHERE job_id = %s
        """,
        [job_id],
    )
