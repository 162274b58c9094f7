"""Which identifiers of a client are taken over, and what an operation hands on."""

import asyncio

import pytest

from admin_api import request_context
from admin_api.request_context import RequestContext, begin, end, identifiers, running_operation

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("text", ["a", "0" * 128, "Root=1-67891233:abc/def+g@h._-"])
def test_a_request_id_of_the_client_is_kept(text: str) -> None:
    assert RequestContext.of_headers([text], []).request_id == text


@pytest.mark.parametrize("ids", [[], [""], ["0" * 129], ["a b"], ["a\tb"], ["ä"], ["a\x1b[31m"], ['"a"'], ["a", "a"]])
def test_another_request_id_is_replaced(ids: list[str]) -> None:
    first, second = (RequestContext.of_headers(ids, []).request_id for _ in range(2))
    assert first != second
    assert len(first) == 32 and int(first, 16)


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-fe", "00"),
        (f"cc-{TRACE}-{PARENT}-03-what-the-future-brings", "01"),
    ],
)
def test_a_trace_goes_on_with_a_new_span(header: str, sampled: str) -> None:
    version, trace, span, flags = RequestContext.of_headers([], [header]).traceparent.split("-")
    assert (version, trace, flags) == ("00", TRACE, sampled)
    assert span != PARENT and len(span) == 16


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [f"00-{TRACE}-{PARENT}-01"] * 2,
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE}-{PARENT}"],
        ["nonsense"],
    ],
)
def test_a_trace_that_is_not_valid_is_not_continued(headers: list[str]) -> None:
    found = RequestContext.of_headers([], headers)
    assert found.trace_id != TRACE and int(found.trace_id, 16)
    assert not found.is_sampled


def test_what_runs_inside_knows_its_request_and_operation_even_later() -> None:
    async def scenario() -> dict[str, object]:
        context = RequestContext("the-request", TRACE, PARENT)
        token = begin(context)
        with running_operation("the-operation"):
            task = asyncio.create_task(asyncio.sleep(0, result=None))
            later = asyncio.create_task(ask())
        end(token)
        await task
        assert identifiers() == {"request_id": None, "operation_id": None, "trace_id": None}
        return await later

    async def ask() -> dict[str, object]:
        await asyncio.sleep(0)
        assert request_context.current() is not None
        assert (request_context.request_id(), request_context.operation_id()) == ("the-request", "the-operation")
        return identifiers()

    found = asyncio.run(scenario())
    assert found == {"request_id": "the-request", "operation_id": "the-operation", "trace_id": TRACE}
