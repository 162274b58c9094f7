"""Examples of answers for the OpenAPI document: real ones, which ``tests/support/answer_examples.py`` records."""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

FILE = "examples.json"
"""The answers, by the id of the operation in the document."""
RUNNING = "running"
"""The key of an operation that runs, in place of an operation id."""
_OF_STATUS = {"201": "operations-get", "202": RUNNING}
"""Every 201 and every 202 is an operation, ended or running, so one answer stands for all."""


def read_examples() -> dict[str, Any]:
    """Read the kept answers, by operation id. An answer to a change is its plan, which ``dry_run`` shows."""
    found: dict[str, Any] = json.loads((files("admin_api") / FILE).read_text(encoding="utf-8"))
    return found


def add_examples(document: dict[str, Any]) -> None:
    """Add an example to each JSON answer of the document whose operation has one."""
    answers = read_examples()
    shared = {f"operation-{status}": {"value": answers[name]} for status, name in _OF_STATUS.items() if name in answers}
    document.setdefault("components", {})["examples"] = shared
    for operation_id, status, content in json_answers(document):
        if (name := f"operation-{status}") in shared:
            content["examples"] = {"operation": {"$ref": f"#/components/examples/{name}"}}
        elif operation_id in answers:
            content["example"] = answers[operation_id]


def json_answers(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the operation id, the status and the content of each successful JSON answer of the document."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status.startswith("2") and (content := response.get("content", {}).get("application/json")):
                    yield operation["operationId"], status, content


def example_of(content: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    """Return the example of the content of an answer; None without one."""
    for one in content.get("examples", {}).values():
        return document["components"]["examples"][one["$ref"].rpartition("/")[2]]["value"]
    return content.get("example")
