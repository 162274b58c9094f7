"""The API on a real cluster: registration, workers, rebalance, and a coordinator that goes and comes back."""

import asyncio
import itertools
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import psycopg
import pytest
from answer_examples import Examples, differences, write_examples
from api_support import Api, ApiFiles, serve
from cluster_support import oldest_image, require_engine
from docker.models.containers import Container
from fake_servers import fake_postgres
from prometheus_client.parser import text_string_to_metric_families
from random_requests import check, operations_of
from sql_servers import COORDINATOR, NASTY_PASSWORD, WORKERS, Servers, encryption_of
from waiting import eventually

from admin_api import reconciler
from admin_api.app import create_app
from admin_api.configuration import Configuration
from admin_api.coordinator import Coordinator, Shared
from admin_api.examples import read_examples
from admin_api.routes import health
from admin_api.settings import APPLICATION_NAME, MAX_CONNECTIONS
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.disks import Disk
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

PASSWORD = NASTY_PASSWORD
FIRST, SECOND, THIRD = WORKERS


@dataclass
class Cluster:
    """A coordinator and workers that know nothing of each other, and the API's files for them."""

    servers: Servers
    files: ApiFiles

    @property
    def port(self) -> int:
        return self.servers.ports[COORDINATOR.host]

    @property
    def containers(self) -> dict[str, Container]:
        return self.servers.containers

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """Connect to the coordinator; each statement is its own transaction."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", password=PASSWORD, autocommit=True, connect_timeout=5
        )

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement on the coordinator, as an operator would by hand."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def answers(self) -> bool:
        try:
            return self.sql("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def want(self, *workers: NodeAddress) -> None:
        """Write the desired workers, as the generator does."""
        here = NodeAddress("127.0.0.1", self.port)
        self.files.write_cluster(ApiConfig("citus", "postgres", "postgres", here, COORDINATOR, workers))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    engine, image = require_engine(), oldest_image()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    network = engine.networks.create(f"citus-api-test-{os.getpid()}-{secrets.token_hex(3)}")
    servers = Servers(engine, image, network, ports={COORDINATOR.host: port})
    here = ApiConfig("citus", "postgres", "postgres", NodeAddress("127.0.0.1", port), COORDINATOR)
    files = ApiFiles.write(tmp_path_factory.mktemp("api"), here, password=PASSWORD + "\n")
    try:
        servers.start_all(*(node.host for node in (COORDINATOR, FIRST, SECOND, THIRD)), wait=False)
        yield Cluster(servers, files)
    finally:
        servers.remove()


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Api]:
    """One API for the module: it starts before the coordinator answers, and outlives its restarts."""
    cluster.want(FIRST, SECOND)
    with serve(create_app(cluster.files.settings())) as running:
        yield running


def healthy(api: Api) -> Callable[[], bool]:
    return lambda: api.client.get("/health").status_code == 200


def unhealthy(api: Api) -> Callable[[], bool]:
    """The same answer is good for a second."""
    return lambda: api.client.get("/health").status_code == 503


def active(api: Api) -> list[tuple[str, int]]:
    response = api.client.get("/api/v1/nodes/active", headers=api.read)
    assert response.status_code == 200, response.text
    return [(row["node_name"], row["node_port"]) for row in response.json()]


def test_desired_workers_are_registered_by_themselves(cluster: Cluster, api: Api) -> None:
    eventually(healthy(api), timeout_s=120)
    body = api.client.get("/health").json()
    assert (body["status"], body["reason"]) == ("ok", None)
    assert body["workers"] == {"desired": 2, "registered": 2, "pending": [], "withdrawn": [], "unwell": []}
    assert active(api) == [(FIRST.host, 5432), (SECOND.host, 5432)]


def test_health_tells_of_disks_that_fill_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "own_disk", lambda: Disk("admin-api", 10**12, 10**11))
    response = api.client.get("/health")
    body = response.json()
    assert (response.status_code, body["status"]) == (200, "ok")
    assert any("admin-api is 90 % full" in warning for warning in body["warnings"])

    monkeypatch.setattr(health, "own_disk", lambda: Disk("admin-api", 10**12, 4 * 10**10))
    response = api.client.get("/health")
    body = response.json()
    assert (response.status_code, body["status"]) == (200, "degraded")
    assert "admin-api is 96 % full" in body["reason"]


def test_every_node_is_asked_for_its_disk(cluster: Cluster, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes on this machine's own disk are left out, which is measured more exactly: here another size is its."""
    monkeypatch.setattr(reconciler, "disk_usage", lambda path: SimpleNamespace(total=1))
    eventually(healthy(api))
    app = create_app(cluster.files.settings(disk_interval_s=0))
    with serve(app):
        parts = app.state.parts
        wanted = {str(node) for node in (COORDINATOR, FIRST, SECOND)}
        eventually(lambda: wanted <= {disk.holder for disk in parts.reconciler.disks})
        for disk in parts.reconciler.disks:
            assert 0 < disk.available_bytes < disk.total_bytes


