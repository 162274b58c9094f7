"""PgBouncer beside the servers of the SQL tests, with the settings and scripts that the generator writes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
from docker.models.containers import Container
from sql_servers import COORDINATOR, Servers
from waiting import eventually

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.pooling import Pool
from citus_cluster.render.templates import environment

IMAGE = "ghcr.io/cloudnative-pg/pgbouncer:1.26.1"
CONFIG = Path(__file__).parents[2] / "config"
CHECK = "sh /etc/citus-cluster/healthcheck.sh"
PASSWORD = "of" + "PgBouncer" * 3
_FILES = {
    "pgbouncer.ini": "pgbouncer.ini",
    "databases.ini": "pgbouncer-databases.ini",
    "hba.conf": "pgbouncer-hba.conf",
    "start.sh": "pgbouncer-start.sh",
    "healthcheck.sh": "pgbouncer-healthcheck.sh",
}


@dataclass
class Bouncer:
    """A container that runs PgBouncer, and the folder of its settings."""

    container: Container
    folder: Path
    password: str = PASSWORD

    @property
    def address(self) -> NodeAddress:
        """Return its published address; it is read each time, because a restart changes the port."""
        self.container.reload()
        return NodeAddress("127.0.0.1", int((self.container.ports["6432/tcp"] or [{}])[0]["HostPort"]))

    def write(self, pool: Pool) -> None:
        """Write its settings, which PgBouncer reloads on its own."""
        templates = {path.name: path.read_text() for path in CONFIG.iterdir() if path.name.startswith("pgbouncer")}
        facts = SimpleNamespace(pool=pool, coordinator=COORDINATOR.host)
        topology = SimpleNamespace(database="postgres")
        for name, template in _FILES.items():
            text = templates[template]
            if not name.endswith(".sh"):
                text = environment(templates).get_template(template).render(facts=facts, topology=topology)
            (self.folder / name).write_text(text)

    def connect(self, user: str, password: str, database: str = "postgres", **options: Any) -> psycopg.Connection[Any]:
        address = self.address
        return psycopg.connect(
            host=address.host,
            port=address.port,
            user=user,
            password=password,
            dbname=database,
            connect_timeout=60,
            autocommit=True,
            **options,
        )

    def connect_patiently(self, user: str, password: str, patience_s: float = 30) -> psycopg.Connection[Any]:
        """Connect; after an outage, PgBouncer refuses one login at once, and connects to the server for the next."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with suppress(psycopg.OperationalError, KeyError, IndexError):
                return self.connect(user, password)
            time.sleep(0.2)
        return self.connect(user, password)

    def wait(self) -> None:
        """Wait until it listens."""
        eventually(lambda: self.health()[0] == 0, lambda: self.container.logs().decode(), 30)

    def health(self) -> tuple[int, str]:
        return self.shell(CHECK)

    def shell(self, command: str) -> tuple[int, str]:
        status, output = self.container.exec_run(["sh", "-c", command])
        assert isinstance(output, bytes)
        assert status is not None
        return status, output.decode().strip()

    def signal(self, name: str) -> None:
        """Send a signal to PgBouncer itself, not to the container's first process, which belongs to the engine."""
        send = 'for one in /proc/[0-9]*; do [ "$(cat $one/comm)" != pgbouncer ] || kill -%s ${one#/proc/}; done'
        assert self.shell(send % name) == (0, "")

    def processes(self) -> list[str]:
        """Return the number, state and command of each process in the container."""
        return [" ".join(row) for row in self.container.top(ps_args="-o pid,stat,args")["Processes"]]

    def logs(self) -> str:
        return self.container.logs().decode()


@contextmanager
def bouncer(servers: Servers, folder: Path, pool: Pool) -> Iterator[Bouncer]:
    """Run PgBouncer on the network of the servers, like the Compose file."""
    config, secret = folder / "pgbouncer", folder / "pgbouncer_password"
    config.mkdir()
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    container = servers.engine.containers.create(
        IMAGE,
        name=f"{servers.network.name}-pgbouncer",
        entrypoint=["sh", "/etc/citus-cluster/start.sh", COORDINATOR.host],
        user="998",
        init=True,
        dns=["127.0.0.1"],
        volumes={
            str(config): {"bind": "/etc/citus-cluster", "mode": "ro"},
            str(secret): {"bind": "/run/secrets/pgbouncer_password", "mode": "ro"},
        },
        tmpfs={"/tmp": ""},
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        stop_signal="SIGINT",
        mem_limit="128m",
        ports={"6432/tcp": ("127.0.0.1", 0)},
    )
    made = Bouncer(container, config)
    try:
        made.write(pool)
        servers.network.connect(container)
        container.start()
        made.wait()
        yield made
    finally:
        container.remove(force=True, v=True)
