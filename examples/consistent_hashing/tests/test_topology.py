"""Where keys are, before, during and after a change of the shards."""

import json
import logging

import pytest
from consistent_hashing.ring import ConsistentHashing
from consistent_hashing.topology import Route, ShardBy, Topology, TopologyError, first_topology

THREE = ("shard_1", "shard_2", "shard_3")
KEYS = [str(number) for number in range(1, 2001)]


@pytest.fixture
def first() -> Topology:
    return first_topology(THREE)


def test_a_key_has_one_shard_while_nothing_changes(first: Topology) -> None:
    assert first.route("1") == Route("shard_2")
    assert first.route("1").reading == ("shard_2",)
    assert first.waves == (THREE,)


def test_a_key_that_moves_is_read_old_then_new(first: Topology) -> None:
    adding = first.adding("shard_4")
    old, new = ConsistentHashing(THREE), ConsistentHashing([*THREE, "shard_4"])
    for key in KEYS:
        route = adding.route(key)
        assert route.owner == old.get_node(key)
        assert route.final == new.get_node(key)
        assert route.reading == ((route.owner,) if route.owner == route.final else (route.owner, "shard_4"))
    assert adding.waves == (THREE, ("shard_4",))
    assert adding.version == first.version + 1


def test_after_the_migration_the_next_ring_is_the_ring(first: Topology) -> None:
    grown = first.adding("shard_4").finished()
    assert grown.becoming is None
    assert all(grown.route(key).target is None for key in KEYS)
    assert len(grown.ring.ring) == 400
    removing = grown.removing("shard_4")
    assert removing.waves == (("shard_4",), THREE)
    assert removing.finished().nodes == first.nodes


@pytest.mark.parametrize("topology", ["first", "adding", "lost"])
def test_it_is_stored_and_read_back(first: Topology, topology: str) -> None:
    stored = {"first": first, "adding": first.adding("shard_4", 2), "lost": first.without("shard_2")}[topology]
    assert Topology.load(stored.version, json.loads(stored.dump())) == stored


def test_a_failed_shard_leaves_its_keys_to_the_others(first: Topology, caplog: pytest.LogCaptureFixture) -> None:
    """D-35."""
    left = first.without("shard_2")
    with caplog.at_level(logging.INFO):
        assert left.route("1") == Route("shard_3")
    assert "Key '1' reassigned to shard_3" in caplog.messages
    moved = [key for key in KEYS if first.route(key) != left.route(key)]
    assert {first.route(key).owner for key in moved} == {"shard_2"}
    back = left.adding("shard_2")
    assert (back.lost, back.becoming) == ({}, first.nodes)


def test_a_region_is_a_key_where_it_decides() -> None:
    by_region = first_topology(THREE, ShardBy.REGION)
    assert [by_region.route(by_region.key(7, region)).owner for region in ("US", "EU", "APAC")] == [
        "shard_1",
        "shard_3",
        "shard_2",
    ]
    with pytest.raises(ValueError, match="region decides"):
        by_region.key(7, None)
    assert first_topology(THREE).key(7, "US") == "7"


def test_changes_that_cannot_be_made_are_refused(first: Topology) -> None:
    with pytest.raises(TopologyError, match="is a shard already"):
        first.adding("shard_1")
    with pytest.raises(TopologyError, match="is not a shard"):
        first.removing("shard_9")
    with pytest.raises(TopologyError, match="is not a shard"):
        first.without("shard_9")
    with pytest.raises(TopologyError, match=r"under way \(shard_4\)"):
        first.adding("shard_4").removing("shard_1")
    with pytest.raises(TopologyError, match="Bring back shard_2"):
        first.without("shard_2").adding("shard_4")
    with pytest.raises(TopologyError, match="only shard"):
        first_topology(["shard_1"]).removing("shard_1")
    with pytest.raises(TopologyError, match="only shard"):
        first_topology(["shard_1"]).without("shard_1")
    with pytest.raises(TopologyError, match="No migration"):
        first.finished()
    with pytest.raises(TopologyError, match="no name for a shard"):
        first.adding('x"; DROP DATABASE')