def test_active_nodes_are_the_rows_of_the_function(cluster: Cluster, api: Api) -> None:
    rows = cluster.sql("SELECT node_name, node_port FROM citus_get_active_worker_nodes() ORDER BY 1, 2")
    response = api.client.get("/api/v1/nodes/active", headers=api.read)
    assert response.json() == [{"node_name": name, "node_port": port} for name, port in rows]


def test_who_waits_at_the_same_time_shares_one_question_that_begins_afterwards(cluster: Cluster, api: Api) -> None:
    settings = cluster.files.settings()
    numbers = itertools.count(1)
    begun: asyncio.Queue[int] = asyncio.Queue()

    async def work(connection: Connection) -> int:
        number = next(numbers)
        begun.put_nowait(number)
        await connection.execute("SELECT pg_sleep(0.5)")
        return number

    async def scenario() -> None:
        coordinator = Coordinator(settings, Configuration(settings))
        shared = Shared(coordinator, work, timeout_s=20)
        try:
            assert await asyncio.gather(*(shared.answer() for _ in range(20))) == [1] * 20
            assert await begun.get() == 1
            early = []
            for number in (2, 3, 4):
                early.append(asyncio.create_task(shared.answer()))
                assert await begun.get() == number
            late = [asyncio.create_task(shared.answer()) for _ in range(10)]
            await asyncio.sleep(0)
            late[0].cancel()
            assert await asyncio.gather(*early) == [2, 3, 4]
            assert await asyncio.gather(*late[1:]) == [5] * 9
        finally:
            await coordinator.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_what_keeps_a_question_from_an_answer_reaches_all_and_the_next_one_is_asked_anew(
    cluster: Cluster, api: Api
) -> None:
    settings = cluster.files.settings()
    statement = "SELECT 1 / 0"

    async def work(connection: Connection) -> object:
        return await (await connection.execute(statement.encode())).fetchone()

    async def scenario() -> None:
        nonlocal statement
        coordinator = Coordinator(settings, Configuration(settings))
        shared = Shared(coordinator, work, timeout_s=20)
        try:
            answers = await asyncio.gather(*(shared.answer() for _ in range(3)), return_exceptions=True)
            assert [type(answer) for answer in answers] == [psycopg.errors.DivisionByZero] * 3
            statement = "SELECT 1"
            assert await shared.answer() == (1,)
        finally:
            await coordinator.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_connection_that_the_server_has_closed_is_not_used(cluster: Cluster, api: Api) -> None:
    assert active(api)
    closed = cluster.sql(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'"
    )
    assert closed
    assert len(active(api)) == 2


