"""Registering workers on real servers."""

import asyncio
import time
from dataclasses import replace
from functools import partial

import pytest
from cluster_support import citus_images
from sql_servers import COORDINATOR, FOURTH, NASTY_PASSWORD, WORKERS, Recorder, Servers, on, register

from citus_cluster.errors import (
    AuthenticationError,
    LockedError,
    MismatchError,
    UnreachableError,
    UsageError,
    WorkerUnreachableError,
)
from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.plan.events import Event, EventKind, ignore
from citus_cluster.operations.nodes.registration import add_worker, reconcile
from citus_cluster.runtime.citus.lock import writer_lock
from citus_cluster.runtime.postgres import Connection, connect

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
OUR_SCHEMA = "SELECT to_regnamespace('citus_cluster')"
NODES = "SELECT nodename, isactive, shouldhaveshards FROM pg_dist_node ORDER BY groupid"


def outcomes(cluster: Servers, *workers: NodeAddress, **options: float) -> list[Outcome]:
    return [result.outcome for result in register(cluster, *workers, **options).values()]


def test_registers_all_workers_and_changes_nothing_the_second_time(cluster: Servers) -> None:
    assert outcomes(cluster) == [Outcome.ADDED] * 3
    assert cluster.sql(COORDINATOR.host, NODES) == [
        ("citus-coordinator", True, False),
        ("citus-worker1", True, True),
        ("citus-worker2", True, True),
        ("citus-worker3", True, True),
    ]
    rows = "SELECT xmin::text, * FROM pg_dist_node", "SELECT xmin::text, * FROM citus_cluster.worker"
    before = [cluster.sql(COORDINATOR.host, query) for query in rows]

    assert outcomes(cluster) == [Outcome.ALREADY] * 3
    assert [cluster.sql(COORDINATOR.host, query) for query in rows] == before
    for worker in WORKERS:
        assert cluster.sql(worker.host, OUR_SCHEMA) == [(None,)], "our own tables are the coordinator's"


def test_nothing_to_do_needs_no_lock(cluster: Servers) -> None:
    register(cluster)

    async def body(conn: Connection) -> None:
        other = await cluster.connect()
        async with other, writer_lock(other, wait_s=1):
            results = await reconcile(conn, COORDINATOR, WORKERS, ignore, wait_for_lock_s=0.2)
            assert {result.outcome for result in results} == {Outcome.ALREADY}

    on(cluster, body)


@pytest.mark.usefixtures("only_newest")
def test_the_lock_names_its_holder(cluster: Servers) -> None:
    async def body(conn: Connection) -> None:
        other = await cluster.connect()
        async with other:
            async with writer_lock(other, wait_s=1):
                with pytest.raises(LockedError, match=rf"session {other.info.backend_pid} \(citus-cluster"):
                    await reconcile(conn, COORDINATOR, WORKERS, ignore, wait_for_lock_s=0.2)
            results = await reconcile(conn, COORDINATOR, [FIRST], ignore, wait_for_lock_s=0.2)
            assert results[0].outcome is Outcome.ADDED

    on(cluster, body)


def test_coordinator_alone_holds_the_shards_until_a_worker_comes(cluster: Servers) -> None:
    on(cluster, lambda conn: reconcile(conn, COORDINATOR, [], ignore))
    assert cluster.sql(COORDINATOR.host, NODES) == [("citus-coordinator", True, True)]
    register(cluster, FIRST)
    assert cluster.sql(COORDINATOR.host, NODES) == [("citus-coordinator", True, False), ("citus-worker1", True, True)]


def test_coordinator_that_citus_entered_as_localhost_gets_its_name(cluster: Servers) -> None:
    cluster.sql(COORDINATOR.host, "CREATE TABLE early (id int)", "SELECT create_distributed_table('early', 'id')")
    assert cluster.sql(COORDINATOR.host, "SELECT nodename FROM pg_dist_node") == [("localhost",)]
    register(cluster, FIRST)
    assert cluster.sql(COORDINATOR.host, NODES) == [("citus-coordinator", True, False), ("citus-worker1", True, True)]


