"""Which worker is meant, and whether it may leave."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from citus_cluster.errors import CitusClusterError, InUseError, UsageError
from citus_cluster.model.citus.blockers import Session, describe_blocker, global_pid, split_global_pid
from citus_cluster.model.citus.capacity import DiskSpace, missing_space, scarce_space
from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.citus.rebalance_plan import Move, RebalancePlan
from citus_cluster.model.citus.registration import RegisteredNode, RegistrationDecision, Registry, reconsider
from citus_cluster.model.citus.removal import (
    Departure,
    HeldTable,
    find_shard_targets,
    refuse_drain,
    refuse_removal,
    refuse_undo,
    resolve_name,
)

HOME = NodeAddress("citus-coordinator")
W1, W2, W3, W4 = (NodeAddress(f"citus-worker{number}") for number in range(1, 5))
FAR, FAR_TOO, SIX = NodeAddress("10.0.0.12", 5435), NodeAddress("10.0.0.12", 5436), NodeAddress("fd00::1", 5440)


def node(group_id: int, address: NodeAddress, **changes: object) -> RegisteredNode:
    made = RegisteredNode(group_id + 10, group_id, address, True, "primary", group_id > 0)
    return replace(made, **changes)  # type: ignore[arg-type]


NODES = tuple(node(group, address) for group, address in enumerate((HOME, W1, W2, FAR, FAR_TOO, SIX)))
REGISTRY = Registry(NODES, frozenset({W1, NodeAddress("gone")}))
EMPTY = Departure(
    name="citus-worker1",
    address=W1,
    node=NODES[1],
    recorded=True,
    coordinator=HOME,
    silence=None,
    identifier="1",
    held=(),
    shard_targets=(W2,),
    standbys=(),
    others_unreachable=(),
)
HOLDING = replace(EMPTY, held=(HeldTable("orders", 3, 3, 2**20), HeldTable("copied", 2, 0, None)))


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("citus-worker2", W2),
        ("citus-worker2:5432", W2),
        ("10.0.0.12:5436", FAR_TOO),
        ("fd00::1", SIX),
        ("[fd00::1]:5440", SIX),
        ("gone", NodeAddress("gone")),
        ("citus-worker7", NodeAddress("10.0.0.10", 5441)),
    ],
)
def test_a_name_is_a_service_or_a_host_with_or_without_its_port(name: str, address: NodeAddress) -> None:
    assert resolve_name(name, {"citus-worker7": NodeAddress("10.0.0.10", 5441)}, REGISTRY) == address


@pytest.mark.parametrize(("name", "told"), [("10.0.0.12", "10.0.0.12:5435, 10.0.0.12:5436"), ("nobody", "workers are")])
def test_a_name_of_nobody_or_of_several_is_refused(name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        resolve_name(name, {}, REGISTRY)


@pytest.mark.parametrize("name", ["shop-worker2", "worker2", "2", "citus-worker-2", "citus-wroker2", "Citus-worker2"])
def test_what_was_meant_is_guessed(name: str) -> None:
    own = {"citus-worker2": W2, "citus-worker7": FAR}
    with pytest.raises(UsageError) as caught:
        resolve_name(name, own, REGISTRY)
    assert "Did you mean citus-worker2?" in str(caught.value.hint)
    assert "citus-worker7, 10.0.0.12:5436" in caught.value.message, "by service where it is one of this directory"


@pytest.mark.parametrize("name", ["shop-worker9", "nobody", "10.0.0.99"])
def test_nothing_is_guessed_at_random(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_name(name, {"citus-worker2": W2}, REGISTRY)
    assert "Did you mean" not in str(caught.value.hint)


def test_the_coordinator_is_not_meant_where_a_worker_has_its_host() -> None:
    home, worker = NodeAddress("10.0.0.10", 5434), NodeAddress("10.0.0.10", 5435)
    known = Registry((node(0, home), node(1, worker)), None)
    assert resolve_name("10.0.0.10", {}, known) == worker
    assert resolve_name("10.0.0.10:5434", {}, known) == home


@pytest.mark.parametrize("address", [W1, FAR, SIX])
def test_an_address_is_read_as_it_is_written(address: NodeAddress) -> None:
    assert NodeAddress.parse(str(address)) == address


def test_heirs_are_the_other_nodes_that_may_hold_shards() -> None:
    nodes = [
        node(0, HOME),
        node(1, W1),
        node(2, W2, should_have_shards=False),
        node(3, FAR, is_active=False),
        node(4, FAR_TOO, role="secondary"),
        node(5, SIX),
    ]
    assert find_shard_targets(nodes[1], nodes) == (SIX,)


REFUSED_REMOVALS = [
    (HOLDING, InUseError, "still holds the only copy of 3 shards", "nodes drain citus-worker1 --wait"),
    (
        replace(HOLDING, silence="it is away."),
        InUseError,
        "it is away. It holds the only copy of 3 shards, which would be lost",
        'see "A worker that is lost" in docs/operations.md',
    ),
    (replace(HOLDING, held=HOLDING.held[1:]), InUseError, "copies of 2 shards that other nodes have too", "--force"),
    (
        replace(EMPTY, shard_targets=()),
        InUseError,
        "No node would be left to hold shards",
        "nodes set citus-coordinator --holds-shards",
    ),
    (replace(EMPTY, standbys=(FAR,)), InUseError, "standbys", "citus_remove_node('10.0.0.12', 5435)"),
    (replace(EMPTY, others_unreachable=("W2 is away.",)), InUseError, "not all answer: W2 is away", "unpause"),
    (replace(EMPTY, node=NODES[0], address=HOME), UsageError, "is the coordinator", None),
    (replace(EMPTY, node=node(1, W1, role="secondary")), UsageError, "is a secondary", "citus_remove_node"),
    (
        replace(EMPTY, node=None, twin=FAR),
        InUseError,
        "is registered under another name, 10.0.0.12:5435",
        "remove 10.0.0.12:5435",
    ),
    (
        replace(EMPTY, node=None, silence="away.", others_unreachable=("W2 too.",)),
        InUseError,
        "may be the same server",
        "Start",
    ),
]


@pytest.mark.parametrize(("found", "kind", "told", "way"), REFUSED_REMOVALS)
def test_what_keeps_a_worker(found: Departure, kind: type[CitusClusterError], told: str, way: str | None) -> None:
    with pytest.raises(kind, match=told) as caught:
        refuse_removal(found, force=False)
    assert way is None or way in str(caught.value.hint)


@pytest.mark.parametrize(
    "found",
    [
        EMPTY,
        replace(EMPTY, silence="away."),
        replace(EMPTY, node=node(1, W1, is_active=False), shard_targets=()),
        replace(EMPTY, node=None),
        replace(EMPTY, node=None, silence="away."),
        replace(EMPTY, node=None, others_unreachable=("W2 is away.",)),
    ],
)
def test_who_may_go(found: Departure) -> None:
    refuse_removal(found, force=False)


def test_copies_may_be_let_go_and_nothing_else() -> None:
    refuse_removal(replace(HOLDING, held=HOLDING.held[1:]), force=True)
    with pytest.raises(InUseError):
        refuse_removal(HOLDING, force=True)


@pytest.mark.parametrize(
    ("found", "told", "way"),
    [
        (replace(EMPTY, node=None), "not in the node list", "status"),
        (replace(EMPTY, node=node(1, W1, is_active=False)), "is disabled", "add_worker.py --host citus-worker1"),
        (replace(EMPTY, silence="It is away."), "^It is away, so its shards", "nodes remove citus-worker1"),
        (
            replace(HOLDING, silence="It is away."),
            "^It is away, so its",
            "paused: docker compose unpause citus-worker1;",
        ),
        (replace(HOLDING, shard_targets=()), "No node would be left", "--workers=N"),
        (
            replace(HOLDING, shard_targets=(), drained=(W2, FAR)),
            "No node",
            "nodes drain citus-worker2 10.0.0.12:5435 --undo",
        ),
    ],
)
def test_what_cannot_be_drained(found: Departure, told: str, way: str) -> None:
    with pytest.raises(CitusClusterError, match=told) as caught:
        refuse_drain([found])
    assert way in str(caught.value.hint)


def test_all_that_leave_together_are_named() -> None:
    both = [replace(HOLDING, shard_targets=()), replace(EMPTY, address=W2, node=NODES[2], shard_targets=())]
    with pytest.raises(
        InUseError, match=r"^No node would be left to hold shards without citus-worker1:5432 and citus-worker2:5432"
    ):
        refuse_drain(both)


def test_nothing_is_dropped_for_a_worker_that_may_only_be_paused() -> None:
    with pytest.raises(InUseError) as caught:
        refuse_drain([replace(HOLDING, silence="It is away.")])
    paused, lost = str(caught.value.hint).splitlines()
    assert paused.startswith("If it is paused: docker compose unpause citus-worker1; otherwise: ")
    assert lost.startswith("If its data are lost for good, see")


@pytest.mark.parametrize(
    ("found", "told", "way"),
    [
        (replace(EMPTY, node=None), "not in the node list", "status"),
        (replace(EMPTY, node=node(1, W1, is_active=False)), "is disabled, so it cannot hold shards", "add_worker.py"),
        (
            replace(HOLDING, silence="It is away."),
            "^It is away, so it cannot hold shards",
            "docker compose unpause citus-wor",
        ),
        (
            replace(HOLDING, silence="It is away."),
            "hold shards again",
            "end the moves now: citus-cluster rebalance stop",
        ),
        (
            replace(HOLDING, others_unreachable=("W2 is away.",)),
            "hold shards again.*: W2 is away",
            "the nodes named above",
        ),
    ],
)
def test_what_cannot_be_undone_yet(found: Departure, told: str, way: str) -> None:
    with pytest.raises(CitusClusterError, match=told) as caught:
        refuse_undo(found)
    assert way in str(caught.value.hint)
    assert "moved off" not in caught.value.message


def test_the_last_one_can_be_let_hold_shards_again() -> None:
    refuse_undo(replace(HOLDING, shard_targets=()))


@pytest.mark.parametrize(
    ("released", "identifier", "outcome"),
    [
        ({W1: "old"}, "new", None),
        ({W1: "old"}, "old", Outcome.WITHDRAWN),
        ({W1: "old"}, None, Outcome.WITHDRAWN),
        ({}, "new", Outcome.WITHDRAWN),
    ],
)
def test_only_another_server_gets_a_released_name(
    released: dict[NodeAddress, str], identifier: str | None, outcome: Outcome | None
) -> None:
    decision = reconsider(
        RegistrationDecision(W1, Outcome.WITHDRAWN, "it left"), Registry((), frozenset({W1}), released), identifier
    )
    assert decision.outcome is outcome
    assert decision.another_server is (outcome is None)


def test_room_is_counted_without_what_stays_free() -> None:
    disks = [DiskSpace(W1, 100 * 2**20, 40 * 2**20), DiskSpace(W2, 10, 40)]
    assert missing_space({W1: 60 * 2**20}, disks) == ()
    assert missing_space({W1: 61 * 2**20}, disks) == (
        "citus-worker1:5432: would get 61.0 MB in one move, but has room for 60.0 MB "
        "(40.0 MB must stay free: citus.desired_percent_disk_available_after_move)",
    )
    assert "has room for 0 B" in missing_space({W2: 0}, disks)[0], "Citus moves nothing to a full disk"


def test_nodes_on_one_disk_are_warned_and_not_refused() -> None:
    """1 TB, of which 120 GB are free and 100 GB stay so: 25 GB for a fourth worker come from the other three."""
    gib = 2**30
    moves = tuple(
        Move("items", shard, gib // 2, (W1, W2, W3)[shard % 3], W4, group=shard // 2 * 2) for shard in range(50)
    )
    plan = RebalancePlan(moves, {W1: 34 * gib, W2: 33 * gib, W3: 33 * gib})
    disks = [DiskSpace(W4, 120 * gib, 100 * gib)]
    assert missing_space(plan.largest_moves, disks) == ()
    assert "would get 25.0 GB in all, but has room for 20.0 GB" in scarce_space(plan.growth, disks)[0]
    assert scarce_space({W4: 20 * gib}, disks) == scarce_space({W4: -1}, [DiskSpace(W4, 0, 1)]) == ()


def test_a_session_that_holds_a_move_up_is_told_without_what_it_runs() -> None:
    row = {"pid": 173, "role": "app", "application": None, "state": "idle in transaction", "query": "secret"}
    session = Session.from_json(W1, row | {"began_at": "2026-01-01T10:00:00+00:00", "origin": "10000000172"})
    assert session.began_at == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert split_global_pid(session.origin or 0) == (1, 172)
    assert global_pid(1, 172) == session.origin
    told = describe_blocker(session)
    assert "session 173 on citus-worker1:5432 (no application name, role app, idle in transaction" in told
    assert "10:00:00 UTC" in told
    assert "secret" not in told
    assert "prepared transaction" in describe_blocker(Session.from_json(W1, {"pid": 0}))