def test_before_any_rebalance_its_state_is_none(cluster: Cluster, api: Api) -> None:
    response = api.client.get("/api/v1/rebalance", headers=api.read)
    assert response.status_code == 200
    assert response.json()["state"] == "none"
    response = api.client.post("/api/v1/rebalance", headers=api.admin)
    assert (response.status_code, response.json()["result"]) == (200, {"job_id": None, "rebalance": None})
    registered, asked = cluster.files.journal()[0], cluster.files.journal()[-1]
    assert registered["operation"] == "register-workers"
    assert set(registered["outcome"]["workers"].values()) == {"added"}
    assert (asked["operation"], asked["result"], asked["outcome"]) == ("rebalance-start", "done", {"job_id": None})
    by = {"program": "admin-api", "request": "POST /api/v1/rebalance", "role": "admin", "name": "admin"}
    assert asked["by"].items() >= by.items()


def test_a_desired_worker_that_does_not_answer_is_named(cluster: Cluster, api: Api) -> None:
    cluster.want(FIRST, SECOND, NodeAddress("citus-worker9"))
    try:
        eventually(lambda: "cannot resolve the host name 'citus-worker9'" in reason(api))
        body = api.client.get("/health").json()
        assert body["status"] == "degraded"
        assert [node["host"] for node in body["workers"]["pending"]] == ["citus-worker9"]
        assert PASSWORD not in str(body)
        # It holds no shards, so queries do not need it.
        assert api.client.get("/health/ready").status_code == 200
    finally:
        cluster.want(FIRST, SECOND)
    eventually(healthy(api))


