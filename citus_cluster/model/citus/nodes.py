"""Nodes of the Citus cluster as the coordinator knows them, and the outcome of registering one."""

import re
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.model.documents import Documented

POSTGRES_PORT = 5432
"""Port on which every PostgreSQL server listens in the network."""
_SERVICE = re.compile(r"citus-(coordinator|worker\d+)")


@dataclass(frozen=True, order=True)
class NodeAddress:
    """Name and port under which every node of the cluster reaches this one."""

    host: str
    port: int = POSTGRES_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "NodeAddress":
        """Read what ``str`` writes: ``host:5432``, ``[::1]:5432``."""
        host, _, port = text.rpartition(":")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    @property
    def is_service(self) -> bool:
        """Whether the host is a Compose service, which only containers of the same host reach by this name."""
        return _SERVICE.fullmatch(self.host) is not None

    def compose_command(self, verb: str) -> str:
        """Return the Compose command for this node; for a node of another host, it says where to run it."""
        return f"docker compose {verb} {self.host}" if self.is_service else f"docker compose {verb}, on {self.host}"

    @property
    def silence_hint(self) -> str:
        """What to do if it does not answer."""
        return f"See its log: {self.compose_command('logs')}. If it is paused: {self.compose_command('unpause')}."


class Role(StrEnum):
    """What a node is for."""

    COORDINATOR = "coordinator"
    WORKER = "worker"


@dataclass(frozen=True)
class Node:
    """One node of the Citus cluster on this host.

    ``service`` names the container that serves it, ``address`` is where every other node reaches it.
    """

    service: str
    role: Role
    number: int
    address: NodeAddress


@dataclass(frozen=True)
class NodeRow:
    """One row of ``pg_dist_node``, and whether the node answers now, which the metadata do not know.

    ``role`` is what the node is for, ``node_role`` whether it is the primary or a secondary of its group. ``shards``
    counts the placements on it. ``answers`` is None for a node that is not active, which is not asked; ``reason`` says
    why a node does not answer. ``in_maintenance``: ``nodes pause`` has recorded it, and ``nodes resume`` has not ended
    that yet.
    """

    node: str
    host: str
    port: int
    node_id: int
    group_id: int
    role: Role
    node_role: str
    is_active: bool
    should_have_shards: bool
    has_metadata: bool
    metadata_synced: bool
    shards: int
    in_maintenance: bool = False
    answers: bool | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ActiveWorker:
    """One row of ``citus_get_active_worker_nodes()``, which is metadata, not liveness; ``node`` is HOST:PORT."""

    node: str
    node_name: str
    node_port: int


@dataclass(frozen=True)
class MeshRow:
    """Whether one node can connect to another; ``connects`` is None if the first one could not be asked."""

    link: str
    from_node: str
    to_node: str
    connects: bool | None
    reason: str | None = None


class Outcome(StrEnum):
    """The outcome of registering a worker."""

    ADDED = "added"
    ACTIVATED = "activated"
    ALREADY = "already"
    WITHDRAWN = "withdrawn"
    """An operator removed or disabled the worker; only an explicit add brings it back."""
    PENDING = "pending"
    """The worker does not answer, or cannot join yet; ``reason`` says why."""


@dataclass(frozen=True)
class NodeDocument:
    """The outcome for one worker."""

    host: str
    port: int
    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True)
class NodeResult(Documented):
    """The outcome for one worker. ``needs_operator``: it is pending for a reason that does not pass by itself."""

    address: NodeAddress
    outcome: Outcome
    reason: str | None = None
    needs_operator: bool = False

    def document(self) -> NodeDocument:
        return NodeDocument(self.address.host, self.address.port, self.outcome, self.reason)
