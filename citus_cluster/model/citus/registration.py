"""Which workers to register, and which may join: decisions from what the coordinator knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from citus_cluster.model.citus.nodes import NodeAddress, Outcome

COORDINATOR_GROUP = 0
UNLISTED_NODE_ID = 99_999_999
"""What Citus' numbers of sessions have as the id of a node that is not in the node list."""
IN_MAINTENANCE = "it is in maintenance"
"""Why a worker that an operator paused is not registered now."""


@dataclass(frozen=True)
class RegisteredNode:
    """One row of ``pg_dist_node``; ``in_maintenance``: an operator paused it, so its silence is no trouble."""

    node_id: int
    group_id: int
    address: NodeAddress
    is_active: bool
    role: str
    should_have_shards: bool
    in_maintenance: bool = False

    @property
    def is_coordinator(self) -> bool:
        return self.group_id == COORDINATOR_GROUP

    @property
    def is_drained(self) -> bool:
        """Whether it is a worker that no longer gets shards; it may still hold some."""
        leaves = self.role == "primary" and not (self.is_coordinator or self.should_have_shards)
        return self.is_active and leaves and not self.in_maintenance


@dataclass(frozen=True)
class Registry:
    """What the coordinator knows: its node list, and which workers this tool has ever registered.

    ``recorded`` is None while our table does not exist. ``released``: the names of workers that left permanently, each
    with the system identifier of its server; another server may be registered under such a name.
    """

    nodes: tuple[RegisteredNode, ...]
    recorded: frozenset[NodeAddress] | None
    released: Mapping[NodeAddress, str] = field(default_factory=dict)

    @property
    def coordinator(self) -> RegisteredNode | None:
        rows = [node for node in self.nodes if node.is_coordinator and node.role == "primary"]
        return rows[0] if rows else None

    def with_coordinator(self, address: NodeAddress) -> "Registry":
        """Return it with the coordinator, which is not in the node list before the first worker is registered."""
        if self.coordinator is not None:
            return self
        own = RegisteredNode(UNLISTED_NODE_ID, COORDINATOR_GROUP, address, True, "primary", False)
        return replace(self, nodes=(own, *self.nodes))

    @property
    def has_workers(self) -> bool:
        return any(not node.is_coordinator for node in self.nodes)

    def find(self, address: NodeAddress) -> RegisteredNode | None:
        return next((node for node in self.nodes if node.address == address), None)


@dataclass(frozen=True)
class RegistrationDecision:
    """What to do for one desired worker: nothing (``outcome`` says why), or add it (None)."""

    address: NodeAddress
    outcome: Outcome | None
    reason: str | None = None
    another_server: bool = False
    """It has the name of a worker that left permanently, but is another server."""


def decide(registry: Registry, desired: Sequence[NodeAddress]) -> tuple[RegistrationDecision, ...]:
    """Compare the desired workers with the registry, in the given order."""
    return tuple(_decide_one(registry, address) for address in dict.fromkeys(desired))


def _decide_one(registry: Registry, address: NodeAddress) -> RegistrationDecision:
    node = registry.find(address)
    if node is not None and node.is_active:
        return RegistrationDecision(address, Outcome.ALREADY)
    if node is not None and node.in_maintenance:
        return RegistrationDecision(address, Outcome.WITHDRAWN, IN_MAINTENANCE)
    if node is not None:
        return RegistrationDecision(address, Outcome.WITHDRAWN, "it is in the node list, but disabled")
    if address in (registry.recorded or ()):
        return RegistrationDecision(address, Outcome.WITHDRAWN, "an operator removed it from the node list")
    return RegistrationDecision(address, None)


def reconsider(
    decision: RegistrationDecision, registry: Registry, system_identifier: str | None
) -> RegistrationDecision:
    """Accept a worker that has the name of one that left permanently, but is another server.

    ``system_identifier`` is that of the current server; None if it does not answer.
    """
    left = registry.released.get(decision.address)
    if decision.outcome is not Outcome.WITHDRAWN or left is None or system_identifier in {None, left}:
        return decision
    return replace(decision, outcome=None, reason=None, another_server=True)


def decide_again(decision: RegistrationDecision, before: Registry, now: Registry) -> RegistrationDecision:
    """Decide again under the lock; another server is still accepted if its name is free as it was ``before``."""
    again = _decide_one(now, decision.address)
    left = now.released.get(decision.address)
    same = left is not None and left == before.released.get(decision.address) and now.find(decision.address) is None
    return decision if decision.another_server and same else again


def unrecorded(registry: Registry, desired: Sequence[NodeAddress]) -> tuple[NodeAddress, ...]:
    """Return the desired workers that are registered, but not in our table, which later shows that one was removed."""
    known = (registry.recorded or frozenset()) - registry.released.keys()
    return tuple(address for address in dict.fromkeys(desired) if registry.find(address) and address not in known)


