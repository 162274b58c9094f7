"""Waiting for conditions on servers and containers."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def eventually(
    check: Callable[[], _T],
    what: str | Callable[[], str] = "the condition",
    timeout_s: float = 60,
    *,
    every_s: float = 0.1,
    ignoring: type[Exception] | tuple[type[Exception], ...] = (),
) -> _T:
    """Poll until ``check`` returns a true value, and return that value; fail the test after ``timeout_s``.

    ``what`` describes the condition in the failure. An exception among ``ignoring`` means "not yet".
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if found := check():
                return found
            last = repr(found)
        except ignoring as error:
            last = repr(error)
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what() if callable(what) else what}; last: {last}")
        time.sleep(every_s)
