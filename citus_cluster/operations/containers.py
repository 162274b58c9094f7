"""Access to the containers: a psql session on a server, and the logs of services."""

import difflib
from collections.abc import Sequence

from citus_cluster.errors import ServiceFailedError, UsageError
from citus_cluster.model.component import Login, Service
from citus_cluster.model.log_records import readable
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.docker.engine import Container, Engine, exec_argv, in_thread

_LINES_SHOWN, _LINES_READ = 20, 200
"""More lines are read than are shown, because lines about single requests are omitted."""


def psql_argv(directory: Directory, name: str | None, statements: Sequence[str], *, terminal: bool) -> tuple[str, ...]:
    """Return the command line that opens psql in the container of a server, by default the coordinator.

    It uses the container's own socket, which needs no password. With ``terminal`` it is interactive; otherwise it reads
    standard input. Raises UsageError for an unknown name, ServiceFailedError if the server does not run.
    """
    server, login = find_server(directory, name)
    engine = Engine.connect()
    found = {container.service: container for container in engine.project_containers(directory.topology.name)}
    container = found.get(server.name)
    if container is None or container.state not in {"running", "paused"}:
        state = "has no container" if container is None else f"does not run: its container is {container.state}"
        raise ServiceFailedError(f"{server.name} {state}.", hint="Start it: citus-cluster up")
    if container.state == "paused":
        raise ServiceFailedError(f"{server.name} is paused.", hint=f"Resume it: docker unpause {container.name}")
    command = ["psql", "-U", login.user, "-d", login.database]
    command += [part for statement in statements for part in ("-c", statement)]
    return exec_argv(container, command, terminal=terminal)


def find_server(directory: Directory, name: str | None) -> tuple[Service, Login]:
    """Return the PostgreSQL server with this name of a service or container, also without ``citus-``."""
    servers = [(service, service.login) for service in directory.topology.services if service.login]
    if not servers:
        raise UsageError("This directory has no PostgreSQL server.", hint="See the services in cluster.yaml.")
    if name is None:
        return servers[0]
    for server, login in servers:
        if name in {server.name, server.container_name, server.name.removeprefix("citus-")}:
            return server, login
    raise _unknown("server", name, [server.name for server, _ in servers])


def logs_arguments(directory: Directory, names: Sequence[str], *, follow: bool, tail: int | None) -> tuple[str, ...]:
    """Return the arguments of Compose that print the logs of services, including stopped ones; by default of all.

    Raises UsageError for an unknown name.
    """
    members = directory.topology.services
    services = []
    for name in names:
        found = [one.name for one in members if name in {one.name, one.container_name, one.name.removeprefix("citus-")}]
        if not found:
            raise _unknown("service", name, [one.name for one in members])
        services.append(found[0])
    options = [*(["--follow"] if follow else []), *([f"--tail={tail}"] if tail is not None else [])]
    return ("logs", "--no-color", *options, *services)


async def last_log_lines(engine: Engine, container: Container, *, earlier: bool = False) -> tuple[str, ...]:
    """Return the last lines that a container wrote about itself since its last start; with ``earlier``, before it too.

    JSON lines become plain text, in which the causes of a failure are searched.
    """
    log = await in_thread(engine.logs, container, _LINES_READ, earlier=earlier)
    return tuple(readable(log, with_requests=False).splitlines()[-_LINES_SHOWN:])


def _unknown(kind: str, name: str, known: Sequence[str]) -> UsageError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]}?" if close else ""
    return UsageError(f"There is no {kind} {name!r} here.{guess}", hint=f"Choose one of: {', '.join(known)}.")
