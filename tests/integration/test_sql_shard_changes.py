"""Moving, splitting and isolating shards, and distributing and moving schemas, on real servers."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import psycopg
import pytest
from setup_support import ROOT
from sql_declared import command, declared_cluster, plan, run, run_planned
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, register
from sql_tables import may_decode
from waiting import eventually

from citus_cluster.errors import NotFoundError, RebalanceError, UntrustedCodeError, UsageError
from citus_cluster.model.plan.events import ignore
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.schemas import changes as schemas
from citus_cluster.operations.shards import moving, splitting
from citus_cluster.operations.tables import alteration
from citus_cluster.runtime.postgres import Connection

T = TypeVar("T")
pytestmark = pytest.mark.cluster

FIRST, SECOND, _ = WORKERS
OTHER = {FIRST.host: SECOND.host, SECOND.host: FIRST.host}
ROWS = 2000
TENANT = '"Ten ""<ant>"""'


@pytest.fixture
def stocked(cluster: Servers) -> Iterator[Servers]:
    register(cluster, FIRST, SECOND)
    drop = (
        "SET client_min_messages TO error",
        f"DROP SCHEMA IF EXISTS {TENANT} CASCADE",
        'DROP TABLE IF EXISTS orders, "<lines>", bare, countries, noted CASCADE',
    )
    cluster.sql(
        COORDINATOR.host,
        *drop,
        "CREATE TABLE orders (id bigint PRIMARY KEY, x int)",
        "SELECT create_distributed_table('orders', 'id', shard_count => 4, colocate_with => 'none')",
        f"INSERT INTO orders SELECT id, id FROM generate_series(1, {ROWS}) AS id",
        'CREATE TABLE "<lines>" (id bigint PRIMARY KEY)',
        "SELECT create_distributed_table('\"<lines>\"', 'id', colocate_with => 'orders')",
        "CREATE TABLE bare (id int)",
        "SELECT create_distributed_table('bare', 'id', shard_count => 2, colocate_with => 'none')",
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
        f"CREATE SCHEMA {TENANT}",
        f"CREATE TABLE {TENANT}.things (id int PRIMARY KEY)",
        f"INSERT INTO {TENANT}.things SELECT generate_series(1, 100)",
        f"CREATE TABLE {TENANT}.parts (id int PRIMARY KEY REFERENCES {TENANT}.things)",
    )
    try:
        yield cluster
    finally:
        cluster.sql(COORDINATOR.host, *drop, "ALTER ROLE postgres RESET ALL")


def shards_of(cluster: Servers, table: str) -> dict[int, str]:
    """Return the node of each shard."""
    rows = cluster.sql(
        COORDINATOR.host,
        f"SELECT shardid, nodename FROM citus_shards WHERE table_name = '{table}'::regclass ORDER BY shardid, nodename",
    )
    return {int(str(shard)): str(node) for shard, node in rows}


def counted(cluster: Servers, table: str) -> int:
    ((rows,),) = cluster.sql(COORDINATOR.host, f"SELECT count(*) FROM {table}")
    assert isinstance(rows, int)
    return rows


def test_a_shard_moves_with_those_that_are_colocated(stocked: Servers, recorder: Recorder) -> None:
    shard, source = next(iter(shards_of(stocked, "orders").items()))
    given: dict[str, Any] = {"shard": shard, "node": OTHER[source]}
    assert plan(stocked, moving.MOVE, **given).steps[0].startswith("Move 2 shards of orders")
    found = run(stocked, moving.MOVE, recorder, **given).as_dict()
    assert shards_of(stocked, "orders")[shard] == OTHER[source]
    lines = shards_of(stocked, '"<lines>"')
    assert [lines[one] for one in found["shards"] if one in lines] == [OTHER[source]]
    assert counted(stocked, "orders") == ROWS
    assert any(event.data.get("job_id") == found["job_id"] for event in recorder.events)
    assert plan(stocked, moving.MOVE, **given).steps == ()
    assert run(stocked, moving.MOVE, **given).as_dict()["job_id"] is None


