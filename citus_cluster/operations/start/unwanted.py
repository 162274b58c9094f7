"""Containers of services that are no longer wanted: which are stopped at a start, and which must run on."""

from collections.abc import Iterable, Mapping, Sequence

from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread

_RUNS = {"running", "restarting"}


async def stop_unwanted(
    directory: Directory,
    engine: Engine,
    containers: Iterable[Container],
    services: Mapping[str, object],
    emit: Emit,
) -> None:
    """Stop containers of ours whose service is no longer in the files; a user's own are theirs.

    A node that cluster.yaml names is never stopped: it may hold the only copy of a shard. One that has left is stopped
    once the coordinator says so too, by ``stop_departed``.
    """
    identity = directory.manifest.identity
    known, removed = identity.get("addresses", {}), identity.get("removed", {})
    for container in containers:
        service = container.service or ""
        if not container.ours or service in services or (service in removed and directory.topology.coordinator):
            continue
        if service in known:
            if container.state in _RUNS:
                message = (
                    f"{service} keeps running, although it is not among the wanted services: cluster.yaml names it, "
                    f"and it may hold shards. Stop it yourself, if nothing needs it: docker stop {container.name}"
                )
                emit(Event(f"stop:{service}", EventKind.WARNING, message))
            continue
        await _stop(engine, container, emit)
        if service in removed:
            _tell_departed(service, emit)


async def stop_departed(directory: Directory, engine: Engine, nodes: Sequence[RegisteredNode], emit: Emit) -> None:
    """Stop workers that were removed, but for one that the node list names (again)."""
    removed: Mapping[str, str] = directory.manifest.identity.get("removed", {})
    if not removed:
        return
    listed = {str(node.address) for node in nodes}
    for container in await in_thread(engine.project_containers, directory.topology.name):
        service = container.service or ""
        if not container.ours or service not in removed:
            continue
        if removed[service] in listed:
            message = (
                f"{service} keeps running: it was removed from cluster.yaml, but the coordinator's node list names it. "
                f"citus-cluster nodes drain {removed[service]} moves its shards away"
            )
            emit(Event(f"stop:{service}", EventKind.WARNING, message))
            continue
        await _stop(engine, container, emit)
        _tell_departed(service, emit)


async def _stop(engine: Engine, container: Container, emit: Emit) -> None:
    if container.state in _RUNS:
        await in_thread(engine.stop, container)
        message = f"{container.service} is stopped: it is no longer among the services"
        emit(Event(f"stop:{container.service}", EventKind.DONE, message))


def _tell_departed(service: str, emit: Emit) -> None:
    message = (
        f"{service} has left the cluster, and its container is still here: "
        f"citus-cluster nodes remove {service} finishes its removal"
    )
    emit(Event(f"stop:{service}", EventKind.WARNING, message))
