"""The targets of codes, in Redis. Links never change, so an entry is never wrong."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import cast

from .redis_link import RedisAwayError, RedisLink

TTL_S = 3600


class Cache:
    """The targets of codes, for an hour.

    One question is under way at a time. What is asked meanwhile waits for the next one, which asks for all of it: with
    many requests at once, a redirect costs Redis and its connection a small part of a round trip.
    """

    def __init__(self, link: RedisLink | None) -> None:
        self._link = link
        self._wanted: dict[str, asyncio.Future[str | None]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def get(self, code: str) -> str | None:
        """Give the target, if Redis has it."""
        if self._link is None:
            return None
        asking = self._asking is not None and not self._asking.done()
        if asking and self._link.away is not None:
            return None  # the question under way tries whether Redis is back, and may wait long
        wanted = self._wanted.get(code)
        if wanted is None:
            wanted = self._wanted[code] = asyncio.get_running_loop().create_future()
        if not asking:
            self._asking = asyncio.create_task(self._ask(self._link))
        # Others may wait for the same answer.
        return await asyncio.shield(wanted)

    async def _ask(self, link: RedisLink) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, {}
            found: Sequence[str | None] = [None] * len(wanted)
            try:
                found = await self._values(link, list(wanted))
            except RedisAwayError:
                pass  # as if it had none of them
            finally:
                for answer, url in zip(wanted.values(), found, strict=True):
                    answer.set_result(url)

    async def _values(self, link: RedisLink, codes: list[str]) -> Sequence[str | None]:
        keys = [self._key(link, code) for code in codes]
        # The client decodes, so no value is bytes.
        return await link.call(lambda: cast("Awaitable[list[str | None]]", link.client.mget(keys)))

    async def put(self, code: str, url: str) -> None:
        if (link := self._link) is None:
            return
        try:
            await link.call(lambda: link.client.set(self._key(link, code), url, ex=TTL_S))
        except RedisAwayError:
            return

    @staticmethod
    def _key(link: RedisLink, code: str) -> str:
        return f"{link.prefix}url:{code}"
