"""Follow one request through three services: spans with one trace_id, each with the id of its parent."""

import argparse
import contextlib
import contextvars
import json
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field


def new_id() -> str:
    return uuid.uuid4().hex[:8]


@dataclass
class Span:
    service: str
    operation: str
    trace_id: str
    parent_id: str | None
    span_id: str = field(default_factory=new_id)
    duration_ms: float = 0.0
    attributes: dict[str, object] = field(default_factory=dict)


current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("current", default=None)


@contextlib.contextmanager
def span(service: str, operation: str) -> Iterator[Span]:
    """Measure a part of a request. It is printed when it ends, so that a child comes before its parent."""
    parent = current.get()
    one = Span(service, operation, parent.trace_id if parent else new_id(), parent.span_id if parent else None)
    before = current.set(one)
    start = time.perf_counter()
    try:
        yield one
    finally:
        one.duration_ms = round((time.perf_counter() - start) * 1000, 1)
        current.reset(before)
        print(json.dumps(asdict(one)))


def query() -> None:
    with span("database", "SELECT users") as one:
        time.sleep(0.020)
        one.attributes["rows"] = 1


def find_user() -> None:
    with span("user-service", "get_user") as one:
        time.sleep(0.005)
        one.attributes["cache_hit"] = False
        query()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    with span("api-gateway", "GET /users/42") as one:
        time.sleep(0.010)
        find_user()
        one.attributes["status_code"] = 200


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in: tracing.py | head -1
    main()
