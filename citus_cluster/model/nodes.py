"""Nodes of the Citus cluster as the coordinator knows them, and what registering one came to."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, order=True)
class NodeAddress:
    """Name and port under which every node of the cluster reaches this one."""

    host: str
    port: int = 5432

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Outcome(StrEnum):
    """What came of a wish to have a worker in the cluster."""

    ADDED = "added"
    ACTIVATED = "activated"
    ALREADY = "already"
    WITHDRAWN = "withdrawn"
    """An operator removed or disabled the worker; only an explicit add brings it back."""
    PENDING = "pending"
    """The worker does not answer, or cannot join yet; ``reason`` says why."""


@dataclass(frozen=True)
class NodeResult:
    """What came of one worker."""

    address: NodeAddress
    outcome: Outcome
    reason: str | None = None

    def as_dict(self) -> Mapping[str, object]:
        return {
            "host": self.address.host,
            "port": self.address.port,
            "outcome": self.outcome.value,
            "reason": self.reason,
        }
