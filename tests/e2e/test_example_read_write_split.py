"""The read/write split example on real servers: the pair, Redis and Cassandra. The tests build on each other."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cluster_support import require_images
from console_blocks import check_console_blocks
from generated_cluster import ROOT, GeneratedCluster
from pair_support import PRIMARY, REPLICA, Pair
from read_write_split.list_cache import ListCache, Page
from read_write_split.positions import Position
from read_write_split.rate_limit import Allowance, RateLimit
from read_write_split.redis_link import RedisLink
from read_write_split.settings import NAME, Server
from service_kit.cluster import Address
from waiting import eventually

from bench.measure import free_base_port
from citus_cluster.errors import RoleError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.directory import load
from citus_cluster.operations.start.preparation import make_accounts_of

pytestmark = pytest.mark.cluster

FOLDER = ROOT / "examples/read_write_split"
BOUND_S = 8.0
"""Five seconds, and what a busy machine adds."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The stack; Cassandra is still starting."""
    require_images("postgres:14", "redis:7", "cassandra:5")
    # No Citus runs here, so that its image need not be on the engine.
    cluster = GeneratedCluster(tmp_path_factory.mktemp("stack"), "citusdata/citus:13.2.0")
    try:
        cluster.create("--services=pg14,redis,cassandra,example-replication", "--pg14-log=verbose", "--yes")
        cluster.compose("up", "-d", "cassandra")
        cluster.compose("up", "-d", "--wait", PRIMARY, REPLICA, "redis")
        make_accounts(cluster, ComponentName.PG14)
        yield Pair(cluster)
    finally:
        cluster.remove()


def make_accounts(cluster: GeneratedCluster, component: ComponentName) -> None:
    """Do the part of `citus-cluster up` that makes the accounts on one component."""
    asyncio.run(make_accounts_of(load(cluster.root), component, ignore))


@dataclass
class App:
    """A process of the service, and a client of it."""

    pair: Pair
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_base_port)

    @property
    def log_file(self) -> Path:
        return self.folder / "app.log"

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def environment(self) -> dict[str, str]:
        given = {"CLUSTER_DIR": str(self.pair.cluster.root), "LOG_FILE": str(self.log_file), "RATE_LIMIT": "0"}
        return {**os.environ, **given, **self.variables}

    def process(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(self.port), "--no-access-log"]
        with (self.folder / "console.log").open("wb") as console:
            return subprocess.Popen(command, cwd=FOLDER, env=self.environment(), stdout=console, stderr=console)

    @contextmanager
    def running(self) -> Iterator["App"]:
        process = self.process()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30) as self.client:
                console = (self.folder / "console.log").read_text
                eventually(lambda: self.client.get("/metrics").is_success, console, 30, ignoring=httpx.HTTPError)
                yield self
        finally:
            process.terminate()
            process.wait(30)

    def post(self, name: str = "Grace", **options: Any) -> httpx.Response:
        return self.client.post("/users", json={"name": name}, **options)

    def get(self, position: str | None = None, **options: Any) -> httpx.Response:
        headers = {"X-Commit-LSN": position} if position else {}
        return self.client.get("/users", headers=headers, **options)

    def ids(self, position: str | None = None) -> set[int]:
        answer = self.get(position)
        assert answer.status_code == 200, answer.text
        return {user["id"] for user in answer.json()}

    def read_from(self, position: str | None = None) -> str:
        return str(self.get(position).headers.get("X-Read-From"))

    def health(self) -> Any:
        return self.client.get("/health").json()


@pytest.fixture(scope="module")
def start(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., App]]:
    with ExitStack() as running:

        def make(**variables: str) -> App:
            return running.enter_context(App(pair, tmp_path_factory.mktemp("app"), variables).running())

        yield make


@pytest.fixture(scope="module")
def app(start: Callable[..., App]) -> App:
    """The service with everything but limits."""
    return start()


@pytest.fixture(scope="module")
def bare(app: App, start: Callable[..., App]) -> App:
    """The service as the documents have it: only the pair, and reads from the replica alone."""
    return start(REDIS="off", CASSANDRA="off", READ_FROM="standby", LOG_FORMAT="json")


