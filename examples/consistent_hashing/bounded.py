"""Waiting with a limit that holds even where what is awaited cannot be cancelled at once."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_left_behind: set[asyncio.Task[Any]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``. Raises TimeoutError after ``seconds``; ``work`` is then cancelled, and ends when it can.

    A cancelled statement of psycopg first asks its server to stop, for seconds if that server hangs, and
    ``asyncio.timeout`` would wait for that.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        leave(task)
        raise
    if not done:
        leave(task)
        raise TimeoutError
    return task.result()


def leave(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and do not wait until it has ended."""
    _left_behind.add(task)
    task.add_done_callback(_forget)
    task.cancel()


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()  # or asyncio logs that nobody asked
