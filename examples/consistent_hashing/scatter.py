"""Ask several shards at once, a bounded number at a time, and say which of them did not answer."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import psycopg
from service_kit.unavailable import UnavailableError

from consistent_hashing.bounded import within

T = TypeVar("T")
CONCURRENCY = 4
SHARD_TIMEOUT_S = 2.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What the shards answered, and why the others did not."""

    of_shards: dict[str, Sequence[T]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    items: Sequence[T] = ()
    """What they answered together."""

    @property
    def complete(self) -> bool:
        return not self.failed

    def with_items(self, items: Sequence[T]) -> "Answers[T]":
        return replace(self, items=items)


class Scatter:
    """Bounds the queries to shards that all requests of this process have under way together."""

    def __init__(self, concurrency: int = CONCURRENCY, shard_timeout_s: float = SHARD_TIMEOUT_S) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._shard_timeout_s = shard_timeout_s

    async def gather(
        self, waves: Iterable[Sequence[str]], ask: Callable[[str], Coroutine[Any, Any, Sequence[T]]]
    ) -> Answers[T]:
        """Ask the shards of a wave together, and each wave after the one before.

        A shard that does not answer in time fails, and the others are asked all the same. Raises UnavailableError if
        all fail, and what else ``ask`` raises.
        """
        answers: Answers[T] = Answers()

        async def one(shard: str) -> None:
            try:
                async with self._places:
                    answers.of_shards[shard] = await within(self._shard_timeout_s, ask(shard))
            except TimeoutError:
                answers.failed[shard] = f"did not answer within {self._shard_timeout_s:g} s"
            except UnavailableError as error:
                answers.failed[shard] = error.detail
            except psycopg.OperationalError as error:
                logger.warning("Shard %s failed: %s", shard, error)
                answers.failed[shard] = "lost the connection"

        for wave in waves:
            results = await asyncio.gather(*map(one, wave), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        if not answers.of_shards:
            raise UnavailableError("No shard answers. Try again in a few seconds.")
        return answers