def test_what_citus_refuses_to_move_is_found_with_what_mends_it(stocked: Servers) -> None:
    bare, source = next(iter(shards_of(stocked, "bare").items()))
    moved = "SELECT citus_move_shard_placement({}, '{}', 5432, '{}', 5432, 'auto')"
    (refused,) = plan(stocked, moving.MOVE, shard=bare, node=OTHER[source]).blocking
    assert refused.fix == "ALTER TABLE bare REPLICA IDENTITY FULL;"
    with pytest.raises(psycopg.Error, match="REPLICA IDENTITY"):
        stocked.sql(COORDINATOR.host, moved.format(bare, source, OTHER[source]))
    assert not plan(stocked, moving.MOVE, shard=bare, node=OTHER[source], mode="block_writes").blocking
    stocked.sql(COORDINATOR.host, refused.fix)
    assert not plan(stocked, moving.MOVE, shard=bare, node=OTHER[source]).blocking

    (refused,) = plan(stocked, moving.MOVE, shard=bare, node=COORDINATOR.host).blocking
    assert refused.fix == "citus-cluster nodes set citus-coordinator --holds-shards"
    with pytest.raises(psycopg.Error, match="shouldn't have a shard"):
        stocked.sql(COORDINATOR.host, moved.format(bare, source, COORDINATOR.host))
    mended = command(stocked, *shlex.split(refused.fix)[1:])
    assert mended.returncode == 0, mended.stderr
    assert not plan(stocked, moving.MOVE, shard=bare, node=COORDINATOR.host).blocking

    copy = next(iter(shards_of(stocked, "countries")))
    assert "reference table" in plan(stocked, moving.MOVE, shard=copy, node=FIRST.host).blocking[0].message
    with pytest.raises(NotFoundError, match="no such shard"):
        plan(stocked, moving.MOVE, shard=1, node=FIRST.host)
    with stocked.paused(SECOND.host):
        for change, given in ((moving.MOVE, {"node": COORDINATOR.host}), (splitting.SPLIT, {"points": "half"})):
            before = stocked.logs(COORDINATOR.host).count("SELECT to_json(1)")
            found = plan(stocked, change, shard=bare, **given).blocking
            asked = stocked.logs(COORDINATOR.host).count("SELECT to_json(1)") - before
            assert any(SECOND.host in one.message for one in found)
            # Each node once: one that hangs takes some seconds each time.
            assert asked == len(stocked.sql(COORDINATOR.host, "SELECT nodeid FROM pg_dist_node"))


@contextmanager
def held(cluster: Servers) -> Iterator[None]:
    """Keep any move of ``orders`` from ending."""
    with cluster.session() as client, client.transaction(force_rollback=True):
        client.execute("INSERT INTO orders SELECT generate_series(-500, -1)")
        yield


async def let_go_between_looks(cluster: Servers, shard: int, node: str) -> None:
    """Follow a move that cannot end, and check that it gives its connection back after each look."""
    here = declared_cluster(cluster)
    looks = asyncio.Semaphore(0)

    async def on_coordinator(work: Callable[[Connection], Awaitable[T]], /) -> T:
        found = await here.on_coordinator(work)
        looks.release()
        return found

    ((job_id,),) = cluster.sql(COORDINATOR.host, "SELECT max(job_id) FROM pg_dist_background_job")
    assert moving.MOVE.follow
    following = asyncio.create_task(
        moving.MOVE.follow(replace(here, on_coordinator=on_coordinator), moving.Moving(shard, node), job_id, ignore)
    )
    async with asyncio.timeout(30):
        await looks.acquire()
        await looks.acquire()
    following.cancel()


