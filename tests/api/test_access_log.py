"""Identifiers of a request in its answer, in problems and in the log, and the log's line for each request."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles
from fastapi import FastAPI
from waiting import eventually

from admin_api.app import create_app
from admin_api.request_context import identifiers
from citus_cluster.model.log_records import ACCESS_LOGGER
from citus_cluster.runtime.log_lines import JsonFormatter

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Log:
    """What the container would write to stderr."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def records(self, logger: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [record for record in found if record["logger"] == logger]

    def requests(self, number: int) -> list[dict[str, Any]]:
        """Return the lines about requests, once there are so many: a line follows its answer."""
        eventually(lambda: len(self.records(ACCESS_LOGGER)) >= number)
        return self.records(ACCESS_LOGGER)


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    handler = logging.StreamHandler(log.stream)
    handler.setFormatter(JsonFormatter(identifiers))
    # The client of the tests logs too.
    handler.addFilter(lambda record: not record.name.startswith("http"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield log
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def api(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> Api:
    app = create_app(files.settings(reconciler=False, connect_timeout_s=0.3))

    @app.get("/api/v1/things/{name}/parts")
    async def parts(name: str) -> str:
        logging.getLogger("admin_api.tested").info("inside")
        return "ä" * 10

    @app.get("/api/v1/defect")
    async def defect() -> None:
        raise ZeroDivisionError

    return run_api(app)


def test_an_answer_repeats_the_identifiers_of_the_client(api: Api) -> None:
    sent = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    for path, headers in (("/health", {}), ("/api/v1/nowhere", api.read), ("/api/v1/services", {})):
        response = api.client.get(path, headers=headers | sent)
        assert response.headers["x-request-id"] == "mine"
        version, trace, span, flags = response.headers["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01")
        assert span != "b7ad6b7169203331"
        if response.headers["content-type"] == "application/problem+json":
            assert response.json()["request_id"] == "mine"


def test_each_request_without_an_id_gets_its_own(api: Api) -> None:
    answers = [api.client.get("/api/v1/nowhere", headers=api.read | {"X-Request-ID": "not valid"}) for _ in range(2)]
    ids = [answer.json()["request_id"] for answer in answers]
    assert ids == [answer.headers["x-request-id"] for answer in answers]
    assert ids[0] != ids[1]


def test_a_request_has_one_line_that_says_who_asked_for_what(api: Api, log: Log) -> None:
    path = "/api/v1/things/secret-name/parts"
    answer = api.client.get(
        f"{path}?password=hunter2",
        headers=api.read | {"X-Request-ID": "the-id", "traceparent": f"00-{TRACE}-{'1' * 16}-00"},
    )
    (line,) = log.requests(1)
    assert line.pop("time") and line.pop("duration_ms") >= 0
    assert line == {
        "level": "INFO",
        "logger": "admin_api.access",
        "message": "GET /api/v1/things/{name}/parts 200",
        "request_id": "the-id",
        "trace_id": TRACE,
        "method": "GET",
        "path": "/api/v1/things/{name}/parts",
        "status": 200,
        "client": "127.0.0.1",
        "token": "read",
        "role": "read",
        "bytes": len(answer.content),
    }
    (inside,) = log.records("admin_api.tested")
    assert (inside["request_id"], inside["trace_id"]) == ("the-id", TRACE)
    said = log.stream.getvalue()
    for secret in ("hunter2", "password", READ_TOKEN, "secret-name"):
        assert secret not in said


def test_a_refused_request_is_logged_with_its_own_path_on_one_line(api: Api, log: Log) -> None:
    api.client.post("/api/v1/rebalance", headers=api.read)
    api.client.get("/no%0Awhere%1b[31m" + "x" * 400, headers={"Authorization": f"Bearer {ADMIN_TOKEN}x"})
    api.client.head("/api/v1/services", headers=api.admin)
    first, second, third = log.requests(3)
    assert [first[key] for key in ("method", "path", "status", "token", "role")] == [
        "POST", "/api/v1/rebalance", 403, "read", "read",
    ]  # fmt: skip
    assert second["path"] == "/no\nwhere\x1b[31m" + "x" * 186
    assert (second["status"], "token" in second) == (401, False)
    assert (third["method"], third["path"], third["status"]) == ("HEAD", "/api/v1/services", 200)
    said = log.stream.getvalue()
    assert "\x1b" not in said
    assert ADMIN_TOKEN not in said


def test_health_checks_are_not_logged(api: Api, log: Log) -> None:
    api.client.get("/health")
    api.client.get("/health/ready")
    api.client.get("/api/v1/nowhere", headers=api.read)
    assert [line["path"] for line in log.requests(1)] == ["/api/v1/nowhere"]


def test_the_traceback_of_a_defect_has_the_id_that_the_client_got(api: Api, log: Log) -> None:
    answer = api.client.get("/api/v1/defect", headers=api.read)
    (defect,) = log.records("admin_api.problems")
    assert defect["request_id"] == answer.json()["request_id"] == answer.headers["x-request-id"]
    assert defect["exception"].splitlines()[-1] == "ZeroDivisionError"
    (line,) = log.requests(1)
    assert (line["status"], line["request_id"]) == (500, defect["request_id"])
