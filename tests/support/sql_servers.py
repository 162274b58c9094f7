"""Real Citus servers for the SQL tests: a coordinator and workers in their own network, without the generator."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import docker
import psycopg
import pytest
from docker.models.containers import Container
from docker.models.networks import Network
from psycopg import sql

from citus_cluster.model.citus.nodes import NodeAddress, NodeResult
from citus_cluster.model.plan.events import Event, ignore
from citus_cluster.operations.nodes.registration import reconcile
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

INIT_SCRIPT = Path(__file__).parents[2] / "initdb" / "10-citus-cluster.sql"
NASTY_PASSWORD = """it's a "pass" $HOME ${x} #1 \\'back\\\\ %41%s @:/?&= ;-- `id` ñ€😀 """
NODE_ENVIRONMENT = {"PGREQUIREAUTH": "!password,!md5"}
"""The environment that the template of a node sets besides the password (a golden file shows it)."""
T = TypeVar("T")

COORDINATOR = NodeAddress("citus-coordinator")
WORKERS = tuple(NodeAddress(f"citus-worker{number}") for number in (1, 2, 3))
FOURTH = NodeAddress("citus-worker4")
WAITING_WRITERS = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query LIKE '%citus_cluster.writer%'"
"""Query for sessions that wait for the writers' lock, which they query repeatedly."""
SETTINGS = {
    "shared_preload_libraries": "citus,pg_stat_statements",
    "wal_level": "logical",
    "max_worker_processes": "24",
    "max_replication_slots": "20",
    "max_wal_senders": "22",
    "max_logical_replication_workers": "8",
    "max_connections": "60",
    "shared_buffers": "32MB",
    # The data are disposable.
    "fsync": "off",
    "log_statement": "all",
    # Citus checks for tasks of a rebalance every 5 s by default; generated clusters check every second.
    "citus.background_task_queue_interval": "200ms",
}


def encryption_of(container: Container, folder: Path) -> ssl.SSLContext:
    """Encrypt as a node does, with its own certificate, which suffices for clients that only require encryption."""
    status, output = container.exec_run(["sh", "-c", "cat $PGDATA/server.key $PGDATA/server.crt"])
    assert status == 0, output
    assert isinstance(output, bytes)
    file = folder / "server.pem"
    file.write_bytes(output)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@dataclass
