"""The PostgreSQL 14 pair of a generated cluster, and clients that write to it while something breaks."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from generated_cluster import GeneratedCluster
from waiting import eventually

from citus_cluster.operations.directory import load
from citus_cluster.operations.pair import status as pair_status

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
        """Return the output of ``pg14 status --format=json``, without a process, because tests read it repeatedly."""
        found = asyncio.run(pair_status.status(load(self.cluster.root)))
        return json.loads(json.dumps(found.as_dict()))

    def role(self, service: str) -> str:
        found = next(server for server in self.status()["servers"] if server["service"] == service)
        return str(found["role"])

    def follows(self, primary: str = PRIMARY) -> bool:
        """Whether the other server streams, and has everything that the primary has."""
        found = self.status()
        return bool(found["chosen_primary"] == primary and found["ok"] and found["lag"]["bytes"] == 0)

    def is_as_it_began(self) -> bool:
        """Whether pg14-primary is the primary, and the other server follows, for which it has 15 s."""
        try:
            until(self.follows, within_s=15)
        except (AssertionError, ValueError):
            return False
        return True

    def kill(self, *services: str) -> None:
        self.cluster.docker("kill", *(self.container(service) for service in services))

    def start(self, *services: str) -> None:
        self.cluster.docker("start", *(self.container(service) for service in services))

    def log(self, service: str) -> str:
        return self.cluster.docker("logs", self.container(service)).text

    def inside(self, service: str, script: str, check: bool = True) -> str:
        return self.cluster.docker("exec", self.container(service), "sh", "-c", script, check=check).out.strip()

    def health(self, service: str) -> str:
        """Return the current output of the health check."""
        check = f"sh /etc/citus-cluster/healthcheck.sh {service}"
        return self.inside(service, f"{check} 2>&1 || true")


def until(happens: Callable[[], object], within_s: float = 60) -> None:
    """Wait until a condition is true; it counts as false while a server does not answer."""
    eventually(happens, timeout_s=within_s, ignoring=psycopg.Error)


@contextmanager
def writing(pair: Pair, service: str, clients: int = 4) -> Iterator[list[int]]:
    """Insert rows with several clients until the server stops. Yields the ids whose commits were acknowledged."""
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


def interrupt(cluster: GeneratedCluster, line: str, *arguments: str) -> None:
    """Start a command, and kill it as soon as it has printed ``line``."""
    with cluster.running_cli(*arguments) as run:
        said = next((said for said in run.err if line in said), None)
    assert said is not None, f"it ended without saying {line!r}"


@contextmanager
def network_cut(pair: Pair, service: str) -> Iterator[None]:
    """Disconnect a server from the network. The other one detects this a minute later."""
    cluster, container = pair.cluster, pair.container(service)
    network = f"{cluster.name}_default"
    cluster.docker("network", "disconnect", network, container)
    try:
        yield
    finally:
        cluster.docker("network", "connect", "--alias", service, network, container)
        cluster.docker("restart", container)  # otherwise it waits a minute for its earlier connection
