"""Verifying, rebalancing and looking at a cluster, on real servers."""

import asyncio
import re
import time
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.errors import QueryCanceled
from setup_support import ROOT
from sql_servers import COORDINATOR, FOURTH, WORKERS, Recorder, Servers, on, register

from citus_cluster.errors import RebalanceError, UnreachableError, UsageError, VerificationError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions, TransferMode
from citus_cluster.model.plan.events import Emit, Event, EventKind, ignore
from citus_cluster.operations.nodes.checks import troubles
from citus_cluster.operations.nodes.losses import confirmed_loss
from citus_cluster.operations.nodes.registration import add_worker, reconcile
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.citus.tables import Presence
from citus_cluster.runtime.postgres import Connection, bounded, bounded_rows, set_local, translated

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
RELATIONS = "SELECT relname, relkind::text FROM pg_class WHERE oid >= 16384 ORDER BY 1, 2"
METADATA = """
SELECT (SELECT count(*) FROM pg_dist_shard), (SELECT count(*) FROM pg_dist_cleanup),
       (SELECT count(*) FROM pg_dist_object), (SELECT count(*) FROM pg_dist_colocation)
"""


def distribute(cluster: Servers, *, key: str = "PRIMARY KEY", rows: int = 20000) -> None:
    cluster.sql(
        COORDINATOR.host,
        f"CREATE TABLE orders (id bigint {key}, payload text)",
        "SELECT create_distributed_table('orders', 'id', shard_count => 8)",
        f"CREATE TABLE lines (id bigint {key}, payload text)",
        "SELECT create_distributed_table('lines', 'id', colocate_with => 'orders')",
        f"INSERT INTO orders SELECT id, repeat('x', 100) FROM generate_series(1, {rows}) AS id",
    )


def checksum(cluster: Servers) -> list[tuple[object, ...]]:
    return cluster.sql(COORDINATOR.host, "SELECT count(*), sum(id), sum(length(payload)) FROM orders")


# --- health ---


