"""Real Citus servers for the SQL tests: a network of their own, a coordinator and workers on it, no generator.

One set of servers for each image is started once; ``cluster`` takes the cluster apart before each test, so
that every test begins with servers that know nothing of each other.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import psycopg
import pytest
from cluster_support import citus_images, require_engine, skip_or_fail
from docker.models.containers import Container
from docker.models.networks import Network

from citus_cluster.model.events import Event
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

INIT_SCRIPT = Path(__file__).parents[2] / "initdb" / "10-citus-cluster.sql"
NASTY_PASSWORD = """it's a "pass" $HOME ${x} #1 \\'back\\\\ %41%s @:/?&= ;-- `id` ñ€😀 """
COORDINATOR = NodeAddress("citus-coordinator")
WORKERS = tuple(NodeAddress(f"citus-worker{number}") for number in (1, 2, 3))
FOURTH = NodeAddress("citus-worker4")
SETTINGS = {
    "shared_preload_libraries": "citus,pg_stat_statements",
    "wal_level": "logical",
    "max_worker_processes": "24",
    "max_replication_slots": "20",
    "max_wal_senders": "22",
    "max_logical_replication_workers": "8",
    "max_connections": "60",
    "shared_buffers": "32MB",
    # Throw-away data.
    "fsync": "off",
    "log_statement": "all",
}


@dataclass
class Servers:
    """The servers of one image."""

    engine: docker.DockerClient
    image: str
    network: Network
    containers: dict[str, Container] = field(default_factory=dict)

    def start(
        self,
        name: str,
        *,
        image: str | None = None,
        password: str = NASTY_PASSWORD,
        settings: dict[str, str] | None = None,
    ) -> None:
        """Start a server that the others know as ``name``."""
        command = ["postgres"]
        for key, value in {**SETTINGS, **(settings or {})}.items():
            command += ["-c", f"{key}={value}"]
        container = self.engine.containers.create(
            image or self.image,
            command,
            name=f"{self.network.name}-{name}",
            environment={"POSTGRES_PASSWORD": password},
            volumes={str(INIT_SCRIPT): {"bind": f"/docker-entrypoint-initdb.d/{INIT_SCRIPT.name}", "mode": "ro"}},
            ports={"5432/tcp": ("127.0.0.1", None)},
            shm_size="256m",
        )
        self.containers[name] = container
        self.network.connect(container, aliases=[name])
        container.start()

    def stop(self, name: str) -> None:
        container = self.containers.pop(name)
        container.remove(force=True, v=True)

    def logs(self, name: str) -> str:
        return self.containers[name].logs().decode()

    def info(self, name: str) -> ConnectionInfo:
        """Where a server is published; asked anew, because a restart moves the port."""
        container = self.containers[name]
        container.reload()
        port = int(container.ports["5432/tcp"][0]["HostPort"])
        return ConnectionInfo("127.0.0.1", port, "postgres", "postgres", NASTY_PASSWORD)

    def wait(self, name: str, timeout_s: float = 60) -> None:
        """Wait until a server takes connections, with its init script done."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.sql(name, "SELECT count(*) FROM pg_dist_authinfo")
                return
            except (psycopg.OperationalError, KeyError, IndexError):
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} did not start:\n{self.logs(name)[-4000:]}")
                time.sleep(0.2)

    def sql(self, name: str, *statements: str) -> list[tuple[object, ...]]:
        """Run statements on one server, as an operator would by hand; rows of the last."""
        info = self.info(name)
        with psycopg.connect(
            host=info.host,
            port=info.port,
            user=info.user,
            password=NASTY_PASSWORD,
            dbname=info.database,
            autocommit=True,
            connect_timeout=5,
        ) as conn:
            rows: list[tuple[object, ...]] = []
            for statement in statements:
                cursor = conn.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
            return rows

    async def connect(self, name: str = COORDINATOR.host) -> Connection:
        return await connect(self.info(name), timeout_s=10)

    @contextlib.contextmanager
    def paused(self, name: str) -> Iterator[None]:
        self.containers[name].pause()
        try:
            yield
        finally:
            self.containers[name].unpause()

    @contextlib.contextmanager
    def extra(
        self,
        name: str,
        *,
        image: str | None = None,
        password: str = NASTY_PASSWORD,
        settings: dict[str, str] | None = None,
    ) -> Iterator[NodeAddress]:
        """One more server for the length of a test."""
        self.start(name, image=image, password=password, settings=settings)
        try:
            yield NodeAddress(name)
        finally:
            self.stop(name)

    def take_apart(self) -> None:
        """Back to servers that know nothing of each other."""
        tables = self.sql(COORDINATOR.host, "SELECT logicalrelid::text FROM pg_dist_partition")
        self.sql(
            COORDINATOR.host,
            *[f"DROP TABLE IF EXISTS {table} CASCADE" for (table,) in tables],
            "CALL citus_cleanup_orphaned_resources()",
            "SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node WHERE groupid <> 0",
            "SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node",
            "DROP SCHEMA IF EXISTS citus_cluster CASCADE",
        )

    def remove(self) -> None:
        for name in list(self.containers):
            self.stop(name)
        self.network.remove()


@dataclass
class Recorder:
    """Keeps events, to look at them."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def text(self) -> str:
        return "\n".join(event.message for event in self.events)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "servers" in metafunc.fixturenames:
        images = list(citus_images().values()) or [None]
        metafunc.parametrize("servers", images, indirect=True, scope="session", ids=lambda image: image or "no-image")


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    engine = require_engine()
    if request.param is None:
        skip_or_fail("the engine has no image citusdata/citus")
    name = f"citus-sql-test-{os.getpid()}-{secrets.token_hex(3)}"
    started = Servers(engine, request.param, engine.networks.create(name))
    try:
        for address in (COORDINATOR, *WORKERS):
            started.start(address.host)
        for address in (COORDINATOR, *WORKERS):
            started.wait(address.host)
        yield started
    finally:
        started.remove()


@pytest.fixture
def cluster(servers: Servers) -> Servers:
    servers.take_apart()
    return servers


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def run() -> Iterator[asyncio.Runner]:
    """One event loop for the whole test: ``run.run(coroutine)``."""
    with asyncio.Runner() as runner:
        yield runner
