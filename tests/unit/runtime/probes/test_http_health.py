"""The health request, asked of a real server."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from citus_cluster.runtime.probes.http_health import probe_http

ANSWERS = {
    "/health": (200, b"{}"),
    "/missing-worker": (503, b'{"reason": "citus-worker2 is not registered"}'),
    "/list": (503, b"[]"),
    "/text": (500, b"oops"),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, body = ANSWERS.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


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
