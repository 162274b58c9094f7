"""The operations `up`, `status` and `down` on the directory of a generated cluster."""

import asyncio

from generated_cluster import GeneratedCluster

from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.directory import load
from citus_cluster.operations.start.down import down
from citus_cluster.operations.start.up import UpResult, up
from citus_cluster.operations.status.report import Status, status


class Events(list[Event]):
    """Records the events of an operation."""

    def of(self, step: str) -> list[EventKind]:
        return [event.kind for event in self if event.step == step]


def bring_up(cluster: GeneratedCluster, *, timeout_s: float = 120, events: Events | None = None) -> UpResult:
    seen = Events() if events is None else events
    return asyncio.run(up(load(cluster.root), seen.append, timeout_s=timeout_s))


def state_of(cluster: GeneratedCluster) -> Status:
    return asyncio.run(status(load(cluster.root)))


def take_down(cluster: GeneratedCluster, *, volumes: bool = False) -> None:
    asyncio.run(down(load(cluster.root), Events().append, volumes=volumes))


def override(cluster: GeneratedCluster, service: str, text: str) -> None:
    (cluster.root / "docker-compose.override.yml").write_text(f"services:\n  {service}:\n    {text}\n")