@pytest.mark.usefixtures("only_newest")
def test_a_move_goes_on_without_its_client_and_the_second_run_follows_it(stocked: Servers) -> None:
    shard, source = next(iter(shards_of(stocked, "orders").items()))
    dsn = stocked.info(COORDINATOR.host).dsn(masked=False)
    words = [sys.executable, "-m", "citus_cluster", "shards", "move", str(shard), OTHER[source], f"--dsn={dsn}"]
    with held(stocked):
        started = subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        running = "SELECT count(*) FROM pg_dist_background_task WHERE status = 'running'"
        eventually(lambda: stocked.sql(COORDINATOR.host, running) == [(1,)])
        started.send_signal(signal.SIGKILL)
        started.wait()
        again = plan(stocked, moving.MOVE, shard=shard, node=OTHER[source])
        assert again.steps[0].startswith("Follow job")
        other = next(one for one in shards_of(stocked, "orders") if one != shard)
        busy = plan(stocked, moving.MOVE, shard=other, node=OTHER[shards_of(stocked, "orders")[other]]).blocking
        assert [one.fix for one in busy] == ["citus-cluster rebalance wait"]
        asyncio.run(let_go_between_looks(stocked, shard, OTHER[source]))
    found = run(stocked, moving.MOVE, shard=shard, node=OTHER[source]).as_dict()
    assert found["node"].startswith(OTHER[source])
    assert shards_of(stocked, "orders")[shard] == OTHER[source]
    assert counted(stocked, "orders") == ROWS


def test_a_shard_is_split_and_a_tenant_isolated(stocked: Servers) -> None:
    shard = next(iter(shards_of(stocked, "orders")))
    for one in plan(stocked, splitting.SPLIT, shard=shard, points="half").blocking:
        assert one.fix
        assert one.fix.startswith("ALTER ROLE")
        with pytest.raises(psycopg.Error, match="output plugin"):
            stocked.sql(
                COORDINATOR.host,
                f"SELECT citus_split_shard_by_split_points({shard}, ARRAY['-1900000000'], "
                f"ARRAY[nodeid, nodeid], 'auto') FROM pg_dist_node WHERE nodename = '{FIRST.host}'",
            )
        stocked.sql(COORDINATOR.host, one.fix)
    found = run(stocked, splitting.SPLIT, shard=shard, points="half", nodes=[FIRST.host, SECOND.host]).as_dict()
    assert [shards_of(stocked, "orders")[one] for one in found["shards"]] == [FIRST.host, SECOND.host]
    assert len(shards_of(stocked, '"<lines>"')) == 5
    with pytest.raises(NotFoundError, match="may have been split"):
        plan(stocked, splitting.SPLIT, shard=shard, points="half")

    alone = plan(stocked, splitting.ISOLATE, table="orders", value="42").blocking
    assert alone[0].fix == "citus-cluster shards isolate orders 42 --cascade"
    with pytest.raises(psycopg.Error, match="colocated"):
        stocked.sql(COORDINATOR.host, "SELECT isolate_tenant_to_new_shard('orders', 42)")
    run(stocked, splitting.ISOLATE, table="orders", value="42", cascade=True)
    assert plan(stocked, splitting.ISOLATE, table="orders", value="42", cascade=True).steps == ()
    assert counted(stocked, "orders") == ROWS


def test_citus_may_decode_on_every_node_once_it_is_prepared(stocked: Servers) -> None:
    """PostgreSQL 17.12, 18.6 and newer allow only listed plug-ins; a list that somebody has chosen stays as it is."""
    listed = "SELECT current_setting('output_plugin_libraries', true) LIKE '%citus%'"
    shard = next(iter(shards_of(stocked, "orders")))
    split: dict[str, Any] = {"shard": shard, "points": "-1500000000", "mode": "force_logical"}
    if stocked.sql(COORDINATOR.host, listed) == [(None,)]:
        assert not may_decode(stocked)
        return
    assert plan(stocked, splitting.SPLIT, **split).blocking
    with stocked.paused(SECOND.host):
        assert not may_decode(stocked)
    stocked.sql(COORDINATOR.host, "ALTER ROLE postgres SET output_plugin_libraries = 'pgoutput'")
    assert not may_decode(stocked)
    stocked.sql(COORDINATOR.host, "ALTER ROLE postgres RESET output_plugin_libraries")
    assert may_decode(stocked)
    assert not may_decode(stocked)
    assert [stocked.sql(node.host, listed) for node in (COORDINATOR, FIRST, SECOND)] == [[(True,)]] * 3
    assert not plan(stocked, splitting.SPLIT, **split).blocking


