"""The parameters of a list in the query of a URL: the same for every list."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import Any

from starlette.datastructures import QueryParams

from citus_cluster.errors import UsageError
from citus_cluster.model.listing import DEFAULT_LIMIT, MAX_LIMIT, ListQuery, types_of
from citus_cluster.model.parameters import adapter_of, read_parameters
from citus_cluster.operations.view import AnyView

_RESERVED = ("limit", "cursor", "sort", "fields", "q")
MAX_TEXT = 1000
"""Characters of one value."""


def read_query(view: AnyView, query: QueryParams) -> tuple[Any, ListQuery | None]:
    """Return the parameters of a view, and what is wanted of its rows. Raises UsageError for what is not valid."""
    own = {one.name for one in fields(view.parameters)}
    given: dict[str, list[str]] = {}
    for name, value in query.multi_items():
        if len(value) > MAX_TEXT:
            raise UsageError("A value in the query is too long.", hint=f"A value has at most {MAX_TEXT} characters.")
        given.setdefault(name, []).append(value)
    wanted = read_parameters(view.parameters, {name: _single(given.pop(name)) for name in own & given.keys()})
    if not view.is_list:
        refuse_unknown(given, own)
        return wanted, None
    reserved = {name: _single(given.pop(name)) for name in _RESERVED if name in given}
    unknown = (name for name in given if name.partition(".")[0] not in types_of(view.row))
    refuse_unknown(unknown, (*own, *_RESERVED), more=", and fields of rows")
    limit = reserved.get("limit", str(DEFAULT_LIMIT))
    if not isinstance(limit, str) or not limit.isdecimal() or len(limit) > 6:
        raise UsageError(f"limit must be between 1 and {MAX_LIMIT}.")
    return wanted, ListQuery(
        limit=int(limit),
        cursor=_text(reserved.get("cursor")),
        sort=_words(reserved.get("sort")),
        fields=_words(reserved.get("fields")),
        q=_text(reserved.get("q")),
        filters={name: tuple(values) for name, values in given.items()},
    )


def read_fields(query: QueryParams) -> tuple[str, ...]:
    """Return the fields of one document that are wanted; none means all. Raises UsageError for other parameters."""
    refuse_unknown(query.keys() - {"fields"}, ["fields"])
    return _words(query.getlist("fields"))


def refuse_unknown(names: Iterable[str], known: Iterable[str], *, more: str = "") -> None:
    """Raise UsageError if there is a name; the hint lists the ``known`` ones, and says what ``more`` there is."""
    if list(names):
        listed = ", ".join(sorted(known))
        hint = f"Known are {listed}{more}." if listed else "This address has no parameters."
        raise UsageError("The query has an unknown parameter.", hint=hint)


def _single(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def _text(value: str | list[str] | None) -> str | None:
    if isinstance(value, list):
        raise UsageError("A parameter of the query was given twice.")
    return value


def _words(value: str | list[str] | None) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else [value or ""]
    return tuple(word.strip() for part in parts for word in part.split(",") if word.strip())


def openapi_parameters(view: AnyView) -> list[dict[str, Any]]:
    """Return the OpenAPI declarations of a view's query parameters."""
    shape: Any = view.parameters
    schema = adapter_of(shape).json_schema()
    own = [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "description": one.get("description", ""),
            "schema": one,
        }
        for name, one in schema.get("properties", {}).items()
    ]
    return own + ([*_LISTING, *_filters(view.row)] if view.is_list else [])


def _filters(row: type) -> list[dict[str, Any]]:
    found = []
    for name, kinds in types_of(row).items():
        schema = _schema(kinds)
        found.append(_parameter(name, {"type": "array", "items": schema}, f"Only rows with this {name}."))
        if set(kinds) & {int, float, datetime}:
            found += [_parameter(f"{name}.{bound}", schema, f"The {bound} of {name}.") for bound in ("min", "max")]
    return found


def _schema(kinds: tuple[type, ...]) -> dict[str, Any]:
    kind = kinds[-1]
    if issubclass(kind, Enum):
        return {"type": "string", "enum": [one.value for one in kind]}
    names: Mapping[type, dict[str, Any]] = {
        bool: {"type": "boolean"},
        int: {"type": "integer"},
        float: {"type": "number"},
        datetime: {"type": "string", "format": "date-time"},
    }
    return names.get(kind, {"type": "string"})


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


FIELDS = _parameter("fields", {"type": "string"}, "Fields to show, separated by commas; all by default.")
_LISTING = [
    _parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        "Rows of one page.",
    ),
    _parameter("cursor", {"type": "string"}, "next_cursor of the previous page, with the same sort."),
    _parameter("sort", {"type": "string"}, "Fields to sort by, separated by commas; -field descends."),
    FIELDS,
    _parameter("q", {"type": "string"}, "Text that one of the texts of a row contains, regardless of case."),
]
