"""The health request, asked of a real server."""

from collections.abc import Iterator

import pytest
from http_server import answering

from citus_cluster.runtime.probes.http_health import probe_http

ANSWERS = {
    "/health": (200, b"{}"),
    "/missing-worker": (503, b'{"reason": "citus-worker2 is not registered"}'),
    "/list": (503, b"[]"),
    "/text": (500, b"oops"),
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with answering(ANSWERS) as port:
        yield port


@pytest.mark.parametrize(
    ("path", "ok", "output"),
    [
        ("/health", True, ""),
        ("/missing-worker", False, "citus-worker2 is not registered"),
        ("/list", False, "status 503"),
        ("/text", False, "status 500"),
        ("/elsewhere", False, "status 404"),
    ],
)
def test_a_server_is_asked_at_the_path_that_it_declares(port: int, path: str, ok: bool, output: str) -> None:
    found = probe_http("127.0.0.1", port, path, timeout_s=10)
    assert (found.ok, found.output) == (ok, output)


def test_a_server_that_is_away_is_named() -> None:
    found = probe_http("127.0.0.1", 1, "/health", timeout_s=10)
    assert not found.ok
    assert found.output.startswith("no response from 127.0.0.1:1: ")
