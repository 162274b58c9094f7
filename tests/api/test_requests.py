"""What the API makes of requests as such: methods, bodies that are large, slow or no JSON, clients that say nothing."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest
from api_support import ADMIN_TOKEN, Api, ApiFiles, serve
from fastapi import FastAPI

from admin_api.app import create_app
from admin_api.bodies import MAX_BODY_BYTES
from admin_api.server import PatientProtocol

HEAD = (
    "POST /api/v1/nodes HTTP/1.1\r\nHost: a\r\n"
    f"Authorization: Bearer {ADMIN_TOKEN}\r\nContent-Type: application/json\r\n"
)
CODES = {400: "bad-request", 408: "body-too-slow", 413: "body-too-large", 415: "unsupported-media-type"}


def check_problem(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode(), answer
    assert b"content-type: application/problem+json" in head
    assert f'"code":"{CODES[status]}"'.encode() in body


def call(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.port), timeout=20)


def answer_to(api: Api, sent: bytes) -> bytes:
    """Send bytes that are no whole request, and give what comes back nevertheless."""
    with closing(call(api)) as line:
        line.sendall(sent)
        found = line.recv(65536)
        while b"\r\n\r\n" not in found or not found.endswith(b"}"):
            part = line.recv(65536)
            assert part, found
            found += part
    return found


def test_a_body_that_announces_to_be_large_is_refused_before_it_is_sent(away: Api) -> None:
    check_problem(answer_to(away, f"{HEAD}Content-Length: 262144000\r\n\r\n".encode()), 413)


def test_a_chunked_body_is_refused_where_it_gets_too_large(away: Api) -> None:
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    chunks = chunk * (MAX_BODY_BYTES // 4096 + 1)
    check_problem(answer_to(away, f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks), 413)


def test_a_body_of_just_the_limit_is_read(away: Api) -> None:
    body = b'{"host": "", "port": 1}'.ljust(MAX_BODY_BYTES)
    headers = away.admin | {"Content-Type": "application/json"}
    assert away.client.post("/api/v1/nodes", headers=headers, content=body).status_code == 422
    assert away.client.post("/api/v1/nodes", headers=headers, content=body + b" ").status_code == 413
    assert away.client.post("/api/v1/nodes", headers=headers, content=iter([body, b" "])).status_code == 413


def test_who_may_not_call_learns_that_first(away: Api) -> None:
    response = away.client.post("/api/v1/nodes", content=b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 401


@pytest.fixture
def impatient(files: ApiFiles) -> Iterator[Api]:
    class Impatient(PatientProtocol):
        patience_s = 0.2

    with serve(create_app(files.settings(body_timeout_s=0.2, reconciler=False)), http=Impatient) as api:
        yield api


def test_a_body_that_does_not_come_is_not_waited_for(impatient: Api) -> None:
    check_problem(answer_to(impatient, f"{HEAD}Content-Length: 20\r\n\r\n{{".encode()), 408)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: a\r\nX: ", b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\nGET /hea"],
    ids=["nothing", "half a line", "half a head", "half a second request"],
)
def test_a_client_that_never_sends_a_whole_request_is_hung_up_on(impatient: Api, sent: bytes) -> None:
    with closing(call(impatient)) as line:
        line.sendall(sent)
        try:
            while line.recv(65536):
                pass
        except ConnectionResetError:
            return


def test_a_body_that_goes_on_after_its_refusal_is_ended(impatient: Api) -> None:
    with closing(call(impatient)) as line:
        line.sendall(f"{HEAD}Content-Length: 262144000\r\n\r\n".encode())
        deadline = time.monotonic() + 20
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < deadline:
                line.sendall(b" " * 1024)
                time.sleep(0.01)


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        ("GET /health HTTP/1.1\r\nHost: a\r\nX: ", "x" * 1024),
        ("GET /health HTTP/1.1\r\nHost: a\r\n", f"X: {'x' * 1019}\r\n"),
        ("GET /", "x" * 1024),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n", f"X: {'x' * 1019}\r\n"),
        (f"{HEAD}Transfer-Encoding: chunked\r\n\r\n1;", "x" * 1024),
    ],
    ids=["one header", "many headers", "a path", "trailers", "an extension of a chunk"],
)
def test_a_head_without_end_is_refused(away: Api, begin: str, more: str) -> None:
    with closing(call(away)) as line:
        line.sendall(begin.encode())
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(4 * 1024):
                line.sendall(more.encode())


def test_a_request_to_upgrade_is_answered_as_if_it_asked_for_nothing(away: Api) -> None:
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    answer = answer_to(away, f"GET /health/live HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_requests_that_do_not_wait_are_answered_in_turn(away: Api) -> None:
    one = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    with closing(call(away)) as line:
        line.sendall(one * 50)
        found = b""
        while found.count(b"HTTP/1.1 200 ") < 50 or not found.endswith(b"}"):
            part = line.recv(65536)
            assert part, found
            found += part


def test_a_request_that_takes_long_is_not_hung_up_on(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> None:
    class Impatient(PatientProtocol):
        patience_s = 0.1

    app = create_app(files.settings(reconciler=False))

    @app.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "done"

    with serve(app, http=Impatient) as api:
        assert api.client.get("/slow", headers=api.read).json() == "done"


def test_head_is_get_without_the_body(away: Api) -> None:
    got, head = away.client.get("/health"), away.client.head("/health")
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert away.client.head("/api/v1/services", headers=away.read).status_code == 200
    assert away.client.head("/api/v1/services").status_code == 401


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/health", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/api/v1/rebalance", "GET, HEAD, OPTIONS, POST"),
        ("/api/v1/nodes", "GET, HEAD, OPTIONS, POST"),
    ],
)
def test_options_and_405_name_every_method(away: Api, path: str, methods: str) -> None:
    response = away.client.options(path, headers=away.read)
    assert (response.status_code, response.headers["allow"], response.content) == (204, methods, b"")
    response = away.client.delete(path, headers=away.admin)
    assert (response.status_code, response.headers["allow"]) == (405, methods)
    assert methods in response.json()["hint"]


def test_a_body_without_the_type_of_json_is_told_which_it_needs(away: Api) -> None:
    for path, body in (("/api/v1/nodes", '{"host": "a"}'), ("/api/v1/rebalance", '{"mode": "auto"}')):
        for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
            headers = away.admin | ({"Content-Type": kind} if kind else {})
            response = away.client.post(path, headers=headers, content=body.encode())
            assert response.status_code == 415
            assert "Content-Type: application/json" in response.json()["hint"]


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'{"host": "\xff"}', "not UTF-8"), (b"[" * 50_000, "nested too deeply")],
    ids=["utf-8", "nested"],
)
def test_a_body_that_cannot_be_read_is_told_why(away: Api, body: bytes, said: str) -> None:
    headers = away.admin | {"Content-Type": "application/json"}
    response = away.client.post("/api/v1/nodes", headers=headers, content=body)
    assert (response.status_code, response.json()["code"]) == (400, "bad-request")
    assert said in response.json()["detail"]


def document_of(api: Api) -> httpx.Response:
    return api.client.get("/openapi.json", headers=api.read)


def test_the_openapi_document_says_what_may_be_wrong_with_a_body(away: Api) -> None:
    document = document_of(away).json()
    for path in ("/api/v1/nodes", "/api/v1/rebalance"):
        assert {"400", "408", "413", "415", "422"} <= set(document["paths"][path]["post"]["responses"])


def test_the_schemas_refuse_what_the_api_refuses_and_have_examples(away: Api) -> None:
    schemas = document_of(away).json()["components"]["schemas"]
    assert schemas["NewWorker"]["properties"]["host"]["minLength"] == 1
    for schema, path in (("NewWorker", "/api/v1/nodes"), ("NewRebalance", "/api/v1/rebalance")):
        properties = schemas[schema]["properties"]
        example = {name: one["examples"][0] for name, one in properties.items() if "examples" in one}
        assert example
        # The coordinator is away; an example that were not valid would get 422.
        assert away.client.post(path, headers=away.admin, json=example).status_code == 503
    switches = [name for name, one in schemas["NewRebalance"]["properties"].items() if one.get("type") == "boolean"]
    assert len(switches) == 6
    for switch in switches:
        for value in (0, 1, "true"):
            response = away.client.post("/api/v1/rebalance", headers=away.admin, json={switch: value})
            assert response.status_code == 422, (switch, value)
