"""What differs between two moments of a cluster."""

from citus_cluster.model.citus.inventory import MOST, Diff, Difference, compare

NODE = {"name": "w1:5432", "is_active": True, "shards": 8}
TABLE = {"name": "orders", "kind": "distributed", "shards": 32}


def test_the_same_inventory_differs_in_nothing() -> None:
    assert compare({"node 1": NODE}, {"node 1": dict(NODE)}) == Diff(())


def test_properties_that_differ_are_named_with_both_values() -> None:
    found = compare({"node 1": NODE, "table a": TABLE}, {"node 1": {**NODE, "shards": 9}, "table a": TABLE})
    assert found.changes == (Difference("node w1:5432", "shards", 8, 9),)


def test_what_comes_and_goes_has_no_value_on_one_side() -> None:
    found = compare({"node 1": NODE}, {"table orders": TABLE})
    assert found.changes == (
        Difference("node w1:5432", "is_active", True, None),
        Difference("node w1:5432", "shards", 8, None),
        Difference("table orders", "kind", None, "distributed"),
        Difference("table orders", "shards", None, 32),
    )


def test_a_node_keeps_its_identity_when_its_address_changes() -> None:
    found = compare({"node 1": NODE}, {"node 1": {**NODE, "name": "w9:5432"}})
    assert found.changes == (Difference("node w9:5432", "name", "w1:5432", "w9:5432"),)


def test_a_long_list_is_cut_and_says_so() -> None:
    found = compare({}, {f"role r{n}": {"name": f"r{n}", "can_login": True} for n in range(MOST + 7)})
    assert (len(found.changes), found.left_out) == (MOST, 7)
