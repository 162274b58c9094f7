"""The identifiers of the running request and operation, for everything that runs inside them.

They are context variables: a task that a request starts keeps those of the request.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Self

REQUEST_ID_HEADER = "x-request-id"
TRACEPARENT_HEADER = "traceparent"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request: its id, and its span in a trace (W3C Trace Context), in hexadecimal."""

    request_id: str
    trace_id: str
    span_id: str
    is_sampled: bool = False

    @classmethod
    def of_headers(cls, request_ids: Sequence[str], traceparents: Sequence[str]) -> Self:
        """Take over the client's identifiers if they are valid; otherwise create new ones. The span is always new."""
        fresh = os.urandom(40).hex()
        request_id = request_ids[0] if len(request_ids) == 1 and _REQUEST_ID.fullmatch(request_ids[0]) else fresh[:32]
        trace = _trace(traceparents[0]) if len(traceparents) == 1 else None
        trace_id, is_sampled = trace or (fresh[32:64], False)
        return cls(request_id, trace_id, fresh[64:], is_sampled)

    @property
    def traceparent(self) -> str:
        """The value of the header ``traceparent``, for the answer, and for what this request calls."""
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.is_sampled else 0:02x}"


def _trace(text: str) -> tuple[str, bool] | None:
    """Return the id and the flag of a trace; None if the header is not valid. Later versions begin in the same way."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    is_valid = version != "ff" and not (version == "00" and more) and int(trace_id, 16) and int(parent_id, 16)
    return (trace_id, bool(int(flags, 16) & _SAMPLED)) if is_valid else None


_request: ContextVar[RequestContext | None] = ContextVar("request", default=None)
_operation_id: ContextVar[str | None] = ContextVar("operation_id", default=None)


def current() -> RequestContext | None:
    """Return the context of the request that this code runs for, if any."""
    return _request.get()


def request_id() -> str | None:
    """Return the id of the request that this code runs for, if any."""
    context = _request.get()
    return context.request_id if context else None


def operation_id() -> str | None:
    """Return the id of the operation that this code belongs to, if any."""
    return _operation_id.get()


def begin(context: RequestContext) -> Token[RequestContext | None]:
    """Make this the running request; pass the result to :func:`end`."""
    return _request.set(context)


def end(token: Token[RequestContext | None]) -> None:
    """Restore what was before :func:`begin`."""
    _request.reset(token)


@contextmanager
def running_operation(identifier: str) -> Iterator[None]:
    """Mark everything in the block, and the tasks that it starts, as part of an operation."""
    token = _operation_id.set(identifier)
    try:
        yield
    finally:
        _operation_id.reset(token)


def identifiers() -> dict[str, object]:
    """Return the members that every log line of the running request and operation has."""
    context = _request.get()
    return {
        "request_id": context.request_id if context else None,
        "operation_id": _operation_id.get(),
        "trace_id": context.trace_id if context else None,
    }
