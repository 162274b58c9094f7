"""Groups of shards that move together, and their skew."""

from dataclasses import replace

from citus_cluster.model.citus.shards import ShardListRow, ShardState, groups_of
from citus_cluster.model.citus.tables import TableKind

ORDERS = ShardListRow(1, 100, "orders", TableKind.DISTRIBUTED, "w1:5432", 300, 7, 100, "-5", "0", ShardState.ACTIVE)
LINES = replace(ORDERS, placement_id=2, shard_id=102, table="lines", bytes=100)
OTHER = replace(ORDERS, placement_id=3, shard_id=101, node="w2:5432", bytes=1200, group_id=101, min_value="1")


def test_shards_of_colocated_tables_with_the_same_range_are_one_cell() -> None:
    first, second = groups_of([OTHER, ORDERS, LINES])
    assert (first.cell, first.tables, first.shards, first.bytes) == ("100@w1:5432", ("orders", "lines"), 2, 400)
    assert (second.cell, second.tables, second.bytes) == ("101@w2:5432", ("orders",), 1200)
    assert (first.skew, second.skew) == (0.5, 1.5)


def test_a_group_with_an_unknown_size_has_none_and_does_not_change_the_average() -> None:
    first, second = groups_of([ORDERS, replace(LINES, bytes=None), OTHER])
    assert (first.bytes, first.skew) == (None, None)
    assert second.skew == 1.0


def test_copies_of_a_reference_table_are_cells_of_their_nodes() -> None:
    copy = replace(ORDERS, kind=TableKind.REFERENCE, min_value=None, max_value=None)
    cells = groups_of([copy, replace(copy, placement_id=9, node="w2:5432")])
    assert [cell.cell for cell in cells] == ["100@w1:5432", "100@w2:5432"]
    assert {cell.skew for cell in cells} == {1.0}


def test_empty_groups_have_no_skew() -> None:
    assert [cell.skew for cell in groups_of([replace(ORDERS, bytes=0)])] == [None]
