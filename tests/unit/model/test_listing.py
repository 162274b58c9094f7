"""Filtering, sorting, paging and selecting rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import pytest

from citus_cluster.errors import UsageError
from citus_cluster.model.listing import Listing, ListQuery


class Kind(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Row:
    name: str
    kind: Kind
    size_bytes: int | None
    at: datetime
    nodes: tuple[str, ...] = ()
    good: bool = True
    details: Mapping[str, int] | None = field(default_factory=dict)
    parts: tuple[str, ...] | None = None


BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = [
    Row("b", Kind.RED, 20, BEGIN, ("w1", "w2")),
    Row("a", Kind.BLUE, None, BEGIN + timedelta(days=1), ("w1",)),
    Row("null", Kind.BLUE, 5, BEGIN + timedelta(days=2), (), False),
    Row("C", Kind.RED, 20, BEGIN + timedelta(days=3)),
]


def names(query: ListQuery, rows: list[Row] | None = None) -> list[str]:
    listing = Listing(ROWS if rows is None else rows, Row, "name")
    return [item["name"] for item in listing.page(query).items]


def test_rows_are_sorted_by_their_key_unless_asked_otherwise() -> None:
    assert names(ListQuery()) == ["C", "a", "b", "null"]
    assert names(ListQuery(sort=("-name",))) == ["null", "b", "a", "C"]
    assert names(ListQuery(sort=("at",))) == ["b", "a", "null", "C"]


def test_rows_without_a_value_come_last_in_both_directions() -> None:
    assert names(ListQuery(sort=("size_bytes",))) == ["null", "C", "b", "a"]
    assert names(ListQuery(sort=("-size_bytes",))) == ["C", "b", "null", "a"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"kind": ("red",)}, ["C", "b"]),
        ({"kind": ("red", "blue")}, ["C", "a", "b", "null"]),
        ({"size_bytes": ("null",)}, ["a"]),
        ({"size_bytes.min": ("6",)}, ["C", "b"]),
        ({"size_bytes.max": ("6",)}, ["null"]),
        ({"at.min": ("2026-01-03T00:00:00Z",)}, ["C", "null"]),
        ({"at.min": ("2026-01-03",)}, ["C", "null"]),
        ({"nodes": ("w2",)}, ["b"]),
        ({"good": ("false",)}, ["null"]),
        ({"kind": ("red",), "nodes": ("w1",)}, ["b"]),
        ({"details": ("null",)}, []),
        ({"parts": ("x",)}, []),
        ({"parts": ("x", "null"), "kind": ("red",)}, ["C", "b"]),
    ],
)
def test_filters(filters: dict[str, tuple[str, ...]], found: list[str]) -> None:
    assert names(ListQuery(filters=filters)) == found


def test_a_text_is_found_in_every_text_field_regardless_of_case() -> None:
    assert names(ListQuery(q="BLU")) == ["a", "null"]
    assert names(ListQuery(q="c")) == ["C"]


@pytest.mark.parametrize("sort", [(), ("-name",), ("size_bytes",), ("-size_bytes", "kind"), ("kind",), ("-at",)])
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_pages_together_hold_each_row_once_in_the_same_order(sort: tuple[str, ...], limit: int) -> None:
    listing = Listing(ROWS, Row, "name")
    whole = names(ListQuery(sort=sort))
    found: list[str] = []
    cursor = None
    for _ in range(len(ROWS)):
        page = listing.page(ListQuery(limit=limit, sort=sort, cursor=cursor))
        assert page.total == len(ROWS)
        found += [item["name"] for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert (found, cursor) == (whole, None)


def test_rows_that_vanish_or_appear_between_pages_shift_nothing() -> None:
    first = Listing(ROWS, Row, "name").page(ListQuery(limit=2))
    assert [item["name"] for item in first.items] == ["C", "a"]
    later = [Row("0", Kind.RED, 1, BEGIN), *(row for row in ROWS if row.name != "a")]
    second = Listing(later, Row, "name").page(ListQuery(limit=2, cursor=first.next_cursor))
    assert [item["name"] for item in second.items] == ["b", "null"]


def test_only_the_wanted_fields_are_shown_in_their_order() -> None:
    page = Listing(ROWS, Row, "name").page(ListQuery(limit=1, fields=("kind", "at")))
    assert page.items == ({"kind": "red", "at": "2026-01-04T00:00:00+00:00"},)
    assert list(page.items[0]) == ["kind", "at"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ListQuery(limit=0), "limit"),
        (ListQuery(limit=1001), "limit"),
        (ListQuery(sort=("colour",)), "sort: the rows have no field"),
        (ListQuery(sort=("nodes",)), "nodes has no order"),
        (ListQuery(fields=("colour",)), "fields: the rows have no field"),
        (ListQuery(filters={"colour": ("red",)}), "filter: the rows have no field"),
        (ListQuery(filters={"kind": ("green",)}), "kind: the value is not valid"),
        (ListQuery(filters={"size_bytes": ("many",)}), "size_bytes: the value is not valid"),
        (ListQuery(filters={"name.min": ("a",)}), "name has no such bound"),
        (ListQuery(filters={"size_bytes.min": ("null",)}), "size_bytes: null is no bound"),
        (ListQuery(filters={"size_bytes.max": ("null", "3")}), "size_bytes: null is no bound"),
        (ListQuery(filters={"size_bytes.mid": ("1",)}), "size_bytes has no mid"),
        (ListQuery(cursor="nonsense"), "cursor"),
        (ListQuery(cursor="W10"), "cursor"),
        (ListQuery(cursor="\u00e9"), "cursor"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(query: ListQuery, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Listing(ROWS, Row, "name").page(query)


def test_a_cursor_belongs_to_its_order() -> None:
    listing = Listing(ROWS, Row, "name")
    cursor = listing.page(ListQuery(limit=1, sort=("-at",))).next_cursor
    with pytest.raises(UsageError, match="cursor"):
        listing.page(ListQuery(cursor=cursor))
