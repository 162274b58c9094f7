"""Distributing tables on real servers: rows are kept, running it again is safe, and an interrupted run is resumed."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from setup_support import ROOT
from sql_declared import plan, run, run_planned
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, register
from waiting import eventually

from citus_cluster.errors import BlockedError, NotFoundError, UntrustedCodeError, UsageError
from citus_cluster.operations.tables import distribution

pytestmark = pytest.mark.cluster

ODD = '"Sales Ü"."<t> it\'s ""odd"""'
ROWS = 3000
CITUS_TABLES = "SELECT count(*) FROM pg_dist_partition WHERE logicalrelid = 'countries'::regclass"
PLUGINS = "ALTER ROLE postgres RESET output_plugin_libraries"


@pytest.fixture
def stocked(cluster: Servers) -> Iterator[Servers]:
    register(cluster, *WORKERS[:2])
    drop = (
        "SET client_min_messages TO error",
        'DROP SCHEMA IF EXISTS "Sales Ü" CASCADE',
        "DROP TABLE IF EXISTS orders, lines, countries CASCADE",
        PLUGINS,
    )
    cluster.sql(
        COORDINATOR.host,
        *drop[:-1],
        'CREATE SCHEMA "Sales Ü"',
        f'CREATE TABLE {ODD} (id bigint, "The ""Key""" int, PRIMARY KEY (id, "The ""Key"""))',
        f"INSERT INTO {ODD} SELECT id, id FROM generate_series(1, {ROWS}) AS id",
        "CREATE TABLE orders (id bigint PRIMARY KEY, payload text)",
        f"INSERT INTO orders SELECT id, repeat('x', 50) FROM generate_series(1, {ROWS}) AS id",
        "CREATE TABLE lines (id bigint, item int, PRIMARY KEY (id, item), FOREIGN KEY (id) REFERENCES orders)",
        f"INSERT INTO lines SELECT id, 1 FROM generate_series(1, {ROWS}) AS id",
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "INSERT INTO countries SELECT generate_series(1, 50)",
    )
    try:
        yield cluster
    finally:
        cluster.sql(COORDINATOR.host, *drop)


def counted(cluster: Servers, table: str) -> int:
    ((rows,),) = cluster.sql(COORDINATOR.host, f"SELECT count(*) FROM {table}")
    assert isinstance(rows, int)
    return rows


def test_a_table_is_distributed_once_with_all_its_rows(stocked: Servers, recorder: Recorder) -> None:
    given: dict[str, Any] = {"table": ODD, "column": '"The ""Key"""', "shard_count": 4}
    preview = plan(stocked, distribution.DISTRIBUTE, **given)
    assert [step.split(" ")[0] for step in preview.steps] == ["Copy", "Remove"]
    assert any("wait until its rows are copied" in one.message for one in preview.warnings)
    found = run(stocked, distribution.DISTRIBUTE, recorder, **given).as_dict()
    assert (found["kind"], found["distribution_column"], found["shards"]) == ("distributed", 'The "Key"', 4)
    assert found["changed"] is True
    assert counted(stocked, ODD) == ROWS
    assert "Copying data from local table" in recorder.text
    ((left,),) = stocked.sql(COORDINATOR.host, f"SELECT pg_relation_size('{ODD.replace(chr(39), chr(39) * 2)}')")
    assert left == 0, "the coordinator's copy is removed"
    assert plan(stocked, distribution.DISTRIBUTE, **given).steps == ()
    assert run(stocked, distribution.DISTRIBUTE, **given).as_dict()["changed"] is False
    fix = plan(stocked, distribution.DISTRIBUTE, table=ODD, column="id").blocking[0].fix
    assert shlex.split(fix or "") == ["citus-cluster", "tables", "alter", ODD, "--column", "id"]


def test_the_second_run_removes_what_a_killed_one_left_on_the_coordinator(stocked: Servers) -> None:
    stocked.sql(COORDINATOR.host, 'SELECT create_distributed_table(\'"Sales Ü"."<t> it\'\'s ""odd"""\', \'id\')')
    preview = plan(stocked, distribution.DISTRIBUTE, table=ODD, column="id")
    assert [step.split(" ")[0] for step in preview.steps] == ["Remove"]
    run(stocked, distribution.DISTRIBUTE, table=ODD, column="id")
    assert plan(stocked, distribution.DISTRIBUTE, table=ODD, column="id").steps == ()
    assert counted(stocked, ODD) == ROWS


