"""Who is registered, who is left out, who may join."""

from dataclasses import replace

import pytest

from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.citus.registration import (
    NodeIdentity,
    RegisteredNode,
    RegistrationDecision,
    Registry,
    decide,
    decide_again,
    foreign_coordinator,
    mismatch,
    possible_twin,
    unrecorded,
)

HOME = NodeAddress("coordinator")
W1, W2, W3, W4 = (NodeAddress(f"worker{number}") for number in range(1, 5))
COORDINATOR = NodeIdentity("17.12", "13.2.2", "13.2-1", "111", in_recovery=False)
WORKER = replace(COORDINATOR, system_identifier="222")


def node(group_id: int, address: NodeAddress, *, active: bool = True) -> RegisteredNode:
    return RegisteredNode(group_id + 1, group_id, address, active, "primary", group_id > 0)


REGISTRY = Registry((node(0, HOME), node(1, W1), node(2, W2, active=False)), frozenset({W1, W2, W3}))


def test_each_desired_worker_once_in_order() -> None:
    decisions = decide(REGISTRY, [W4, W3, W2, W1, W4])
    assert [(decision.address, decision.outcome) for decision in decisions] == [
        (W4, None),
        (W3, Outcome.WITHDRAWN),
        (W2, Outcome.WITHDRAWN),
        (W1, Outcome.ALREADY),
    ]
    assert "removed" in str(decisions[1].reason)
    assert "disabled" in str(decisions[2].reason)


def test_without_our_table_nothing_was_withdrawn() -> None:
    assert decide(Registry((node(0, HOME),), None), [W1])[0].outcome is None


def test_registered_by_hand_is_to_be_recorded() -> None:
    assert unrecorded(Registry((node(0, HOME), node(1, W1)), frozenset()), [W1, W2]) == (W1,)


def test_registered_by_hand_under_a_released_name_is_to_be_recorded_too() -> None:
    registry = Registry((node(0, HOME), node(1, W1)), frozenset({W1, W2}), {W1: "222", W2: "333"})
    assert unrecorded(registry, [W1, W2]) == (W1,)


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        (Registry((), frozenset({W1}), {W1: "222"}), None),
        (Registry((), frozenset({W1}), {W1: "333"}), Outcome.WITHDRAWN),
        (Registry((), frozenset({W1})), Outcome.WITHDRAWN),
        (Registry((node(1, W1, active=False),), frozenset({W1}), {W1: "222"}), Outcome.WITHDRAWN),
        (Registry((node(1, W1),), frozenset({W1})), Outcome.ALREADY),
    ],
)
def test_another_server_is_registered_only_while_its_name_is_free(now: Registry, outcome: Outcome | None) -> None:
    before = Registry((), frozenset({W1}), {W1: "222"})
    assert decide_again(RegistrationDecision(W1, None, another_server=True), before, now).outcome is outcome


def test_what_was_withdrawn_meanwhile_is_not_registered() -> None:
    now = Registry((), frozenset({W1}), {W1: "222"})
    assert decide_again(RegistrationDecision(W1, None), Registry((), frozenset()), now).outcome is Outcome.WITHDRAWN


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system_identifier": "111"}, "coordinator itself"),
        ({"in_recovery": True}, "standby"),
        ({"postgres_version": "18.1"}, "PostgreSQL 18, the coordinator PostgreSQL 17"),
        ({"extension_version": None}, "CREATE EXTENSION citus"),
        ({"citus_version": "13.2.1"}, "Citus 13.2.1, the coordinator Citus 13.2.2"),
        ({"extension_version": "13.1-1"}, "ALTER EXTENSION citus UPDATE"),
    ],
)
def test_mismatch_says_what_differs(change: dict[str, object], reason: str) -> None:
    assert mismatch(COORDINATOR, WORKER) is None
    assert reason in str(mismatch(COORDINATOR, replace(WORKER, **change)))  # type: ignore[arg-type]


def test_minor_version_of_postgresql_may_differ() -> None:
    assert mismatch(COORDINATOR, replace(WORKER, postgres_version="17.3")) is None


def test_a_server_new_to_citus_has_no_history() -> None:
    assert possible_twin(WORKER, REGISTRY) is None
    assert foreign_coordinator(WORKER, HOME) is None


def test_history_is_a_suspicion_to_be_checked() -> None:
    old = replace(WORKER, group_id=1, coordinator=NodeAddress("elsewhere"))
    assert possible_twin(old, REGISTRY) == W1
    assert foreign_coordinator(old, HOME) == NodeAddress("elsewhere")
    assert foreign_coordinator(replace(old, coordinator=HOME), HOME) is None
