"""The status of the PostgreSQL 14 pair of a directory: its two servers, and the reports of their containers."""

import asyncio
import time

from citus_cluster.errors import CitusClusterError, EngineUnavailableError, UsageError
from citus_cluster.model.component import Service
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.replication import PairStatus, SeenServer
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime import pg14
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.docker.project import Project
from citus_cluster.runtime.probes.pair import DEFAULT_TIMEOUT_S, pair_status

# A standby retries every 5 s (wal_retrieve_retry_interval).
_CONNECTS_WITHIN_S, _POLL_S = 15.0, 0.5


def pair_of(directory: Directory) -> tuple[Service, ...]:
    """Return both servers; none if the pair is not wanted."""
    return directory.topology.of(ComponentName.PG14)


def require_pair(directory: Directory) -> None:
    """Raise UsageError if the directory has no PostgreSQL 14 pair."""
    if not pair_of(directory):
        raise UsageError(
            "This cluster has no PostgreSQL 14 pair.",
            hint="Add pg14 to its services: python setup_citus_cluster.py --services=all --up",
        )


def require_server(directory: Directory, service: str) -> str:
    """Check the name of a server of the pair. Raises UsageError."""
    require_pair(directory)
    names = [server.name for server in pair_of(directory)]
    if service not in names:
        raise UsageError(f"The pair has no server {service!r}.", hint=f"The servers are {' and '.join(names)}.")
    return service


async def status(
    directory: Directory,
    engine: Engine | None = None,
    *,
    project: Project | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> PairStatus:
    """Read the status of the pair. A server or an engine that is down is reported, not raised. Raises UsageError.

    ``project`` has the containers if the caller has inspected them already.
    """
    require_pair(directory)
    seen: dict[str, SeenServer] | None = None
    chosen = None
    try:
        looks = await _look_at_containers(directory, project or Project(directory.topology.name, engine))
        seen = {server.service: server for _, server in looks}
        chosen = next((chosen for chosen, _ in looks if chosen), None)
    except EngineUnavailableError:
        if engine:
            raise
    return await pair_status(
        {server.name: directory.connection(server) for server in pair_of(directory)},
        synchronous=pair_of(directory)[0].synchronous,
        seen=seen,
        chosen=chosen,
        timeout_s=timeout_s,
    )


async def problems_at_rest(directory: Directory, engine: Engine) -> tuple[str, ...]:
    """Return the problems of a pair whose servers are ready; a replica that has just started has time to connect."""
    deadline = time.monotonic() + _CONNECTS_WITHIN_S
    while True:
        found = await status(directory, engine)
        lost = found.slot is not None and found.slot.wal_status == "lost"
        if found.ok or lost or time.monotonic() > deadline:
            return found.problems
        await asyncio.sleep(_POLL_S)


async def find_container(directory: Directory, engine: Engine, service: str) -> Container | None:
    """Look for the container of a service. Raises EngineUnavailableError."""
    found = await in_thread(engine.project_containers, directory.topology.name)
    return next((container for container in found if container.service == service), None)


async def _look_at_containers(directory: Directory, project: Project) -> list[tuple[str | None, SeenServer]]:
    """Return, for each server, the chosen primary according to its container, and the container's report."""
    engine, containers = await project.look()
    found = {container.service: container for container in containers}
    services = [server.name for server in pair_of(directory)]
    return await asyncio.gather(*(_look_at(engine, service, found.get(service)) for service in services))


async def _look_at(engine: Engine, service: str, container: Container | None) -> tuple[str | None, SeenServer]:
    if container is None:
        return None, SeenServer(service, container_state="missing")
    seen = SeenServer(service, container_state=container.state)
    if container.state != "running":
        return None, seen
    try:
        report = await in_thread(pg14.read_report, engine, container)
    except EngineUnavailableError:
        raise
    except CitusClusterError:  # it has just ended, or hangs: the server itself is asked next, and reports this
        return None, seen
    return report.chosen, SeenServer(service, None, None, container.state, report.phase, report.sentence)
