"""Filtering, sorting, paging and selecting the rows of a list: the same for every list, over HTTP and as a command.

A page ends with a cursor, which holds the place of its last row in the order, not a number of rows: rows that appear
or vanish in between neither repeat others nor hide them.
"""

import base64
import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from citus_cluster.errors import UsageError
from citus_cluster.model.documents import as_data

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100
_KEPT_ORDERS = 4
"""How many combinations of filter and order a list keeps for the next pages."""


@dataclass(frozen=True)
class ListQuery:
    """What a reader wants of a list.

    ``filters`` maps a field to the wanted values, of which one must match; ``FIELD.min`` and ``FIELD.max`` are
    inclusive bounds. ``q`` is a text that one of the texts of a row contains, regardless of case. ``sort`` are fields,
    with ``-`` before one that descends. ``fields`` are those to show; none means all.
    """

    limit: int = DEFAULT_LIMIT
    cursor: str | None = None
    sort: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    q: str | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One page: its rows as plain JSON data, the cursor of the next page, and the number of rows in all pages."""

    items: tuple[Mapping[str, Any], ...]
    next_cursor: str | None
    total: int


@cache
def types_of(row: type) -> Mapping[str, tuple[type, ...]]:
    """Return the types of each field of a row, without None."""
    hints = get_type_hints(row)
    return {one.name: _types(hints[one.name]) for one in fields(row)}


def _types(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) in {Union, UnionType}:
        return tuple(kind for part in get_args(hint) for kind in _types(part) if kind is not NoneType)
    origin = get_origin(hint)
    if origin is tuple:
        return (tuple, *_types(get_args(hint)[0]))
    return (origin or hint,)


class Listing:
    """The rows of one answer of the cluster, from which pages are cut."""

    def __init__(self, rows: Sequence[Any], row: type, key: str) -> None:
        self._rows = rows
        self._row = row
        self._key = key
        self._by_key: list[Any] | None = None
        self._orders: dict[Any, list[Any]] = {}

    def page(self, query: ListQuery) -> Page:
        """Cut a page. Raises UsageError for a field that the rows do not have, and for a value that does not fit it."""
        if not 1 <= query.limit <= MAX_LIMIT:
            raise UsageError(f"limit must be between 1 and {MAX_LIMIT}.")
        shown = [self._known(name, "fields") for name in query.fields] or list(types_of(self._row))
        rows = self._ordered(query)
        begin = 0
        if query.cursor is not None:
            order, place = self._order(query), self.place(query)
            before = tuple(_part(place[name], descends) for name, descends in order)
            begin = bisect_right(rows, before, key=lambda row: _key(row, order))
        found = rows[begin : begin + query.limit]
        following = None
        if begin + query.limit < len(rows):
            following = self._cursor(query, found[-1])
        items = tuple({name: as_data(getattr(row, name)) for name in shown} for row in found)
        return Page(items, following, len(rows))

    def _known(self, name: str, where: str) -> str:
        if name not in types_of(self._row):
            raise UsageError(
                f"{where}: the rows have no field of this name.",
                hint=f"The fields are {', '.join(types_of(self._row))}.",
            )
        return name

    def _order(self, query: ListQuery) -> tuple[tuple[str, bool], ...]:
        wanted = tuple((self._known(one.removeprefix("-"), "sort"), one.startswith("-")) for one in query.sort)
        for name, _ in wanted:
            if tuple in types_of(self._row)[name] or not all(map(_is_plain, types_of(self._row)[name])):
                raise UsageError(f"sort: {name} has no order.")
        return wanted if self._key in dict(wanted) else (*wanted, (self._key, False))

    def _ordered(self, query: ListQuery) -> list[Any]:
        order = self._order(query)
        wanted = (order, query.q, tuple(sorted(query.filters.items())))
        if wanted not in self._orders:
            rows = self._sorted_by_key()
            for test in self._tests(query):
                rows = [row for row in rows if test(row)]
            # Sorting keeps the order of equal rows, so the last field comes first. No key is made for each row.
            for name, descends in reversed(order if order[-1] != (self._key, False) else order[:-1]):
                rows = _sorted(rows, name, descends, types_of(self._row)[name])
            while len(self._orders) >= _KEPT_ORDERS:
                del self._orders[next(iter(self._orders))]
            self._orders[wanted] = rows
        return self._orders[wanted]

    def _sorted_by_key(self) -> list[Any]:
        if self._by_key is None:
            self._by_key = _sorted(self._rows, self._key, False, types_of(self._row)[self._key])
        return self._by_key

    def _tests(self, query: ListQuery) -> list[Callable[[Any], bool]]:
        tests: list[Callable[[Any], bool]] = []
        for name, values in query.filters.items():
            bare, _, bound = name.partition(".")
            kinds = types_of(self._row)[self._known(bare, "filter")]
            if bound and (bound not in {"min", "max"} or not set(kinds) & {int, float, datetime}):
                raise UsageError(f"filter: {bare} has no {'such bound' if bound in {'min', 'max'} else bound}.")
            wanted = [_parse(value, kinds, bare) for value in values]
            if bound and None in wanted:
                raise UsageError(f"{bare}: null is no bound.", hint=f"For rows without it: {bare}=null")
            tests.append(_test(bare, bound, wanted, is_set=tuple in kinds))
        if query.q:
            texts = [name for name, kinds in types_of(self._row).items() if any(_is_text(kind) for kind in kinds)]
            needle = query.q.casefold()
            tests.append(lambda row: any(needle in str(getattr(row, name) or "").casefold() for name in texts))
        return tests

    def _cursor(self, query: ListQuery, last: Any) -> str:
        order = self._order(query)
        place = [as_data(getattr(last, name)) for name, _ in order]
        text = json.dumps([[f"{'-' * descends}{name}" for name, descends in order], place], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def place(self, query: ListQuery) -> Mapping[str, Any]:
        """Return the values by which the row before the page is sorted; none for the first page. Raises UsageError."""
        if query.cursor is None:
            return {}
        order = self._order(query)
        try:
            text = query.cursor or ""
            names, values = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if names != [f"{'-' * descends}{name}" for name, descends in order] or len(values) != len(order):
                raise ValueError
            return {
                name: _value(value, types_of(self._row)[name], name)
                for (name, _), value in zip(order, values, strict=True)
            }
        except (ValueError, TypeError, UsageError):
            raise UsageError(
                "cursor: it does not belong to this list and order.",
                hint="Use next_cursor of the previous page, with the same sort.",
            ) from None


def _value(value: Any, kinds: Sequence[type], name: str) -> Any:
    """Return a value of a cursor; a text in it is a text, even ``null``."""
    if value is None or (isinstance(value, str) and any(map(_is_text, kinds))):
        return value
    return _parse(str(value), kinds, name)


def _is_text(kind: type) -> bool:
    return issubclass(kind, str)


def _is_plain(kind: type) -> bool:
    return kind in {int, float, bool, datetime} or _is_text(kind)


def _key(row: Any, order: Sequence[tuple[str, bool]]) -> Any:
    return tuple(_part(getattr(row, name), descends) for name, descends in order)


def _part(value: Any, descends: bool) -> Any:
    """Return what sorts like the value; without a value, a row comes last."""
    if value is None:
        return (True, 0)
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, datetime):
        value = value.timestamp()
    if not descends:
        return (False, value)
    return (False, -value if isinstance(value, (int, float)) else _Descending(value))


def _sorted(rows: Sequence[Any], name: str, descends: bool, kinds: Sequence[type]) -> list[Any]:
    """Sort by one field, in the order of ``_part``: rows without a value come last in both directions."""
    read = attrgetter(name)
    value = (lambda row: read(row).value) if any(issubclass(kind, Enum) for kind in kinds) else read
    having = [row for row in rows if read(row) is not None]
    having.sort(key=value, reverse=descends)
    return having if len(having) == len(rows) else [*having, *(row for row in rows if read(row) is None)]


@dataclass(frozen=True)
class _Descending:
    value: Any

    def __lt__(self, other: "_Descending") -> bool:
        return bool(other.value < self.value)


def _test(name: str, bound: str, wanted: Sequence[Any], *, is_set: bool) -> Callable[[Any], bool]:
    read = attrgetter(name)
    if bound == "min":
        lowest = max(wanted)
        return lambda row: (value := read(row)) is not None and value >= lowest
    if bound == "max":
        highest = min(wanted)
        return lambda row: (value := read(row)) is not None and value <= highest
    among = set(wanted)
    if among == {None}:
        # Also of fields that cannot be in a set, such as objects.
        return lambda row: read(row) is None
    if is_set:
        return lambda row: None in among if (value := read(row)) is None else not among.isdisjoint(value)
    return lambda row: read(row) in among


def _parse(text: str, kinds: Sequence[type], name: str) -> Any:
    if text == "null":
        return None
    for kind in kinds:
        try:
            if kind is bool and text.lower() in {"true", "false"}:
                return text.lower() == "true"
            if kind in {int, float}:
                return kind(text)
            if kind is datetime:
                when = datetime.fromisoformat(text)
                return when if when.tzinfo else when.replace(tzinfo=UTC)
            if _is_text(kind):
                return kind(text)
        except ValueError:
            continue
    raise UsageError(f"{name}: the value is not valid.", hint=f"It is a {' or '.join(_words(kinds))}.")


def _words(kinds: Sequence[type]) -> list[str]:
    names = {int: "number", float: "number", bool: "true or false", datetime: "time in ISO 8601", str: "text"}
    words = [
        "one of " + ", ".join(str(one.value) for one in kind) if issubclass(kind, Enum) else names[kind]
        for kind in kinds
        if kind is not tuple and (kind in names or issubclass(kind, Enum))
    ]
    return list(dict.fromkeys(words)) or ["value that cannot be filtered"]
