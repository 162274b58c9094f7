"""The one serializer of results."""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from setup_support import ROOT

from citus_cluster.model.documents import Documented, as_data


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner(Documented):
    """It is its own document."""

    colour: Colour
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class OuterDocument:
    name: str
    inner: Inner
    at: datetime | None
    more: Mapping[str, Inner]


@dataclass(frozen=True)
class Outer(Documented):
    """It has other fields than its document."""

    secret: str
    inner: Inner

    def document(self) -> OuterDocument:
        return OuterDocument("outer", self.inner, datetime(2026, 1, 1, tzinfo=UTC), {"b": self.inner, "a": self.inner})


class Merged(Documented):
    def document(self) -> Mapping[str, object]:
        return {"first": 1, **Inner(Colour.RED, ()).as_dict()}


def test_a_document_has_the_fields_of_its_data_class_in_their_order() -> None:
    found = Outer("hidden", Inner(Colour.RED, (1, 2))).as_dict()
    inner = {"colour": "red", "sizes": [1, 2]}
    expected = {"name": "outer", "inner": inner, "at": "2026-01-01T00:00:00+00:00", "more": {"b": inner, "a": inner}}
    assert json.dumps(found) == json.dumps(expected)
    assert type(found["inner"]["colour"]) is str


def test_a_mapping_is_a_document_too() -> None:
    assert Merged().as_dict() == {"first": 1, "colour": "red", "sizes": []}


def test_what_json_knows_stays_as_it_is() -> None:
    values: list[object] = [None, True, 1, 1.5, "text", []]
    assert as_data(values) == values


def test_results_have_no_other_way_to_json() -> None:
    """Those that are left decide whether a password is in the document; an error is no data class."""
    found = set()
    for path in (ROOT / "citus_cluster").rglob("*.py"):
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(one, ast.ClassDef):
                names = {part.name for part in one.body if isinstance(part, ast.FunctionDef)}
                found |= {one.name} if "as_dict" in names else set()
    assert found == {"Documented", "CitusClusterError", "UpResult", "RoleResult"}
