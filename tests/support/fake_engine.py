"""An engine in memory with the containers of a generated directory, and Compose, which creates and starts them.

With ``fake_citus``, ``up`` and ``status`` run completely; tests set fields to simulate failures.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fake_citus
import pytest
from fake_citus import FakeCitus, FakeConnection

from citus_cluster.errors import CitusClusterError, EngineUnavailableError, UnreachableError
from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.layout import COMPOSE_FILE
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.operations import inspection
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.start import preflight
from citus_cluster.runtime import ports, postgres, server_settings
from citus_cluster.runtime.citus import extension
from citus_cluster.runtime.docker import compose
from citus_cluster.runtime.docker.engine import Container, Engine, EngineInfo, HealthProbe
from citus_cluster.runtime.docker.project import Project
from citus_cluster.runtime.postgres import ConnectionInfo
from citus_cluster.runtime.probes import http_health

HEALTHY = HealthProbe(True, "")


def a_container(**values: object) -> Container:
    """Return a healthy, running container of the first worker, with these ``values`` changed."""
    facts: dict[str, object] = {
        "id": "1",
        "name": "citus-worker1",
        "project": "citus",
        "service": "citus-worker1",
        "state": "running",
        "health": "healthy",
        "health_output": "",
        "health_test": (),
        "exit_code": 0,
        "oom_killed": False,
        "error": "",
        "started_at": "",
        "restart_count": 0,
        "working_dir": None,
        "ours": True,
        "ports": (),
    }
    return Container(**{**facts, **values})  # type: ignore[arg-type]


class FakeEngine:
    """The engine of this machine. ``done`` has each change, in order."""

    host = "unix:///var/run/docker.sock"
    is_local = True

    def __init__(self) -> None:
        self.containers: list[Container] = []
        self.images: set[str] | None = None
        """The existing images; None for all."""
        self.volumes: list[str] = []
        self.networks: list[str] = []
        self.others: list[Container] = []
        self.facts = EngineInfo("28.0.0", 64_000, 8, "x86_64", None)
        self.health: dict[str, HealthProbe | Callable[[], HealthProbe]] = {}
        self.log: dict[str, str] = {}
        self.stale: dict[str, list[bool]] = {}
        self.outputs: dict[str, HealthProbe] = {}
        self.done: list[str] = []
        self.pull_failure: CitusClusterError | None = None
        self.failure: EngineUnavailableError | None = None
        self.numbers = 0

    def _answer(self) -> None:
        if self.failure:
            raise self.failure

    def close(self) -> None: ...

    def info(self) -> EngineInfo:
        return self.facts

    def find(self, service: str) -> Container:
        return next(one for one in self.containers if one.service == service)

    def change(self, service: str, **values: Any) -> None:
        self.containers = [replace(one, **values) if one.service == service else one for one in self.containers]

    def add(self, service: str, **values: Any) -> Container:
        """Create a container, which runs unless ``values`` change that."""
        self.numbers += 1
        facts = {"id": f"id-{self.numbers}", "name": service, "service": service}
        found = a_container(**{**facts, **values})
        self.containers = [one for one in self.containers if one.service != service]
        self.containers.append(found)
        return found

    def project_containers(self, project: str) -> tuple[Container, ...]:
        self._answer()
        return tuple(self.containers)

    def project_volumes(self, project: str) -> tuple[str, ...]:
        return tuple(self.volumes)

    def project_networks(self, project: str) -> tuple[str, ...]:
        return tuple(self.networks)

    def containers_named(self, names: Sequence[str]) -> tuple[Container, ...]:
        return tuple(one for one in (*self.containers, *self.others) if one.name in names)

    def published_ports(self) -> Mapping[int, str]:
        return {port: one.name for one in self.others for _, port in one.ports}

    def has_image(self, name: str) -> bool:
        return self.images is None or name in self.images

    def image_pg_major(self, name: str) -> int | None:
        return None

    def pull(self, name: str, platform_name: str | None, on_progress: Callable[[str], None]) -> None:
        on_progress(f"{name}: 1 of 2 MB")
        if self.pull_failure:
            raise self.pull_failure
        self.done.append(f"pull {name}" + (f" for {platform_name}" if platform_name else ""))
        if self.images is not None:
            self.images.add(name)

    def logs(self, container: Container, tail: int, *, earlier: bool = False) -> str:
        return self.log.get(container.service or "", "") + (" (earlier)" if earlier else "")

    def run_health_check(self, container: Container, timeout_s: float = 10) -> HealthProbe:
        found = self.health.get(container.service or "", HEALTHY)
        return found() if callable(found) else found

    def execute(self, container: Container, command: Sequence[str], *, timeout_s: float) -> HealthProbe:
        return self.outputs.get(container.service or "", HealthProbe(False, "it has no such command"))

    def read_file(self, container: Container, path: str) -> bytes | None:
        return None

    def has_stale_mount(self, container: Container, path: str, content: bytes) -> bool:
        answers = self.stale.get(container.service or "", [False])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def restart(self, container: Container, timeout_s: int = 120) -> None:
        self.done.append(f"restart {container.service}")
        self.change(container.service or "", started_at=f"2026-01-01T13:00:{len(self.done):02}+00:00")

    def rename(self, container: Container, name: str) -> None:
        self.done.append(f"rename {container.name} to {name}")
        self.change(container.service or "", name=name)

    def start(self, container: Container) -> None:
        self.done.append(f"start {container.service}")
        self.change(container.service or "", state="running")

    def stop(self, container: Container, timeout_s: int = 120) -> None:
        self.done.append(f"stop {container.service}")
        self.change(container.service or "", state="exited")

    def remove(self, container: Container) -> None:
        self.done.append(f"remove {container.service}")
        self.containers = [one for one in self.containers if one.id != container.id]

    def remove_volume(self, name: str) -> None:
        self.done.append(f"remove the volume {name}")
        self.volumes.remove(name)

    def remove_network(self, name: str) -> None:
        self.done.append(f"remove the network {name}")
        self.networks.remove(name)


class Host:
    """A machine with a generated directory: its engine, its Compose, its servers and their cluster."""

    def __init__(self, root: Path, citus: FakeCitus) -> None:
        self.root = root
        self.citus = citus
        self.engine = FakeEngine()
        self.more_services: dict[str, Any] = {}
        self.compose_failure: Exception | None = None
        self.compose_seconds = 0.0
        self.asked: list[tuple[str, ...]] = []
        """The services of each request to Compose to start some."""
        self.refused: dict[str, Exception] = {}
        """Why a server refuses connections, by service."""
        self.reloads: set[str] = set()
        """Servers with changed settings that must be reloaded."""
        self.unused: dict[str, tuple[Any, ...]] = {}
        self.versions: dict[str, ExtensionVersions | None] = {}
        self.unserving: set[str] = set()
        """Servers whose library does not fit the extension."""
        self.updated: list[str] = []
        self.api = HEALTHY
        self.taken_ports: dict[int, ports.PortState] = {}
        self.dialled: list[str] = []

    @property
    def directory(self) -> Directory:
        return load(self.root)

    @property
    def services(self) -> dict[str, Any]:
        """Return the services as Compose does, merged and resolved."""
        data: Any = load_yaml((self.root / COMPOSE_FILE).read_text(), COMPOSE_FILE)
        resolved = {
            name: {**service, "ports": [_resolved(port) for port in service.get("ports", ())]}
            for name, service in data["services"].items()
        }
        return {**resolved, **self.more_services}

    def run(self, *services: str, **values: Any) -> None:
        """Create containers that ran before, by default of all services."""
        for name in services or self.services:
            facts = {
                "working_dir": str(self.root),
                "image": self.services[name].get("image", ""),
                "started_at": datetime.now(UTC).isoformat(),
            }
            self.engine.add(name, **{**facts, "name": self.services[name]["container_name"], **values})

    # Compose

    async def config(self, *, all_profiles: bool = False) -> Mapping[str, Any]:
        networks = {"default": {"name": f"{self.directory.topology.name}_default"}}
        return {"services": self.services, "networks": networks}

    async def up(self, on_line: Callable[[str], None], services: Sequence[str] = ()) -> None:
        self.asked.append(tuple(services))
        await asyncio.sleep(self.compose_seconds)
        on_line("Container citus-coordinator  Started")
        if self.compose_failure:
            raise self.compose_failure
        there = {one.service: one for one in self.engine.containers}
        for name in services or self.services:
            found = there.get(name)
            if found is None or found.state != "running":
                self.run(name)

    async def down(self, on_line: Callable[[str], None], *, volumes: bool) -> None:
        if self.compose_failure:
            raise self.compose_failure
        on_line("Container citus-coordinator  Removed")
        self.engine.containers = [one for one in self.engine.containers if one.service not in self.services]
        self.engine.networks = [name for name in self.engine.networks if not name.endswith("_default")]

    async def build(self, services: Sequence[str], on_line: Callable[[str], None]) -> None:
        on_line("#1 building")
        if self.compose_failure:
            raise self.compose_failure
        self.engine.done.append(f"build {' '.join(services)}")

    # Servers

    async def connect(self, info: ConnectionInfo, *, timeout_s: float, application_name: str = "") -> FakeConnection:
        service = next(one.name for one in self.directory.topology.services if one.host_port == info.port)
        self.dialled.append(service)
        if service in self.refused:
            raise self.refused[service]
        container = next((one for one in self.engine.containers if one.service == service), None)
        if container is None or container.state != "running":
            raise UnreachableError(f"Cannot connect to {service}: connection refused", hint="Start it.")
        found = FakeConnection()
        found.info = SimpleNamespace(host=info.host, port=info.port, user=info.user, dbname=info.database)
        found.service = service  # type: ignore[attr-defined]
        return found

    def _service(self, conn: Any) -> str:
        return str(conn.service)

    async def reload_if_stale(self, conn: Any, changed_at: object) -> bool:
        stale = self._service(conn) in self.reloads
        self.reloads.discard(self._service(conn))
        return stale

    async def unused_settings(self, conn: Any) -> tuple[Any, ...]:
        return self.unused.get(self._service(conn), ())

    async def extension_versions(self, conn: Any) -> ExtensionVersions | None:
        return self.versions.get(self._service(conn), ExtensionVersions("13.2-1", "13.2-1"))

    async def library_serves(self, conn: Any) -> bool:
        return self._service(conn) not in self.unserving

    async def update_extension(self, conn: Any) -> None:
        self.updated.append(self._service(conn))

    async def finish_upgrade(self, conn: Any) -> None:
        self.updated.append(f"finish on {self._service(conn)}")

    def probe_http(self, host: str, port: int, path: str, *, timeout_s: float) -> HealthProbe:
        return self.api

    def answers(self, host: str, port: int, question: bytes, *, timeout_s: float) -> bool:
        service = next(one.name for one in self.directory.topology.services if one.host_port == port)
        return any(one.service == service and one.state == "running" for one in self.engine.containers)

    def port_state(self, address: str, port: int) -> ports.PortState:
        return self.taken_ports.get(port, ports.PortState.FREE)


def _resolved(port: str) -> dict[str, str]:
    address, published, target = port.rsplit(":", 2)
    return {"host_ip": address, "published": published, "target": target, "protocol": "tcp"}


async def _compose_version() -> str:
    return "2.40.3"


async def _nothing_at_rest(*_: object) -> tuple[str, ...]:
    return ()


_DOORS: tuple[tuple[Any, str], ...] = (
    (postgres, "connect"),
    (server_settings, "reload_if_stale"),
    (server_settings, "unused_settings"),
    (extension, "extension_versions"),
    (extension, "library_serves"),
    (extension, "update_extension"),
    (extension, "finish_upgrade"),
    (http_health, "probe_http"),
    (ports, "answers"),
    (ports, "port_state"),
)
_PLACES = [
    (place, name, original)
    for module, original in _DOORS
    for place, name in fake_citus.places_of(getattr(module, original))
]
_COMPOSE_OF = fake_citus.places_of(preflight.compose_of)


def in_place(monkeypatch: pytest.MonkeyPatch, root: Path, *workers: NodeAddress, registered: bool = True) -> Host:
    """Yield the machine with the directory ``root``, whose cluster has these workers."""
    cluster = FakeCitus.of(*workers) if registered else FakeCitus()
    if not registered:
        for worker in workers:
            cluster.offer(worker)
    host = Host(root, fake_citus.in_place(monkeypatch, cluster))
    for place, name, method in _PLACES:
        monkeypatch.setattr(place, name, getattr(host, method))
    for place, name in _COMPOSE_OF:
        monkeypatch.setattr(place, name, lambda directory: host)
    monkeypatch.setattr(compose, "version", _compose_version)

    def connect(*_: object, **__: object) -> Engine:
        return cast("Engine", host.engine)

    monkeypatch.setattr(Engine, "connect", connect)
    # This default was bound when the class was created.
    monkeypatch.setattr(Project.__init__, "__kwdefaults__", {"connect": connect})
    monkeypatch.setattr(inspection, "problems_at_rest", _nothing_at_rest)
    return host
