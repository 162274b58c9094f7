"""Rebalancing a cluster, on real servers."""

import asyncio
import json

import pytest
from sql_declared import command
from sql_servers import COORDINATOR, FOURTH, WORKERS, Recorder, Servers, on, register
from sql_tables import checksum, distribute, moves_held_up

from citus_cluster.errors import RebalanceError, UsageError
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.plan.events import Emit, Event, EventKind, ignore
from citus_cluster.operations.coordinator import lent
from citus_cluster.operations.nodes.registration import add_worker
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


def test_a_fourth_worker_gets_its_share_and_no_row_is_lost(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=200_000)
    before = checksum(cluster)
    with cluster.extra(FOURTH.host):
        on(cluster, lambda conn: add_worker(conn, None, FOURTH, ignore, timeout_s=60))

        async def body(conn: Connection) -> RebalanceStatus:
            preview = await rebalance.plan(conn, RebalanceOptions())
            assert {move.target for move in preview.moves} == {FOURTH}
            assert len(preview.moves) == 2 * len({move.group for move in preview.moves}) == 4, "orders, with its lines"
            assert preview.bytes_before[FOURTH] == 0
            assert preview.bytes_after[FOURTH] == preview.size_bytes > 0
            assert sum(preview.bytes_after.values()) == sum(preview.bytes_before.values())
            # Online: small shards move too fast for a rate.
            with moves_held_up(cluster):
                job_id = await rebalance.start(conn, RebalanceOptions(online=True), recorder)
                with pytest.raises(RebalanceError, match=f"already running as job {job_id}"):
                    await rebalance.start(conn, RebalanceOptions(), ignore)
                await verify(conn, [*WORKERS, FOURTH], recorder)
            found = await rebalance_watch.follow(lent(conn), recorder, poll_s=0.1)
            assert found.job_id == job_id
            assert await rebalance.start(conn, RebalanceOptions(), recorder) is None
            return found

        found = on(cluster, body)
        assert (found.state, found.shards_done, found.problems) == (JobState.FINISHED, found.shards_total, ())
        assert found.bytes_done == found.bytes_total
        assert found.shards_total == 4
        progress = [event.data for event in recorder.events if event.kind is EventKind.PROGRESS]
        assert any(entry["moves"] for entry in progress)
        assert any(entry["rate_bytes_per_s"] for entry in progress)
        assert "nothing to move" in recorder.events[-1].message
        assert checksum(cluster) == before
        on_fourth = "SELECT count(*) FROM citus_shards WHERE nodename = 'citus-worker4'"
        assert cluster.sql(COORDINATOR.host, on_fourth) == [(4,)]
        # Its first vacuum, by autovacuum at any time, gives a table one page more (8,192 bytes): the visibility map.
        cluster.sql(COORDINATOR.host, "VACUUM orders, lines")
        look = on(cluster, overview)
        node = next(node for node in look.nodes if node.address == FOURTH)
        assert node.shard_count == 4
        sizes = cluster.sql(COORDINATOR.host, "SELECT sum(shard_size) FROM citus_shards")[0][0]
        assert sum(node.shard_bytes or 0 for node in look.nodes) == sum(t.size_bytes or 0 for t in look.tables) == sizes


@pytest.mark.usefixtures("only_newest")
def test_no_rebalance_yet_and_nothing_to_stop(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    with pytest.raises(RebalanceError, match="No rebalance is running"):
        on(cluster, rebalance.stop)
    stopped = command(cluster, "rebalance", "stop")
    assert (stopped.returncode, "no rebalance is running" in stopped.stderr) == (0, True), stopped.stderr
    waited = command(cluster, "rebalance", "wait", "--format=json")
    assert (waited.returncode, json.loads(waited.stdout)["state"]) == (0, "none"), waited.stderr


def two_of_three(cluster: Servers, **options: object) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, **options)  # type: ignore[arg-type]
    register(cluster, THIRD)