@pytest.mark.usefixtures("only_newest")
def test_coordinator_that_moved_is_known_to_the_workers(cluster: Servers) -> None:
    register(cluster, FIRST)
    moved = NodeAddress(cluster.ip_address(COORDINATOR.host))
    on(cluster, lambda conn: reconcile(conn, moved, [FIRST], ignore))
    assert cluster.sql(FIRST.host, "SELECT nodename FROM pg_dist_node WHERE groupid = 0") == [(moved.host,)]


def test_what_an_operator_removed_comes_back_only_when_asked_for(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(COORDINATOR.host, "SELECT citus_remove_node('citus-worker2', 5432)")
    assert outcomes(cluster) == [Outcome.ALREADY, Outcome.WITHDRAWN, Outcome.ALREADY]

    result = on(cluster, lambda conn: add_worker(conn, None, SECOND, ignore, timeout_s=10))
    assert result.outcome is Outcome.ADDED
    assert outcomes(cluster) == [Outcome.ALREADY] * 3
    again = on(cluster, lambda conn: add_worker(conn, None, SECOND, ignore, timeout_s=10))
    assert again.outcome is Outcome.ALREADY


def test_what_an_operator_disabled_comes_back_only_when_asked_for(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(COORDINATOR.host, "SELECT citus_disable_node('citus-worker3', 5432)")
    assert outcomes(cluster) == [Outcome.ALREADY, Outcome.ALREADY, Outcome.WITHDRAWN]
    result = on(cluster, lambda conn: add_worker(conn, COORDINATOR, THIRD, ignore, timeout_s=10))
    assert result.outcome is Outcome.ACTIVATED
    assert outcomes(cluster) == [Outcome.ALREADY] * 3


@pytest.mark.usefixtures("only_newest")
def test_worker_registered_by_hand_and_removed_by_hand_stays_removed(cluster: Servers) -> None:
    register(cluster, FIRST)
    cluster.sql(COORDINATOR.host, "SELECT citus_add_node('citus-worker2', 5432)")
    assert outcomes(cluster, FIRST, SECOND) == [Outcome.ALREADY] * 2
    cluster.sql(COORDINATOR.host, "SELECT citus_remove_node('citus-worker2', 5432)")
    assert outcomes(cluster, FIRST, SECOND) == [Outcome.ALREADY, Outcome.WITHDRAWN]


@pytest.mark.usefixtures("only_newest")
def test_paused_worker_is_pending_and_holds_nobody_up(cluster: Servers) -> None:
    with cluster.paused(FIRST.host):
        started = time.monotonic()
        results = register(cluster)
        assert time.monotonic() - started < 10
    assert [result.outcome for result in results.values()] == [Outcome.PENDING, Outcome.ADDED, Outcome.ADDED]
    assert "citus-worker1" in str(results[FIRST.host].reason)
    assert outcomes(cluster) == [Outcome.ADDED, Outcome.ALREADY, Outcome.ALREADY]


@pytest.mark.usefixtures("only_newest")
def test_no_node_is_added_while_a_registered_one_hangs(cluster: Servers) -> None:
    register(cluster, FIRST)
    with cluster.paused(FIRST.host):
        results = register(cluster, FIRST, SECOND)
    assert [result.outcome for result in results.values()] == [Outcome.ALREADY, Outcome.PENDING]
    assert "citus-worker1:5432 does not answer" in str(results[SECOND.host].reason)
    assert outcomes(cluster, FIRST, SECOND) == [Outcome.ALREADY, Outcome.ADDED]


@pytest.mark.usefixtures("only_newest")
def test_unknown_name_and_closed_port_are_pending_with_the_reason(cluster: Servers) -> None:
    nobody, closed = NodeAddress("nobody.invalid"), NodeAddress(FIRST.host, 5999)
    results = on(cluster, lambda conn: reconcile(conn, COORDINATOR, [nobody, closed, FIRST], ignore))
    assert [result.outcome for result in results] == [Outcome.PENDING, Outcome.PENDING, Outcome.ADDED]
    assert "cannot resolve the host name 'nobody.invalid'" in str(results[0].reason)
    assert "docker compose" not in str(results[0].reason)
    assert "Connection refused" in str(results[1].reason)


@pytest.mark.usefixtures("only_newest")
def test_add_waits_for_a_worker_and_says_why(cluster: Servers) -> None:
    register(cluster, FIRST)
    cluster.containers[SECOND.host].stop(timeout=5)
    events = Recorder()

    def start_when_waiting(event: Event) -> None:
        events(event)
        if event.kind is EventKind.PROGRESS:
            cluster.containers[SECOND.host].start()

    result = on(cluster, lambda conn: add_worker(conn, None, SECOND, start_when_waiting, timeout_s=60))
    assert result.outcome is Outcome.ADDED
    assert "waiting: The coordinator cannot connect to citus-worker2:5432" in events.text


@pytest.mark.usefixtures("only_newest")
def test_add_gives_up_on_a_paused_worker_in_time(cluster: Servers) -> None:
    register(cluster, FIRST)
    started = time.monotonic()
    with cluster.paused(SECOND.host), pytest.raises(WorkerUnreachableError, match="does not answer") as caught:
        on(cluster, lambda conn: add_worker(conn, None, SECOND, ignore, timeout_s=3))
    assert time.monotonic() - started < 15
    assert "docker compose unpause citus-worker2" in str(caught.value.hint)


def test_add_refuses_the_coordinator_and_a_worker_under_another_name(cluster: Servers) -> None:
    register(cluster, FIRST)
    for node, reason in ((FIRST, "already registered as citus-worker1:5432"), (COORDINATOR, "coordinator itself")):
        alias = NodeAddress(cluster.ip_address(node.host))
        with pytest.raises(MismatchError, match=reason):
            on(cluster, partial(add_worker, coordinator=None, worker=alias, emit=ignore, timeout_s=5))
    with pytest.raises(UsageError, match="coordinator itself"):
        on(cluster, lambda conn: add_worker(conn, None, COORDINATOR, ignore, timeout_s=5))


@pytest.mark.usefixtures("only_newest")
def test_add_needs_a_coordinator_that_knows_its_name(cluster: Servers) -> None:
    with pytest.raises(UsageError, match="at which name"):
        on(cluster, lambda conn: add_worker(conn, None, FIRST, ignore, timeout_s=5))


@pytest.mark.usefixtures("only_newest")
def test_add_during_a_lock_on_the_node_list_ends_in_time(cluster: Servers) -> None:
    register(cluster, FIRST)

    async def body(conn: Connection) -> None:
        other = await cluster.connect()
        async with other, other.transaction():
            await other.execute("LOCK TABLE pg_dist_node IN EXCLUSIVE MODE")
            with pytest.raises(LockedError, match="node list is locked"):
                await add_worker(conn, None, SECOND, ignore, timeout_s=10)

    on(cluster, body)
    assert outcomes(cluster, FIRST, SECOND) == [Outcome.ALREADY, Outcome.ADDED]


@pytest.mark.usefixtures("only_newest")
def test_worker_of_another_version_is_refused(cluster: Servers) -> None:
    others = [image for image in citus_images().values() if image != cluster.image]
    if not others:
        pytest.skip("only one Citus image on this engine")
    register(cluster, FIRST)
    with cluster.extra(FOURTH.host, image=others[0]):
        with pytest.raises(MismatchError, match=r"it runs PostgreSQL \d+, the coordinator PostgreSQL \d+"):
            on(cluster, lambda conn: add_worker(conn, None, FOURTH, ignore, timeout_s=30))
        assert outcomes(cluster, FIRST, FOURTH) == [Outcome.ALREADY, Outcome.PENDING]


def test_worker_without_the_extension_is_refused(cluster: Servers) -> None:
    register(cluster, FIRST)
    cluster.sql(SECOND.host, "DROP EXTENSION citus CASCADE")
    try:
        with pytest.raises(MismatchError, match="lacks the extension citus"):
            on(cluster, lambda conn: add_worker(conn, None, SECOND, ignore, timeout_s=10))
    finally:
        cluster.rerun_init_script(SECOND.host)


@pytest.mark.usefixtures("only_newest")
def test_worker_with_another_password_is_refused(cluster: Servers) -> None:
    register(cluster, FIRST)
    cluster.sql(SECOND.host, "ALTER ROLE postgres PASSWORD 'another'")
    try:
        with pytest.raises(AuthenticationError, match="refused the coordinator's password") as caught:
            on(cluster, lambda conn: add_worker(conn, None, SECOND, ignore, timeout_s=10))
        assert NASTY_PASSWORD not in f"{caught.value} {caught.value.hint}"
        assert outcomes(cluster, FIRST, SECOND) == [Outcome.ALREADY, Outcome.PENDING]
    finally:
        cluster.restore_password(SECOND.host)


def test_worker_that_cannot_connect_back_is_pending(cluster: Servers) -> None:
    register(cluster, FIRST)
    cluster.sql(SECOND.host, "UPDATE pg_dist_authinfo SET authinfo = 'password=wrong'")
    try:
        result = register(cluster, SECOND)[SECOND.host]
        assert result.outcome is Outcome.PENDING
        assert "cannot connect to the coordinator at citus-coordinator:5432" in str(result.reason)
    finally:
        cluster.rerun_init_script(SECOND.host)
    assert outcomes(cluster, SECOND) == [Outcome.ADDED]


def test_ordinary_role_queries_from_a_new_worker_and_its_password_is_in_no_log(cluster: Servers) -> None:
    register(cluster, FIRST)
    cluster.sql(
        COORDINATOR.host,
        "SET log_statement = 'none'",
        "DROP ROLE IF EXISTS by_hand",
        r"CREATE ROLE by_hand LOGIN PASSWORD 'app''s \secret'",
        r"INSERT INTO pg_dist_authinfo VALUES (0, 'by_hand', 'password=''app\''s \\secret''')",
        "CREATE TABLE shared (id int PRIMARY KEY)",
        "SELECT create_distributed_table('shared', 'id')",
        "INSERT INTO shared SELECT generate_series(1, 100)",
        "GRANT SELECT ON shared TO by_hand",
    )
    try:
        on(cluster, lambda conn: add_worker(conn, None, SECOND, ignore, timeout_s=10))
        assert cluster.sql(SECOND.host, "SET ROLE by_hand", "SELECT count(*) FROM shared") == [(100,)]
        assert "secret" not in cluster.logs(SECOND.host)
    finally:
        for node in (COORDINATOR, SECOND):
            cluster.sql(node.host, "DELETE FROM pg_dist_authinfo WHERE rolename = 'by_hand'")


def test_the_superuser_password_is_in_no_log(cluster: Servers) -> None:
    register(cluster)
    for address in (COORDINATOR, *WORKERS):
        assert "$HOME" not in cluster.logs(address.host)


def test_init_script_is_idempotent_and_silent(cluster: Servers) -> None:
    rows = "SELECT nodeid, rolename, authinfo FROM pg_dist_authinfo"
    before = cluster.sql(FIRST.host, rows)
    assert len(before) == 1
    assert cluster.rerun_init_script(FIRST.host) == ""
    assert cluster.sql(FIRST.host, rows) == before
    assert cluster.sql(FIRST.host, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'") == [(1,)]


@pytest.mark.usefixtures("only_newest")
def test_connecting_says_what_is_wrong(servers: Servers) -> None:
    info = servers.info(FIRST.host)
    with pytest.raises(AuthenticationError, match="password authentication failed"):
        asyncio.run(connect(replace(info, password="sesame"), timeout_s=5))
    with pytest.raises(UnreachableError, match='database "nowhere" does not exist'):
        asyncio.run(connect(replace(info, database="nowhere"), timeout_s=5))
    with pytest.raises(UnreachableError, match="refused"):
        asyncio.run(connect(replace(info, port=1), timeout_s=5))
    # What the engine takes to pause the container, and to resume it, does not count.
    with servers.paused(FIRST.host):
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="did not answer within 1 s"):
            asyncio.run(connect(info, timeout_s=1))
        assert time.monotonic() - started < 5
