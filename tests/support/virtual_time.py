"""An event loop whose clock jumps to the next timer when there is nothing else to do, so that waiting takes no time."""

import asyncio
import selectors
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")
_START_S = 1000.0


class _JumpingSelector(selectors.DefaultSelector):
    """Moves the clock of its loop instead of waiting, unless a thread works for the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = _START_S
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self.threads:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self.now_s += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1

        def ended(_: object) -> None:
            self._jumping.threads -= 1

        future.add_done_callback(ended)
        return future


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like ``asyncio.run``; during it, ``time.monotonic`` is the loop's clock, only in this thread.

    A server in another thread would otherwise set its timers by this clock, and wait forever once the run has ended.
    """
    with asyncio.Runner(loop_factory=_Loop) as runner:
        here, real, jumping = threading.get_ident(), time.monotonic, runner.get_loop().time

        def monotonic() -> float:
            return jumping() if threading.get_ident() == here else real()

        with mock.patch("time.monotonic", monotonic):
            return runner.run(work)


def clock() -> float:
    """Return the time of a clock that :func:`run` has replaced."""
    return time.monotonic()
