"""What the changes of roles share: what is looked at before, what is refused, and what is reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from citus_cluster.errors import RoleError, UnreachableError, UsageError, WorkerUnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import COORDINATOR_GROUP, RegisteredNode
from citus_cluster.model.citus.roles import FoundRole, NodeRoles, RoleRecord, role_problem, schema_problem
from citus_cluster.model.names import password_problem
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.postgres import Connection

ALONE = RegisteredNode(0, COORDINATOR_GROUP, NodeAddress("localhost"), True, "primary", True)
"""Stands for a coordinator that is alone, and therefore may not be in the node list."""


@dataclass(frozen=True)
class Cluster:
    """What is known before a change: every node answers."""

    nodes: tuple[RegisteredNode, ...]
    """Active primaries, the coordinator first."""
    known: Mapping[NodeAddress, NodeRoles]
    records: Mapping[str, RoleRecord]
    roles: Mapping[str, FoundRole]

    @property
    def workers(self) -> tuple[RegisteredNode, ...]:
        return tuple(node for node in self.nodes if not node.is_coordinator)


class ChangeReport:
    """Collects what was changed, and reports it as it happens."""

    def __init__(self, role: str, emit: Emit) -> None:
        self.step = f"role:{role}"
        self.changed: list[str] = []
        self._emit = emit

    def begin(self, message: str) -> None:
        self._emit(Event(self.step, EventKind.STARTED, message))

    def __call__(self, message: str) -> None:
        self.changed.append(message)
        self._emit(Event(self.step, EventKind.DONE, message))

    def end(self, otherwise: str) -> None:
        if not self.changed:
            self._emit(Event(self.step, EventKind.SKIPPED, otherwise))


def refuse_names(credentials: CredentialStore, name: str, schemas: Sequence[str], given: str | None) -> None:
    problems = [
        problem
        for problem in (role_problem(name, credentials.coordinator.user), *map(schema_problem, schemas))
        if problem
    ]
    if given is not None and (problem := password_problem(given)):
        problems.append(problem)
    if problems:
        raise UsageError("; ".join(problems) + ".")


async def active_nodes(conn: Connection) -> tuple[RegisteredNode, ...]:
    registry = await citus_nodes.read_registry(conn)
    nodes = tuple(node for node in registry.nodes if node.is_active and node.role == "primary")
    return nodes if registry.coordinator else (ALONE, *nodes)


async def look(conn: Connection) -> Cluster:
    """Read what is there; raises WorkerUnreachableError unless every node answers, since Citus would hang."""
    nodes = await active_nodes(conn)
    known = {}
    silent = []
    for node in nodes:
        try:
            known[node.address] = await citus_roles.node_roles(conn, node)
        except UnreachableError as error:
            if conn.closed:
                raise
            silent.append(error.message)
    if silent:
        raise WorkerUnreachableError(
            "A role is changed on all nodes at once, or on none; nothing was changed: " + " ".join(silent),
            hint="Start or unpause it (citus-cluster status), and run the command again; or, if it is lost: "
            "SELECT citus_disable_node('HOST', PORT); on the coordinator.",
            details=silent,
        )
    records = {record.name: record for record in await citus_roles.read_records(conn)}
    return Cluster(nodes, known, records, await citus_roles.read_roles(conn))


def refuse_torn(cluster: Cluster, name: str) -> None:
    """Citus carries no change to a node that lacks the role, and fails half way through some."""
    lacking = [node.address for node in cluster.workers if name not in cluster.known[node.address].roles]
    if lacking:
        statements = " ".join(f"SELECT citus_activate_node('{one.host}', {one.port});" for one in lacking)
        raise RoleError(
            f"Role {name!r} is on the coordinator, but not on {', '.join(map(str, lacking))}; nothing was changed.",
            hint=f"Citus makes it there by, on the coordinator: {statements} If it does not, the role was kept from "
            f'it when it was made: drop it (DROP OWNED BY "{name}"; DROP ROLE "{name}";), and have it made here.',
        )
