"""A real cluster that the project's own scripts create, and that tests control by commands, like a user."""

import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import programs
import psycopg

from bench.measure import free_base_port
from citus_cluster.model.component_name import EXAMPLES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Running:
    """A command that runs in the background, with its two streams."""

    process: programs.Process
    out: TextIO
    err: TextIO

    def interrupt(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)

    def rest(self) -> str:
        """Wait until it ends. Returns the rest of its stderr."""
        text = self.err.read()
        self.process.wait()
        return text


@dataclass
class GeneratedCluster:
    """A directory with its own project name, and with ports that were free."""

    root: Path
    image: str
    # The length is constant, so that lines with the name wrap at the same places: a row that ends in a space looks
    # shorter.
    name: str = field(default_factory=lambda: f"e2e-{os.getpid():07d}-{secrets.token_hex(3)}")
    base_port: int = field(default_factory=free_base_port)
    user: str = "postgres"
    database: str = "postgres"
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def admin_port(self) -> int:
        return self.base_port + 7

    @property
    def pg14_port(self) -> int:
        return self.base_port + 10

    @property
    def redis_port(self) -> int:
        return self.base_port + 12

    @property
    def cassandra_port(self) -> int:
        return self.base_port + 13

    @property
    def pgbouncer_port(self) -> int:
        return self.base_port + 14

    @property
    def example_ports(self) -> dict[str, int]:
        return {name.value: self.base_port + 15 + place for place, name in enumerate(EXAMPLES)}

    @property
    def monitoring_port(self) -> int:
        return self.base_port + 18

    @property
    def password(self) -> str:
        return self.secret("superuser_password")

    def secret(self, name: str) -> str:
        return (self.root / "generated/secrets" / name).read_bytes().decode()

    def environment(self) -> dict[str, str]:
        """Return the environment in which this cluster's commands run."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CITUS_CLUSTER_", "PG"))}
        return kept | {"PYTHONPATH": str(ROOT)} | self.variables

    def run(self, *command: str, check: bool = True, timeout_s: float = 300) -> Result:
        """Run a command in the directory, without a terminal."""
        done = programs.run(command, cwd=self.root, environment=self.environment(), timeout_s=timeout_s)
        result = Result(done.returncode, done.stdout, done.stderr)
        assert not check or result.status == 0, f"{' '.join(command)} ended with {result.status}\n{result.text}"
        return result

    @contextmanager
    def running(self, *command: str) -> Iterator[Running]:
        """Run a command in the directory in the background, in its own session; the end of the block kills it."""
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        with os.fdopen(out, encoding="utf-8") as out_file, os.fdopen(err, encoding="utf-8") as err_file:
            try:
                process = programs.start(
                    command,
                    cwd=self.root,
                    environment=self.environment(),
                    stdin=nothing,
                    stdout=its_out,
                    stderr=its_err,
                    new_session=True,
                )
            finally:
                for end in (nothing, its_out, its_err):
                    os.close(end)
            try:
                yield Running(process, out_file, err_file)
            finally:
                process.kill()
                process.wait()

    def running_cli(self, *arguments: str) -> AbstractContextManager[Running]:
        return self.running(sys.executable, "-m", "citus_cluster", *arguments)

    def running_add_worker(self, *arguments: str) -> AbstractContextManager[Running]:
        return self.running(sys.executable, str(ROOT / "add_worker.py"), *arguments)

    def setup(self, *options: str, check: bool = True) -> Result:
        return self.run(sys.executable, str(ROOT / "setup_citus_cluster.py"), *options, check=check)

    def secrets(self) -> list[str]:
        return sorted(path.name for path in (self.root / "generated/secrets").iterdir())

    def identity(self) -> list[str]:
        """Return the options that distinguish this cluster from others: name, image, user and ports."""
        return [
            *(f"--name={self.name}", f"--citus-image={self.image}", f"--user={self.user}", f"--db={self.database}"),
            *(f"--port={self.base_port}", f"--admin-port={self.admin_port}", f"--pg14-port={self.pg14_port}"),
            *(f"--redis-port={self.redis_port}", f"--cassandra-port={self.cassandra_port}"),
            *(f"--pgbouncer-port={self.pgbouncer_port}", f"--monitoring-port={self.monitoring_port}"),
            *(f"--{name}-port={port}" for name, port in self.example_ports.items()),
        ]

    def create(self, *options: str, check: bool = True) -> Result:
        """Run the first set-up with this cluster's name, ports and image, by default only with Citus."""
        own = self.identity()
        if not any(option.startswith("--services") for option in options):
            own.append("--services=citus" + ("" if "--no-coordinator" in options else ",admin-api"))
        return self.setup(*own, "--memory=7840", "--cpus=2", *options, check=check)

    def cli(self, *arguments: str, check: bool = True) -> Result:
        return self.run(sys.executable, "-m", "citus_cluster", *arguments, check=check)

    def add_worker(self, *arguments: str, check: bool = True) -> Result:
        return self.run(sys.executable, str(ROOT / "add_worker.py"), *arguments, check=check)

    def compose(self, *arguments: str, check: bool = True) -> Result:
        return self.run("docker", "compose", *arguments, check=check)

    def container(self, service: str) -> str:
        return f"{self.name}-{service.removeprefix('citus-')}"

    def docker(self, *arguments: str, check: bool = True) -> Result:
        return self.run("docker", *arguments, check=check)

    def connect(self, number: int = 0) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect to a node through its published port: 0 is the coordinator, 1 the first worker."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.base_port + number,
            user=self.user,
            password=self.password,
            dbname=self.database,
            autocommit=True,
            connect_timeout=10,
        )

    def sql(self, statement: str, number: int = 0) -> list[tuple[Any, ...]]:
        with self.connect(number) as connection:
            cursor = connection.execute(statement.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def active_workers(self) -> list[str]:
        return [str(row[0]) for row in self.sql("SELECT node_name FROM citus_get_active_worker_nodes() ORDER BY 1")]

    def remove(self) -> None:
        """Remove containers, networks and volumes, including those of a test that failed half way."""
        if (self.root / "docker-compose.yml").exists():
            self.compose("--profile", "*", "down", "--volumes", "--timeout", "0", "--remove-orphans", check=False)
            # No file contains a removed worker any more, but its volume stays.
            left = self.docker("volume", "ls", "--quiet", "--filter", f"name={self.name}_", check=False).out.split()
            if left:
                self.docker("volume", "rm", *left, check=False)