def as_role(pair: Pair, service: str, statement: str) -> list[tuple[Any, ...]]:
    return pair.sql(service, statement, user=NAME, password=pair.cluster.secret(f"{NAME}_password"))


def test_the_start_fails_while_the_database_is_down(pair: Pair, tmp_path: Path) -> None:
    """C-23."""
    down = App(pair, tmp_path, {"PG14_PRIMARY": "127.0.0.1:1", "PG14_REPLICA": "127.0.0.1:1"})
    assert down.process().wait(60) != 0
    assert re.search(r"\[ERROR\] fastapi_app: The application cannot start: .*[Cc]onnection refused", down.log())


def test_the_pair_is_as_the_documents_say(pair: Pair) -> None:
    """C-04, C-06 to C-08, C-10, C-13, C-36, C-37; with passwords, and one port for each server inside its container."""
    logged = {
        "log_min_messages": "debug1",
        "log_line_prefix": "%m [%p] %u@%d ",
        "log_connections": "on",
        "log_disconnections": "on",
        "log_statement": "all",
    }
    for service in (PRIMARY, REPLICA):
        shown = {name: pair.value(service, f"SHOW {name}") for name in (*logged, "listen_addresses")}
        assert shown == {**logged, "listen_addresses": "*"}
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            pair.sql(service, "SELECT 1", password="bad")
        assert "accepting connections" in pair.inside(service, "pg_isready")
    assert pair.value(PRIMARY, "SHOW log_replication_commands") == "on"
    roles = "SELECT rolname, rolsuper, rolcanlogin, rolreplication FROM pg_roles WHERE rolcanlogin ORDER BY 1"
    assert [row for row in pair.sql(PRIMARY, roles) if row[0] != NAME] == [
        ("postgres", True, True, True),
        ("replicator", False, True, True),
    ]
    same = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"
    eventually(lambda: pair.value(REPLICA, same), "C-36: equal when idle")


