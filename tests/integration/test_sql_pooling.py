"""PgBouncer in front of a real coordinator: what it may ask, whom it lets in, and what clients notice of it."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from cluster_support import require_images
from pooler_support import CHECK, IMAGE, PASSWORD, Bouncer, bouncer
from sql_role_support import create, drop, forget_roles, listed, password_file
from sql_servers import COORDINATOR, NASTY_PASSWORD, WORKERS, Servers, on, register

from citus_cluster.errors import RoleError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.plan.events import ignore
from citus_cluster.model.pooling import Pool
from citus_cluster.operations.pooling import let_pooler_ask, why_pooler_cannot_ask
from citus_cluster.operations.roles import accounts as roles
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.probes.pgbouncer import PgBouncerProbe

pytestmark = pytest.mark.cluster

POOL = Pool(max_clients=12, connections=3, role_connections=2, query_wait_s=4)
ASK = "SELECT rolname, starts_with(secret, 'SCRAM-SHA-256$') FROM citus_cluster.pgbouncer_secret('{}')"


def let_ask(cluster: Servers, password: str = PASSWORD) -> bool:
    return on(cluster, lambda conn: let_pooler_ask(conn, password, ignore))


@pytest.fixture(autouse=True)
def without_roles(cluster: Servers) -> Iterator[None]:
    yield
    forget_roles(cluster)


@pytest.fixture
def pooled(credentials: CredentialStore, cluster: Servers, tmp_path: Path) -> Iterator[Bouncer]:
    """A PgBouncer; the role app exists, and owns nothing that others need."""
    require_images(IMAGE)
    let_ask(cluster)
    with bouncer(cluster, tmp_path, POOL) as made:
        create(cluster, credentials)
        yield made


def password(credentials: CredentialStore) -> str:
    return password_file(credentials).read_text()


def probe_of(made: Bouncer) -> PgBouncerProbe:
    async def trusted(address: NodeAddress) -> None:
        return None

    return PgBouncerProbe(Target(ComponentName.PGBOUNCER, {"pgbouncer": made.address}), made.password, trusted)


def asked(made: Bouncer, timeout_s: float = 5) -> CompanionStatus:
    async def ask() -> CompanionStatus:
        client = probe_of(made)
        try:
            return await client.ask(timeout_s)
        finally:
            await client.close()

    return asyncio.run(ask())


# What it may ask


def test_pgbouncer_gets_the_secret_of_one_ordinary_role_and_nobody_else_does(
    cluster: Servers, credentials: CredentialStore
) -> None:
    let_ask(cluster)
    create(cluster, credentials)
    cluster.sql(
        COORDINATOR.host,
        "SET citus.enable_ddl_propagation = off",
        *(f"CREATE ROLE {name} PASSWORD 'x'" for name in ("nologin", "expired LOGIN VALID UNTIL '2001-01-01'")),
        f"CREATE ROLE {READER_ROLE} LOGIN PASSWORD 'x'",
        *(
            f"CREATE ROLE {name} LOGIN PASSWORD 'x'"
            for name in ("super2 SUPERUSER", "copies REPLICATION", "sees BYPASSRLS")
        ),
        "SET password_encryption = md5",
        "CREATE ROLE weak LOGIN PASSWORD 'x'",
        "CREATE ROLE bare LOGIN",
    )
    info = cluster.info(COORDINATOR.host)
    try:
        with psycopg.connect(
            host=info.host, port=info.port, user="pgbouncer", password=PASSWORD, dbname=info.database, autocommit=True
        ) as conn:
            assert conn.execute(ASK.format("app").encode()).fetchall() == [("app", True)]
            for name in (
                "postgres",
                "pgbouncer",
                READER_ROLE,
                "nologin",
                "expired",
                "super2",
                "copies",
                "sees",
                "weak",
                "bare",
                "",
                "%",
            ):
                assert conn.execute(ASK.format(name).encode()).fetchall() == [], name
            for forbidden in (
                "SELECT * FROM pg_authid",
                "SELECT * FROM pg_dist_authinfo",
                "SELECT * FROM citus_cluster.worker",
                "SELECT * FROM items",
                "CREATE TABLE public.mine ()",
                "CREATE TABLE citus_cluster.mine ()",
            ):
                with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)):
                    conn.execute(forbidden.encode())
        with (
            psycopg.connect(
                host=info.host, port=info.port, user="app", password=password(credentials), dbname=info.database
            ) as conn,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            conn.execute(ASK.format("app").encode())
    finally:
        cluster.sql(
            COORDINATOR.host,
            "SET citus.enable_ddl_propagation = off",
            *(
                f"DROP ROLE IF EXISTS {name}"
                for name in (READER_ROLE, "nologin", "expired", "super2", "copies", "sees", "weak", "bare")
            ),
        )


DAMAGES = (
    ("role pgbouncer has another password", "ALTER ROLE pgbouncer PASSWORD 'another'"),
    ("role pgbouncer does not have exactly the rights", "ALTER ROLE pgbouncer CREATEROLE"),
    ("role pgbouncer does not have exactly the rights", "ALTER ROLE pgbouncer NOLOGIN"),
    ("role pgbouncer does not have exactly the rights", "REVOKE USAGE ON SCHEMA citus_cluster FROM pgbouncer"),
    ("function", "GRANT EXECUTE ON FUNCTION citus_cluster.pgbouncer_secret(text) TO PUBLIC"),
    ("function", "REVOKE EXECUTE ON FUNCTION citus_cluster.pgbouncer_secret(text) FROM pgbouncer"),
    ("function", "ALTER FUNCTION citus_cluster.pgbouncer_secret(text) RESET search_path"),
    ("function", "DROP FUNCTION citus_cluster.pgbouncer_secret(text)"),
    ("function", "DROP TABLE citus_cluster.owner_role"),
    ("role pgbouncer is missing", "DROP OWNED BY pgbouncer; DROP ROLE pgbouncer"),
)


def test_the_second_run_changes_nothing_and_what_was_changed_is_named_and_put_right(cluster: Servers) -> None:
    def problem(password: str = PASSWORD) -> str | None:
        return on(cluster, lambda conn: why_pooler_cannot_ask(conn, password))

    assert "role pgbouncer is missing" in str(problem())
    assert let_ask(cluster)
    assert not let_ask(cluster)
    assert problem() is None
    for word, damage in DAMAGES:
        cluster.sql(COORDINATOR.host, "SET citus.enable_ddl_propagation = off", damage)
        told = str(problem())
        assert word in told and told.endswith("run citus-cluster up, which repairs it"), damage
        assert let_ask(cluster), damage
        assert problem() is None, damage
    assert let_ask(cluster, "a" * 32)  # the file of the password was replaced
    assert not let_ask(cluster, "a" * 32)


def test_a_role_of_the_users_own_is_left_alone(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, "pgbouncer")
    with pytest.raises(RoleError, match="did not create it"):
        let_ask(cluster)
    assert "Rename it" in str(on(cluster, lambda conn: why_pooler_cannot_ask(conn, PASSWORD)))
    assert listed(cluster, credentials)["pgbouncer"].problems == ()


def test_the_function_stays_on_the_coordinator_and_workers_can_be_added(cluster: Servers) -> None:
    register(cluster, WORKERS[0])
    let_ask(cluster)
    register(cluster, *WORKERS[:2])
    for node in WORKERS[:2]:
        assert cluster.sql(node.host, "SELECT rolsuper FROM pg_roles WHERE rolname = 'pgbouncer'") == [(False,)]
        assert cluster.sql(node.host, "SELECT to_regnamespace('citus_cluster')") == [(None,)]
    assert not let_ask(cluster)
    assert let_ask(cluster, "b" * 32)
    assert not let_ask(cluster, "b" * 32)


def test_roles_list_shows_the_roles_of_people(cluster: Servers, credentials: CredentialStore) -> None:
    let_ask(cluster)
    create(cluster, credentials)
    assert list(listed(cluster, credentials)) == ["app"]


def test_neither_the_password_nor_its_hash_is_in_a_log(cluster: Servers) -> None:
    let_ask(cluster)
    (secret,) = cluster.sql(COORDINATOR.host, "SELECT rolpassword FROM pg_authid WHERE rolname = 'pgbouncer'")[0]
    for node in (COORDINATOR, *WORKERS):
        logs = cluster.logs(node.host)
        assert PASSWORD not in logs
        assert str(secret).split("$")[-1] not in logs


# Whom it lets in


def test_a_new_role_works_at_once_and_others_do_not(
    cluster: Servers, credentials: CredentialStore, pooled: Bouncer
) -> None:
    with pooled.connect("app", password(credentials)) as conn:
        assert conn.pgconn.ssl_in_use
        assert conn.execute("SELECT current_user, count(*) FROM items GROUP BY 1").fetchone() == ("app", 100)
    with pooled.connect("app", password(credentials), sslmode="disable") as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
    refused = (
        ("app", "wrong", "postgres", "SASL authentication failed"),
        ("nobody", "wrong", "postgres", "no such user"),
        ("postgres", NASTY_PASSWORD, "postgres", "no such user"),
        ("pgbouncer", PASSWORD, "postgres", "login rejected"),
        ("app", password(credentials), "auth.citus-cluster", "login rejected"),
        ("app", password(credentials), "template1", "login rejected"),
        ("app", password(credentials), "pgbouncer", "not allowed"),
    )
    for user, secret, database, reason in refused:
        with pytest.raises(psycopg.OperationalError, match=reason):
            pooled.connect(user, secret, database)
    with pooled.connect("pgbouncer", PASSWORD, "pgbouncer") as console:
        for command in ("PAUSE", "SHUTDOWN", "KILL postgres", "SET max_client_conn = 1"):
            with pytest.raises(psycopg.Error, match="admin access needed"):
                console.execute(command.encode(), prepare=False)


@pytest.mark.usefixtures("only_newest")
def test_a_changed_password_counts_at_the_next_login(
    cluster: Servers, credentials: CredentialStore, pooled: Bouncer
) -> None:
    before = password(credentials)
    with pooled.connect("app", before) as old:
        old.execute("SELECT 1")
        on(cluster, lambda conn: roles.set_password(conn, credentials, "app", ignore))
        assert old.execute("SELECT 1").fetchone() == (1,)
        with pooled.connect("app", password(credentials)) as new:
            assert new.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="SASL authentication failed"):
            pooled.connect("app", before)


def test_a_dropped_role_is_refused_also_where_it_is_connected(
    cluster: Servers, credentials: CredentialStore, pooled: Bouncer
) -> None:
    create(cluster, credentials, "leaver")
    secret = password_file(credentials, "leaver").read_text()
    with pooled.connect("leaver", secret) as conn:
        conn.execute("SELECT 1")
        with pytest.raises(RoleError, match="open sessions"):
            drop(cluster, credentials, "leaver")  # through PgBouncer, which keeps its connection
        drop(cluster, credentials, "leaver", disconnect=True)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        pooled.connect("leaver", secret)
    with pooled.connect("app", password(credentials)) as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


# What clients notice


@pytest.mark.usefixtures("only_newest")
def test_prepared_statements_work_on_whichever_connection_a_transaction_gets(
    credentials: CredentialStore, pooled: Bouncer
) -> None:
    secret = password(credentials)
    with (
        pooled.connect("app", secret, prepare_threshold=0) as one,
        pooled.connect("app", secret, prepare_threshold=0) as two,
    ):
        two.prepared_max = 2  # what is prepared beyond is closed again
        backends = set()
        for number in range(1, 30):
            with one.transaction():
                row = one.execute("SELECT id, pg_backend_pid() FROM items WHERE id = %s", [number]).fetchone()
                for form in range(4):
                    other = two.execute(
                        f"SELECT id, {form}, pg_backend_pid() FROM items WHERE id = %s".encode(), [number]
                    )
                    found = other.fetchone()
                    assert found and found[:2] == (number, form)
                    backends.add(found[2])
                assert row and row[0] == number
                backends.add(row[1])
            assert two.execute("SELECT id FROM items WHERE id = %s", [number]).fetchone() == (number,)
        assert len(backends) > 1


@pytest.mark.usefixtures("only_newest")
def test_a_search_path_stays_with_its_client_and_other_settings_do_not(
    credentials: CredentialStore, pooled: Bouncer
) -> None:
    secret = password(credentials)
    with pooled.connect("app", secret) as one, pooled.connect("app", secret) as two:
        one.execute("SET search_path = pg_catalog, public")
        for _ in range(5):
            assert two.execute("SHOW search_path").fetchone() == ('"$user", public',)
            assert one.execute("SHOW search_path").fetchone() == ("pg_catalog, public",)
        one.execute("SET statement_timeout = '77s'")
        assert two.execute("SHOW statement_timeout").fetchone() == ("77s",)  # docs/pooling.md says so


@pytest.mark.usefixtures("only_newest")
def test_a_client_beyond_the_limit_is_told_and_one_that_waits_is_seen(
    credentials: CredentialStore, pooled: Bouncer
) -> None:
    secret = password(credentials)
    clients = [pooled.connect("app", secret) for _ in range(POOL.max_clients)]
    try:
        with pytest.raises(psycopg.OperationalError, match="client connections exceeded"):
            pooled.connect("app", secret)
        assert pooled.health() == (0, "")
        full = asked(pooled)
        assert full.condition is Condition.DEGRADED
        assert "12 clients are connected" in str(full.reason)
        for busy in clients[: POOL.role_connections]:
            busy.execute("BEGIN")
        started = time.monotonic()
        clients[2].pgconn.send_query(b"SELECT 1")
        while not (found := asked(pooled)).figures["waiting_clients"]:
            assert time.monotonic() - started < 30
        assert found.figures["active_server_connections"] == POOL.role_connections
        (mine,) = (one for one in found.figures["pools"] if one["role"] == "app")  # type: ignore[attr-defined]
        assert (mine["clients"], mine["waiting_clients"]) == (12, 1)
        with pytest.raises(psycopg.Error, match="query_wait_timeout"):
            clients[3].execute("SELECT 1")
        for busy in clients[: POOL.role_connections]:
            busy.execute("COMMIT")
        assert clients[4].execute("SELECT 1").fetchone() == (1,)
    finally:
        for client in clients:
            client.close()


@pytest.mark.usefixtures("only_newest")
def test_one_busy_role_leaves_connections_to_another(
    cluster: Servers, credentials: CredentialStore, pooled: Bouncer
) -> None:
    create(cluster, credentials, "second")
    clients = [pooled.connect("app", password(credentials)) for _ in range(4)]
    try:
        for busy in clients[: POOL.role_connections]:
            busy.execute("BEGIN")
        clients[2].pgconn.send_query(b"SELECT 1")  # the pool of app is full, and waited for
        with pooled.connect("second", password_file(credentials, "second").read_text()) as other:
            assert other.execute("SELECT 1").fetchone() == (1,)
    finally:
        for client in clients:
            client.close()


@pytest.mark.usefixtures("only_newest")
def test_clients_wait_while_the_coordinator_restarts_and_find_it_at_another_address(
    cluster: Servers, credentials: CredentialStore, pooled: Bouncer, only_newest: None
) -> None:
    coordinator = cluster.containers[COORDINATOR.host]
    secret = password(credentials)
    pooled.write(replace(POOL, query_wait_s=60))
    conn = pooled.connect("app", secret, prepare_threshold=0)
    assert conn.execute("SELECT id FROM items WHERE id = %s", [7]).fetchone() == (7,)
    while conn_timeout(pooled) != "60":
        time.sleep(0.1)
    coordinator.stop(timeout=20)
    taker = cluster.engine.containers.run(
        IMAGE,
        entrypoint=["sleep", "120"],
        detach=True,
        network=cluster.network.name,
        name=f"{cluster.network.name}-taker",
    )
    try:
        coordinator.start()
        assert conn.execute("SELECT id FROM items WHERE id = %s", [8]).fetchone() == (8,)
        conn.close()
        with pooled.connect_patiently("app", secret) as again:
            assert again.execute("SELECT id FROM items WHERE id = %s", [9]).fetchone() == (9,)
    finally:
        taker.remove(force=True)
        cluster.wait(COORDINATOR.host)


def conn_timeout(made: Bouncer) -> str:
    with made.connect("pgbouncer", PASSWORD, "pgbouncer") as console:
        rows = console.execute("SHOW CONFIG", prepare=False).fetchall()
    return next(str(row[1]) for row in rows if row[0] == "query_wait_timeout")


@pytest.mark.usefixtures("only_newest")
def test_a_restart_lets_transactions_end_and_keeps_every_setting(credentials: CredentialStore, pooled: Bouncer) -> None:
    secret = password(credentials)
    conn = pooled.connect("app", secret)
    conn.execute("BEGIN")
    pooled.container.kill("SIGINT")
    assert conn.execute("SELECT count(*) FROM items").fetchone() == (100,)
    conn.execute("COMMIT")
    pooled.container.wait(timeout=30)
    conn.close()
    pooled.container.start()
    pooled.wait()
    with pooled.connect_patiently("app", secret) as again:
        assert again.execute("SELECT 1").fetchone() == (1,)
    assert asked(pooled).figures["max_clients"] == POOL.max_clients


# What it says of itself


@pytest.mark.usefixtures("only_newest")
def test_the_health_check_ends_in_time_and_leaves_nothing_behind(pooled: Bouncer) -> None:
    pooled.signal("STOP")
    try:
        assert pooled.health() == (1, "PgBouncer does not answer")
        # As the engine does on a busy machine: it ends the process that it started, and nothing below it.
        pooled.shell(f"{CHECK} & check=$!; sleep 1; kill -TERM $check; kill -KILL $check; wait $check")
    finally:
        pooled.signal("CONT")
    pooled.wait()
    deadline = time.monotonic() + 30
    while left := [process for process in pooled.processes() if "psql" in process or " Z" in process]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.usefixtures("only_newest")
def test_the_status_tells_clients_and_connections(credentials: CredentialStore, pooled: Bouncer) -> None:
    with pooled.connect("app", password(credentials)) as conn:
        conn.execute("BEGIN")
        found = asked(pooled)
        assert (found.condition, found.reason) == (Condition.OK, None)
        assert found.figures["active_server_connections"] == 1
        assert found.figures["max_server_connections"] == POOL.connections
        assert found.summary.startswith("1.26.1; 1 of 12 clients; 1 of 3 connections to the coordinator")


@pytest.mark.usefixtures("only_newest")
def test_the_status_says_why_there_is_none_and_finds_a_server_that_came_back(pooled: Bouncer) -> None:
    wrong = replace(pooled, password="guessed")
    assert asked(wrong).condition is Condition.DOWN
    assert "refuses the password" in str(asked(wrong).reason)

    async def across_a_restart() -> list[Condition]:
        client = probe_of(pooled)
        seen = [(await client.ask(5)).condition]
        pooled.container.pause()
        seen.append((await client.ask(0.5)).condition)
        pooled.container.unpause()
        seen.append((await client.ask(5)).condition)
        await client.close()
        return seen

    assert asyncio.run(across_a_restart()) == [Condition.OK, Condition.DOWN, Condition.OK]
    pooled.container.stop(timeout=10)
    pooled.container.reload()
