"""Shared parts of changes of roles: the checks before a change, the refusals, and the report."""

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
"""Represents a coordinator without workers, which may therefore not be in the node list."""


@dataclass(frozen=True)
class Cluster:
    """The state before a change, when every node answers."""

    nodes: tuple[RegisteredNode, ...]
    """Active primaries, the coordinator first."""
    known: Mapping[NodeAddress, NodeRoles]
    records: Mapping[str, RoleRecord]
    roles: Mapping[str, FoundRole]

    @property
    def workers(self) -> tuple[RegisteredNode, ...]:
        return tuple(node for node in self.nodes if not node.is_coordinator)


class ChangeReport:
    """Collects the changes, and reports them as they happen."""

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
    """Read the current state. Raises WorkerUnreachableError unless every node answers, because Citus would hang."""
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
            "A role can only be changed while every node answers; nothing was changed: " + " ".join(silent),
            hint="Start or unpause the node (citus-cluster status), and run the command again. If the node is lost, "
            "run on the coordinator: SELECT citus_disable_node('HOST', PORT);",
            details=silent,
        )
    records = {record.name: record for record in await citus_roles.read_records(conn)}
    return Cluster(nodes, known, records, await citus_roles.read_roles(conn))


def refuse_torn(cluster: Cluster, name: str) -> None:
    """Refuse a role that is missing on some nodes: Citus does not change it there, and some changes fail half way."""
    lacking = [node.address for node in cluster.workers if name not in cluster.known[node.address].roles]
    if lacking:
        statements = " ".join(f"SELECT citus_activate_node('{one.host}', {one.port});" for one in lacking)
        raise RoleError(
            f"Role {name!r} exists on the coordinator, but not on {', '.join(map(str, lacking))}; nothing was changed.",
            hint=f"Let Citus create it there; run on the coordinator: {statements} If this has no effect, the role "
            "was created without propagation: "
            f'drop it (DROP OWNED BY "{name}"; DROP ROLE "{name}";), and create it with citus-cluster.',
        )
