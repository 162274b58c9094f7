"""PgBouncer as the generator makes it; the tests build on each other.

What it may ask, whom it lets in, and what clients notice is in tests/integration/test_sql_pooling.py.
"""

import asyncio
import json
import resource
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from cluster_support import oldest_image, require_images
from generated_cluster import GeneratedCluster
from psycopg import sql
from waiting import eventually

from citus_cluster.operations.directory import load

pytestmark = pytest.mark.cluster

CLIENTS = 1000
LOGINS_AT_ONCE = 40
ROWS = 100


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_images("ghcr.io/cloudnative-pg/pgbouncer:1.26.1", "python:3.13-slim")
    made = GeneratedCluster(tmp_path_factory.mktemp("pgbouncer"), oldest_image())
    try:
        made.create("--services=citus,admin-api,pgbouncer", "--workers=1", "--yes")
        made.compose("up", "-d", "--wait")
        yield made
    finally:
        made.remove()


def pooled(one: GeneratedCluster, user: str = "shop", **options: Any) -> dict[str, Any]:
    """Return what a client connects with."""
    return {
        "host": "127.0.0.1",
        "port": one.pgbouncer_port,
        "user": user,
        "password": one.secret(f"roles/{user}_password"),
        "dbname": one.database,
        "autocommit": True,
        "connect_timeout": 60,
        **options,
    }


@contextmanager
def session(one: GeneratedCluster, user: str = "shop", **options: Any) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**pooled(one, user, **options)) as conn:
        yield conn


def serves(one: GeneratedCluster, user: str = "shop") -> bool:
    with suppress(psycopg.OperationalError), session(one, user) as conn:
        return conn.execute("SELECT count(*) FROM items").fetchone() == (ROWS,)
    return False


def companion(one: GeneratedCluster) -> dict[str, Any]:
    (found,) = one.cli("status", "--format=json", check=False).json()["companions"]
    assert isinstance(found, dict)
    return found


def inspect(one: GeneratedCluster, form: str) -> str:
    return one.docker("inspect", "--format", form, one.container("pgbouncer")).out.strip()


def settings(one: GeneratedCluster) -> dict[str, str]:
    with psycopg.connect(
        **pooled(one, dbname="pgbouncer") | {"user": "pgbouncer", "password": one.secret("pgbouncer_password")}
    ) as console:
        return {str(row[0]): str(row[1]) for row in console.execute("SHOW CONFIG", prepare=False)}


def test_plain_docker_compose_is_enough_and_a_new_role_works_at_once(one: GeneratedCluster) -> None:
    def may_ask() -> bool:
        function = "SELECT to_regprocedure('citus_cluster.pgbouncer_secret(text)') IS NOT NULL"
        return len(one.active_workers()) == 1 and one.sql(function) == [(True,)]

    eventually(may_ask, "the admin API registers the worker and makes PgBouncer's role")
    one.sql("CREATE TABLE items (id int PRIMARY KEY)")
    one.sql("SELECT create_distributed_table('items', 'id', shard_count => 4)")
    one.sql(f"INSERT INTO items SELECT generate_series(1, {ROWS})")
    one.cli("roles", "create", "shop")
    with session(one, prepare_threshold=0) as conn:
        assert [conn.execute("SELECT id FROM items WHERE id = %s", [n]).fetchone() for n in (1, 2)] == [(1,), (2,)]
    with pytest.raises(psycopg.OperationalError, match="SASL authentication failed"):
        psycopg.connect(**pooled(one, password="guessed"))