@pytest.mark.usefixtures("only_newest")
@pytest.mark.parametrize("points", ["5,4", "9999999999", "2147483647", "5,5"])
def test_points_that_citus_refuses_are_found(stocked: Servers, points: str) -> None:
    may_decode(stocked)
    shard = list(shards_of(stocked, "orders"))[2]  # 0 to 1073741823
    assert plan(stocked, splitting.SPLIT, shard=shard, points=points, mode="block_writes").blocking
    array = ", ".join(f"'{point}'" for point in points.split(","))
    nodes = ", ".join("nodeid" for _ in range(points.count(",") + 2))
    with pytest.raises(psycopg.Error, match=r"(?i)split point|out of range"):
        stocked.sql(
            COORDINATOR.host,
            f"SELECT citus_split_shard_by_split_points({shard}, ARRAY[{array}], ARRAY[{nodes}], 'block_writes') "
            f"FROM pg_dist_node WHERE nodename = '{FIRST.host}'",
        )


@pytest.mark.usefixtures("only_newest")
def test_parameters_of_a_split_that_fit_nothing_are_refused(stocked: Servers) -> None:
    shard = next(iter(shards_of(stocked, "orders")))
    with pytest.raises(UsageError, match="whole numbers"):
        plan(stocked, splitting.SPLIT, shard=shard, points="a,b")
    with pytest.raises(UsageError, match="2 new shards need 2 nodes"):
        plan(stocked, splitting.SPLIT, shard=shard, points="half", nodes=[FIRST.host])
    reference = next(iter(shards_of(stocked, "countries")))
    assert plan(stocked, splitting.SPLIT, shard=reference, points="5").blocking
    assert plan(stocked, splitting.ISOLATE, table="countries", value="5").blocking


@contextmanager
def function_of_mallory(cluster: Servers) -> Iterator[None]:
    cluster.sql(
        COORDINATOR.host,
        "DROP ROLE IF EXISTS mallory",
        "CREATE ROLE mallory",
        "CREATE FUNCTION public.evil(bigint) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'",
        "ALTER FUNCTION public.evil(bigint) OWNER TO mallory",
    )
    try:
        yield
    finally:
        cluster.sql(COORDINATOR.host, "DROP FUNCTION public.evil(bigint) CASCADE", "DROP ROLE mallory")


@pytest.mark.usefixtures("only_newest")
def test_code_that_is_added_after_the_plan_is_not_run(stocked: Servers) -> None:
    may_decode(stocked)
    shard, source = next(iter(shards_of(stocked, "orders").items()))
    planned: list[tuple[AnyChange, dict[str, Any], Preview]] = [
        (change, given, plan(stocked, change, **given))
        for change, given in (
            (splitting.SPLIT, {"shard": shard, "points": "half"}),
            (splitting.ISOLATE, {"table": "orders", "value": "42", "cascade": True}),
            (moving.MOVE, {"shard": shard, "node": OTHER[source]}),
            (alteration.ALTER, {"table": "orders", "shard_count": 6, "cascade_to_colocated": True}),
            (alteration.UNDISTRIBUTE, {"table": '"<lines>"'}),
            (schemas.DISTRIBUTE, {"schema": TENANT}),
        )
    ]
    before = shards_of(stocked, "orders")
    with function_of_mallory(stocked):
        stocked.sql(
            COORDINATOR.host,
            'ALTER TABLE "<lines>" ADD CHECK (evil(id))',
            f"ALTER TABLE {TENANT}.parts ADD CHECK (evil(id))",
        )
        for change, given, preview in planned:
            with pytest.raises((UntrustedCodeError, RebalanceError), match=r"evil\(bigint\), which belongs"):
                run_planned(stocked, change, preview, **given)
        assert shards_of(stocked, "orders") == before
        split, given, preview = planned[0]
        run_planned(stocked, split, preview, **given, trust_functions=True)
        assert len(shards_of(stocked, "orders")) == len(before) + 1


