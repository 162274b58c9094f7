"""The ring: keys and virtual nodes on one circle of hashes; a key belongs to the next virtual node clockwise.

Only arithmetic is here. Which ring is in use is a matter of ``plan``.
"""

import functools
import hashlib
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

logger = logging.getLogger(__name__)


class ConsistentHashing:
    """A ring of ``virtual_nodes`` points for each node of weight 1.

    ``nodes`` are names, or names with weights: a node of weight 2 has twice the points, and about twice the keys.
    ``hash_name`` is any algorithm of hashlib. ``separator`` stands between a node's name and the number of a point;
    it decides where the points are, so two programs that share a ring must use the same one.
    """

    def __init__(
        self,
        nodes: Iterable[str] | Mapping[str, float],
        virtual_nodes: int = 100,
        *,
        hash_name: str = "md5",
        separator: str = "#",
    ) -> None:
        self.weights = dict(nodes) if isinstance(nodes, Mapping) else dict.fromkeys(nodes, 1.0)
        if not self.weights:
            raise ValueError("A ring needs at least one node.")
        if virtual_nodes < 1:
            raise ValueError(f"virtual_nodes is {virtual_nodes}, but must be at least 1.")
        for node, weight in self.weights.items():
            if round(weight * virtual_nodes) < 1:
                raise ValueError(f"The weight of {node} is {weight}, which gives it no point on the ring.")
        self.virtual_nodes = virtual_nodes
        self.hash_name = hash_name
        self.separator = separator
        self._new = _constructor(hash_name)
        logger.info(
            "Initializing consistent hashing with nodes: %s, virtual_nodes: %d", list(self.weights), virtual_nodes
        )
        self.ring = self._build_ring()
        # Digests sort as the numbers that they are, and are cheaper than Python's large integers.
        length = self._new(b"", usedforsecurity=False).digest_size
        self._points = [place.to_bytes(length, "big") for place in sorted(self.ring)]
        # What lies behind the last point belongs to the first.
        self._owners = [self.ring[place] for place in sorted(self.ring)]
        self._owners.append(self._owners[0])
        logger.info("Hash ring built with %d virtual nodes", len(self.ring))

    def _hash(self, key: str) -> int:
        return int.from_bytes(self._digest(key), "big")

    def _digest(self, key: str) -> bytes:
        return self._new(key.encode(), usedforsecurity=False).digest()

    def _build_ring(self) -> dict[int, str]:
        ring: dict[int, str] = {}
        # Sorted, so that the order in which the nodes are named never decides who gets a point that two nodes hit.
        for node, weight in sorted(self.weights.items()):
            for number in range(round(weight * self.virtual_nodes)):
                name = f"{node}{self.separator}{number}"
                place = self._hash(name)
                ring.setdefault(place, node)
                logger.debug("Added virtual node %s for %s at hash %d", name, node, place)
        return ring

    def get_node(self, key: str) -> str:
        """Give the node that owns ``key``: a binary search among the points."""
        index = bisect_left(self._points, self._digest(key))
        node = self._owners[index]
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Hashed key '%s' to %d", key, self._hash(key))
            how = "wrapped around" if index == len(self._points) else "assigned"
            logger.debug("Key '%s' (hash: %d) %s to node %s", key, self._hash(key), how, node)
        return node

    def shares(self) -> dict[str, float]:
        """Give the part of the circle that each node owns; the parts add up to 1."""
        size = 1 << (8 * len(self._points[0]))
        owned = dict.fromkeys(self.weights, 0)
        previous = max(self.ring) - size
        for place in sorted(self.ring):
            owned[self.ring[place]] += place - previous
            previous = place
        return {node: part / size for node, part in owned.items()}


def linear_get_node(ring: Mapping[int, str], place: int) -> str:
    """Search as the first version of this service did: sort the points, and look at each. For tests and benches."""
    points = sorted(ring)
    for point in points:
        if point >= place:
            return ring[point]
    return ring[points[0]]


def _constructor(hash_name: str) -> Callable[..., "hashlib._Hash"]:
    if hash_name not in hashlib.algorithms_available:
        raise ValueError(f"hash_name is {hash_name!r}, but must be one of hashlib, such as md5 or sha256.")
    if not hashlib.new(hash_name, usedforsecurity=False).digest_size:
        raise ValueError(f"hash_name is {hash_name!r}, which has no fixed length.")
    return getattr(hashlib, hash_name, None) or functools.partial(hashlib.new, hash_name)
