"""The ring: the values of the document that it implements, and properties. Rows D-01 to D-09, D-25, D-35, D-36."""

import hashlib
import logging
import random
import string
import tracemalloc
from collections import Counter

import pytest
from consistent_hashing.ring import ConsistentHashing, linear_get_node

SHARDS = ["shard_1", "shard_2", "shard_3"]
KEYS = [str(number) for number in range(1, 10_001)]


@pytest.fixture(scope="module")
def ring() -> ConsistentHashing:
    return ConsistentHashing(SHARDS)


def test_the_values_of_the_document(ring: ConsistentHashing) -> None:
    """D-06."""
    expected = {
        "shard_1": ["4", "7", "8", "10", "US"],
        "shard_2": ["1", "APAC"],
        "shard_3": ["9", "EU"],
    }
    assert {node: [key for key in keys if ring.get_node(key) == node] for node, keys in expected.items()} == expected


def test_points_and_hashes(ring: ConsistentHashing) -> None:
    """D-02, D-03."""
    assert len(ring.ring) == 300
    assert ring._hash("1") == int(hashlib.md5(b"1").hexdigest(), 16)
    assert ring.ring[ring._hash("shard_1#0")] == "shard_1"


def test_the_colon_of_the_lesson_gives_its_values() -> None:
    """H-12, E3-04: the same ring with another separator."""
    ring = ConsistentHashing(["server-1", "server-2", "server-3"], separator=":")
    asked = [ring.get_node(key) for key in ("user:100", "user:200", "user:300")]
    assert asked == ["server-2", "server-3", "server-2"]


def test_keys_are_balanced(ring: ConsistentHashing) -> None:
    """D-07."""
    counts = Counter(map(ring.get_node, KEYS))
    assert counts == {"shard_1": 3063, "shard_2": 3201, "shard_3": 3736}
    assert all(abs(count - 10_000 / 3) < 0.2 * 10_000 / 3 for count in counts.values())
    assert sum(ring.shares().values()) == pytest.approx(1)
    assert ring.shares() == pytest.approx({node: count / 10_000 for node, count in counts.items()}, abs=0.02)


def test_one_more_shard_moves_its_part_and_nothing_else(ring: ConsistentHashing) -> None:
    """D-08, D-09."""
    grown = ConsistentHashing([*SHARDS, "shard_4"])
    moved = [key for key in KEYS if ring.get_node(key) != grown.get_node(key)]
    assert len(moved) == 2265
    assert {grown.get_node(key) for key in moved} == {"shard_4"}
    assert sum(int(key) % 3 != int(key) % 4 for key in KEYS) == 7499, "by modulo"


def test_a_shard_that_fails_moves_only_its_own_keys(ring: ConsistentHashing) -> None:
    """D-06, D-35."""
    left = ConsistentHashing(["shard_1", "shard_3"])
    moved = [key for key in KEYS if ring.get_node(key) != left.get_node(key)]
    assert len(moved) == 3201
    assert {ring.get_node(key) for key in moved} == {"shard_2"}
    assert left.get_node("1") == "shard_3"


@pytest.mark.parametrize("seed", range(5))
def test_bisect_finds_what_the_linear_search_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """D-05: random rings, random keys, the points themselves and their neighbours."""
    chance = random.Random(seed)
    nodes = {f"node-{number}": chance.choice([0.5, 1, 2]) for number in range(chance.randint(1, 6))}
    ring = ConsistentHashing(
        nodes, chance.randint(2, 30), hash_name=chance.choice(["md5", "sha256"]), separator=chance.choice("#:/")
    )
    keys = ["".join(chance.choices(string.printable, k=chance.randint(0, 20))) for _ in range(300)]
    for key in [*keys, "", "\U0001f600"]:
        assert ring.get_node(key) == linear_get_node(ring.ring, ring._hash(key))
    for point in ring.ring:
        for place in (point - 1, point, point + 1):
            monkeypatch.setattr(ring, "_digest", lambda _, place=place: place.to_bytes(len(ring._points[0]), "big"))
            assert ring.get_node("any") == linear_get_node(ring.ring, place)


def test_the_largest_hashes_wrap_around(ring: ConsistentHashing, caplog: pytest.LogCaptureFixture) -> None:
    """D-01, D-25."""
    key = next(key for key in map(str, range(100_000)) if ring._hash(key) > max(ring.ring))
    with caplog.at_level(logging.DEBUG):
        assert ring.get_node(key) == ring.ring[min(ring.ring)]
    assert f"Key '{key}' (hash: {ring._hash(key)}) wrapped around to node {ring.ring[min(ring.ring)]}" in caplog.text


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """D-04, D-24."""
    with caplog.at_level(logging.DEBUG):
        ring = ConsistentHashing(SHARDS)
        ring.get_node("1")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "Initializing consistent hashing with nodes: ['shard_1', 'shard_2', 'shard_3'], virtual_nodes: 100"
    )
    assert lines[1] == f"Added virtual node shard_1#0 for shard_1 at hash {ring._hash('shard_1#0')}"
    assert lines[-3] == "Hash ring built with 300 virtual nodes"
    assert lines[-2] == f"Hashed key '1' to {ring._hash('1')}"
    assert lines[-1] == f"Key '1' (hash: {ring._hash('1')}) assigned to node shard_2"


def test_a_weight_of_two_is_twice_the_keys() -> None:
    ring = ConsistentHashing({"small": 1, "large": 2}, 400)
    assert len(ring.ring) == 1200
    counts = Counter(map(ring.get_node, KEYS))
    assert 1.7 < counts["large"] / counts["small"] < 2.3


def test_sha256_is_another_ring(ring: ConsistentHashing) -> None:
    """D-36."""
    safe = ConsistentHashing(SHARDS, hash_name="sha256")
    assert safe._hash("1") == int(hashlib.sha256(b"1").hexdigest(), 16)
    assert [safe.get_node(key) for key in KEYS] != [ring.get_node(key) for key in KEYS]
    assert all(count > 2300 for count in Counter(map(safe.get_node, KEYS)).values())


def test_the_order_of_the_nodes_does_not_matter(ring: ConsistentHashing) -> None:
    assert ConsistentHashing(reversed(SHARDS)).ring == ring.ring


def test_a_ring_of_300_points_takes_10_to_100_kb() -> None:
    """D-36."""
    tracemalloc.start()
    ring = ConsistentHashing(SHARDS)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 10_000 < taken < 100_000
    assert len(ring.ring) == 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": []}, "at least one node"),
        ({"virtual_nodes": 0}, "at least 1"),
        ({"nodes": {"shard_1": 0.001}}, "no point"),
        ({"hash_name": "none"}, "hashlib"),
        ({"hash_name": "shake_128"}, "fixed length"),
    ],
)
def test_what_makes_no_ring_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConsistentHashing(**{"nodes": SHARDS, **options})  # type: ignore[arg-type]