@pytest.mark.usefixtures("only_newest")
def test_code_that_is_added_just_before_the_copy_is_not_run(stocked: Servers) -> None:
    may_decode(stocked)
    shard = next(iter(shards_of(stocked, "orders")))
    preview = plan(stocked, splitting.SPLIT, shard=shard, points="half")
    waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'"
    with function_of_mallory(stocked), ThreadPoolExecutor(1) as pool:
        with stocked.session() as owner, owner.transaction():
            owner.execute("SET LOCAL citus.enable_ddl_propagation = off")
            owner.execute('ALTER TABLE "<lines>" ADD CHECK (evil(id))')
            splits = pool.submit(run_planned, stocked, splitting.SPLIT, preview, shard=shard, points="half")
            eventually(lambda: stocked.sql(COORDINATOR.host, waiting) == [(True,)], "the split waits for the lock")
        with pytest.raises(UntrustedCodeError, match="which belongs to role mallory"):
            splits.result(60)


def test_a_schema_is_distributed_moved_and_undistributed(stocked: Servers) -> None:
    found = run(stocked, schemas.DISTRIBUTE, schema=TENANT).as_dict()
    assert (found["distributed"], found["tables"], found["changed"]) == (True, 2, True)
    ((left,),) = stocked.sql(COORDINATOR.host, f"SELECT pg_relation_size('{TENANT}.things')")
    assert left == 0, "the coordinator's copy is removed"
    assert plan(stocked, schemas.DISTRIBUTE, schema=TENANT).steps == ()
    (home,) = set(shards_of(stocked, f"{TENANT}.things").values())
    run(stocked, schemas.MOVE, schema=TENANT, node=OTHER[home])
    assert set(shards_of(stocked, f"{TENANT}.parts").values()) == {OTHER[home]}
    assert plan(stocked, schemas.MOVE, schema=TENANT, node=OTHER[home]).steps == ()
    assert counted(stocked, f"{TENANT}.things") == 100
    run(stocked, schemas.UNDISTRIBUTE, schema=TENANT)
    assert plan(stocked, schemas.UNDISTRIBUTE, schema=TENANT).steps == ()
    assert counted(stocked, f"{TENANT}.things") == 100
    (refused,) = plan(stocked, schemas.MOVE, schema=TENANT, node=home).blocking
    assert refused.fix
    assert refused.fix.startswith("SELECT citus_schema_distribute")


@pytest.mark.usefixtures("only_newest")
def test_what_prevents_that_a_schema_is_distributed_is_found(stocked: Servers) -> None:
    stocked.sql(
        COORDINATOR.host,
        "CREATE TABLE noted (id int PRIMARY KEY)",
        f"CREATE TABLE {TENANT}.notes (id int REFERENCES noted)",
        f"CREATE TABLE {TENANT}.spread (id int)",
        f"SELECT create_distributed_table('{TENANT}.spread', 'id')",
    )
    name = TENANT.replace("'", "''")
    fixes = [one.fix for one in plan(stocked, schemas.DISTRIBUTE, schema=TENANT).blocking]
    assert len(fixes) == 2
    with pytest.raises(psycopg.Error):
        stocked.sql(COORDINATOR.host, f"SELECT citus_schema_distribute('{name}')")
    stocked.sql(COORDINATOR.host, *[fix for fix in fixes if fix])
    assert not plan(stocked, schemas.DISTRIBUTE, schema=TENANT).blocking
    (never,) = plan(stocked, schemas.DISTRIBUTE, schema="public").findings
    assert "cannot be distributed" in never.message


def test_a_table_gets_other_shards_and_becomes_local_again(stocked: Servers) -> None:
    given: dict[str, Any] = {"table": "orders", "shard_count": 6}
    (refused,) = plan(stocked, alteration.ALTER, **given).blocking
    assert refused.fix == "citus-cluster tables alter orders --shard-count 6 --cascade-to-colocated"
    found = run(stocked, alteration.ALTER, **given, cascade_to_colocated=True).as_dict()
    assert (found["shards"], len(shards_of(stocked, '"<lines>"'))) == (6, 6)
    assert plan(stocked, alteration.ALTER, **given).steps == ()
    (unique,) = plan(stocked, alteration.ALTER, table="orders", column="x", alone=True).blocking
    assert "primary key" in unique.message
    run(stocked, alteration.UNDISTRIBUTE, table="orders")
    assert counted(stocked, "orders") == ROWS
    assert plan(stocked, alteration.UNDISTRIBUTE, table="orders").steps == ()
    with pytest.raises(UsageError, match="Nothing to change"):
        plan(stocked, alteration.ALTER, table="orders")
