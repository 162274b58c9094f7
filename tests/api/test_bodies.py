"""The middleware that hands on a request once its body is here, on requests that a server would hardly make."""

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from admin_api.bodies import MAX_BODY_BYTES, LimitBody


class Exchange:
    """One request through the middleware: what the app was given, and what the client got."""

    def __init__(self, headers: dict[str, str], *messages: Message, kind: str = "http") -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._scope = {"type": kind, "method": "POST", "path": "/", "headers": raw}
        self._messages = list(messages)
        self.reads = 0
        self.given: list[Message] = []
        self.sent: list[Message] = []

    async def _receive(self) -> Message:
        self.reads += 1
        if self._messages:
            return self._messages.pop(0)
        await asyncio.sleep(3600)
        raise AssertionError

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope is self._scope
        self.given.append(await receive())
        self.given.append(await receive())

    def run(self) -> "Exchange":
        asyncio.run(LimitBody(self._app, timeout_s=0.05)(self._scope, self._receive, self._send))
        return self

    @property
    def answer(self) -> dict[str, Any]:
        start, body = self.sent
        found: dict[str, Any] = json.loads(body["body"])
        assert start["status"] == found["status"]
        return found


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


GONE: Message = {"type": "http.disconnect"}
CHUNKED = {"transfer-encoding": "chunked"}


@pytest.mark.parametrize("headers", [{"content-length": "6"}, CHUNKED])
def test_the_app_gets_the_whole_body_at_once_and_then_what_follows(headers: dict[str, str]) -> None:
    exchange = Exchange(
        headers, part(b"abc", more=True), {"type": "http.request", "more_body": True}, part(b"def"), GONE
    )
    assert exchange.run().given == [part(b"abcdef"), GONE]
    assert exchange.sent == []


@pytest.mark.parametrize(("headers", "kind"), [({}, "http"), ({"content-length": "0"}, "http"), ({}, "lifespan")])
def test_what_has_no_body_is_handed_on_as_it_is(headers: dict[str, str], kind: str) -> None:
    first, second = part(b""), GONE
    exchange = Exchange(headers, first, second, kind=kind).run()
    assert exchange.given[0] is first
    assert exchange.given[1] is second


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "-1", "many", "1.5"])
def test_a_length_that_is_too_large_or_none_is_refused_before_anything_is_read(length: str) -> None:
    exchange = Exchange({"content-length": length}, part(b"")).run()
    assert (exchange.reads, exchange.given) == (0, [])
    assert exchange.answer == {
        "type": "urn:citus-cluster:problem:body-too-large",
        "title": "The body is too large",
        "status": 413,
        "code": "body-too-large",
        "detail": "The body is larger than 64 kB.",
        "hint": "See GET /openapi.json for the format of a body.",
    }


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large() -> None:
    half = b" " * (MAX_BODY_BYTES // 2)
    whole = Exchange(CHUNKED, part(half, more=True), part(half), GONE).run()
    assert whole.given[0] == part(half + half)
    more = Exchange(CHUNKED, part(half, more=True), part(half, more=True), part(b" ", more=True), part(b"")).run()
    assert (more.reads, more.given) == (3, [])
    assert more.answer["code"] == "body-too-large"


def test_a_client_that_leaves_gets_no_answer_and_the_app_no_request() -> None:
    exchange = Exchange(CHUNKED, part(b"a", more=True), GONE).run()
    assert (exchange.given, exchange.sent) == ([], [])


def test_a_body_that_does_not_come_in_time_is_refused_and_the_connection_is_ended() -> None:
    exchange = Exchange({"content-length": "2"}, part(b"a", more=True)).run()
    assert exchange.answer == {
        "type": "urn:citus-cluster:problem:body-too-slow",
        "title": "The body arrived too slowly",
        "status": 408,
        "code": "body-too-slow",
        "detail": "The body did not arrive in time.",
        "hint": "Send the request again.",
    }
    assert (b"connection", b"close") in exchange.sent[0]["headers"]
