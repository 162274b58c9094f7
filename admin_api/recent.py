"""One answer for all requests at the same time, or shortly afterwards."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Runs a query at most once at a time, and again only after the last answer has expired.

    So the cost for the server does not grow with the number of requests. ``life_s`` returns how many seconds an answer
    is valid.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], life_s: Callable[[T], float]) -> None:
        self._ask = ask
        self._life_s = life_s
        self._asking: asyncio.Task[T] | None = None
        self._good_until = float("-inf")

    async def answer(self) -> T:
        """Return the answer that is still valid, or wait for the next one. Raises what the query raises."""
        task = self._asking
        if task is None or (task.done() and not self._is_good(task)):
            task = self._asking = asyncio.create_task(self._asked())
        # A request that ends must not cancel the query for the others.
        return await asyncio.shield(task)

    def _is_good(self, task: asyncio.Task[T]) -> bool:
        # This also marks the exception as retrieved, in case no request waits any more.
        return not task.cancelled() and task.exception() is None and time.monotonic() < self._good_until

    async def _asked(self) -> T:
        answer = await self._ask()
        self._good_until = time.monotonic() + self._life_s(answer)
        return answer