def test_colocated_tables_keep_their_foreign_key(stocked: Servers) -> None:
    blocked = plan(stocked, distribution.DISTRIBUTE, table="lines", column="id")
    assert blocked.blocking[0].fix == "SELECT create_reference_table('public.orders');"
    first = plan(stocked, distribution.DISTRIBUTE, table="orders", column="id")
    assert any("lines is a local table and points to" in one.message for one in first.warnings)
    orders = run(stocked, distribution.DISTRIBUTE, table="orders", column="id", colocate_with="none").as_dict()
    lines = run(stocked, distribution.DISTRIBUTE, table="lines", column="id", colocate_with="orders").as_dict()
    assert lines["colocation_id"] == orders["colocation_id"]
    assert counted(stocked, "lines JOIN orders USING (id)") == ROWS


def test_a_reference_table_is_on_every_node(stocked: Servers) -> None:
    assert run(stocked, distribution.REFERENCE, table="countries").as_dict()["kind"] == "reference"
    assert counted(stocked, "countries") == 50
    ((copies,),) = stocked.sql(
        COORDINATOR.host, "SELECT count(*) FROM citus_shards WHERE table_name = 'countries'::regclass"
    )
    assert copies == 3
    assert plan(stocked, distribution.REFERENCE, table="countries").steps == ()
    refused = plan(stocked, distribution.DISTRIBUTE, table="countries", column="id").blocking
    assert [one.fix for one in refused] == ["SELECT undistribute_table('public.countries');"]


def test_a_table_is_distributed_while_it_is_written(stocked: Servers) -> None:
    given: dict[str, Any] = {"table": "orders", "column": "id", "concurrently": True, "shard_count": 4}
    stocked.sql(COORDINATOR.host, "DROP TABLE lines")
    preview = plan(stocked, distribution.DISTRIBUTE, **given)
    for one in preview.blocking:  # PostgreSQL 17.12 and 18.6 allow only listed plug-ins
        assert one.fix
        assert "output_plugin_libraries" in one.message
        with pytest.raises(BlockedError):
            run(stocked, distribution.DISTRIBUTE, **given)
        stocked.sql(COORDINATOR.host, one.fix)
    assert run(stocked, distribution.DISTRIBUTE, **given).as_dict()["kind"] == "distributed"
    assert counted(stocked, "orders") == ROWS
    assert plan(stocked, distribution.DISTRIBUTE, **given).steps == ()


def test_citus_refuses_to_decode_without_the_plug_in_that_the_finding_names(stocked: Servers) -> None:
    stocked.sql(COORDINATOR.host, "DROP TABLE lines")
    preview = plan(stocked, distribution.DISTRIBUTE, table="orders", column="id", concurrently=True)
    if not preview.blocking:
        pytest.skip("this PostgreSQL has no list of plug-ins")
    with pytest.raises(Exception, match="may not be used as an output plugin"):
        stocked.sql(COORDINATOR.host, "SELECT create_distributed_table_concurrently('orders', 'id')")
    # Citus leaves a Citus-local table, which the next run distributes.
    assert not plan(stocked, distribution.DISTRIBUTE, table="orders", column="id").blocking
    assert run(stocked, distribution.DISTRIBUTE, table="orders", column="id").as_dict()["kind"] == "distributed"
    assert counted(stocked, "orders") == ROWS


@pytest.mark.usefixtures("only_newest")
def test_a_killed_run_leaves_the_table_as_it_was_and_holds_no_lock(stocked: Servers) -> None:
    dsn = stocked.info(COORDINATOR.host).dsn(masked=False)
    command = [sys.executable, "-m", "citus_cluster", "tables", "distribute", "orders", "id", f"--dsn={dsn}"]
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%create_distributed%'"
    )
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'citus-cluster' AND state <> 'idle'"
    with stocked.session() as client, client.transaction(force_rollback=True):
        client.execute("INSERT INTO orders VALUES (-1)")
        started = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        eventually(lambda: stocked.sql(COORDINATOR.host, waiting) == [(1,)])
        started.send_signal(signal.SIGKILL)
        started.wait()
        eventually(lambda: stocked.sql(COORDINATOR.host, ours) == [(0,)])
    assert counted(stocked, "orders") == ROWS
    assert stocked.sql(COORDINATOR.host, "SELECT FROM pg_dist_partition WHERE logicalrelid = 'orders'::regclass") == []
    assert run(stocked, distribution.DISTRIBUTE, table="orders", column="id").as_dict()["shards"] > 0
    assert counted(stocked, "orders") == ROWS


