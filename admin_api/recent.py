"""One answer for everybody who asks at the same time, or shortly afterwards."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Asks a question at most once at a time, and again only when the last answer is older than its life.

    So the cost for whoever is asked does not grow with the number of requests. ``life_s`` tells how many seconds an
    answer is good for.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], life_s: Callable[[T], float]) -> None:
        self._ask = ask
        self._life_s = life_s
        self._asking: asyncio.Task[T] | None = None
        self._good_until = float("-inf")

    async def answer(self) -> T:
        """Return the answer that is still good, or wait for the next one; raises what the question raises."""
        task = self._asking
        if task is None or (task.done() and not self._is_good(task)):
            task = self._asking = asyncio.create_task(self._asked())
        # A request that ends must not end the question of the others.
        return await asyncio.shield(task)

    def _is_good(self, task: asyncio.Task[T]) -> bool:
        # Asking for the exception also marks it as seen, in case nobody waits any more.
        return not task.cancelled() and task.exception() is None and time.monotonic() < self._good_until

    async def _asked(self) -> T:
        answer = await self._ask()
        self._good_until = time.monotonic() + self._life_s(answer)
        return answer
