"""Which moves hold writes, in which lanes they run, and what waits for them."""

import pytest

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import (
    Move,
    RebalanceOptions,
    RebalancePlan,
    TransferMode,
    describe_holding,
)
from citus_cluster.model.citus.scheduling import LIMIT_BYTES, SHARD_BYTES, Scheduled, arrange, is_small

MIB = 2**20
ONE, TWO, THREE = NodeAddress("one"), NodeAddress("two"), NodeAddress("three")


def task(number: int, source: int, target: int, *depends_on: int, locks_shared: bool = False) -> Scheduled:
    """Give a task that moves the shard 100 + ``number``."""
    return Scheduled(number, 100 + number, source, target, frozenset(depends_on), locks_shared)


def test_a_group_is_small_by_its_bytes_and_its_shards() -> None:
    assert is_small(1, MIB)
    assert is_small(1, LIMIT_BYTES - SHARD_BYTES)
    assert not is_small(1, LIMIT_BYTES - SHARD_BYTES + 1)
    assert is_small(LIMIT_BYTES // SHARD_BYTES, 0)
    assert not is_small(LIMIT_BYTES // SHARD_BYTES + 1, 0), "each shard that moves along prolongs the stall"


def test_only_groups_that_are_small_as_a_whole_hold_writes() -> None:
    moves = (
        Move("orders", 1, MIB, ONE, TWO, group=1),
        Move("lines", 2, MIB, ONE, TWO, group=1),
        Move("orders", 3, MIB, ONE, TWO, group=3),
        Move("lines", 4, LIMIT_BYTES, ONE, TWO, group=3),
        Move("alone", 5, MIB, ONE, TWO),
        Move("twice", 6, MIB, ONE, TWO, group=6),
        Move("twice", 6, MIB, TWO, THREE, group=6),
    )
    plan = RebalancePlan(moves, {}).holding_small()
    assert [move.shard_id for move in plan.short_moves] == [1, 2, 5], "one that moves twice keeps its order"
    assert plan.groups == (5, 2)
    assert plan.as_dict()["groups_holding_writes"] == 2
    assert plan.moves[0].as_dict()["holds_writes"] is True
    assert plan.moves[2].as_dict()["holds_writes"] is False
    assert RebalancePlan(moves, {}).as_dict()["writes_held_s"] == 0


@pytest.mark.parametrize(
    ("options", "held"),
    [
        (RebalanceOptions(), True),
        (RebalanceOptions(mode=TransferMode.BLOCK_WRITES), True),
        (RebalanceOptions(online=True), False),
        (RebalanceOptions(mode=TransferMode.FORCE_LOGICAL), False),
    ],
)
def test_which_options_let_small_groups_hold_writes(options: RebalanceOptions, held: bool) -> None:
    assert options.holds_small is held


def test_the_plan_says_what_holds_writes_and_for_how_long() -> None:
    small, large = Move("a", 1, 0, ONE, TWO), Move("b", 2, 100 * MIB, ONE, TWO)
    plan = RebalancePlan((small,), {}).holding_small()
    assert describe_holding(plan) == "1 small shard group moves with writes held, each usually for less than 0.5 s"
    plan = RebalancePlan((small, Move("a", 3, 0, ONE, TWO), large), {}).holding_small()
    assert describe_holding(plan).startswith("2 small shard groups move with writes held")
    assert describe_holding(plan).endswith("; 1 larger one moves online")
    blocking = RebalancePlan((small, large), {}, TransferMode.BLOCK_WRITES).holding_small()
    assert describe_holding(blocking).endswith("; 1 larger one moves with writes held for longer")


def test_moves_between_other_nodes_run_side_by_side() -> None:
    tasks = [task(1, 1, 4), task(2, 2, 4, 1), task(3, 1, 4, 2), task(4, 3, 4, 3), task(5, 2, 4, 4)]
    found = arrange(tasks, [101, 102, 103, 104, 105], lanes=2)
    assert len({found.lanes[1], found.lanes[3]}) == 1
    assert len({found.lanes[2], found.lanes[5]}) == 1
    assert set(found.lanes.values()) == {0, 1}
    assert all(not others for others in found.depends_on.values()), "one that fails keeps none waiting"


def test_one_pair_of_nodes_takes_one_lane() -> None:
    found = arrange([task(1, 1, 2), task(2, 1, 2, 1)], [101, 102], lanes=2)
    assert set(found.lanes.values()) == {found.lanes[1]}


def test_moves_that_lock_reference_tables_share_a_lane() -> None:
    tasks = [task(number, number, 9, locks_shared=True) for number in range(1, 5)]
    assert set(arrange(tasks, [101, 102, 103, 104], lanes=2).lanes.values()) == {0}


def test_larger_groups_move_after_the_small_ones_in_the_order_of_citus() -> None:
    copying = Scheduled(1)
    tasks = [copying, task(2, 1, 4, 1), task(3, 2, 4, 2), task(4, 1, 4, 3), task(5, 2, 4, 4), task(6, 3, 4, 1)]
    found = arrange(tasks, [103, 105], lanes=2)
    assert set(found.lanes) == {3, 5}
    assert found.depends_on == {
        1: frozenset(),
        2: frozenset({1, 5}),
        3: frozenset({1}),
        4: frozenset({2}),
        5: frozenset({1}),
        6: frozenset({1, 5}),
    }


def test_tasks_that_copy_reference_tables_keep_their_order() -> None:
    tasks = [Scheduled(1), Scheduled(2, depends_on=frozenset({1})), task(3, 1, 4, 1, 2)]
    found = arrange(tasks, [103], lanes=2)
    assert found.depends_on == {1: frozenset(), 2: frozenset({1}), 3: frozenset({1, 2})}
