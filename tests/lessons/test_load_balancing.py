"""The ring of lesson 3, and its balancer in Python."""

from consistent_hashing.ring import ConsistentHashing

from lessons.catalogue import unit

ring = unit("3").lab("consistent_hash").load()
balancer = unit("3").lab("balancer").load()


def test_the_ring_is_that_of_the_sharding_example_e3_04() -> None:
    own, other = ring.ConsistentHashRing(ring.SERVERS), ConsistentHashing(ring.SERVERS, separator=":")
    assert [own.get(key) for key in ring.keys(2000)] == [other.get_node(key) for key in ring.keys(2000)]


def test_only_the_keys_of_the_removed_server_move_e3_05() -> None:
    own = ring.ConsistentHashRing(ring.SERVERS)
    before = {key: own.get(key) for key in ring.keys(1000)}
    own.remove("server-2")
    moved = {key for key in before if own.get(key) != before[key]}
    assert moved == {key for key, server in before.items() if server == "server-2"}
    assert len(moved) == 350
    own.add("server-2")
    assert {key: own.get(key) for key in before} == before


def test_a_worker_that_rests_is_the_last_resort_e3_07() -> None:
    pool = balancer.Pool([1, 2, 3], "round-robin")
    assert [next(pool.candidates()) for _ in range(4)] == [1, 2, 3, 1]
    pool.rests_until[3] = float("inf")
    assert list(pool.candidates()) == [2, 1, 3]


def test_least_connections_come_first_e3_07() -> None:
    pool = balancer.Pool([1, 2, 3], "least-connections")
    pool.under_way.update({1: 2, 2: 0, 3: 1})
    assert list(pool.candidates()) == [2, 3, 1]


def test_no_worker_is_a_bad_gateway() -> None:
    pool = balancer.Pool([1], "round-robin")
    assert pool.ask("/") == (502, b"No worker answers.")
    assert pool.under_way == {1: 0}