def test_status_and_the_api_show_it(one: GeneratedCluster) -> None:
    found = companion(one)
    assert (found["condition"], found["max_clients"]) == ("ok", CLIENTS)
    request = urllib.request.Request(f"http://127.0.0.1:{one.admin_port}/api/v1/services")
    request.add_header("Authorization", f"Bearer {one.secret('admin_api_read_token')}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        (shown,) = json.load(answer)["companions"]
    assert (shown["service"], shown["condition"], shown["max_clients"]) == ("pgbouncer", "ok", CLIENTS)
    password = one.secret("pgbouncer_password")
    told = one.docker("inspect", one.container("pgbouncer")).text + one.docker("logs", one.container("pgbouncer")).text
    assert password not in told


def test_a_thousand_clients_share_the_coordinators_connections(one: GeneratedCluster) -> None:
    # The same password with a cheap hash: a client spends most of a login on the default of 4,096 rounds.
    with one.connect() as conn:
        conn.execute("SET scram_iterations = 1")
        conn.execute(sql.SQL("ALTER ROLE shop PASSWORD {}").format(one.secret("roles/shop_password")))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * CLIENTS)), hard))
    given = pooled(one, sslmode="disable")

    async def together() -> set[int]:
        places = asyncio.Semaphore(LOGINS_AT_ONCE)

        async def open_one() -> psycopg.AsyncConnection[Any]:
            async with places:
                return await psycopg.AsyncConnection.connect(**given)

        async def backend_of(conn: psycopg.AsyncConnection[Any], number: int) -> int:
            cursor = await conn.execute("SELECT id, pg_backend_pid() FROM items WHERE id = %s", [number % ROWS + 1])
            row = await cursor.fetchone()
            assert row and row[0] == number % ROWS + 1
            return int(row[1])

        clients = await asyncio.gather(*(open_one() for _ in range(CLIENTS)))
        try:
            with pytest.raises(psycopg.OperationalError, match="client connections exceeded"):
                await open_one()
            found = await asyncio.to_thread(companion, one)
            assert found["clients"] == CLIENTS
            assert found["reason"].startswith(f"{CLIENTS} clients are connected, and PgBouncer accepts no more")
            return set(await asyncio.gather(*(backend_of(conn, number) for number, conn in enumerate(clients))))
        finally:
            await asyncio.gather(*(conn.close() for conn in clients))

    backends = asyncio.run(together())
    coordinator = load(one.root).topology.service("citus-coordinator")
    most = next(int(setting.value) for setting in coordinator.settings if setting.name == "max_connections")
    assert 1 < len(backends) <= companion(one)["max_server_connections"] < most


def test_it_comes_back_after_a_crash_with_the_same_settings(one: GeneratedCluster) -> None:
    before, started = settings(one), inspect(one, "{{.State.StartedAt}}")
    kill = 'for one in /proc/[0-9]*; do [ "$(cat $one/comm)" != pgbouncer ] || kill -KILL ${one#/proc/}; done'
    one.docker("exec", one.container("pgbouncer"), "sh", "-c", kill, check=False)
    eventually(lambda: inspect(one, "{{.State.StartedAt}}") != started, "the engine starts it again")
    eventually(lambda: serves(one), "PgBouncer serves clients again")
    assert settings(one) == before


def test_a_query_waits_while_the_coordinator_restarts(one: GeneratedCluster) -> None:
    with session(one) as conn, ThreadPoolExecutor() as pool:
        one.compose("stop", "citus-coordinator")
        query = pool.submit(lambda: conn.execute("SELECT count(*) FROM items").fetchone())
        eventually(lambda: companion(one)["waiting_clients"] == 1, "the status shows that a client waits")
        one.compose("start", "citus-coordinator")
        assert query.result(timeout=60) == (ROWS,)
    eventually(lambda: serves(one), "PgBouncer lets clients in again")


def test_it_can_be_left_out_and_taken_back(one: GeneratedCluster) -> None:
    password = one.secret("pgbouncer_password")
    one.setup("--services=citus", "--yes", "--up")
    assert inspect(one, "{{.State.Status}}") == "exited"
    assert one.cli("status", "--format=json").json()["companions"] == []
    one.sql("DROP FUNCTION citus_cluster.pgbouncer_secret(text)")
    port = one.pgbouncer_port + 1
    one.setup("--services=citus,pgbouncer", f"--pgbouncer-port={port}", "--yes")
    one.compose("up", "-d", "--wait")
    assert one.secret("pgbouncer_password") == password
    # Without the admin API, nobody makes what is missing.
    found = one.cli("status", "--format=json", check=False).json()
    (problem,) = found["problems"]
    assert problem.startswith("pgbouncer: function citus_cluster.pgbouncer_secret(text) is missing")
    assert "run citus-cluster up" in problem
    assert (found["state"], found["companions"][0]["condition"]) == ("degraded", "degraded")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**pooled(one, port=port))
    assert one.cli("up", "--format=json").json()["changed"] == []
    assert companion(one)["condition"] == "ok"
    with psycopg.connect(**pooled(one, port=port)) as conn:
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (ROWS,)
