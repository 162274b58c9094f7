"""The PostgreSQL 14 pair of a generated cluster, and clients that write to it while something breaks."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from generated_cluster import ROOT, GeneratedCluster
from waiting import eventually

PRIMARY, REPLICA = "pg14-primary", "pg14-replica"
DATA = "/var/lib/postgresql/data"
COMMIT_COUNT = "SELECT count(*), max(id) FROM t"


class Pair:
    """The pair of a generated cluster, by the services' names."""

    def __init__(self, cluster: GeneratedCluster) -> None:
        self.cluster = cluster
        self.password = cluster.secret("pg14_password")

    def container(self, service: str) -> str:
        return self.cluster.container(service)

    def connect(self, service: str, **values: Any) -> psycopg.Connection[tuple[Any, ...]]:
        given = {
            "host": "127.0.0.1",
            "port": self.cluster.pg14_port + (service == REPLICA),
            "user": "postgres",
            "password": self.password,
            "dbname": "testdb",
            "connect_timeout": 5,
            "autocommit": True,
        }
        return psycopg.connect(**{**given, **values})

    def sql(self, service: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.connect(service, **values) as connection:
            cursor = connection.execute(statement.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, service: str, statement: str) -> Any:
        return self.sql(service, statement)[0][0]

    def status(self) -> Any:
        return self.cluster.cli("pg14", "status", "--format=json", check=False).json()

    def role(self, service: str) -> str:
        found = next(server for server in self.status()["servers"] if server["service"] == service)
        return str(found["role"])

    def follows(self, primary: str = PRIMARY) -> bool:
        """Whether the other server streams, and has all that the primary has."""
        found = self.status()
        return bool(found["chosen_primary"] == primary and found["ok"] and found["lag"]["bytes"] == 0)

    def kill(self, *services: str) -> None:
        self.cluster.docker("kill", *(self.container(service) for service in services))

    def start(self, *services: str) -> None:
        self.cluster.docker("start", *(self.container(service) for service in services))

    def log(self, service: str) -> str:
        return self.cluster.docker("logs", self.container(service)).text

    def inside(self, service: str, script: str, check: bool = True) -> str:
        return self.cluster.docker("exec", self.container(service), "sh", "-c", script, check=check).out.strip()

    def health(self, service: str) -> str:
        """What the health check says just now."""
        check = f"sh /etc/citus-cluster/healthcheck.sh {service}"
        return self.inside(service, f"{check} 2>&1 || true")


def until(happens: Callable[[], object], within_s: float = 60) -> None:
    """Wait until something is so; a server that is away answers no."""
    eventually(happens, timeout_s=within_s, ignoring=psycopg.Error)


@contextmanager
def writing(pair: Pair, service: str, clients: int = 4) -> Iterator[list[int]]:
    """Insert rows by several clients until the server goes away; gives the ids whose commit was acknowledged."""
    acknowledged: list[int] = []

    def write() -> None:
        try:
            with pair.connect(service) as connection:
                while not done.is_set():
                    row = connection.execute("INSERT INTO t (v) VALUES ('w') RETURNING id").fetchone()
                    assert row is not None
                    acknowledged.append(row[0])
        except psycopg.Error:
            pass

    done = threading.Event()
    threads = [threading.Thread(target=write) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(acknowledged) > 50)
        yield acknowledged
    finally:
        done.set()
        for thread in threads:
            thread.join()


def make_table(pair: Pair, service: str = PRIMARY, rows: int = 100) -> None:
    pair.sql(service, "CREATE TABLE t (id bigserial PRIMARY KEY, v text)")
    pair.sql(service, f"INSERT INTO t (v) SELECT repeat(md5(i::text), 8) FROM generate_series(1, {rows}) i")


def lost(pair: Pair, service: str, acknowledged: list[int]) -> set[int]:
    return set(acknowledged) - {row[0] for row in pair.sql(service, "SELECT id FROM t WHERE v = 'w'")}


def started(cluster: GeneratedCluster, *arguments: str) -> subprocess.Popen[str]:
    """A command that runs meanwhile."""
    return subprocess.Popen(
        [sys.executable, "-m", "citus_cluster", *arguments],
        cwd=cluster.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(cluster: GeneratedCluster, line: str, *arguments: str) -> None:
    """Start a command, and kill it as soon as it has said ``line``."""
    with started(cluster, *arguments) as process:
        assert process.stderr is not None
        said = next((said for said in process.stderr if line in said), None)
        process.send_signal(signal.SIGKILL)
    assert said is not None, f"it ended without saying {line!r}"


@contextmanager
def network_cut(pair: Pair, service: str) -> Iterator[None]:
    """Take a server off the network. The other one notices a minute later."""
    cluster, container = pair.cluster, pair.container(service)
    network = f"{cluster.name}_default"
    cluster.docker("network", "disconnect", network, container)
    try:
        yield
    finally:
        cluster.docker("network", "connect", "--alias", service, network, container)
        cluster.docker("restart", container)  # or it waits a minute for the connection that it had
