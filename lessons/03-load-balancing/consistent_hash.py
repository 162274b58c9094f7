"""Consistent hashing: a key belongs to the next point on a ring, so a server that leaves takes only its own keys along.

python consistent_hash.py [--keys 1000] [--replicas 100]
"""

import argparse
import hashlib
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable

SERVERS = ("server-1", "server-2", "server-3")


class ConsistentHashRing:
    """Servers on a ring of MD5 hashes, each at ``replicas`` points: the hashes of ``{node}:{i}``."""

    def __init__(self, nodes: Iterable[str], replicas: int = 100) -> None:
        self.replicas = replicas
        self.points: list[int] = []  # ascending
        self.owners: dict[int, str] = {}
        for node in nodes:
            self.add(node)

    @staticmethod
    def _hash(text: str) -> int:
        return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), 16)

    def add(self, node: str) -> None:
        for number in range(self.replicas):
            point = self._hash(f"{node}:{number}")
            self.owners[point] = node
            insort(self.points, point)

    def remove(self, node: str) -> None:
        self.points = [point for point in self.points if self.owners[point] != node]
        self.owners = {point: self.owners[point] for point in self.points}

    def get(self, key: str) -> str:
        """Return the server of a key: the owner of the next point; after the last point comes the first."""
        index = bisect_left(self.points, self._hash(key))
        return self.owners[self.points[index % len(self.points)]]


def keys(number: int) -> list[str]:
    return [f"item:{index}" for index in range(number)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1000, help="default: 1000")
    parser.add_argument("--replicas", type=int, default=100, help="points of each server (default: 100)")
    options = parser.parse_args()
    ring = ConsistentHashRing(SERVERS, options.replicas)
    for user in (100, 200, 300, 100):
        print(f"user:{user} -> {ring.get(f'user:{user}')}")
    before = {key: ring.get(key) for key in keys(options.keys)}
    ring.remove("server-2")
    moved = [key for key, server in before.items() if ring.get(key) != server]
    print(f"\nkeys by server: {dict(sorted(Counter(before.values()).items()))}")
    print(f"without server-2: {dict(sorted(Counter(map(ring.get, before)).items()))}")
    print(f"moved: {len(moved)} of {len(before)} ({len(moved) / len(before):.1%})")
    print(f"of these, not from server-2: {sum(before[key] != 'server-2' for key in moved)}")
    modulo = sum(index % 3 != index % 2 for index in range(len(before)))
    print(f"with number % servers, it would be {modulo} ({modulo / len(before):.1%})")
