"""The first page of ``GET /users``, in Redis.

Two keys. ``state`` has the *floor*: the position of the last write that was acknowledged, which every later read must
include; and a random *generation*, which each write replaces. ``list`` has the rows, and the position up to which they
are complete.

- A write raises the floor, replaces the generation and deletes the list, in one script, before it is acknowledged.
- A reader that misses learns the floor and the generation, reads the database at that floor or later, and stores what
  it read only if the generation is still the same. So a list that was read before a write never outlives it, whoever
  is slow.
- A reader that knows of a later write than Redis does (its own token) takes a list only if that is complete to there.
"""

import asyncio
import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from read_write_split.positions import Position
from read_write_split.redis_link import RedisAwayError, RedisLink
from read_write_split.settings import NAME

_STATE, _LIST = f"{NAME}:users:state", f"{NAME}:users:list"
_FLOOR_TTL_S = 600
"""How long a floor is remembered: longer than a replica is usually behind."""
_AGAIN_S = 0.5

logger = logging.getLogger("fastapi_app")

# Positions are text of one length here: a number of Lua has 53 bits, a position 64.
_LOOK_UP = """
local state = redis.call('HMGET', KEYS[1], 'generation', 'floor')
if not state[1] then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'generation', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {ARGV[1], '', '', '', '', ''}
end
local list = redis.call('HMGET', KEYS[2], 'complete_to', 'count', 'last', 'body')
return {state[1], state[2] or '', list[1] or '', list[2] or '', list[3] or '', list[4] or ''}
"""
_STORE = """
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
local stored = redis.call('HGET', KEYS[2], 'complete_to')
if stored and stored > ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'complete_to', ARGV[2], 'count', ARGV[3], 'last', ARGV[4], 'body', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return 1
"""
# The deletion comes first: when the memory is full, Redis lets a script that has begun to write go on.
_RAISE = """
redis.call('DEL', KEYS[2])
local floor = redis.call('HGET', KEYS[1], 'floor')
if not floor or floor < ARGV[2] then redis.call('HSET', KEYS[1], 'floor', ARGV[2]) end
redis.call('HSET', KEYS[1], 'generation', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""


@dataclass(frozen=True)
class Page:
    """A list as it is sent, the number of users in it, and the id of the last where more may follow."""

    body: bytes
    count: int
    last: int | None


@dataclass(frozen=True)
class LookUp:
    """What the cache has, and what a reading must fulfil to be stored: ``generation`` is None where Redis is away."""

    page: Page | None
    at_least: int
    generation: bytes | None


class ListCache:
    """The cache; without Redis (None) it holds nothing, and still says what this process has written last."""

    def __init__(self, link: RedisLink | None, ttl_s: int) -> None:
        self._link = link if ttl_s else None
        self._ttl_s = ttl_s
        self._unsent: Position | None = None
        """The last write that Redis has not heard of."""
        self._sender: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()

    async def look_up(self, token: int = 0) -> LookUp:
        """Find a list that is complete to the reader's token, and to every write that was acknowledged."""
        try:
            if self._unsent is not None:
                await self._send(self._unsent)
            generation, floor, complete_to, count, last, body = await self._call(
                _LOOK_UP, secrets.token_hex(8), _FLOOR_TTL_S * 1000
            )
        except RedisAwayError:
            return LookUp(None, max(token, self._unsent.lsn if self._unsent else 0), None)
        page = Page(body, int(count), int(last) if last else None) if body and int(complete_to, 16) >= token else None
        return LookUp(page, max(token, int(floor[8:], 16) if floor else 0), generation)

    async def store(self, page: Page, complete_to: int, generation: bytes) -> bool:
        """Store a list, unless a write came since the look-up that gave the generation, or a newer list is there."""
        with suppress(RedisAwayError):
            values = (generation, f"{complete_to:016X}", page.count, page.last or "", page.body, self._ttl_s * 1000)
            return bool(await self._call(_STORE, *values))
        return False

    async def invalidate(self, position: Position) -> None:
        """Forget the list, and let no reader get one without the write at this position."""
        if self._unsent is None or position > self._unsent:
            self._unsent = position
        try:
            await self._send(position)
        except RedisAwayError:
            if self._link is not None and (self._sender is None or self._sender.done()):
                self._sender = asyncio.create_task(self._send_later())

    async def _send(self, position: Position) -> None:
        value = f"{position.timeline:08X}{position.lsn:016X}"
        await self._call(_RAISE, secrets.token_hex(8), value, _FLOOR_TTL_S * 1000)
        if self._unsent is not None and self._unsent <= position:
            self._unsent = None

    async def _send_later(self) -> None:
        while self._unsent is not None:
            await asyncio.sleep(_AGAIN_S)
            with suppress(RedisAwayError):
                await self._send(self._unsent)

    async def _call(self, script: str, *values: bytes | str | int) -> list[bytes]:
        if self._link is None:
            raise RedisAwayError("there is no Redis")
        return cast("list[bytes]", await self._link.script(script, [_STATE, _LIST], values))
