"""What users look for inside the containers: a session of psql on a server, and the logs of services."""

import difflib
from collections.abc import Sequence

from citus_cluster.errors import ServiceFailedError, UsageError
from citus_cluster.model.companions import PG14_DATABASE, PG14_USER, Pg14Server
from citus_cluster.model.topology import Node
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.engine import Engine, exec_argv


def psql_argv(directory: Directory, name: str | None, statements: Sequence[str], *, terminal: bool) -> tuple[str, ...]:
    """Give the command line that opens psql in the container of a server: the coordinator, unless one is named.

    It goes through the container's own socket, which needs no password. With ``terminal`` a person types there; else
    it reads its standard input. Raises UsageError for an unknown name, ServiceFailedError where it does not run.
    """
    server = find_server(directory, name)
    engine = Engine.connect()
    found = {container.service: container for container in engine.project_containers(directory.topology.name)}
    container = found.get(server.service)
    if container is None or container.state not in {"running", "paused"}:
        state = "has no container" if container is None else f"does not run: its container is {container.state}"
        raise ServiceFailedError(f"{server.service} {state}.", hint="Start it: citus-cluster up")
    if container.state == "paused":
        raise ServiceFailedError(f"{server.service} is paused.", hint=f"Resume it: docker unpause {container.name}")
    pair = isinstance(server, Pg14Server)
    user, database = (PG14_USER, PG14_DATABASE) if pair else (directory.topology.user, directory.topology.database)
    command = ["psql", "-U", user, "-d", database]
    command += [part for statement in statements for part in ("-c", statement)]
    return exec_argv(container, command, terminal=terminal)


def find_server(directory: Directory, name: str | None) -> Node | Pg14Server:
    """Give the PostgreSQL server that a user calls so, by service or container, also without ``citus-``."""
    topology = directory.topology
    servers: list[Node | Pg14Server] = [*topology.nodes, *topology.pg14]
    if not servers:
        raise UsageError("This directory has no PostgreSQL server.", hint="Its services are in cluster.yaml.")
    if name is None:
        return servers[0]
    for server in servers:
        if name in {server.service, server.container_name, server.service.removeprefix("citus-")}:
            return server
    raise _unknown("server", name, [server.service for server in servers])


def logs_arguments(directory: Directory, names: Sequence[str], *, follow: bool, tail: int | None) -> tuple[str, ...]:
    """Give what Compose takes to print the logs of services, also of stopped ones: of all, unless some are named.

    Raises UsageError for an unknown name.
    """
    members = directory.topology.members
    services = []
    for name in names:
        found = [
            one.service
            for one in members
            if name in {one.service, one.container_name, one.service.removeprefix("citus-")}
        ]
        if not found:
            raise _unknown("service", name, [one.service for one in members])
        services.append(found[0])
    options = [*(["--follow"] if follow else []), *([f"--tail={tail}"] if tail is not None else [])]
    return ("logs", "--no-color", *options, *services)


def _unknown(kind: str, name: str, known: Sequence[str]) -> UsageError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]}?" if close else ""
    return UsageError(f"There is no {kind} {name!r} here.{guess}", hint=f"There are: {', '.join(known)}.")
