"""JSON lines of a log: one line each, whatever they contain, and plain text for people."""

import asyncio
import json
from types import SimpleNamespace
from typing import cast

import pytest

from citus_cluster.model.log_records import ACCESS_LOGGER, json_line, readable
from citus_cluster.model.plan.causes import probable_cause
from citus_cluster.operations.containers import last_log_lines
from citus_cluster.runtime.docker.engine import Container, Engine

HOSTILE = 'a "quote", a \\ slash,\na line, \x1b]52;c;x\x07, \x9b, \u202e, \u2028, \ud800'


def line_of(message: str, logger: str = "admin_api", exception: str | None = None, **more: object) -> str:
    return json_line(0.5, "ERROR", logger, message, more, exception)


def test_a_record_is_one_printable_line_whatever_it_says() -> None:
    line = line_of(HOSTILE, request_id="r", operation_id=None, exception="Traceback:\n  x\nValueError: y")
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "ERROR",
        "logger": "admin_api",
        "message": HOSTILE,
        "request_id": "r",
        "exception": "Traceback:\n  x\nValueError: y",
    }


def test_people_read_text_with_the_prefix_of_compose() -> None:
    line = "admin-api  | " + line_of("worker w: pending\nforged", request_id="r", exception="Traceback\nE: \x1b")
    assert readable(line).splitlines() == [
        r"admin-api  | 1970-01-01T00:00:00.500+00:00 ERROR admin_api: worker w: pending\nforged (request_id=r)",
        "Traceback",
        r"E: \x1b",
    ]


def test_lines_about_requests_can_be_left_out() -> None:
    request = line_of("GET /api/v1/services 200", ACCESS_LOGGER, duration_ms=1.2, client="172.18.0.1", request_id="r")
    log = "\n".join([request, line_of("it ends")])
    assert "services 200 (1.2 ms, client=172.18.0.1, request_id=r)" in readable(log)
    assert readable(log, with_requests=False).splitlines() == [readable(line_of("it ends"))]


@pytest.mark.parametrize(
    "line",
    [
        "ModuleNotFoundError: No module named 'fastapi'",
        '{"time": "of somebody else"}',
        '{"time":1,"level":"x","logger":"y","message":"z"}',
        '{"time":"t","level":"x","logger":"y"}',
        '{"time":"cut off',
        '{"time":' + "[" * 100_000,
        "",
    ],
)
def test_another_line_stays_as_it_is(line: str) -> None:
    assert readable(line) == line


@pytest.mark.parametrize(
    ("lines", "meaning"),
    [
        ([line_of('FATAL:  password authentication failed for user "postgres"')], "another password"),
        ([line_of('could not access file "citus"')], "does not accept one of its settings"),
        ([line_of("the start failed", exception="Traceback\nOSError: [Errno 28] No space left on device")], "is full"),
        ([line_of("[Errno 98] error while attempting to bind: address already in use")], "port is in use"),
    ],
)
def test_the_causes_of_a_failure_are_found_in_a_log_of_json(lines: list[str], meaning: str) -> None:
    """``up`` and ``status`` search them in the log of the container, beneath what clients ask at the same time."""
    requests = [line_of("GET /no%20space%20left/permission denied 404", ACCESS_LOGGER)] * 100
    log = "\n".join([*lines, *requests])
    engine = SimpleNamespace(logs=lambda container, tail, *, earlier: "\n".join(log.splitlines()[-tail:]))
    found = asyncio.run(last_log_lines(cast("Engine", engine), cast("Container", None)))
    cause = probable_cause("\n".join(found))
    assert cause is not None and meaning in cause.text


def test_what_a_client_asks_for_is_no_cause() -> None:
    log = "\n".join([line_of("GET /no space left on device 404", ACCESS_LOGGER)] * 3)
    assert probable_cause(readable(log, with_requests=False)) is None