@pytest.mark.usefixtures("only_newest")
def test_stopped_rebalance_says_so(cluster: Servers) -> None:
    two_of_three(cluster)

    async def body(conn: Connection) -> RebalanceStatus:
        with moves_held_up(cluster):
            job_id = await rebalance.start(conn, RebalanceOptions(), ignore)
            stopped = await asyncio.to_thread(command, cluster, "rebalance", "stop")
            assert (stopped.returncode, f"stopped rebalance {job_id}" in stopped.stderr) == (0, True), stopped.stderr
        with pytest.raises(RebalanceError, match=r"was stopped after 0 of \d+ shards"):
            await rebalance_watch.follow(lent(conn), ignore, poll_s=0.1)
        return await rebalance_watch.status(conn)

    assert on(cluster, body).state is JobState.CANCELLED


def test_tables_without_identity_are_named_with_what_mends_them(cluster: Servers, recorder: Recorder) -> None:
    two_of_three(cluster, key="NOT NULL")

    async def body(conn: Connection) -> None:
        with pytest.raises(RebalanceError, match="lines, orders") as caught:
            await rebalance.start(conn, RebalanceOptions(online=True), ignore)
        assert "ALTER TABLE orders REPLICA IDENTITY FULL;" in caught.value.details
        for statement in caught.value.details:
            await conn.execute(statement.encode())
        await rebalance.start(conn, RebalanceOptions(online=True), recorder)
        await rebalance_watch.follow(lent(conn), recorder, poll_s=0.1)

    on(cluster, body)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM citus_shards WHERE nodename = 'citus-worker3'") != [(0,)]


def test_small_groups_move_first_with_writes_held_and_the_others_online(cluster: Servers, recorder: Recorder) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, key="NOT NULL")  # without replica identity: online, these would be refused
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
        "CREATE TABLE large (id bigint PRIMARY KEY, country int REFERENCES countries, payload text)",
        "SELECT create_distributed_table('large', 'id', shard_count => 3, colocate_with => 'none')",
        "INSERT INTO large SELECT id, NULL, repeat('x', 1000) FROM generate_series(1, 30000) AS id",
        "CREATE TABLE referring (id bigint PRIMARY KEY, country int REFERENCES countries)",
        "SELECT create_distributed_table('referring', 'id', shard_count => 6, colocate_with => 'none')",
        "INSERT INTO countries VALUES (7)",
    )
    register(cluster, THIRD)  # without a copy of countries yet
    before = checksum(cluster)

    async def body(conn: Connection) -> RebalanceStatus:
        preview = await rebalance.plan(conn, RebalanceOptions())
        assert {move.table for move in preview.moves if not move.is_short} == {"large"}
        online = await rebalance.plan(conn, RebalanceOptions(online=True))
        assert len(online.moves) == len(preview.moves)
        assert not online.short_moves
        job_id = await rebalance.start(conn, RebalanceOptions(), recorder)
        cursor = await conn.execute(_SCHEDULED, [job_id])
        groups, held = preview.groups
        assert set(await cursor.fetchall()) == {
            ("auto", groups - held, False, True),
            ("block_writes", held, True, False),
        }
        return await rebalance_watch.follow(lent(conn), recorder, poll_s=0.1)

    found = on(cluster, body)
    assert (found.state, found.problems, found.bytes_done) == (JobState.FINISHED, (), found.bytes_total)
    assert checksum(cluster) == before
    assert cluster.sql(COORDINATOR.host, "SELECT count(*), sum(length(payload)) FROM large") == [(30000, 30_000_000)]
    tables = "SELECT DISTINCT table_name::text FROM citus_shards WHERE nodename = 'citus-worker3' ORDER BY 1"
    assert cluster.sql(COORDINATOR.host, tables) == [
        ("countries",),
        ("large",),
        ("lines",),
        ("orders",),
        ("referring",),
    ]


# The moves of a job by mode: how many, whether they are in a lane, and whether they wait for moves that hold writes.
_SCHEDULED = r"""
SELECT substring(command from $$,'(\w+)'\)$$), count(*)::int, bool_and(nodes_involved <@ '{-1,-2}'),
       bool_and(EXISTS (
           SELECT FROM pg_dist_background_task_depend AS its
           JOIN pg_dist_background_task AS other ON other.task_id = its.depends_on
           WHERE its.task_id = task.task_id AND strpos(other.command, 'block_writes') > 0))
FROM pg_dist_background_task AS task
WHERE job_id = %s AND strpos(command, 'citus_move_shard_placement') > 0 GROUP BY 1
"""


