"""Which shards there are, and where a key is: the ring in use and, during a migration, the ring that comes next.

Nothing here does I/O. The topology is stored in every shard (a table of its own), because a transaction can
check only what is in its own database. ``version`` counts the changes.
"""

import enum
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from consistent_hashing.ring import ConsistentHashing

logger = logging.getLogger(__name__)
SHARD_NAME = re.compile(r"[a-z][a-z0-9_]{0,50}")


class ShardBy(enum.StrEnum):
    """What the ring hashes."""

    USER = "user"
    """The user's id: one shard for a user, every shard for a region."""
    REGION = "region"
    """The region: one shard for a region; a request for a user needs the region too."""
    HYBRID = "hybrid"
    """The user's id, with an index on the region in every shard."""


class TopologyError(Exception):
    """A change that cannot be made now. The message says what to do."""


@dataclass(frozen=True)
class Route:
    """The shard that owns a key, and the one that it is on its way to, if a migration moves it."""

    owner: str
    target: str | None = None

    @property
    def final(self) -> str:
        return self.target or self.owner

    @property
    def reading(self) -> tuple[str, ...]:
        """The shards to look at, in this order: what has left the old one is in the new one already."""
        return (self.owner,) if self.target is None else (self.owner, self.target)


@dataclass(frozen=True)
class Topology:
    """The shards with their weights; ``becoming`` are those after the migration that is under way."""

    version: int
    nodes: Mapping[str, float]
    becoming: Mapping[str, float] | None = None
    lost: Mapping[str, float] = field(default_factory=dict)
    """Shards that failed and were taken out of the ring with their rows."""
    shard_by: ShardBy = ShardBy.HYBRID
    virtual_nodes: int = 100
    hash_name: str = "md5"
    separator: str = "#"
    shards: tuple[str, ...] = field(init=False)
    """All that have to know this topology, in order."""

    def __post_init__(self) -> None:
        for name in (every := {**self.nodes, **(self.becoming or {})}):
            if not SHARD_NAME.fullmatch(name):
                raise TopologyError(
                    f"{name!r} is no name for a shard: use lower-case letters, digits and _, and a letter first."
                )
        object.__setattr__(self, "shards", tuple(sorted(every)))

    @cached_property
    def ring(self) -> ConsistentHashing:
        return self._ring_of(self.nodes)

    @cached_property
    def next_ring(self) -> ConsistentHashing | None:
        return None if self.becoming is None else self._ring_of(self.becoming)

    def _ring_of(self, nodes: Mapping[str, float]) -> ConsistentHashing:
        return ConsistentHashing(nodes, self.virtual_nodes, hash_name=self.hash_name, separator=self.separator)

    @property
    def decided_on(self) -> str:
        """The shard on which the next change is decided, so that two changes never have the same version."""
        return min(self.nodes)

    def key(self, user_id: int, region: str | None) -> str:
        """Give what the ring hashes for a user."""
        if self.shard_by is not ShardBy.REGION:
            return str(user_id)
        if region is None:
            raise ValueError("The region decides the shard.")
        return region

    @cached_property
    def _ring_with_lost(self) -> ConsistentHashing:
        return self._ring_of({**self.nodes, **self.lost})

    def route(self, key: str) -> Route:
        owner = self.ring.get_node(key)
        if self.lost and self._ring_with_lost.get_node(key) in self.lost:
            logger.info("Key '%s' reassigned to %s", key, owner)
        if self.next_ring is None:
            return Route(owner)
        target = self.next_ring.get_node(key)
        return Route(owner, None if target == owner else target)

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """The shards to ask for rows of every key, one wave after the other.

        What leaves a shard of the first wave is in one of the second before. Shards of one wave exchange nothing.
        """
        if self.becoming is None:
            return (tuple(sorted(self.nodes)),)
        if added := set(self.becoming) - set(self.nodes):
            return tuple(sorted(self.nodes)), tuple(sorted(added))
        return tuple(sorted(set(self.nodes) - set(self.becoming))), tuple(sorted(self.becoming))

    def adding(self, name: str, weight: float = 1.0) -> "Topology":
        """Begin to add a shard."""
        self._refuse_second()
        if self.lost and name not in self.lost:
            raise TopologyError(f"Bring back {', '.join(self.lost)} first: its rows are placed by the ring with it.")
        if name in self.nodes:
            raise TopologyError(f"{name} is a shard already.")
        left = {node: share for node, share in self.lost.items() if node != name}
        return self._next(becoming={**self.nodes, name: weight}, lost=left)

    def removing(self, name: str) -> "Topology":
        """Begin to empty a shard that works."""
        self._refuse_second()
        if self.lost:
            raise TopologyError(f"Bring back {', '.join(self.lost)} first: its rows are placed by the ring with it.")
        if name not in self.nodes:
            raise TopologyError(f"{name} is not a shard; those are {', '.join(sorted(self.nodes))}.")
        if len(self.nodes) == 1:
            raise TopologyError(f"{name} is the only shard; its rows have nowhere to go.")
        return self._next(becoming={node: weight for node, weight in self.nodes.items() if node != name})

    def finished(self) -> "Topology":
        """End the migration: the next ring is the ring."""
        if self.becoming is None:
            raise TopologyError("No migration is under way.")
        return self._next(nodes=self.becoming, becoming=None)

    def without(self, name: str) -> "Topology":
        """Take a failed shard out of the ring, with its rows; its keys belong to the others from now on."""
        self._refuse_second()
        if name not in self.nodes:
            raise TopologyError(f"{name} is not a shard; those are {', '.join(sorted(self.nodes))}.")
        if len(self.nodes) == 1:
            raise TopologyError(f"{name} is the only shard.")
        left = {node: weight for node, weight in self.nodes.items() if node != name}
        return self._next(nodes=left, lost={**self.lost, name: self.nodes[name]})

    def _refuse_second(self) -> None:
        if self.becoming is not None:
            changing = ", ".join(sorted(set(self.nodes) ^ set(self.becoming)))
            raise TopologyError(f"A migration is under way ({changing}). Finish it first: run its command again.")

    def _next(self, **changes: Any) -> "Topology":
        return replace(self, version=self.version + 1, **changes)

    def dump(self) -> str:
        """Write everything but the version as JSON."""
        return json.dumps(
            {
                "nodes": dict(self.nodes),
                "becoming": None if self.becoming is None else dict(self.becoming),
                "lost": dict(self.lost),
                "shard_by": self.shard_by,
                "virtual_nodes": self.virtual_nodes,
                "hash_name": self.hash_name,
                "separator": self.separator,
            }
        )

    @staticmethod
    def load(version: int, plan: Mapping[str, Any]) -> "Topology":
        """Read what ``dump`` wrote."""
        return Topology(version, **{**plan, "shard_by": ShardBy(plan["shard_by"])})


def first_topology(shards: Iterable[str], shard_by: ShardBy = ShardBy.HYBRID, **ring: Any) -> Topology:
    """Give the topology of shards that are being made."""
    return Topology(1, dict.fromkeys(shards, 1.0), shard_by=shard_by, **ring)