@dataclass(frozen=True)
class NodeIdentity:
    """What a server reports about itself. Versions are texts such as ``17.12`` and ``13.2.2``."""

    postgres_version: str
    citus_version: str | None
    """None if the extension does not exist in this database."""
    extension_version: str | None
    system_identifier: str
    in_recovery: bool
    group_id: int = 0
    """The server's group as it knows it; 0 if it does not belong to a cluster yet."""
    coordinator: NodeAddress | None = None
    """The coordinator of the server's cluster as it knows it."""

    @property
    def postgres_major(self) -> int:
        return int(self.postgres_version.split(".")[0])

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> "NodeIdentity":
        """Read the document that the query of :mod:`citus_cluster.runtime.citus.probe` returns."""
        host = document.get("coordinator_host")
        return cls(
            postgres_version=str(document["postgres_version"]).split(" ")[0],
            citus_version=_text(document.get("citus_version")),
            extension_version=_text(document.get("extension_version")),
            system_identifier=str(document["system_identifier"]),
            in_recovery=bool(document["in_recovery"]),
            group_id=int(str(document.get("group_id") or 0)),
            coordinator=NodeAddress(str(host), int(str(document["coordinator_port"]))) if host else None,
        )


def mismatch(coordinator: NodeIdentity, worker: NodeIdentity) -> str | None:
    """Return why a server cannot join because of what it runs, or None if it can."""
    if worker.system_identifier == coordinator.system_identifier:
        return "it is the coordinator itself, or a copy of its data directory"
    if worker.in_recovery:
        return "it is a standby of another server; only a primary can be a worker"
    if worker.postgres_major != coordinator.postgres_major:
        return f"it runs PostgreSQL {worker.postgres_major}, the coordinator PostgreSQL {coordinator.postgres_major}"
    if worker.extension_version is None:
        return "its database lacks the extension citus (CREATE EXTENSION citus)"
    if worker.citus_version != coordinator.citus_version:
        return f"it runs Citus {worker.citus_version}, the coordinator Citus {coordinator.citus_version}"
    if worker.extension_version != coordinator.extension_version:
        return (
            f"its extension citus is at {worker.extension_version}, the coordinator's at "
            f"{coordinator.extension_version} (ALTER EXTENSION citus UPDATE)"
        )
    return None


@dataclass(frozen=True)
class Instance:
    """One running server: its data (``system_identifier``, the same on a standby), and since when it runs."""

    system_identifier: str
    started_at: str
    in_recovery: bool
    group_id: int


def standby_problem(standby: NodeIdentity, primary: NodeIdentity) -> str | None:
    """Return why a server is not a physical standby of another one, or None if it is."""
    if standby.system_identifier != primary.system_identifier:
        return "its data are not a copy of that server's (the system identifiers differ)"
    if not standby.in_recovery:
        return "it accepts writes of its own"
    return None


def stand_in_problem(new: Instance, old: Instance | None, node: RegisteredNode, new_address: NodeAddress) -> str | None:
    """Return why the server at a new address cannot take a node's place, or None if it can.

    It must be the same server, or a standby of it, which was promoted if the node is a primary. ``old`` is the server
    at the node's present address; None if it does not answer.
    """
    name = f"The server at {new_address}"
    if new.group_id != node.group_id:
        return f"{name} belongs to group {new.group_id} by its own data, {node.address} to group {node.group_id}."
    if old is not None and new.system_identifier != old.system_identifier:
        return f"{name} is another server than {node.address}: their system identifiers differ."
    if node.role == "primary" and new.in_recovery:
        return f"{name} is still a standby. Promote it first: SELECT pg_promote();"
    if node.role != "primary" and not new.in_recovery:
        return f"{name} is not a standby, but {node.address} is a {node.role}."
    if node.role == "primary" and old is not None and old.started_at != new.started_at and not old.in_recovery:
        return (
            f"{node.address} still accepts writes, beside the server at {new_address}: their data would diverge. Stop "
            "it first."
        )
    return None


def possible_twin(worker: NodeIdentity, registry: Registry) -> NodeAddress | None:
    """Return the address under which the worker may already be registered: Citus accepts one server under two names.

    It is only a possibility: a worker that was removed, or whose coordinator was created again, keeps its number.
    """
    if worker.group_id == COORDINATOR_GROUP:
        return None
    return next((node.address for node in registry.nodes if node.group_id == worker.group_id and node.is_active), None)


def foreign_coordinator(worker: NodeIdentity, coordinator: NodeAddress) -> NodeAddress | None:
    """Return the coordinator to which the worker belongs by its own record, if it is not at our address."""
    if worker.group_id == COORDINATOR_GROUP or worker.coordinator in {None, coordinator}:
        return None
    return worker.coordinator


def _text(value: object) -> str | None:
    return None if value is None else str(value)