@pytest.mark.usefixtures("only_newest")
def test_blocked_writes_need_no_identity(cluster: Servers) -> None:
    two_of_three(cluster, key="NOT NULL")
    options = RebalanceOptions(mode=TransferMode.BLOCK_WRITES)

    async def body(conn: Connection) -> RebalanceStatus:
        await rebalance.start(conn, options, ignore)
        return await rebalance_watch.follow(lent(conn), ignore, poll_s=0.1)

    assert on(cluster, body).state is JobState.FINISHED


def test_unknown_strategy_is_a_usage_error(cluster: Servers) -> None:
    two_of_three(cluster)
    with pytest.raises(UsageError, match="no_such_strategy"):
        on(cluster, lambda conn: rebalance.plan(conn, RebalanceOptions(strategy="no_such_strategy")))


@pytest.mark.usefixtures("only_newest")
def test_a_strategy_that_names_no_schema_is_told_how_to(cluster: Servers) -> None:
    two_of_three(cluster)
    cost = "citus_cluster_test_cost(bigint)"
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE costs AS SELECT 1::real AS cost",
        "CREATE FUNCTION citus_cluster_test_cost(bigint) RETURNS real LANGUAGE sql AS 'SELECT cost FROM costs'",
        "SELECT citus_add_rebalance_strategy('own', 'citus_cluster_test_cost', 'citus_node_capacity_1', "
        "'citus_shard_allowed_on_node_true', 0)",
    )
    try:
        with pytest.raises(RebalanceError, match='relation "costs" does not exist') as caught:
            on(cluster, lambda conn: rebalance.plan(conn, RebalanceOptions(strategy="own")))
        assert "SET search_path" in str(caught.value.hint)
        cluster.sql(COORDINATOR.host, f"ALTER FUNCTION {cost} SET search_path = public, pg_catalog")
        assert on(cluster, lambda conn: rebalance.plan(conn, RebalanceOptions(strategy="own"))).moves
    finally:
        cluster.sql(
            COORDINATOR.host,
            "DELETE FROM pg_dist_rebalance_strategy WHERE name = 'own'",
            f"DROP FUNCTION {cost}",
            "DROP TABLE costs",
        )


def test_parallel_flags_are_used_where_the_server_has_them(cluster: Servers) -> None:
    two_of_three(cluster)
    options = RebalanceOptions(parallel_transfer_reference_tables=True, parallel_transfer_colocated_shards=True)

    async def body(conn: Connection) -> RebalanceStatus:
        await rebalance.start(conn, options, ignore)
        return await rebalance_watch.follow(lent(conn), ignore, poll_s=0.1)

    assert on(cluster, body).state is JobState.FINISHED


@pytest.mark.usefixtures("only_newest")
def test_wal_level_replica_is_refused_before_the_start(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    with cluster.extra(FOURTH.host, settings={"wal_level": "replica"}):
        on(cluster, lambda conn: add_worker(conn, None, FOURTH, ignore, timeout_s=60))
        with pytest.raises(RebalanceError, match="citus-worker4:5432: wal_level is replica"):
            on(cluster, lambda conn: rebalance.start(conn, RebalanceOptions(), ignore))
        assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM citus_shards WHERE nodename = 'citus-worker4'") == [
            (0,)
        ]


async def expect_stop(conn: Connection, emit: Emit) -> None:
    with pytest.raises(RebalanceError, match="was stopped"):
        await rebalance_watch.follow(lent(conn), emit, poll_s=0.2)