def test_the_walk_through_of_the_documents(pair: Pair, app: App) -> None:
    """C-16, C-17, C-22, C-24 to C-26, C-28, C-31 to C-35, G-02, H-13."""
    for name in ("Bob", "Charlie", "Charlie", "Charlie", "Charlie", "Eve", "Frank"):
        as_role(pair, PRIMARY, f"INSERT INTO users (name) VALUES ('{name}')")
    created = app.post("Grace")
    assert (created.status_code, created.json()) == (200, {"id": 8, "name": "Grace"})
    listed = app.get()
    names = ["Bob", "Charlie", "Charlie", "Charlie", "Charlie", "Eve", "Frank", "Grace"]
    assert listed.json() == [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    assert listed.headers["X-Read-From"] == "replica"
    # The service writes the line of a request after it has sent the answer.
    eventually(lambda: "Request completed: GET /users" in app.log(), "the log of the last request")
    pattern = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \[INFO\] fastapi_app: (.*?)(?: duration=\d+\.\d{3}s.*)?$"
    said = [line for line in re.findall(pattern, app.log(), re.MULTILINE) if "/metrics" not in line]
    assert [line for line in said if "Cassandra" not in line] == [
        "Starting FastAPI application",
        "Database connection pools opened",
        "Request started: POST /users from 127.0.0.1",
        "Creating user with name: Grace",
        "Inserted user id=8 name=Grace",
        "Request completed: POST /users status=200",
        "Request started: GET /users from 127.0.0.1",
        "Fetched 8 users",
        "Request completed: GET /users status=200",
    ]
    assert "[DEBUG] fastapi_app: Fetching all users" in app.log()
    inserted = r"execute <unnamed>: INSERT INTO users \(name\) VALUES \(\$1\) .*\n.*DETAIL:  parameters: \$1 = 'Grace'"
    eventually(lambda: re.search(inserted, pair.log(PRIMARY)), "C-34: the primary logs the INSERT")
    selects = eventually(lambda: pair.log(REPLICA).count("SELECT id, name FROM users"), "C-35: the replica logs it")
    assert "SELECT id, name FROM users" not in pair.log(PRIMARY)
    for _ in range(3):
        assert app.read_from() == "cache"
    assert app.get().content == listed.content
    assert pair.log(REPLICA).count("SELECT id, name FROM users") == selects, "G-02"


def test_an_error_of_the_database_is_a_400(pair: Pair, bare: App) -> None:
    """C-27, C-29; and the next request finds all in order again."""
    as_role(pair, PRIMARY, "ALTER TABLE users RENAME TO renamed")
    try:
        created = bare.post("Nobody")
        assert (created.status_code, created.json()["detail"]) == (
            400,
            'Insert failed: relation "users" does not exist',
        )
        eventually(lambda: bare.get().status_code == 400, "the replica has it too")
        assert bare.get().json()["detail"] == 'Query failed: relation "users" does not exist'
    finally:
        as_role(pair, PRIMARY, "ALTER TABLE renamed RENAME TO users")
    eventually(lambda: bare.get().is_success, "the replica has it again")
    assert bare.post("Heidi").status_code == 200
    lines = [json.loads(line) for line in bare.log().splitlines()]
    assert {"ERROR", "INFO", "DEBUG"} == {line["level"] for line in lines} - {"WARNING"}
    failed = [line for line in lines if line["message"].startswith("Insert failed")]
    assert failed[0]["request_id"] == created.headers["X-Request-ID"]


def test_text_of_any_kind_is_stored_as_it_is(pair: Pair, app: App) -> None:
    for name in ("😀", "'); DROP TABLE users; --", "%s %(name)s", "x" * 100, "\u202e\n\t"):
        created = app.post(name)
        assert (created.status_code, created.json()["name"]) == (200, name)
        assert {"id": created.json()["id"], "name": name} in app.get().json()
    for body in (b'{"name": "a\\u0000"}', b'{"name": "\\ud800"}', b"{", b'{"name": "' + b"x" * 10_000 + b'"}'):
        answer = app.client.post("/users", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text
    assert app.client.post("/users", content=b"x" * 70_000).status_code == 413


@contextmanager
def lagging(pair: Pair) -> Iterator[None]:
    """Stop the replay on the replica."""
    pair.sql(REPLICA, "SELECT pg_wal_replay_pause()")
    eventually(lambda: pair.value(REPLICA, "SELECT pg_get_wal_replay_pause_state()") == "paused", "it pauses")
    try:
        yield
    finally:
        pair.sql(REPLICA, "SELECT pg_wal_replay_resume()")


def test_a_read_after_a_write_never_returns_the_past(pair: Pair, app: App, bare: App) -> None:
    """G-02, while the replica is behind: through the cache for everybody, by the position for those who send it."""
    with lagging(pair):
        created = app.post("Ivan")
        number, position = created.json()["id"], created.headers["X-Commit-LSN"]
        assert number in app.ids()
        assert app.read_from() in {"primary", "cache"}
        assert number in app.ids(position)
        # Without Redis the replica alone is asked, and says what it has.
        assert number not in bare.ids()
        assert number in bare.ids(position)
        assert bare.read_from(position) == "primary"
        mine = bare.post("Judy")
        assert mine.json()["id"] in bare.ids(mine.headers["X-Commit-LSN"])
    eventually(lambda: bare.read_from(mine.headers["X-Commit-LSN"]) == "replica", "the replica has caught up")


def test_no_reader_meets_a_list_that_lacks_its_own_write(pair: Pair, app: App) -> None:
    """G-02, under load, with a replica that is always behind: a list that is filled late never hides a write."""
    missing: list[int] = []
    sources: set[str] = set()

    def write_and_read() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{app.port}", timeout=30) as client:
            for _ in range(12):
                number = client.post("/users", json={"name": "Load"}).json()["id"]
                listed = client.get("/users")
                sources.add(listed.headers["X-Read-From"])
                if number not in {user["id"] for user in listed.json()}:
                    missing.append(number)

    def read(done: threading.Event) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{app.port}", timeout=30) as client:
            while not done.is_set():
                client.get("/users")

    pair.sql(REPLICA, "ALTER SYSTEM SET recovery_min_apply_delay = '150ms'")
    pair.sql(REPLICA, "SELECT pg_reload_conf()")
    try:
        done = threading.Event()
        readers = [threading.Thread(target=read, args=(done,)) for _ in range(2)]
        writers = [threading.Thread(target=write_and_read) for _ in range(4)]
        for thread in readers + writers:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
    finally:
        pair.sql(REPLICA, "ALTER SYSTEM RESET recovery_min_apply_delay")
        pair.sql(REPLICA, "SELECT pg_reload_conf()")
    assert missing == []
    assert sources & {"replica", "primary"}


def redis_link(pair: Pair) -> RedisLink:
    return RedisLink(
        Server(Address("127.0.0.1", pair.cluster.redis_port), pair.cluster.secret(f"{NAME}_redis_password"))
    )


def test_a_stale_reader_never_overwrites_a_newer_list(pair: Pair) -> None:
    """G-02: whatever comes between the look-up and the store."""

    async def run() -> None:
        link = redis_link(pair)
        cache, other = ListCache(link, 30), ListCache(link, 30)
        old, new = Page(b"[]", 0, None), Page(b"[1]", 1, 1)
        await cache.invalidate(Position(9, 100))
        slow = await cache.look_up()
        assert (slow.page, slow.at_least) == (None, 100)
        for position in (Position(9, 200), Position(9, 200)):  # two commits of one flush have one position
            await other.invalidate(position)
            assert not await cache.store(old, 10**6, slow.generation or b"")
            slow = await cache.look_up()
        assert slow.at_least == 200
        assert await cache.store(new, 300, slow.generation or b"")
        assert not await other.store(old, 250, slow.generation or b""), "the later of two readings stays"
        assert (await other.look_up()).page == new
        assert (await other.look_up(token=300)).page == new
        assert (await other.look_up(token=301)).page is None
        # After a promotion positions may be smaller.
        await cache.invalidate(Position(10, 50))
        assert (await cache.look_up()).at_least == 50
        await link.client.delete(f"{NAME}:users:state")
        assert not await cache.store(old, 10**6, slow.generation or b""), "Redis has lost what it knew"
        await link.close()

    asyncio.run(run())


def test_the_limit_is_a_sliding_window(pair: Pair) -> None:
    """G-05: exact under concurrency; a refused request does not count; the place is free when it says so."""

    async def run() -> None:
        link = redis_link(pair)
        limit = RateLimit(link, 5, 2)
        taken = await asyncio.gather(*(limit.take("alice") for _ in range(20)))
        allowed = [one for one in taken if not one.retry_after_s]
        assert sorted(one.remaining or 0 for one in allowed) == [0, 1, 2, 3, 4]
        assert {one.retry_after_s for one in taken if one.retry_after_s} <= {1, 2}
        assert (await limit.take("bob")).remaining == 4
        await asyncio.sleep(2.05)
        assert await limit.take("alice") == Allowance(4), "none of the 15 refused ones counts"
        await link.close()

    asyncio.run(run())


def test_tokens_and_limits_of_a_running_service(pair: Pair, app: App, start: Callable[..., App]) -> None:
    """G-04, G-05: the eleventh request of one client is refused, whoever else asks."""
    strict = start(AUTH="on", RATE_LIMIT="10", CASSANDRA="off")

    def headers(subject: str) -> dict[str, str]:
        command = [sys.executable, "-m", "read_write_split.tokens", "--subject", subject]
        issued = subprocess.run(command, env=strict.environment(), capture_output=True, text=True, check=True)
        return {"Authorization": f"Bearer {issued.stdout.strip()}"}

    refused = strict.client.get("/users")
    assert (refused.status_code, refused.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    alice, bob = headers("of the service"), headers("another")
    statuses = [strict.client.get("/users", headers=alice).status_code for _ in range(10)]
    assert statuses == [200] * 10
    refused = strict.client.get("/users", headers=alice)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert strict.post(headers=bob).headers["X-RateLimit-Remaining"] == "9"
    # Open while Redis is away, which is said once.
    pair.kill("redis")
    try:
        for _ in range(12):
            assert strict.client.get("/users", headers=alice).status_code == 200
        assert strict.log().count("Redis fails, so the cache is off and no request is limited") == 1
        assert app.read_from() == "replica"
        assert app.health()["parts"]["cache"]["status"] == "down"
        assert app.health()["status"] == "degraded"
        # A write of now must not be hidden by a list from before, once Redis is back with it.
        number = app.post("Written without Redis").json()["id"]
    finally:
        pair.start("redis")
    eventually(lambda: app.health()["parts"]["cache"]["status"] == "ok", app.log, 30)
    assert number in app.ids()
    eventually(lambda: app.read_from() == "cache", "the cache is used again")
    assert number in app.ids()
    eventually(lambda: strict.client.get("/users", headers=alice).status_code == 429, strict.log)
    assert "Redis answers again" in strict.log()


def test_a_frozen_redis_delays_a_request_at_most_once(pair: Pair, app: App) -> None:
    pair.cluster.docker("pause", pair.container("redis"))
    try:
        started = time.monotonic()
        assert app.post("Frozen Redis").status_code == 200
        assert app.get().status_code == 200
        assert time.monotonic() - started < BOUND_S
    finally:
        pair.cluster.docker("unpause", pair.container("redis"))
    eventually(lambda: app.read_from() == "cache", app.log)


def test_without_the_replica_the_primary_serves_the_reads(pair: Pair, app: App, bare: App) -> None:
    """C-28: with READ_FROM=standby, GET fails as in the documents; without it, nothing does."""
    pair.kill(REPLICA)
    try:
        for one in (app, bare):
            assert one.post("No replica").status_code == 200
        failed = bare.get()
        assert (failed.status_code, int(failed.headers["Retry-After"]) > 0) == (503, True)
        statuses = {app.get(f"0/{number:X}").status_code for number in range(20)}
        assert statuses == {200}
        assert "primary" in {app.read_from("0/1"), app.read_from("FF/0")}
        assert app.health()["status"] == "degraded"
        assert bare.client.get("/health").status_code == 503
    finally:
        pair.start(REPLICA)
    eventually(lambda: bare.get().is_success, bare.log)
    # Its connections to the primary are closed after 10 s.
    eventually(lambda: app.health()["parts"]["replica"]["status"] == "ok", app.log, 60, every_s=0.5)
    eventually(lambda: app.post().is_success and app.read_from() == "replica", app.log, 60, every_s=0.5)


@pytest.mark.parametrize("service", [PRIMARY, REPLICA])
def test_a_frozen_server_is_a_503_in_bounded_time(pair: Pair, app: App, bare: App, service: str) -> None:
    """Its TCP connections stay, so that no time-out of TCP would ever end the wait."""
    container = pair.container(service)
    pair.cluster.docker("pause", container)
    try:
        for _ in range(2):
            started = time.monotonic()
            statuses = (app.post("Frozen").status_code, app.get("FF/0" if service == REPLICA else None).status_code)
            assert statuses == ((503, 200) if service == PRIMARY else (200, 200)), app.log()
            assert time.monotonic() - started < 2 * BOUND_S
        started = time.monotonic()
        answer = bare.post("Frozen") if service == PRIMARY else bare.get()
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert time.monotonic() - started < BOUND_S
    finally:
        pair.cluster.docker("unpause", container)
    eventually(lambda: bare.post("Thawed").is_success and bare.get().is_success, bare.log, 30)
    eventually(lambda: app.post("Thawed").is_success and app.get().is_success, app.log, 30)


@pytest.fixture(scope="module")
def cassandra(pair: Pair, app: App) -> str:
    """The container of Cassandra, up, with the keyspace; so far the service has run without it."""
    assert app.health()["parts"]["activity_log"]["status"] == "down"
    container = pair.container("cassandra")
    status = ("inspect", "-f", "{{.State.Health.Status}}", container)
    eventually(lambda: pair.cluster.docker(*status).out.strip() == "healthy", "Cassandra starts", 300, every_s=1)
    make_accounts(pair.cluster, ComponentName.CASSANDRA)
    return container


def recorded(pair: Pair, container: str) -> str:
    query = f"SELECT actor, action, user_id, name FROM {NAME}.activity"
    return pair.cluster.docker("exec", container, "cqlsh", "-e", query, check=False).text


def test_activity_is_recorded_whenever_cassandra_is_up(pair: Pair, app: App, cassandra: str) -> None:
    """G-03, G-08: what waited is written once it is there; a kill is survived, and nobody waits."""
    eventually(lambda: app.health()["parts"]["activity_log"]["status"] == "ok", app.log, 60)
    eventually(lambda: app.health()["parts"]["activity_log"]["queued"] == 0, app.log, 60)
    assert re.search(r"127\.0\.0\.1 +\| +user created +\| +8 +\| +Grace", recorded(pair, cassandra)), (
        "from the first test"
    )
    assert app.health()["parts"]["activity_log"]["dropped"] == 0
    pair.kill("cassandra")
    started = time.monotonic()
    number = app.post("Without Cassandra").json()["id"]
    assert time.monotonic() - started < BOUND_S
    assert app.get().status_code == 200
    eventually(lambda: app.health()["parts"]["activity_log"]["status"] == "down", app.log, 30)
    assert app.health()["status"] == "degraded"
    pair.start("cassandra")
    eventually(lambda: app.health()["parts"]["activity_log"]["queued"] == 0, app.log, 120, every_s=0.5)
    assert re.search(rf"\| +{number} +\| +Without Cassandra", recorded(pair, cassandra))


def test_the_commands_of_the_readme_do_what_it_shows(pair: Pair, app: App, cassandra: str, tmp_path: Path) -> None:
    """Each command, in one shell, against a service that is started as the README says; G-09, and E8-09's limits."""
    as_role(pair, PRIMARY, "TRUNCATE users RESTART IDENTITY")
    variables = {"RATE_LIMIT": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with App(pair, tmp_path, variables).running() as one:
        eventually(lambda: one.health()["parts"]["activity_log"]["status"] == "ok", one.log)

        def adapt(script: str) -> str:
            script = script.replace("localhost:8000", f"127.0.0.1:{one.port}")
            script = re.sub(r"(?<=docker exec )cassandra", cassandra, script)
            # What was written must have arrived in Cassandra when it is shown.
            written = f"until curl -s 127.0.0.1:{one.port}/health | grep -q '\"queued\":0'; do sleep 0.1; done"
            return script.replace("docker exec", f"{written}; docker exec")

        check_console_blocks(FOLDER / "README.md", one.environment(), adapt, least=11)


def test_a_commit_that_waits_for_the_replica_is_a_503_in_bounded_time(pair: Pair, app: App) -> None:
    """G-01: with synchronous replication, and no replica, nobody waits for ever, and the answer hides nothing."""
    cluster = pair.cluster
    cluster.setup("--pg14-sync", "--yes", "--up")
    state = "SELECT application_name, sync_state FROM pg_stat_replication"
    eventually(lambda: "sync" in pair.sql(PRIMARY, state)[0], lambda: str(pair.sql(PRIMARY, state)))
    assert app.post("Dave").status_code == 200
    pair.kill(REPLICA)
    try:
        started = time.monotonic()
        answer = app.post("Dave")
        assert answer.status_code == 503
        assert "may exist" in answer.json()["detail"]
        assert time.monotonic() - started < BOUND_S
    finally:
        pair.start(REPLICA)
    eventually(lambda: app.post("Dave").status_code == 200, app.log)
    cluster.setup("--pg14-async", "--yes", "--up")


def test_a_promotion_is_followed_without_a_restart(pair: Pair, app: App) -> None:
    """No write that was acknowledged is lost, and reads come back to a replica by themselves."""
    eventually(pair.follows, "the pair is in order", ignoring=psycopg.Error)
    acknowledged: set[int] = set()
    seen: list[tuple[float, str, int]] = []
    done = threading.Event()

    def ask(method: str) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{app.port}", timeout=30) as client:
            while not done.is_set():
                answer = client.request(method, "/users", json={"name": "Ledger"} if method == "POST" else None)
                seen.append((time.monotonic(), method, answer.status_code))
                if method == "POST" and answer.is_success:
                    acknowledged.add(answer.json()["id"])
                done.wait(0.01)

    threads = [threading.Thread(target=ask, args=(method,)) for method in ("POST",) * 4 + ("GET",) * 2]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(acknowledged) > 20, app.log)
        pair.cluster.cli("pg14", "promote", "--yes")
        enough = len(acknowledged) + 20
        eventually(lambda: len(acknowledged) > enough, app.log)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    failed = [(at, method, status) for at, method, status in seen if status != 200]
    assert {status for _, _, status in failed} <= {503}
    writes = sorted(at for at, method, status in seen if method == "POST" and status == 200)
    gap_s = max(later - earlier for earlier, later in itertools.pairwise(writes))
    by_method = {one: sum(method == one for _, method, _ in failed) for one in ("POST", "GET")}
    print(f"promotion: {len(seen)} requests, failed {by_method}, longest time without a write {gap_s:.1f} s")
    there = {row[0] for row in as_role(pair, REPLICA, "SELECT id FROM users")}
    assert acknowledged <= there
    assert "Another server is the primary now: timeline 2" in app.log()
    number = app.post("After the promotion").json()["id"]
    assert number in app.ids()
    assert app.health()["parts"]["replica"]["status"] == "degraded", "no replica is there"
    pair.cluster.cli("pg14", "rebuild-replica", "--yes")
    eventually(lambda: app.post().is_success and app.read_from() == "replica", app.log, 60, every_s=0.5)


def test_the_end_is_orderly(pair: Pair, tmp_path: Path) -> None:
    """C-23, C-33: a request that runs is answered."""
    with App(pair, tmp_path, {"CASSANDRA": "off"}).running() as one:
        assert one.post().is_success
    assert re.findall(r"fastapi_app: (Shutting down.*|Database connection pools closed)", one.log()) == [
        "Shutting down FastAPI application",
        "Database connection pools closed",
    ]


def test_the_component_serves_with_accounts_of_its_own(pair: Pair, cassandra: str) -> None:
    """As `up` starts it: with tokens, and without any right beyond its own places."""
    cluster = pair.cluster
    cluster.cli("up")
    container = cluster.container("example-replication")
    port = cluster.example_ports["example-replication"]
    token = cluster.docker(
        "exec", container, "python", "-m", "read_write_split.tokens", "--subject", "alice"
    ).out.strip()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        assert client.get("/users").status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        created = client.post("/users", json={"name": "Component"})
        assert created.status_code == 200, created.text
        users = client.get("/users", headers={"X-Commit-LSN": created.headers["X-Commit-LSN"]}).json()
        assert created.json() in users
        eventually(lambda: client.get("/health").json()["status"] == "ok", "all its servers answer")
    status = json.loads(cluster.cli("status", "--format=json").out)
    (own,) = (one for one in status["companions"] if one["service"] == "example-replication")
    assert (own["condition"], own["reason"]) == ("ok", None)
    log = cluster.docker("logs", container).text
    assert "Traceback" not in log, log


def test_accounts_are_repaired_and_those_of_others_left_alone(pair: Pair, cassandra: str) -> None:
    cluster = pair.cluster
    primary = pair.status()["chosen_primary"]
    pair.sql(primary, f"ALTER ROLE {NAME} NOLOGIN SUPERUSER PASSWORD 'other'")
    make_accounts(cluster, ComponentName.PG14)
    assert as_role(pair, primary, "SELECT current_user, current_schema()") == [(NAME, NAME)]
    assert pair.sql(primary, f"SELECT rolsuper FROM pg_roles WHERE rolname = '{NAME}'") == [(False,)]
    pair.sql(primary, f"ALTER ROLE {NAME} RENAME TO put_aside")
    pair.sql(primary, f"CREATE ROLE {NAME} PASSWORD 'of somebody else'")
    secret = f"SELECT rolpassword, rolcanlogin FROM pg_authid WHERE rolname = '{NAME}'"
    before = pair.sql(primary, secret)
    with pytest.raises(RoleError, match="citus-cluster did not create it"):
        make_accounts(cluster, ComponentName.PG14)
    assert pair.sql(primary, secret) == before
    pair.sql(primary, f"DROP ROLE {NAME}")
    pair.sql(primary, f"ALTER ROLE put_aside RENAME TO {NAME}")
    make_accounts(cluster, ComponentName.PG14)

    def cql(statement: str) -> str:
        return cluster.docker("exec", cassandra, "cqlsh", "-e", statement).text

    cql(f"ALTER ROLE {NAME} WITH PASSWORD = 'other'")
    with pytest.raises(RoleError, match="with another password"):
        make_accounts(cluster, ComponentName.CASSANDRA)
    cql(f"DROP ROLE {NAME}")
    make_accounts(cluster, ComponentName.CASSANDRA)
    assert NAME in cql("LIST ROLES")