@pytest.mark.usefixtures("only_newest")
def test_sessions_and_nodes_that_would_hold_up_the_change_are_named(stocked: Servers) -> None:
    with stocked.session() as client, client.transaction(force_rollback=True):
        client.execute("SET application_name = 'slow report'")
        client.execute("INSERT INTO orders VALUES (-1)")

        def named() -> bool:
            preview = plan(stocked, distribution.DISTRIBUTE, table="orders", column="id")
            return any("slow report" in one.message for one in preview.warnings)

        eventually(named)
    with stocked.paused(WORKERS[1].host):
        before = stocked.logs(COORDINATOR.host).count("SELECT to_json(1)")
        preview = plan(stocked, distribution.DISTRIBUTE, table="orders", column="id")
        asked = stocked.logs(COORDINATOR.host).count("SELECT to_json(1)") - before
    assert any(WORKERS[1].host in one.message for one in preview.blocking)
    # Each node once: one that hangs takes some seconds each time.
    assert asked == len(stocked.sql(COORDINATOR.host, "SELECT nodeid FROM pg_dist_node"))


@pytest.mark.usefixtures("only_newest")
def test_parameters_that_fit_nothing_are_refused(stocked: Servers) -> None:
    with pytest.raises(NotFoundError, match="no such column"):
        plan(stocked, distribution.DISTRIBUTE, table="orders", column="nothing")
    with pytest.raises(NotFoundError, match="colocate with does not exist"):
        plan(stocked, distribution.DISTRIBUTE, table="orders", column="id", colocate_with="nothing")
    with pytest.raises(UsageError, match="cannot be combined"):
        plan(stocked, distribution.DISTRIBUTE, table="orders", column="id", colocate_with="lines", shard_count=3)
    with pytest.raises(UsageError, match="shard_count"):
        plan(stocked, distribution.DISTRIBUTE, table="orders", column="id", shard_count=0)
    refused = plan(stocked, distribution.DISTRIBUTE, table="orders", column="id", colocate_with="lines").blocking
    assert "not distributed by a column" in refused[0].message


@pytest.mark.usefixtures("only_newest")
def test_code_of_ordinary_roles_is_not_run_unasked(stocked: Servers) -> None:
    reference: dict[str, Any] = {"table": "countries"}
    distribute: dict[str, Any] = {"table": "countries", "column": "id"}
    planned = [
        (change, given, plan(stocked, change, **given))
        for change, given in (
            (distribution.REFERENCE, reference),
            (distribution.DISTRIBUTE, distribute),
            (distribution.DISTRIBUTE, {**distribute, "concurrently": True}),
        )
    ]
    stocked.sql(
        COORDINATOR.host,
        "DROP ROLE IF EXISTS mallory",
        "CREATE ROLE mallory",
        "CREATE FUNCTION public.evil(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'",
        "ALTER FUNCTION public.evil(int) OWNER TO mallory",
        "ALTER TABLE countries ADD CHECK (evil(id))",
    )
    try:
        refused = plan(stocked, distribution.REFERENCE, table="countries").blocking
        assert any("evil(integer), which belongs to role mallory" in one.message for one in refused)
        allowed = plan(stocked, distribution.REFERENCE, table="countries", trust_functions=True)
        assert not allowed.blocking
        assert any("evil" in one.message for one in allowed.warnings)
        for change, given, before in planned:
            with pytest.raises(UntrustedCodeError, match=r"evil\(integer\), which belongs to role mallory"):
                run_planned(stocked, change, before, **given)
        assert stocked.sql(COORDINATOR.host, CITUS_TABLES) == [(0,)]
        run_planned(stocked, distribution.REFERENCE, allowed, **reference, trust_functions=True)
        assert stocked.sql(COORDINATOR.host, CITUS_TABLES) == [(1,)]
    finally:
        stocked.sql(
            COORDINATOR.host,
            "DROP FUNCTION public.evil(int) CASCADE",
            "DROP ROLE mallory",
        )
