"""Containers of services that are no longer wanted: which are stopped at a start, and which must keep running."""

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
    """Stop our containers whose service is no longer in the files; the user's own containers are not changed.

    A node that cluster.yaml names is never stopped, because it may hold the only copy of a shard. ``stop_departed``
    stops one that has left, once the coordinator confirms that.
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
                    f"{service} keeps running although it is not enabled: cluster.yaml names it, "
                    f"and it may hold shards. If you do not need it, stop it: docker stop {container.name}"
                )
                emit(Event(f"stop:{service}", EventKind.WARNING, message))
            continue
        await _stop(engine, container, emit)
        if service in removed:
            _tell_departed(service, emit)


async def stop_departed(directory: Directory, engine: Engine, nodes: Sequence[RegisteredNode], emit: Emit) -> None:
    """Stop workers that were removed, except those that the node list names (again)."""
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
                f"To move its shards away: citus-cluster nodes drain {removed[service]}"
            )
            emit(Event(f"stop:{service}", EventKind.WARNING, message))
            continue
        await _stop(engine, container, emit)
        _tell_departed(service, emit)


async def _stop(engine: Engine, container: Container, emit: Emit) -> None:
    if container.state in _RUNS:
        await in_thread(engine.stop, container)
        message = f"stopped {container.service}, which is no longer enabled"
        emit(Event(f"stop:{container.service}", EventKind.DONE, message))


def _tell_departed(service: str, emit: Emit) -> None:
    message = (
        f"{service} has left the cluster, but its container still exists. To finish its removal: "
        f"citus-cluster nodes remove {service}"
    )
    emit(Event(f"stop:{service}", EventKind.WARNING, message))