def figures(api: Api) -> dict[tuple[str, str], float]:
    """Scrape once: the value of each series of the cluster, by name and the value of its label, empty without one."""
    response = api.client.get("/metrics", headers=api.read)
    assert response.status_code == 200, response.text
    return {
        (one.name.removeprefix("citus_cluster_"), " ".join(text for _, text in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(response.text)
        for one in family.samples
        if one.name.startswith("citus_cluster_")
    }


def test_metrics_show_what_the_nodes_report(cluster: Cluster, api: Api) -> None:
    eventually(healthy(api))
    cluster.sql("CREATE TABLE measured (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_distributed_table('measured', 'id', shard_count => 4)")
    cluster.sql("CREATE TABLE everywhere (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_reference_table('everywhere')")
    workers = ("citus-worker1:5432", "citus-worker2:5432")
    with psycopg.connect(
        host="127.0.0.1", port=cluster.port, user="postgres", password=PASSWORD, autocommit=True
    ) as session:
        session.execute("BEGIN")
        session.execute("CREATE TABLE promised (id int)")
        session.execute("PREPARE TRANSACTION 'forgotten'")
    cluster.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
    try:
        with serve(create_app(cluster.files.settings(sample_interval_s=0.3, shards_interval_s=0.3))) as scraped:
            eventually(healthy(scraped))
            eventually(lambda: figures(scraped).get(("node_shards", workers[0])) == 2)
            found = figures(scraped)
            assert found[("coordinator_up", "")] == 1
            assert [found[("nodes", state)] for state in ("known", "active", "answering")] == [3, 3, 3]
            assert [found[("node_up", f"{node} worker")] for node in workers] == [1, 1]
            assert found[("node_up", "citus-coordinator:5432 coordinator")] == 1
            assert [found[("node_metadata_synced", node)] for node in ("citus-coordinator:5432", *workers)] == [1, 1, 1]
            assert [found[("node_shards", node)] for node in workers] == [2, 2]
            assert found[("node_shard_bytes", workers[0])] >= 2 * 8192
            assert found[("tables", "reference")] >= 1
            assert found[("node_connections_limit", workers[0])] == 60
            assert 1 <= found[("node_connections", "external citus-coordinator:5432")] < 60
            assert found[("node_prepared_transactions", "citus-coordinator:5432")] == 1
            assert found[("node_oldest_prepared_transaction_age_seconds", "citus-coordinator:5432")] > 0
            assert found[("node_oldest_prepared_transaction_age_seconds", workers[0])] == 0
            assert found[("node_replication_slots", "citus-coordinator:5432 inactive")] == 1
            assert found[("cleanup_records", "")] >= 0
            assert found[("disk_size_bytes", workers[0])] > found[("disk_available_bytes", workers[0])] > 0
            assert found[("rebalance_active", "")] == 0
            assert ("node_client_connections_limit", workers[0]) not in found
            assert not [key for key in found if key[0].startswith("tenant_")]
            cluster.sql("ALTER SYSTEM SET citus.stat_tenants_track = 'all'")
            cluster.sql("SELECT pg_reload_conf()")
            eventually(lambda: figures(scraped).get(("tenant_period_seconds", "")) == 60)
    finally:
        cluster.sql("ALTER SYSTEM RESET citus.stat_tenants_track")
        cluster.sql("SELECT pg_reload_conf()")
        cluster.sql("ROLLBACK PREPARED 'forgotten'")
        cluster.sql("SELECT pg_drop_replication_slot('forgotten')")
        cluster.sql("DROP TABLE measured, everywhere")


def test_ten_scrapers_cost_the_database_no_more_than_one(cluster: Cluster) -> None:
    with serve(create_app(cluster.files.settings(sample_interval_s=5))) as api:
        eventually(healthy(api))
        first = figures(api)[("sample_rounds_total", "")]
        with ThreadPoolExecutor(max_workers=10) as pool:
            rounds = [one[("sample_rounds_total", "")] for one in pool.map(lambda _: figures(api), range(100))]
        # A busy machine may take longer than one interval for a hundred scrapes; without the sampler, there were 100.
        assert first <= min(rounds) and max(rounds) < first + 20
        sessions = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'"
        ((count,),) = cluster.sql(sessions)
        assert isinstance(count, int) and count <= 2 * (MAX_CONNECTIONS + 2)


def test_a_paused_worker_delays_no_scrape_and_is_shown(cluster: Cluster) -> None:
    with serve(create_app(cluster.files.settings(sample_interval_s=0.3))) as api:
        eventually(lambda: figures(api).get(("node_up", "citus-worker2:5432 worker")) == 1)
        with cluster.servers.paused(SECOND.host):
            eventually(lambda: figures(api).get(("node_up", "citus-worker2:5432 worker")) == 0)
            found = figures(api)
            assert found[("nodes", "answering")] == 2
            assert found[("node_up", "citus-worker1:5432 worker")] == 1
            # What a silent node would report is unknown; what the catalog holds is not.
            assert ("node_connections_limit", "citus-worker2:5432") not in found
            assert ("node_shards", "citus-worker2:5432") in found
        eventually(lambda: figures(api).get(("node_up", "citus-worker2:5432 worker")) == 1)
        with cluster.servers.paused(COORDINATOR.host):
            eventually(lambda: figures(api).get(("coordinator_up", "")) == 0)
            # The last figures are still there, and their age is shown.
            found = figures(api)
            assert found[("node_up", "citus-worker1:5432 worker")] == 1
            assert found[("sample_age_seconds", "nodes")] > 0
            assert found[("sample_failures_total", "nodes")] >= 1
        eventually(lambda: figures(api).get(("coordinator_up", "")) == 1)


def test_a_silent_node_is_named_by_health_and_services(cluster: Cluster, api: Api) -> None:
    eventually(healthy(api))
    worker = cluster.containers[SECOND.host]
    worker.pause()
    try:
        eventually(lambda: api.client.get("/health").status_code == 503)
        body = api.client.get("/health").json()
        assert body["status"] == "degraded"
        assert "citus-worker2:5432 does not answer" in body["reason"]
        ready = api.client.get("/health/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "citus-worker2:5432 does not answer" in ready.json()["reason"]
        assert api.client.get("/health/live").status_code == 200
        (line,) = body["workers"]["unwell"]
        assert "citus-worker2:5432" in line
        citus = api.client.get("/api/v1/services", headers=api.read).json()["citus"]
        assert citus["condition"] == "degraded" and "citus-worker2" in citus["reason"]
    finally:
        worker.unpause()
    eventually(healthy(api))


def test_a_library_that_does_not_fit_the_extension_is_named(cluster: Cluster, api: Api) -> None:
    """The catalog alone is changed, so that Citus refuses as it does after an image was replaced."""
    eventually(healthy(api))
    catalog = "SET allow_system_table_mods = on; UPDATE pg_extension SET extversion = '{}' WHERE extname = 'citus'"
    ((version,),) = cluster.sql("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
    cluster.sql(catalog.format("11.0-1"))
    try:
        eventually(lambda: "loaded Citus library version differs" in reason(api))
        assert api.client.get("/health/ready").status_code == 503
        assert "citus-cluster up" in reason(api) and "citus-coordinator:5432" in reason(api)
        citus = api.client.get("/api/v1/services", headers=api.read).json()["citus"]
        assert citus["condition"] == "degraded"
    finally:
        cluster.sql(catalog.format(version))
    eventually(healthy(api))


def test_lost_shards_are_named(cluster: Cluster, api: Api) -> None:
    eventually(healthy(api))
    cluster.sql("CREATE TABLE lost (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_distributed_table('lost', 'id', shard_count => 4)")
    query = (
        "SELECT shardid FROM citus_shards WHERE nodename = 'citus-worker1' AND table_name = 'lost'::regclass LIMIT 1"
    )
    ((shard_id,),) = cluster.sql(query)
    worker = cluster.containers[FIRST.host]
    statements = ("SET citus.enable_manual_changes_to_shards = on", f"DROP TABLE lost_{shard_id}")
    status, output = worker.exec_run(["psql", "-U", "postgres", "-c", statements[0], "-c", statements[1]])
    assert status == 0, output
    # A pause shows at once what is gone; else it is looked for every minute.
    worker.pause()
    try:
        eventually(lambda: api.client.get("/health").status_code == 503)
    finally:
        worker.unpause()
    eventually(lambda: f"does not exist: lost ({shard_id})" in reason(api))
    cluster.sql("DROP TABLE lost")
    eventually(healthy(api))


def reason(api: Api) -> str:
    return str(api.client.get("/health").json()["reason"])


def test_a_worker_is_added_once(cluster: Cluster, api: Api) -> None:
    response = api.client.post("/api/v1/nodes", headers=api.admin, json={"host": THIRD.host, "port": 5432})
    assert response.status_code == 201, response.text
    added = {"host": THIRD.host, "port": 5432, "outcome": "added", "reason": None}
    assert (response.json()["state"], response.json()["result"]["node"]) == ("done", added)
    response = api.client.post("/api/v1/nodes", headers=api.admin, json={"host": THIRD.host})
    assert (response.status_code, response.json()["result"]["node"]["outcome"]) == (200, "already")
    assert (THIRD.host, 5432) in active(api)


def test_workers_that_cannot_join_are_refused(cluster: Cluster, api: Api) -> None:
    unknown = {"host": "citus-worker9"}
    response = api.client.post("/api/v1/nodes", headers=api.admin, json=unknown)
    assert (response.status_code, response.json()["code"]) == (502, "worker-unreachable"), response.text
    assert response.headers["content-type"] == "application/problem+json"
    # The coordinator under another of its names is no worker.
    address = cluster.servers.ip_address(COORDINATOR.host)
    response = api.client.post("/api/v1/nodes", headers=api.admin, json={"host": address})
    assert (response.status_code, response.json()["code"]) == (409, "version-mismatch"), response.text


def test_a_server_that_wants_the_password_in_clear_does_not_get_it(cluster: Cluster, api: Api, tmp_path: Path) -> None:
    encryption = encryption_of(cluster.containers[COORDINATOR.host], tmp_path)
    with fake_postgres(host=cluster.servers.gateway, encryption=encryption) as thief:
        body = {"host": thief.host, "port": thief.port}
        response = api.client.post("/api/v1/nodes", headers=api.admin, json=body)
    assert (response.status_code, response.json()["code"]) == (503, "untrusted-server"), response.text
    assert "so the password was not sent" in response.json()["detail"]
    assert thief.greetings
    assert thief.loot == b""


def test_what_an_operator_removed_stays_removed_until_it_is_added(cluster: Cluster, api: Api) -> None:
    cluster.want(FIRST, SECOND, THIRD)
    eventually(lambda: api.client.get("/health").json()["workers"]["registered"] == 3)
    cluster.sql(f"SELECT citus_remove_node('{THIRD.host}', 5432)")
    eventually(lambda: len(api.client.get("/health").json()["workers"]["withdrawn"]) == 1)
    assert healthy(api)()
    assert (THIRD.host, 5432) not in active(api)
    response = api.client.post("/api/v1/nodes", headers=api.admin, json={"host": THIRD.host})
    assert response.status_code == 201, response.text
    eventually(lambda: api.client.get("/health").json()["workers"]["registered"] == 3)


def test_a_rebalance_moves_shards_to_a_new_worker(cluster: Cluster, api: Api) -> None:
    cluster.want(FIRST, SECOND)
    cluster.sql(f"SELECT citus_remove_node('{THIRD.host}', 5432)")
    cluster.sql("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
    cluster.sql("SELECT create_distributed_table('orders', 'id', shard_count => 6)")
    cluster.sql("INSERT INTO orders SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n")
    assert api.client.post("/api/v1/nodes", headers=api.admin, json={"host": THIRD.host}).status_code == 201
    body = {"strategy": "by_shard_count", "mode": "auto", "online": True, "drain_only": False}
    response = api.client.post("/api/v1/rebalance", headers=api.admin, json=body)
    assert response.status_code == 202, response.text
    job_id = response.json()["result"]["job_id"]
    assert response.headers["location"] == "/api/v1/rebalance"
    again = api.client.post("/api/v1/rebalance", headers=api.admin, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "rebalance-running"), again.text
    assert again.json()["operation"] == "/api/v1/rebalance"
    modes = f"SELECT bool_and(command LIKE '%auto%') FROM pg_dist_background_task WHERE job_id = {job_id}"
    assert cluster.sql(modes) == [(True,)]

    def finished() -> bool:
        status = api.client.get(response.headers["location"], headers=api.read).json()
        assert status["job_id"] == job_id
        assert status["state"] in {"scheduled", "running", "finished"}, status
        return bool(status["state"] == "finished")

    eventually(finished, timeout_s=120)
    placed = cluster.sql("SELECT nodename, count(*) FROM citus_shards GROUP BY 1 ORDER BY 1")
    assert placed == [(FIRST.host, 2), (SECOND.host, 2), (THIRD.host, 2)]
    assert cluster.sql("SELECT count(*) FROM orders") == [(20000,)]
    nothing = api.client.post("/api/v1/rebalance", headers=api.admin, json=body)
    assert (nothing.status_code, nothing.json()["result"]["job_id"]) == (200, None)


def test_an_unknown_strategy_is_refused(cluster: Cluster, api: Api) -> None:
    response = api.client.post("/api/v1/rebalance", headers=api.admin, json={"strategy": "by_wish"})
    assert response.status_code == 422, response.text
    assert "by_wish" in response.json()["detail"]


def test_it_recovers_when_the_coordinator_comes_back(cluster: Cluster, api: Api) -> None:
    coordinator = cluster.containers[COORDINATOR.host]
    coordinator.stop(timeout=20)
    eventually(unhealthy(api))
    response = api.client.get("/health")
    assert (response.status_code, response.json()["status"]) == (503, "degraded")
    began = time.monotonic()
    response = api.client.get("/api/v1/nodes/active", headers=api.read)
    assert time.monotonic() - began < 6
    assert (response.status_code, response.json()["code"]) == (503, "unreachable")
    coordinator.start()
    eventually(healthy(api))
    assert len(active(api)) == 3


def test_a_paused_coordinator_holds_nobody_up(cluster: Cluster, api: Api) -> None:
    coordinator = cluster.containers[COORDINATOR.host]
    coordinator.pause()
    try:
        eventually(unhealthy(api))
        # More than there are connections: each must be answered, also when all of them hang.
        for _ in range(6):
            began = time.monotonic()
            assert api.client.get("/health").status_code == 503
            assert time.monotonic() - began < 4
        began = time.monotonic()
        assert api.client.get("/api/v1/nodes/active", headers=api.read).status_code in {503, 504}
        assert time.monotonic() - began < 20
        # It must be able to stop at any time, too.
        with serve(create_app(replace(cluster.files.settings(), connect_timeout_s=1))) as other:
            assert other.client.get("/health").status_code == 503
    finally:
        coordinator.unpause()
    eventually(healthy(api))
    assert len(active(api)) == 3


async def ask_many(api: Api, paths: Sequence[str], count: int, *, at_once: int = 50) -> Counter[tuple[str, int]]:
    """Send so many requests, each over a connection of its own; give how many of each path had which status.

    httpx needs minutes for a crowd, since its pool looks at all that wait whenever one ends.
    """
    turns = asyncio.Semaphore(at_once)

    async def ask(path: str) -> tuple[str, int]:
        # /health is asked as everybody may.
        token = api.read["Authorization"] if path.startswith("/api") else "none"
        head = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: {token}\r\n\r\n"
        async with turns, asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
            writer.write(head.encode())
            answer = await reader.read()
            writer.close()
        return path, int(answer.split()[1])

    return Counter(await asyncio.gather(*(ask(path) for path in itertools.islice(itertools.cycle(paths), count))))


def test_a_crowd_costs_the_coordinator_little_and_holds_nobody_up(cluster: Cluster, api: Api) -> None:
    cluster.want(FIRST, SECOND)
    eventually(healthy(api))
    paths = ["/health", "/health", "/api/v1/services", "/api/v1/nodes/active"]
    seen = asyncio.run(ask_many(api, paths, 1200, at_once=300))
    assert {status for _, status in seen} == {200}, seen
    sessions = cluster.sql(f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}'")
    # The reconciler has one of its own.
    assert len(sessions) <= MAX_CONNECTIONS + 1


def test_calls_that_race_each_other_fail_none_of_them(cluster: Cluster, api: Api) -> None:
    """Registrations, rebalances and questions at once: each is done, or refused with the reason."""
    cluster.want(FIRST, SECOND)
    eventually(healthy(api))
    calls: list[tuple[str, str, dict[str, object] | None]] = [
        ("GET", "/health", None),
        ("POST", "/api/v1/nodes", {"host": THIRD.host}),
        ("GET", "/api/v1/nodes/active", None),
        ("POST", "/api/v1/rebalance", {"strategy": "by_shard_count"}),
        ("GET", "/api/v1/rebalance", None),
        ("POST", "/api/v1/nodes", {"host": SECOND.host, "port": 5432}),
        ("GET", "/api/v1/services", None),
        ("POST", "/api/v1/rebalance", {"strategy": "by_wish"}),
    ]

    def call(number: int) -> tuple[str, str, int]:
        method, path, body = calls[number % len(calls)]
        with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=90, trust_env=False) as client:
            return method, path, client.request(method, path, json=body, headers=api.admin).status_code

    with ThreadPoolExecutor(max_workers=20) as pool:
        seen = Counter(pool.map(call, range(200)))
    assert max(status for _, _, status in seen) < 500, seen
    assert sum(seen.values()) == 200
    eventually(lambda: api.client.get("/api/v1/rebalance", headers=api.read).json()["state"] in {"none", "finished"})
    eventually(healthy(api))
    assert len(active(api)) == 3
    held = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()"
    waiting = f"SELECT pid FROM pg_stat_activity WHERE application_name = '{APPLICATION_NAME}' AND state <> 'idle'"
    eventually(lambda: not cluster.sql(waiting) and not cluster.sql(held))


@pytest.mark.parametrize("way", ["stop", "pause"])
def test_many_requests_during_an_outage_do_not_outlast_it(cluster: Cluster, way: str) -> None:
    """Times are a thousandth of those of a real outage of ten minutes: whatever gives up at some time has done so."""
    cluster.want(FIRST, SECOND)
    coordinator = cluster.containers[COORDINATOR.host]
    settings = cluster.files.settings(connect_timeout_s=0.5, health_timeout_s=0.5, request_timeout_s=0.8)
    with serve(create_app(settings)) as api:
        eventually(healthy(api))
        before = active(api)
        if way == "stop":
            coordinator.stop(timeout=20)
        else:
            coordinator.pause()
        try:
            eventually(unhealthy(api))
            seen = asyncio.run(ask_many(api, ["/health", "/api/v1/nodes/active", "/api/v1/services"], 500))
            assert {status for path, status in seen if path != "/api/v1/services"} <= {503, 504}, seen
        finally:
            if way == "stop":
                coordinator.start()
            else:
                coordinator.unpause()
        eventually(cluster.answers)
        eventually(healthy(api), timeout_s=15)
        assert active(api) == before


def test_a_refused_password_is_named_and_not_repeated(cluster: Cluster, api: Api, tmp_path: Path) -> None:
    here = ApiConfig("citus", "postgres", "postgres", NodeAddress("127.0.0.1", cluster.port), COORDINATOR)
    files = ApiFiles.write(tmp_path, here, password="not-the-password")
    with serve(create_app(files.settings())) as other:
        response = other.client.get("/api/v1/nodes/active", headers=other.read)
        assert (response.status_code, response.json()["code"]) == (503, "authentication-failed")
        health = other.client.get("/health")
        assert health.status_code == 503
        assert "refused the password" in health.json()["reason"]
        assert "not-the-password" not in response.text + health.text


def test_the_read_token_changes_nothing(cluster: Cluster, api: Api) -> None:
    assert api.client.post("/api/v1/nodes", headers=api.read, json={"host": THIRD.host}).status_code == 403
    assert api.client.post("/api/v1/rebalance", headers=api.read).status_code == 403
    assert api.client.get("/api/v1/rebalance", headers=api.read).status_code == 200


def test_the_examples_of_answers_are_what_the_api_answers(
    cluster: Cluster, api: Api, request: pytest.FixtureRequest
) -> None:
    """``--update-golden`` writes them anew."""
    cluster.want(FIRST, SECOND)
    eventually(healthy(api), timeout_s=120)
    found = Examples(api, cluster.connect).record()
    if request.config.getoption("--update-golden"):
        write_examples(found)
    assert not differences(read_examples(), found)


def test_random_requests_cause_no_defect(cluster: Cluster, api: Api) -> None:
    """The last test of the module: its changes are real, too."""
    eventually(healthy(api), timeout_s=120)
    cluster.sql("CREATE TABLE IF NOT EXISTS random_requests (id bigint PRIMARY KEY, value text)")
    statuses: set[int] = set()
    for operation in operations_of(api):
        has_plan = any(one.name == "dry_run" for one in operation.query)
        if has_plan:
            statuses |= check(api, operation, 10, dry_run="true")
        statuses |= check(api, operation, 5 if has_plan else 10)
    assert {200, 404, 422} <= statuses
    assert statuses <= {200, 201, 202, 204, 304, 400, 404, 405, 406, 409, 413, 415, 422, 429, 502, 503, 504}