class Servers:
    """The servers of one image."""

    engine: docker.DockerClient
    image: str
    network: Network
    containers: dict[str, Container] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def start(
        self,
        name: str,
        *,
        image: str | None = None,
        password: str = NASTY_PASSWORD,
        settings: dict[str, str] | None = None,
    ) -> None:
        """Start a server with the network name ``name``.

        The engine chooses another port at each start; ``ports`` are fixed.
        """
        command = ["postgres"]
        for key, value in {**SETTINGS, **(settings or {})}.items():
            command += ["-c", f"{key}={value}"]
        container = self.engine.containers.create(
            image or self.image,
            command,
            name=f"{self.network.name}-{name}",
            environment={"POSTGRES_PASSWORD": password, "POSTGRES_INITDB_ARGS": "--no-sync", **NODE_ENVIRONMENT},
            volumes={str(INIT_SCRIPT): {"bind": f"/docker-entrypoint-initdb.d/{INIT_SCRIPT.name}", "mode": "ro"}},
            ports={"5432/tcp": ("127.0.0.1", self.ports.get(name, 0))},
            shm_size="256m",
            # The image's health check runs every 4 seconds, and can delay a pause; ``wait`` connects instead.
            healthcheck={"test": ["NONE"]},
        )
        self.containers[name] = container
        self.network.connect(container, aliases=[name])
        container.start()

    def start_all(self, *names: str, wait: bool = True) -> None:
        """Start servers at the same time; with ``wait``, wait until all accept connections."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.start, names))
        for name in names if wait else ():
            self.wait(name)

    def stop(self, name: str) -> None:
        container = self.containers.pop(name)
        container.remove(force=True, v=True)

    @property
    def gateway(self) -> str:
        """The address at which the servers reach this machine, on which a test can listen."""
        self.network.reload()
        return str(self.network.attrs["IPAM"]["Config"][0]["Gateway"])

    def ip_address(self, name: str) -> str:
        """Return the address of a server in the network."""
        container = self.containers[name]
        container.reload()
        return str(container.attrs["NetworkSettings"]["Networks"][self.network.name]["IPAddress"])

    def logs(self, name: str) -> str:
        return self.containers[name].logs().decode()

    def info(self, name: str) -> ConnectionInfo:
        """Return the published address of a server; it is read each time, because a restart changes the port."""
        container = self.containers[name]
        container.reload()
        port = int((container.ports["5432/tcp"] or [{}])[0]["HostPort"])
        return ConnectionInfo("127.0.0.1", port, "postgres", "postgres", NASTY_PASSWORD)

    def wait(self, name: str, timeout_s: float = 60) -> None:
        """Wait until a server accepts connections and has run its init script."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.sql(name, "SELECT count(*) FROM pg_dist_authinfo")
                return
            except (psycopg.OperationalError, KeyError, IndexError):
                if time.monotonic() > deadline:
                    pytest.fail(f"{name} did not start:\n{self.logs(name)[-4000:]}")
                time.sleep(0.2)

    def session(self, name: str = COORDINATOR.host) -> "psycopg.Connection[tuple[object, ...]]":
        """Open a session of an operator, in which every statement is a transaction."""
        info = self.info(name)
        return psycopg.connect(
            host=info.host,
            port=info.port,
            user=info.user,
            password=NASTY_PASSWORD,
            dbname=info.database,
            autocommit=True,
            connect_timeout=5,
        )

    def sql(self, name: str, *statements: str) -> list[tuple[object, ...]]:
        """Run statements on one server, as an operator would. Returns the rows of the last one."""
        with self.session(name) as conn:
            rows: list[tuple[object, ...]] = []
            for statement in statements:
                cursor = conn.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
            return rows

    async def connect(self, name: str = COORDINATOR.host) -> Connection:
        return await connect(self.info(name), timeout_s=10)

    def rerun_init_script(self, name: str) -> str:
        """Run the init script again, like the image's entry point. Returns its output."""
        path = f"/docker-entrypoint-initdb.d/{INIT_SCRIPT.name}"
        command = ["psql", "-U", "postgres", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-f", path]
        status, output = self.containers[name].exec_run(command)
        assert status == 0, output
        assert isinstance(output, bytes)
        return output.decode()

    def restore_password(self, name: str) -> None:
        """Set the superuser's password again, over the socket, which requires none."""
        statement = sql.SQL("ALTER ROLE postgres PASSWORD {}").format(NASTY_PASSWORD).as_string()
        status, output = self.containers[name].exec_run(
            ["psql", "-U", "postgres", "-c", statement], environment={"PGOPTIONS": "-c log_statement=none"}
        )
        assert status == 0, output

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
        """Yield an additional server for the duration of a test."""
        self.start(name, image=image, password=password, settings=settings)
        try:
            yield NodeAddress(name)
        finally:
            # While it still answers; otherwise everything that names it would wait for it.
            self.take_apart()
            self.stop(name)

    @contextlib.contextmanager
    def standby(self, name: str, primary: str) -> Iterator[NodeAddress]:
        """Yield a physical standby of a server, for the duration of a test."""
        allowed = 'echo "host replication all all scram-sha-256" >> "$PGDATA/pg_hba.conf"'
        status, output = self.containers[primary].exec_run(["sh", "-c", allowed])
        assert status == 0, output
        self.sql(primary, "SELECT pg_reload_conf()")
        settings = " ".join(f"-c {key}={value}" for key, value in SETTINGS.items())
        script = (
            f"mkdir -m 700 /tmp/data && pg_basebackup -h {primary} -U postgres -D /tmp/data -R -X stream -c fast "
            f"&& exec postgres -D /tmp/data {settings}"
        )
        container = self.engine.containers.create(
            self.image,
            ["-c", script],
            entrypoint="bash",
            user="postgres",
            name=f"{self.network.name}-{name}",
            environment={"PGPASSWORD": NASTY_PASSWORD, "PGREQUIREAUTH": NODE_ENVIRONMENT["PGREQUIREAUTH"]},
            ports={"5432/tcp": ("127.0.0.1", 0)},
            shm_size="256m",
            healthcheck={"test": ["NONE"]},
        )
        self.containers[name] = container
        self.network.connect(container, aliases=[name])
        container.start()
        try:
            self.wait(name)
            yield NodeAddress(name)
        finally:
            self.take_apart()
            self.stop(name)

    def is_cluster_of(self, *workers: NodeAddress) -> bool:
        """Return whether exactly these workers are registered and hold shards, as after ``register``."""
        found = self.sql(
            COORDINATOR.host,
            "SELECT nodename, nodeport, isactive AND hasmetadata AND metadatasynced, shouldhaveshards "
            "FROM pg_dist_node ORDER BY groupid <> 0, nodename",
        )
        return found == [
            (COORDINATOR.host, COORDINATOR.port, True, False),
            *((worker.host, worker.port, True, True) for worker in workers),
        ]

    def take_apart(self) -> None:
        """Reset the servers, so that they do not know each other, nor any rebalance."""
        self.empty()
        self.sql(COORDINATOR.host, "TRUNCATE pg_dist_background_job CASCADE")
        for _ in range(5):
            # Citus' recovery of prepared transactions deletes rows of pg_dist_transaction in a different order.
            with contextlib.suppress(psycopg.errors.DeadlockDetected):
                self.sql(
                    COORDINATOR.host,
                    "SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node WHERE groupid <> 0",
                    "SELECT citus_remove_node(nodename, nodeport) FROM pg_dist_node",
                )
                break
        else:
            pytest.fail("citus_remove_node() met a deadlock five times")

    def empty(self) -> None:
        """Reset the nodes, so that they have no Citus tables, and our own records do not contain them."""
        tables = self.sql(COORDINATOR.host, "SELECT logicalrelid::text FROM pg_dist_partition")
        self.sql(
            COORDINATOR.host,
            *[f"DROP TABLE IF EXISTS {table} CASCADE" for (table,) in tables],
            "CALL citus_cleanup_orphaned_resources()",
            "DROP SCHEMA IF EXISTS citus_cluster CASCADE",
        )

    def remove(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.stop, list(self.containers)))
        self.network.remove()


@dataclass
class Recorder:
    """Records events for assertions."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def text(self) -> str:
        return "\n".join(event.message for event in self.events)


def on(cluster: Servers, act: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a coroutine on a new connection to the coordinator."""

    async def body() -> T:
        async with await cluster.connect() as conn:
            return await act(conn)

    return asyncio.run(body())


def register(cluster: Servers, *workers: NodeAddress, **options: float) -> dict[str, NodeResult]:
    """Reconcile. Returns the results by host."""
    results = on(cluster, lambda conn: reconcile(conn, COORDINATOR, workers or WORKERS, ignore, **options))
    return {result.address.host: result for result in results}