@pytest.mark.usefixtures("only_newest")
def test_a_move_that_is_retried_is_shown_at_once(cluster: Servers) -> None:
    two_of_three(cluster)
    events = Recorder()
    troubled = asyncio.Event()

    def watch(event: Event) -> None:
        events(event)
        if "is retried" in event.message:
            troubled.set()

    async def body(conn: Connection) -> None:
        await rebalance.start(conn, RebalanceOptions(), ignore)
        async with asyncio.TaskGroup() as group, await cluster.connect() as operator:
            waiting = group.create_task(expect_stop(conn, watch))
            async with asyncio.timeout(60):
                await troubled.wait()
            await rebalance.stop(operator)
            await waiting

    def read_only(value: str) -> None:
        cluster.sql(THIRD.host, f"ALTER SYSTEM SET default_transaction_read_only = {value}", "SELECT pg_reload_conf()")

    read_only("on")
    try:
        on(cluster, body)
    finally:
        read_only("off")
    warnings = [event.message for event in events.events if event.kind is EventKind.WARNING]
    assert any("is retried" in message and "orders" in message for message in warnings), warnings


@pytest.mark.usefixtures("only_newest")
def test_a_message_that_is_not_text_is_shown_as_far_as_it_is(cluster: Servers) -> None:
    """Citus was seen to leave such a message when a worker was killed."""
    cluster.sql(
        COORDINATOR.host,
        "INSERT INTO pg_dist_background_job (state, job_type, description) VALUES ('failed', 'rebalance', '')",
        "INSERT INTO pg_dist_background_task (job_id, owner, status, command) "
        "SELECT max(job_id), current_user::regrole, 'error', 'SELECT citus_move_shard_placement(1, 1, 2, ''auto'')' "
        "FROM pg_dist_background_job",
        "CREATE CAST (bytea AS text) WITHOUT FUNCTION",
        r"UPDATE pg_dist_background_task SET message = '\x4552524f523a206c6f7374ff'::bytea::text "
        "WHERE job_id = (SELECT max(job_id) FROM pg_dist_background_job)",
        "DROP CAST (bytea AS text)",
    )
    try:
        found = on(cluster, rebalance_watch.status)
        assert found.state is JobState.FAILED
        assert any("failed: lost\ufffd" in problem for problem in found.problems), found.problems
    finally:
        last = "WHERE job_id = (SELECT max(job_id) FROM pg_dist_background_job)"
        for table in ("pg_dist_background_task", "pg_dist_background_job"):
            cluster.sql(COORDINATOR.host, f"DELETE FROM {table} {last}")


@pytest.mark.usefixtures("only_newest")
@pytest.mark.parametrize("begun", [False, True], ids=["before the first move", "in a move"])
def test_a_paused_node_is_named_at_once_and_all_is_told_when_it_is_back(cluster: Servers, begun: bool) -> None:
    two_of_three(cluster)
    events = Recorder()
    is_silent = "citus-worker3:5432 does not answer the coordinator"
    named = asyncio.Event()

    def watch(event: Event) -> None:
        events(event)
        if is_silent in event.message:
            named.set()

    async def begin(conn: Connection) -> None:
        async with asyncio.timeout(60):
            while not (await rebalance_watch.status(conn)).tasks.get("running"):  # noqa: ASYNC110 # in another process
                await asyncio.sleep(0.2)

    async def body(conn: Connection) -> RebalanceStatus:
        async with asyncio.TaskGroup() as group:
            with moves_held_up(cluster):
                # Online: small shards move before the time left is told.
                await rebalance.start(conn, RebalanceOptions(online=True), ignore)
                if begun:
                    await begin(conn)
                with cluster.paused(THIRD.host):
                    following = group.create_task(rebalance_watch.follow(lent(conn), watch))
                    async with asyncio.timeout(15), await cluster.connect() as third:
                        await named.wait()
                        look = await rebalance_watch.status(third)
                        assert [is_silent in problem for problem in look.problems] == [True]
                        # Where it is followed, more looks say nothing new.
                        await asyncio.sleep(1)
            return await following

    found = on(cluster, body)
    assert (found.state, found.bytes_done) == (JobState.FINISHED, found.bytes_total)
    told = [event.message for event in events.events]
    assert sum(is_silent in message for message in told) == 1, told
    assert "citus-worker3:5432 answers again" in told
    assert not any("background workers" in message for message in told), told
    later = [event.data for event in events.events[told.index("citus-worker3:5432 answers again") :]]
    assert any(entry.get("time_left_s") for entry in later), told
