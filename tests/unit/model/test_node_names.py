"""Finding a node by the name that a person uses, and whether a server can stand in for a node."""

from dataclasses import replace

import pytest

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.names import find_named
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import (
    Instance,
    NodeIdentity,
    RegisteredNode,
    stand_in_problem,
    standby_problem,
)

COORDINATOR = RegisteredNode(1, 0, NodeAddress("10.0.0.1", 5434), True, "primary", False)
ONE = RegisteredNode(2, 1, NodeAddress("10.0.0.1", 5435), True, "primary", True)
TWO = RegisteredNode(3, 2, NodeAddress("10.0.0.1", 5436), True, "primary", True)
THREE = RegisteredNode(4, 3, NodeAddress("citus-worker3"), True, "primary", True)
SIX = RegisteredNode(5, 4, NodeAddress("fe80::1", 5432), True, "primary", True)
NODES = (COORDINATOR, ONE, TWO, THREE, SIX)
SERVICES = {"citus-coordinator": COORDINATOR.address, "citus-worker1": ONE.address, "citus-worker2": TWO.address}


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("citus-worker1", ONE),
        ("citus-coordinator", COORDINATOR),
        ("10.0.0.1:5436", TWO),
        ("citus-worker3", THREE),
        ("citus-worker3:5432", THREE),
        ("fe80::1", SIX),
        ("[fe80::1]:5432", SIX),
    ],
)
def test_a_node_has_the_name_of_its_service_and_of_its_address(name: str, node: RegisteredNode) -> None:
    assert find_named(name, NODES, SERVICES) is node


def test_a_host_of_several_nodes_means_its_only_worker() -> None:
    assert find_named("10.0.0.1", [COORDINATOR, ONE], {}) is ONE
    with pytest.raises(NotFoundError, match=r"Several nodes have this host: 10\.0\.0\.1:5435"):
        find_named("10.0.0.1", NODES, {})


@pytest.mark.parametrize("name", ["shop-worker1", "1", "citus-wroker1"])
def test_a_wrong_name_is_guessed(name: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_named(name, NODES, SERVICES)
    assert "Did you mean citus-worker1?" in str(caught.value.hint)


OLD = Instance("7", "2026-01-01 10:00", False, 1)
THERE = NodeAddress("elsewhere")


@pytest.mark.parametrize(
    ("new", "old", "node", "problem"),
    [
        (OLD, OLD, ONE, None),
        (replace(OLD, started_at="later"), None, ONE, None),
        (replace(OLD, started_at="later"), replace(OLD, in_recovery=True), ONE, None),
        (replace(OLD, started_at="later"), OLD, ONE, "still accepts writes"),
        (replace(OLD, in_recovery=True), OLD, ONE, "still a standby"),
        (replace(OLD, group_id=0), None, ONE, "belongs to group 0"),
        (replace(OLD, system_identifier="8"), OLD, ONE, "another server"),
        (OLD, None, replace(ONE, role="secondary"), "is not a standby"),
        (replace(OLD, in_recovery=True), None, replace(ONE, role="secondary"), None),
    ],
)
def test_only_the_same_server_or_its_promoted_standby_stands_in_for_a_node(
    new: Instance, old: Instance | None, node: RegisteredNode, problem: str | None
) -> None:
    found = stand_in_problem(new, old, node, THERE)
    assert (found is None) if problem is None else problem in str(found)


def test_a_secondary_is_a_copy_in_recovery() -> None:
    primary = NodeIdentity("17.6", "13.2.0", "13.2-1", "7", False)
    assert standby_problem(replace(primary, in_recovery=True), primary) is None
    assert "not a copy" in str(standby_problem(replace(primary, system_identifier="8", in_recovery=True), primary))
    assert "accepts writes" in str(standby_problem(primary, primary))
