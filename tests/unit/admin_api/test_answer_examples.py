"""The examples of answers in the OpenAPI document: complete, valid, and read only for the document."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from answer_examples import differences
from api_support import ApiFiles
from jsonschema import Draft202012Validator

from admin_api import examples
from admin_api.app import create_app


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(ApiFiles(tmp_path_factory.mktemp("api")).settings()).openapi()


def invalid(document: dict[str, Any]) -> list[str]:
    """Describe each JSON answer without an example, or with one that its schema does not allow."""
    found = []
    for name, status, content in examples.json_answers(document):
        example = examples.example_of(content, document)
        if example is None:
            found.append(f"{name} {status}: no example")
            continue
        schema = content["schema"] | {"components": document["components"]}
        found += [f"{name} {status}: {one.message}" for one in Draft202012Validator(schema).iter_errors(example)]
    return found


def test_every_answer_has_a_valid_example(document: dict[str, Any]) -> None:
    assert len(list(examples.json_answers(document))) > 100
    assert not invalid(document)


def test_a_missing_and_a_wrong_example_are_found(document: dict[str, Any]) -> None:
    broken = copy.deepcopy(document)
    answers = {(name, status): content for name, status, content in examples.json_answers(broken)}
    del answers["nodes-list", "200"]["example"]
    answers["tables-list", "200"]["example"]["items"][0]["bytes"] = "many"
    found = invalid(broken)
    assert found[0] == "nodes-list 200: no example" or found[1] == "nodes-list 200: no example"
    assert len(found) == 2 and any(one.startswith("tables-list 200") for one in found)


def test_no_example_is_of_another_operation(document: dict[str, Any]) -> None:
    known = {name for name, _, _ in examples.json_answers(document)}
    assert examples.read_examples().keys() == known | {examples.RUNNING}


def test_the_example_of_a_change_is_its_plan(document: dict[str, Any]) -> None:
    changes = [path["post"] for path in document["paths"].values() if "post" in path]
    assert len(changes) > 30
    found = [one["responses"]["200"]["content"]["application/json"]["example"] for one in changes]
    assert [one["kind"] for one in found] == [one["operationId"] for one in changes]


def test_a_list_has_two_rows_at_most() -> None:
    def lists(value: Any) -> list[list[Any]]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [*([value] if isinstance(value, list) else []), *(one for each in inner for one in lists(each))]

    rows = [one for one in lists(examples.read_examples()) if one and isinstance(one[0], dict)]
    assert rows and max(map(len, rows)) == 2


def test_the_file_is_read_for_the_document_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def read() -> dict[str, Any]:
        reads.append(tmp_path)
        return {}

    monkeypatch.setattr(examples, "read_examples", read)
    app = create_app(ApiFiles(tmp_path).settings())
    assert not reads
    app.openapi()
    app.openapi()
    assert len(reads) == 1


@pytest.mark.parametrize(
    ("fresh", "found"),
    [
        ({"rows": [{"a": 1, "b": None}]}, []),
        ({"rows": [{"a": None, "b": "text"}, {"a": 2, "b": "text"}]}, []),
        ({"rows": []}, [".rows: empty in the fresh answer"]),
        ({"rows": [{"a": 1}]}, [".rows[0].b: only in the kept answer"]),
        ({"rows": [{"a": 1, "b": "x", "c": 1}]}, [".rows[0].c: only in the fresh answer"]),
        ({"rows": [{"a": 1.5, "b": "x"}]}, [".rows[0].a: int in the kept answer, float in the fresh one"]),
        ({"rows": [{"a": True, "b": "x"}]}, [".rows[0].a: int in the kept answer, bool in the fresh one"]),
        ({}, [".rows: only in the kept answer"]),
        ([], [": dict in the kept answer, list in the fresh one"]),
    ],
    ids=json.dumps,
)
def test_a_shape_differs_by_members_and_types(fresh: Any, found: list[str]) -> None:
    assert differences({"rows": [{"a": 7, "b": "kept"}]}, fresh) == found
