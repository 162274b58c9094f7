"""Statements, lock waits and statistics of a cluster, on real servers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Thread

import psycopg
import pytest
from declared_support import outcome as run
from declared_support import preview as plan
from declared_support import read
from sql_servers import COORDINATOR, FOURTH, WORKERS, Recorder, Servers, on, register
from sql_tables import distribute
from waiting import eventually

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.activity import StatementRow
from citus_cluster.model.citus.blockers import global_pid
from citus_cluster.model.citus.locks import LockRow
from citus_cluster.model.citus.statistics import Feature, FeatureOffError, FeatureState
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.activity import changes, views
from citus_cluster.operations.activity.changes import OneSession, WhichFeature
from citus_cluster.operations.activity.views import WhichNode, WhichStatements
from citus_cluster.operations.nodes.registration import add_worker

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


class Client:
    """A session of an application, which runs one statement in a thread."""

    def __init__(self, servers: Servers, node: str = COORDINATOR.host, name: str = "app") -> None:
        self.conn = servers.session(node)
        self.conn.execute("SELECT set_config('application_name', %s, false)", [name])
        self.error: psycopg.Error | None = None

    @property
    def process_id(self) -> int:
        return self.conn.info.backend_pid

    def start(self, statement: str) -> "Client":
        def work() -> None:
            try:
                self.conn.execute(statement.encode())
            except psycopg.Error as error:
                self.error = error

        self.thread = Thread(target=work)
        self.thread.start()
        return self


@contextmanager
def clients(servers: Servers, *names: str, node: str = COORDINATOR.host) -> Iterator[list[Client]]:
    found = [Client(servers, node, name) for name in names]
    try:
        yield found
    finally:
        for one in found:
            with suppress(psycopg.Error):
                one.conn.cancel()
        for one in found:
            if hasattr(one, "thread"):
                one.thread.join()
            one.conn.close()


def number_of(servers: Servers, client: Client, node: str = COORDINATOR.host) -> int:
    found = servers.sql(COORDINATOR.host, f"SELECT nodeid FROM pg_dist_node WHERE nodename = '{node}'")
    return global_pid(int(str(found[0][0])), client.process_id)


def row_of(servers: Servers, number: int, *, parts: bool = False) -> list[StatementRow]:
    return [row for row in read(servers, views.LIST, WhichStatements(parts=parts)) if row.global_pid == number]


def test_a_statement_is_listed_with_its_parts_and_cancelled(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    with clients(cluster, "app") as (app,):
        app.start("SELECT count(*), sum(pg_sleep(100)::text::int) FROM orders WHERE payload <> 'password=open'")
        number = number_of(cluster, app)
        eventually(lambda: len(row_of(cluster, number, parts=True)) > 1, "the workers run their parts")
        (row,) = row_of(cluster, number)
        assert (row.node, row.role, row.application) == (f"{COORDINATOR}", "postgres", "app")
        assert (row.state, row.database, row.is_part, row.is_own) == ("active", "postgres", False, False)
        assert row.seconds is not None
        assert 0 <= row.seconds < 60
        assert row.started_at is not None
        assert "pg_sleep" in (row.query or "")
        assert "open" not in (row.query or "")
        parts = [one for one in row_of(cluster, number, parts=True) if one.is_part]
        assert {one.node for one in parts} <= {str(worker) for worker in WORKERS}
        assert all("orders_" in (one.query or "") for one in parts)

        other = OneSession(number, started_at=row.started_at.replace(year=2020))
        with pytest.raises(NotFoundError, match="another one since"):
            plan(cluster, changes.CANCEL, other)
        wanted = OneSession(number, row.started_at)
        preview = plan(cluster, changes.CANCEL, wanted)
        assert "of role postgres (app) on citus-coordinator:5432" in preview.steps[0]
        assert not preview.findings
        done = run(cluster, changes.CANCEL, wanted, preview, recorder)
        assert (done.signalled, done.ended) == (True, True)
        app.thread.join(10)
        assert isinstance(app.error, psycopg.errors.QueryCanceled)
        assert plan(cluster, changes.CANCEL, OneSession(number)).steps == (), "it runs nothing now"
        # The statement that was planned has ended, and another one runs: it is left alone.
        app.error = None
        app.start("SELECT pg_sleep(100)")
        eventually(lambda: bool(row_of(cluster, number)), "the next statement runs")
        assert not run(cluster, changes.CANCEL, OneSession(number), preview, recorder).signalled
        assert row_of(cluster, number)
        assert recorder.events[-1].message == "the statement had ended already"


@pytest.mark.usefixtures("only_newest")
def test_a_session_on_a_worker_is_ended_and_a_reused_number_is_not(cluster: Servers) -> None:
    register(cluster)
    with clients(cluster, "direct", node=SECOND.host) as (app,):
        app.conn.execute("BEGIN")
        number = number_of(cluster, app, SECOND.host)
        (row,) = row_of(cluster, number)
        assert (row.node, row.state) == (str(SECOND), "idle in transaction")
        refused = plan(cluster, changes.CANCEL, OneSession(number))
        assert refused.blocking[0].fix == f"citus-cluster activity terminate {number}"
        preview = plan(cluster, changes.TERMINATE, OneSession(number))
        assert isinstance(preview.details, changes.SessionDetails)
        session = preview.details.session
        assert session.session_started_at is not None
        earlier = replace(session, session_started_at=session.session_started_at.replace(year=2020))
        reused = replace(preview, details=changes.SessionDetails(earlier))
        assert not run(cluster, changes.TERMINATE, OneSession(number), reused).signalled
        assert row_of(cluster, number), "a session that began at another time is not ended"
        assert run(cluster, changes.TERMINATE, OneSession(number), preview).ended
        with pytest.raises(NotFoundError, match="has ended"):
            plan(cluster, changes.TERMINATE, OneSession(number))
    for unknown in (3, global_pid(999, 5), 2**63 - 1):
        with pytest.raises(NotFoundError):
            plan(cluster, changes.CANCEL, OneSession(unknown))


@pytest.mark.usefixtures("only_newest")
def test_a_coordinator_without_a_node_list_shows_its_own_sessions(cluster: Servers) -> None:
    cluster.take_apart()
    with clients(cluster, "app", "other") as (client, other):
        ((number,),) = client.conn.execute("SELECT citus_backend_gpid()").fetchall()
        assert isinstance(number, int)
        client.start("SELECT pg_advisory_lock(12), pg_sleep(60)")
        eventually(lambda: row_of(cluster, number))
        assert [row.node for row in row_of(cluster, number)] == [str(COORDINATOR)]
        other.start("SELECT pg_advisory_lock(12)")
        eventually(lambda: [row.global_pid for row in read(cluster, views.LOCKS) if row.blocks] == [number])
        with pytest.raises(FeatureOffError, match=f"{COORDINATOR} does not collect"):
            read(cluster, views.STATEMENTS, WhichNode())
        assert run(cluster, changes.CANCEL, OneSession(number)).ended
        client.thread.join()
        assert isinstance(client.error, psycopg.errors.QueryCanceled)


def test_lock_waits_are_a_tree_across_the_nodes(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=100)

    def tree() -> list[LockRow]:
        return list(read(cluster, views.LOCKS))

    with clients(cluster, "holder", "second", "third") as (holder, second, third):
        assert tree() == []
        holder.conn.execute("BEGIN")
        holder.conn.execute("UPDATE orders SET payload = 'a' WHERE id = 1")
        second.start("UPDATE orders SET payload = 'b' WHERE id = 1")
        eventually(lambda: len(tree()) == 2, "the second waits")
        third.start("UPDATE orders SET payload = 'c' WHERE id = 1")
        eventually(lambda: len(tree()) == 3, "the third waits")
        rows = tree()
        assert [row.application for row in rows] == ["holder", "second", "third"]
        assert (rows[0].depth, rows[0].parent, rows[0].state) == (0, None, "idle in transaction")
        assert sum(row.blocks for row in rows) >= 2
        assert rows[0].global_pid == number_of(cluster, holder)
        assert rows[1].parent == 1
        assert rows[1].waits_for == (rows[0].global_pid,)
        assert "on" in (rows[1].lock or "")
        assert rows[1].seconds is not None
        assert rows[2].parent in {1, 2}
        assert not any(row.in_cycle for row in rows)
        holder.conn.execute("ROLLBACK")


@pytest.mark.usefixtures("only_newest")
def test_a_distributed_deadlock_is_shown_as_a_cycle(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    cluster.sql(
        COORDINATOR.host, "ALTER SYSTEM SET citus.distributed_deadlock_detection_factor = -1", "SELECT pg_reload_conf()"
    )
    try:
        with clients(cluster, "one", "two") as (one, two):
            for client, key in ((one, 1), (two, 2)):
                client.conn.execute("BEGIN")
                client.conn.execute(f"UPDATE orders SET payload = 'a' WHERE id = {key}".encode())
            one.start("UPDATE orders SET payload = 'b' WHERE id = 2")
            two.start("UPDATE orders SET payload = 'b' WHERE id = 1")
            eventually(lambda: len(read(cluster, views.LOCKS)) == 2, "both wait")
            rows = read(cluster, views.LOCKS)
            assert [row.in_cycle for row in rows] == [True, True]
            assert rows[0].waits_for == (rows[1].global_pid,)
            assert rows[1].waits_for == (rows[0].global_pid,)
    finally:
        cluster.sql(
            COORDINATOR.host,
            "ALTER SYSTEM RESET citus.distributed_deadlock_detection_factor",
            "SELECT pg_reload_conf()",
        )


@pytest.mark.usefixtures("only_newest")
def test_a_paused_worker_is_named_and_the_others_are_shown(cluster: Servers) -> None:
    register(cluster)
    with clients(cluster, "app") as (app,):
        app.start("SELECT pg_sleep(100)")
        with cluster.paused(THIRD.host):
            started = time.monotonic()
            rows = read(cluster, views.LIST, WhichStatements())
            assert time.monotonic() - started < 15
            (silent,) = [row for row in rows if row.problem]
            assert (silent.node, silent.state) == (str(THIRD), "unknown")
            assert any(row.application == "app" for row in rows)
            locks = read(cluster, views.LOCKS)
            assert [row.node for row in locks if row.problem] == [str(THIRD)]
            third = cluster.sql(COORDINATOR.host, "SELECT nodeid FROM pg_dist_node WHERE nodename = 'citus-worker3'")
            refused = plan(cluster, changes.CANCEL, OneSession(global_pid(int(str(third[0][0])), 7)))
            assert "unpause citus-worker3" in str(refused.blocking[0].fix)


SETTINGS = ("pg_stat_statements.track", "compute_query_id", "citus.stat_statements_track", "citus.stat_tenants_track")


@contextmanager
def nothing_counted(cluster: Servers) -> Iterator[None]:
    """Switch the statistics off, as on generated nodes, and in the end have the settings of the tests again."""
    off = ("none", "off", "none", "none")
    for node in (COORDINATOR, *WORKERS):
        statements = [f"ALTER SYSTEM SET {name} = '{value}'" for name, value in zip(SETTINGS, off, strict=True)]
        cluster.sql(node.host, *statements, "SELECT pg_reload_conf()")
    cluster.sql(COORDINATOR.host, "SET citus.enable_ddl_propagation = off", "DROP EXTENSION pg_stat_statements")
    try:
        yield
    finally:
        for node in (COORDINATOR, *WORKERS):
            resets = [f"ALTER SYSTEM RESET {name}" for name in SETTINGS]
            cluster.sql(node.host, *resets, "SELECT pg_reload_conf()")
        create = "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"
        cluster.sql(COORDINATOR.host, "SET citus.enable_ddl_propagation = off", create)


def test_statistics_say_what_they_lack_and_are_switched_on(cluster: Servers, recorder: Recorder) -> None:
    register(cluster)
    distribute(cluster, rows=100)
    with nothing_counted(cluster):
        with pytest.raises(FeatureOffError, match="extension pg_stat_statements") as off:
            read(cluster, views.STATEMENTS, WhichNode())
        assert off.value.hint == "Switch them on: citus-cluster activity enable statements"
        with pytest.raises(FeatureOffError, match=r"citus\.stat_tenants_track = all"):
            read(cluster, views.TENANTS)
        assert [row.state for row in read(cluster, views.FEATURES)] == [FeatureState.OFF] * 2
        for feature in Feature:
            wanted = WhichFeature(feature)
            preview = plan(cluster, changes.ENABLE, wanted)
            assert not preview.blocking
            assert any("ALTER SYSTEM" in one.message for one in preview.warnings)
            run(cluster, changes.ENABLE, wanted, preview, recorder)
            eventually(lambda wanted=wanted: not plan(cluster, changes.ENABLE, wanted).steps, "it is on")  # type: ignore[misc]
        eventually(lambda: [row.state for row in read(cluster, views.FEATURES)] == [FeatureState.ON] * 2, "both are on")
        with cluster.session() as client:
            for _ in range(5):
                client.execute("SELECT payload FROM orders WHERE id = 7")
        top = read(cluster, views.STATEMENTS, WhichNode())
        (counted,) = [row for row in top if row.query.startswith("SELECT payload FROM orders")]
        assert (counted.calls, counted.rows, counted.role) == (5, 5, "postgres")
        assert counted.mean_ms == pytest.approx(counted.total_ms / 5)
        assert counted.executor == "adaptive"
        assert 0 < counted.share <= 1
        # Statements beyond the limit of the list have a share too.
        shares = [row.share for row in top]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) < 1 + 1e-6
        (tenant,) = [row for row in read(cluster, views.TENANTS) if row.tenant == "7"]
        assert tenant.reads + tenant.reads_last_period == 5
        assert tenant.tables == ("lines", "orders")
        with pytest.raises(FeatureOffError, match="citus-worker1:5432 does not collect") as on_worker:
            read(cluster, views.STATEMENTS, WhichNode(str(FIRST)))
        assert on_worker.value.hint == "Switch them on: citus-cluster activity enable statements --every-node"


@pytest.mark.usefixtures("only_newest")
def test_a_library_that_is_not_loaded_needs_a_restart(cluster: Servers) -> None:
    register(cluster, FIRST)
    with cluster.extra(FOURTH.host, settings={"shared_preload_libraries": "citus"}):
        on(cluster, lambda conn: add_worker(conn, None, FOURTH, ignore, timeout_s=60))
        preview = plan(cluster, changes.ENABLE, WhichFeature(Feature.STATEMENTS, every_node=True))
        (refused,) = preview.blocking
        assert "citus-worker4:5432 does not load pg_stat_statements" in refused.message
        assert "shared_preload_libraries: citus,pg_stat_statements in settings.worker" in str(refused.fix)