def test_a_node_that_timed_out_is_asked_once_more_before_it_is_unwell(
    cluster: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock stands for a busy machine: the node answers as soon as it is asked for the second time."""
    register(cluster, FIRST)
    info = cluster.info(FIRST.host)
    asked: list[NodeAddress] = []
    ask = citus_probe.ask

    async def look(conn: Connection) -> tuple[str, ...]:
        nodes = (await read_registry(conn)).nodes
        return await troubles(conn, [node for node in nodes if node.address == FIRST])

    with psycopg.connect(info.dsn(masked=False)) as holder:

        async def ask_and_release(conn: Connection, node: NodeAddress, *args: Any, **options: Any) -> Any:
            asked.append(node)
            if len(asked) == 2:
                holder.rollback()
            return await ask(conn, node, *args, **options)

        monkeypatch.setattr(citus_probe, "ask", ask_and_release)
        holder.execute("LOCK TABLE pg_dist_node IN ACCESS EXCLUSIVE MODE")
        assert on(cluster, look) == ()
        assert asked == [FIRST, FIRST]
        holder.execute("LOCK TABLE pg_dist_node IN ACCESS EXCLUSIVE MODE")
        (trouble,) = on(cluster, look)
        assert "did not answer within" in trouble


# --- verify ---


@pytest.mark.parametrize("workers", [0, 3])
def test_verify_writes_and_reads_everywhere_and_leaves_nothing(
    cluster: Servers, recorder: Recorder, workers: int
) -> None:
    expected = WORKERS[:workers]
    on(cluster, lambda conn: reconcile(conn, COORDINATOR, expected, ignore))
    queries = [(node.host, query) for node in (COORDINATOR, *WORKERS) for query in (RELATIONS, METADATA)]
    before = [cluster.sql(*query) for query in queries]

    on(cluster, lambda conn: verify(conn, expected, recorder))

    assert [cluster.sql(*query) for query in queries] == before
    assert [event.kind for event in recorder.events] == [EventKind.DONE] * 4
    assert recorder.events[-1].data["nodes"] == max(1, workers)


@pytest.mark.usefixtures("only_newest")
def test_verify_names_a_missing_and_a_silent_worker(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    with pytest.raises(VerificationError, match="citus-worker3:5432"):
        on(cluster, lambda conn: verify(conn, WORKERS, ignore))
    started = time.monotonic()
    with cluster.paused(SECOND.host), pytest.raises(VerificationError, match=r"citus-worker2|does not answer"):
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    assert time.monotonic() - started < 12


@pytest.mark.usefixtures("only_newest")
def test_a_node_that_is_late_once_is_asked_again(cluster: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    register(cluster, FIRST, SECOND)
    container = cluster.containers[SECOND.host]
    late: list[str] = []
    ask_node = citus_tables.ask_node

    async def let_go_on_when_late(*arguments: Any, **options: Any) -> citus_tables.NodeAnswer:
        try:
            return await ask_node(*arguments, **options)
        except UnreachableError as error:
            if not late:
                container.unpause()
            late.append(error.message)
            raise

    monkeypatch.setattr(citus_tables, "ask_node", let_go_on_when_late)
    container.pause()
    seen = on(cluster, overview)
    assert len(late) == 1
    assert {node.address: node.reason for node in seen.nodes} == {COORDINATOR: None, FIRST: None, SECOND: None}


@pytest.mark.usefixtures("only_newest")
def test_verify_that_a_lock_blocks_ends_in_time(cluster: Servers) -> None:
    register(cluster, FIRST)

    async def body(conn: Connection) -> None:
        other = await cluster.connect()
        async with other, other.transaction():
            await other.execute("LOCK TABLE pg_dist_partition IN SHARE MODE")
            with pytest.raises(VerificationError, match="did not end in time"):
                await verify(conn, [FIRST], ignore)

    started = time.monotonic()
    on(cluster, body)
    assert time.monotonic() - started < 15


@pytest.mark.usefixtures("only_newest")
def test_a_coordinator_that_hangs_does_not_hang_us(cluster: Servers) -> None:
    async def body(conn: Connection) -> None:
        with cluster.paused(COORDINATOR.host), pytest.raises(UnreachableError, match="connection failed while asking"):
            async with translated("asking"), bounded(conn, 1, whole_s=1):
                await conn.execute("SELECT 1")

    started = time.monotonic()
    on(cluster, body)
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("only_newest")
def test_a_query_in_one_round_trip_is_bounded_too_and_leaves_no_setting_behind(cluster: Servers) -> None:
    settings: LiteralString = (
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('search_path'), "
        "current_setting('jit')"
    )
    ours = ("4s", "4s", "pg_catalog", "off")

    async def body(conn: Connection) -> None:
        before = await (await conn.execute(settings)).fetchone()
        # More often than the driver runs a statement before it prepares it.
        for _ in range(7):
            assert await bounded_rows(conn, settings, 4) == [ours]
        async with bounded(conn, 4):
            assert await (await conn.execute(settings)).fetchone() == ours
        with pytest.raises(QueryCanceled):
            await bounded_rows(conn, "SELECT pg_sleep(30)", 0.2)
        assert await (await conn.execute(settings)).fetchone() == before != ours

    on(cluster, body)


def test_hidden_settings_are_set_too_and_unknown_ones_are_skipped(cluster: Servers) -> None:
    wanted = {
        "citus.enable_ddl_propagation": "off",  # pg_settings does not list it
        "citus.enable_alter_role_propagation": "off",  # nor this one
        "work_mem": "7MB",
        "own.placeholder": "ours",
    }
    unknown = {"no_such_setting": "1", "citus.no_such_setting": "1", "pg_trgm.similarity_threshold": "0.1"}

    async def values(conn: Connection, names: dict[str, str]) -> dict[str, object]:
        cursor = await conn.execute(
            "SELECT name, current_setting(name, true) FROM unnest(%s::text[]) AS name", [list(names)]
        )
        return dict(await cursor.fetchall())

    async def body(conn: Connection) -> None:
        # Of an extension that is not loaded, a server knows the settings that somebody has set.
        await conn.execute("SET own.placeholder = 'theirs'")
        before = await values(conn, wanted)
        async with bounded(conn, 4):
            await set_local(conn, wanted | unknown)
            assert await values(conn, wanted) == wanted
            assert set((await values(conn, unknown)).values()) == {None}
        assert await values(conn, wanted) == before
        assert not set(before.items()) & set(wanted.items())

    on(cluster, body)


def test_a_worker_whose_data_are_gone_is_told_and_taken_in_again(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE kinds (id int PRIMARY KEY)",
        "SELECT create_reference_table('kinds')",
        "INSERT INTO kinds SELECT generate_series(1, 10)",
        "CREATE ROLE app LOGIN",
        "GRANT SELECT ON orders, kinds TO app",
    )
    try:
        cluster.stop(FIRST.host)
        cluster.start(FIRST.host)
        cluster.wait(FIRST.host)

        (loss,) = [node.loss for node in on(cluster, overview).nodes if node.loss]
        assert (loss.address, loss.emptied, loss.missing, loss.placed) == (FIRST, True, 9, 9)
        assert {table: len(ids) for table, ids in loss.shards.items()} == {"kinds": 1, "lines": 4, "orders": 4}
        assert loss.reference == {"kinds"}
        assert "app" in loss.roles  # other tests may have left some
        with pytest.raises(
            VerificationError, match="citus-worker1:5432 has lost its data: 9 of the 9 shards"
        ) as caught:
            on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
        assert caught.value.hint and "DROP TABLE lines, orders;" in caught.value.hint

        cluster.sql(COORDINATOR.host, *loss.statements)
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
        assert cluster.sql(FIRST.host, "SELECT count(*) FROM kinds") == [(10,)]
        assert cluster.sql(FIRST.host, "SELECT count(*) FROM pg_roles WHERE rolname = 'app'") == [(1,)]
    finally:
        cluster.take_apart()
        cluster.sql(COORDINATOR.host, "DROP ROLE IF EXISTS app")
        for worker in (FIRST, SECOND):
            cluster.sql(worker.host, "DROP ROLE IF EXISTS app")


def test_a_single_missing_shard_is_named_and_made_anew_as_documented(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=1000)
    (shard_id,) = cluster.sql(
        COORDINATOR.host,
        "SELECT shardid FROM citus_shards WHERE table_name = 'orders'::regclass AND nodename = 'citus-worker2' LIMIT 1",
    )[0]
    cluster.sql(SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"DROP TABLE orders_{shard_id}")

    async def dropped_meanwhile(conn: Connection) -> None:
        # What is asked for the second time has moved, or was dropped.
        node = next(node for node in (await read_registry(conn)).nodes if node.address == SECOND)
        assert await confirmed_loss(conn, node, Presence(node.group_id, (1,)), placed=9) is None

    on(cluster, dropped_meanwhile)
    with pytest.raises(
        VerificationError, match=rf"1 of the 8 shards placed there does not exist: orders \({shard_id}\)"
    ):
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))

    blocks = re.findall(r"```sql\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)
    (query,) = [block for block in blocks if "worker_apply_shard_ddl_command" in block]
    statements = cluster.sql(COORDINATOR.host, query.replace("102011, 102013", str(shard_id)))
    cluster.sql(SECOND.host, *(str(row[0]) for row in statements))
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    ((rows,),) = cluster.sql(COORDINATOR.host, "SELECT count(*) FROM orders")
    assert 0 < int(str(rows)) < 1000


def test_a_lost_copy_of_a_shard_is_no_loss_of_rows_and_is_made_again(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    cluster.sql(
        COORDINATOR.host,
        "SET citus.shard_replication_factor = 2",
        "CREATE TABLE twice (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('twice', 'id', shard_count => 4)",
        "INSERT INTO twice SELECT generate_series(1, 1000)",
    )
    (shard_id,) = cluster.sql(COORDINATOR.host, "SELECT min(shardid) FROM pg_dist_shard")[0]
    cluster.sql(SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"DROP TABLE twice_{shard_id}")
    with pytest.raises(
        VerificationError, match=r"Every row of twice is still there: citus-worker1:5432 has a copy"
    ) as caught:
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    assert caught.value.hint
    assert "DROP" not in caught.value.hint
    assert "citus_copy_shard_placement" in caught.value.hint

    (loss,) = [node.loss for node in on(cluster, overview).nodes if node.loss]
    cluster.sql(COORDINATOR.host, *loss.statements)
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    count = f"SELECT count(*) FROM twice_{shard_id}"
    assert cluster.sql(SECOND.host, count) == cluster.sql(FIRST.host, count)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM twice") == [(1000,)]


def test_shards_that_a_prepared_transaction_makes_are_not_lost(cluster: Servers, recorder: Recorder) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, rows=100)
    (shard_id,) = cluster.sql(
        COORDINATOR.host,
        "SELECT shardid FROM citus_shards WHERE table_name = 'orders'::regclass AND nodename = 'citus-worker2' LIMIT 1",
    )[0]
    # As after a crash between the commit on the coordinator and that on the worker; Citus recovers it later.
    cluster.sql(
        SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"ALTER TABLE orders_{shard_id} RENAME TO away"
    )
    prepare = "BEGIN; CREATE TABLE made (id int); PREPARE TRANSACTION 'citus_99_1_1_0'"
    cluster.sql(SECOND.host, f"SET citus.enable_ddl_propagation = off; {prepare}")
    try:
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], recorder))
        assert "citus-worker2:5432 is recovering transactions of Citus" in recorder.text
        assert [node.loss for node in on(cluster, overview).nodes if node.loss] == []
    finally:
        cluster.sql(SECOND.host, "ROLLBACK PREPARED 'citus_99_1_1_0'")
    with pytest.raises(VerificationError, match=rf"does not exist: orders \({shard_id}\)"):
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    cluster.sql(
        SECOND.host, "SET citus.enable_manual_changes_to_shards = on", f"ALTER TABLE away RENAME TO orders_{shard_id}"
    )


def test_coordinator_restarted_still_queries_and_verifies(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    before = checksum(cluster)
    cluster.containers[COORDINATOR.host].restart(timeout=20)
    cluster.wait(COORDINATOR.host)
    assert checksum(cluster) == before
    on(cluster, lambda conn: verify(conn, WORKERS, ignore))


# --- rebalance ---


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
            job_id = await rebalance.start(conn, RebalanceOptions(online=True), recorder)
            with pytest.raises(RebalanceError, match=f"already running as job {job_id}"):
                await rebalance.start(conn, RebalanceOptions(), ignore)
            await verify(conn, [*WORKERS, FOURTH], recorder)
            found = await rebalance_watch.wait(conn, recorder, poll_s=0.1)
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


def two_of_three(cluster: Servers, **options: object) -> None:
    register(cluster, FIRST, SECOND)
    distribute(cluster, **options)  # type: ignore[arg-type]
    register(cluster, THIRD)


@pytest.mark.usefixtures("only_newest")
def test_stopped_rebalance_says_so(cluster: Servers) -> None:
    two_of_three(cluster)

    async def body(conn: Connection) -> RebalanceStatus:
        await rebalance.start(conn, RebalanceOptions(), ignore)
        await rebalance.stop(conn)
        with pytest.raises(RebalanceError, match=r"was stopped after 0 of \d+ shards"):
            await rebalance_watch.wait(conn, ignore, poll_s=0.1)
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
        await rebalance_watch.wait(conn, recorder, poll_s=0.1)

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
        return await rebalance_watch.wait(conn, recorder, poll_s=0.1)

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
        return await rebalance_watch.wait(conn, ignore, poll_s=0.1)

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
        return await rebalance_watch.wait(conn, ignore, poll_s=0.1)

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
        await rebalance_watch.wait(conn, emit, poll_s=0.2)


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
        async with await cluster.connect() as other, asyncio.TaskGroup() as group:
            async with other.transaction(force_rollback=True):
                # The first move cannot end before this does.
                await other.execute("INSERT INTO orders SELECT -id, '' FROM generate_series(1, 100) AS id")
                # Online: small shards move before the time left is told.
                await rebalance.start(conn, RebalanceOptions(online=True), ignore)
                if begun:
                    await begin(conn)
                with cluster.paused(THIRD.host):
                    following = group.create_task(rebalance_watch.wait(conn, watch))
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


# --- overview ---


def test_overview_is_whole_and_stays_in_time_when_a_worker_hangs(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    cluster.sql(
        COORDINATOR.host, "CREATE TABLE countries (id int PRIMARY KEY)", "SELECT create_reference_table('countries')"
    )
    look = on(cluster, overview)
    assert [(node.address, node.role) for node in look.nodes] == [
        (COORDINATOR, "coordinator"),
        *[(worker, "worker") for worker in WORKERS],
    ]
    assert {node.postgres_version for node in look.nodes} == {look.nodes[0].postgres_version}
    assert {node.citus_version for node in look.nodes} != {None}
    assert [(t.name, t.type, t.distribution_column, t.shard_count) for t in look.tables] == [
        ("countries", "reference", None, 1),
        ("lines", "distributed", "id", 8),
        ("orders", "distributed", "id", 8),
    ]
    assert all(table.size_bytes for table in look.tables)

    started = time.monotonic()
    with cluster.paused(SECOND.host):
        look = on(cluster, overview)
    assert time.monotonic() - started < 20
    silent = [node for node in look.nodes if node.postgres_version is None]
    assert [node.address for node in silent] == [SECOND]
    assert silent[0].shard_count > 0
    assert silent[0].reason
    assert [table.size_bytes for table in look.tables] == [None] * 3
