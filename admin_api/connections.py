"""The open connections to the coordinator: each serves one request at a time, and a new one opens when none is idle.

Nothing connects in the background, and there is no queue. So no state outlives an outage of the coordinator: the first
request after its return opens a connection and succeeds. The caller limits the number of simultaneous requests.
"""

import select
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg.pq import TransactionStatus

from citus_cluster.runtime.postgres import Connection

MAX_AGE_S = 3600.0
"""The caches of a backend grow with its work; PostgreSQL frees their memory only when the backend ends."""
MAX_IDLE_S = 600.0


@dataclass
class _Open:
    connection: Connection
    opened_at: float
    idle_since: float


class Connections:
    """Lends connections that ``dial`` opens, beginning with the one that was returned last."""

    def __init__(self, dial: Callable[[], Awaitable[Connection]]) -> None:
        self._dial = dial
        self._idle: deque[_Open] = deque()
        self._is_closed = False

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Connection]:
        """Lend a connection for the block. Raises what ``dial`` raises.

        The connection is kept for the next request only if it works and the block was not interrupted: an interrupted
        session may still hold a lock.
        """
        one = await self._idle_one()
        if one is None:
            connection, now = await self._dial(), time.monotonic()
            one = _Open(connection, opened_at=now, idle_since=now)
        is_reusable = False
        try:
            yield one.connection
            is_reusable = True
        except Exception:
            is_reusable = True
            raise
        finally:
            await self._take_back(one, is_reusable=is_reusable)

    async def close(self) -> None:
        """Close the idle connections now, and lent ones when they are returned."""
        self._is_closed = True
        await self._close_idle()

    async def _idle_one(self) -> _Open | None:
        while self._idle:
            one = self._idle.pop()
            if not _was_told_something(one.connection):
                return one
            await one.connection.close()
        return None

    async def _take_back(self, one: _Open, *, is_reusable: bool) -> None:
        now = time.monotonic()
        status = one.connection.pgconn.transaction_status
        if status == TransactionStatus.UNKNOWN:
            # The other connections lead to the same server. Otherwise each would fail a request after an outage.
            await self._close_idle()
        if is_reusable and status == TransactionStatus.IDLE and not self._is_closed and now - one.opened_at < MAX_AGE_S:
            one.idle_since = now
            self._idle.append(one)
        else:
            await one.connection.close()
        while self._idle and now - self._idle[0].idle_since > MAX_IDLE_S:
            await self._idle.popleft().connection.close()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().connection.close()


def _was_told_something(connection: Connection) -> bool:
    """Whether the server has sent a message on its own: the end of the connection, or a setting that changed.

    Only a query shows that a server no longer answers, and the request sends one anyway.
    """
    if connection.closed:
        return True
    line = select.poll()
    line.register(connection.fileno(), select.POLLIN)
    return bool(line.poll(0))
