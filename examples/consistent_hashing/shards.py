"""A pool for each shard, and the topology that all processes agree on.

Every shard stores the topology in a table of its own. Each statement on users also checks the version there, in the
same snapshot or the same transaction, so a process whose topology is old never reads or writes with it: it reads the
topology anew and begins again. A change of the topology locks that table in each shard, which waits until the
transactions with the previous version have ended.
"""

import asyncio
import contextlib
import logging
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from service_kit.unavailable import UnavailableError

from consistent_hashing.bounded import leave, within
from consistent_hashing.server import Server
from consistent_hashing.topology import Topology

T = TypeVar("T")
Connection = psycopg.AsyncConnection[DictRow]
Pool = AsyncConnectionPool[Connection]
logger = logging.getLogger(__name__)

POOL_SIZE = 5
POOL_TIMEOUT_S = 2.5
FOLLOW_TIMEOUT_S = 4.0
LOOK_AFTER_S = 0.3
"""A shard that takes longer may have left the topology, and nothing waits for it that need not."""

# Of the modes of table locks, ROW SHARE conflicts with EXCLUSIVE, which a change of the topology takes, and not with
# itself. It has to be a statement of its own: the next one sees what was committed while this one waited.
_FENCE = "LOCK TABLE topology IN ROW SHARE MODE"
_VERSION = "SELECT version FROM topology"


class StaleTopologyError(Exception):
    """The shard has another version of the topology than the one in use."""


class Shards:
    """Runs statements on shards, each under a version of the topology."""

    def __init__(self, server: Server, first: Iterable[str], *, pool_size: int = POOL_SIZE) -> None:
        self.server = server
        self._first = tuple(first)
        self._pool_size = pool_size
        self._pools: dict[str, Pool] = {}
        self._topology: Topology | None = None
        self._refreshing = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*(pool.close() for pool in pools))

    async def _pool(self, shard: str) -> Pool:
        if (pool := self._pools.get(shard)) is not None:
            return pool
        pool = AsyncConnectionPool(
            self.server.conninfo(shard),
            connection_class=Connection,
            kwargs={"row_factory": dict_row, "autocommit": True},
            min_size=1,
            max_size=self._pool_size,
            # Give up soon, and begin anew with the next request: the pauses between attempts would grow to minutes.
            reconnect_timeout=2,
            name=shard,
            open=False,
        )
        # Stored before the first await, so that two requests never make two.
        self._pools[shard] = pool
        await pool.open(wait=False)
        return pool

    @contextlib.asynccontextmanager
    async def connection(
        self, shard: str, timeout_s: float = POOL_TIMEOUT_S, *, version: int | None = None
    ) -> AsyncIterator[Connection]:
        """Take a connection from the pool. Raises UnavailableError when there is none in time, or when it breaks.

        ``version`` is that of the topology in use. If there is no connection because that is no longer the newest,
        raises StaleTopologyError.
        """
        logger.debug("Creating session for shard: %s", shard)
        pool = await self._pool(shard)
        connection = await self._take(pool, shard, timeout_s, version)
        try:
            async with connection:  # ends the transaction; the pool's connections close themselves never
                yield connection
        except psycopg.OperationalError as error:
            if not connection.closed:
                raise
            raise self._away(shard, error, version) from error
        finally:
            await pool.putconn(connection)
            logger.debug("Closed session for shard %s", shard)

    async def _take(self, pool: Pool, shard: str, timeout_s: float, version: int | None) -> Connection:
        give_up_at = time.monotonic() + timeout_s
        while True:
            left_s = give_up_at - time.monotonic()
            try:
                connection = await pool.getconn(min(left_s, LOOK_AFTER_S))
            except psycopg.OperationalError as error:
                if version is not None and self._topology is not None and self._topology.version > version:
                    raise StaleTopologyError(shard) from error
                if not isinstance(error, PoolTimeout) or left_s <= LOOK_AFTER_S:
                    raise self._away(shard, error, version) from error
                if version is not None:
                    self._look_for_change()
                continue
            if not _has_ended(connection):
                return connection
            await connection.close()
            await pool.putconn(connection)  # opens another one

    async def read(self, shard: str, version: int, query: LiteralString, values: Sequence[Any]) -> list[DictRow]:
        """Run a query whose every row has the topology's ``version``, and that gives at least one row."""
        async with self.connection(shard, version=version) as connection:
            rows = await (await connection.execute(query, values, prepare=True)).fetchall()
        if not rows or rows[0]["version"] != version:
            raise StaleTopologyError(shard)
        return rows

    @contextlib.asynccontextmanager
    async def fenced(self, shard: str, version: int) -> AsyncIterator[Connection]:
        """Open a transaction that ends before the topology of this shard can change."""
        async with self.connection(shard, version=version) as connection, self.fence(connection, shard, version):
            yield connection

    @contextlib.asynccontextmanager
    async def fence(self, connection: Connection, shard: str, version: int) -> AsyncIterator[None]:
        """Do the same with a connection that is open."""
        async with connection.transaction():
            async with connection.pipeline():
                await connection.execute(_FENCE)
                found = await connection.execute(_VERSION)
                row = await found.fetchone()
            if row is None or row["version"] != version:
                raise StaleTopologyError(shard)
            yield

    def _away(self, shard: str, error: Exception, version: int | None) -> UnavailableError:
        logger.warning("Shard %s does not answer: %s", shard, " ".join(str(error).split()))
        if version is not None:
            self._look_for_change()
        return UnavailableError(f"Shard {shard} does not answer. Try again in a few seconds.")

    def _look_for_change(self) -> None:
        """Ask the other shards in the background whether one that does not answer is still a shard."""

        async def look(stale: Topology) -> None:
            with contextlib.suppress(UnavailableError, psycopg.OperationalError):
                await self.refresh(stale)

        if self._topology is not None and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(look(self._topology))

    async def topology(self) -> Topology:
        """Give the topology as it is known."""
        return self._topology or await self.refresh(None)

    async def refresh(self, stale: Topology | None) -> Topology:
        """Read the topology from the shards, and hand the newest to those that have not heard of it.

        Whoever made a change may have been killed before it reached every shard; anyone can complete it.
        """
        async with self._refreshing:
            if self._topology is not None and (stale is None or self._topology.version > stale.version):
                return self._topology
            asked = {*self._first, *(stale.shards if stale else ())}
            answers = await self._stored_in(asked, None if stale is None else stale.version)
            newest = max(filter(None, answers.values()), key=_version, default=None)
            if newest is None:
                raise UnavailableError("No shard answers that knows the topology. Try again in a few seconds.")
            if unknown := set(newest.shards) - asked:
                answers |= await self._stored_in(unknown, None)
                newest = max(filter(None, answers.values()), key=_version)
            for shard in newest.shards:
                if shard in answers and _version(answers[shard]) < newest.version:
                    await self.publish(shard, newest)
            if self._topology is None or newest.version > self._topology.version:
                logger.info("Topology %d: shards %s, becoming %s", *_said(newest))
                self._topology = newest
                _ = newest.ring, newest.next_ring  # built now, and not by the first request
            for gone in set(self._pools) - {*newest.shards, *self._first}:
                await self._pools.pop(gone).close()
            return newest

    async def _stored_in(self, shards: Iterable[str], stale: int | None) -> dict[str, Topology | None]:
        """Give the topology as each shard knows it; those that do not answer are left out.

        With a newer one than ``stale``, those that answer later are left out too.
        """
        answers: dict[str, Topology | None] = {}

        async def ask(shard: str) -> None:
            with contextlib.suppress(UnavailableError, psycopg.OperationalError, psycopg.errors.UndefinedTable):
                answers[shard] = await self.stored(shard, timeout_s=1.5)

        asking = [asyncio.create_task(ask(shard)) for shard in shards]
        try:
            if stale is not None:
                await asyncio.wait(asking, timeout=LOOK_AFTER_S)
                if any(_version(one) > stale for one in answers.values()):
                    return answers
            await asyncio.gather(*asking)
        finally:
            for one in asking:
                leave(one)
        return answers

    async def stored(self, shard: str, timeout_s: float = POOL_TIMEOUT_S) -> Topology | None:
        """Give the topology that is stored in a shard, if it has one. Raises UnavailableError.

        It connects anew: that a shard refuses is known at once, while the pool would try again until the time is over.
        """

        async def ask() -> tuple[int, Mapping[str, Any]] | None:
            connection = await psycopg.AsyncConnection.connect(self.server.conninfo(shard), autocommit=True)
            try:
                cursor = await connection.execute("SELECT version, plan FROM topology WHERE version > 0")
                return await cursor.fetchone()
            finally:
                # With "async with", a second cancellation during the rollback would leave it open.
                await connection.close()

        try:
            row = await within(timeout_s, ask())
        except (TimeoutError, psycopg.OperationalError) as error:
            raise self._away(shard, error, None) from error
        return None if row is None else Topology.load(*row)

    async def publish(self, shard: str, topology: Topology) -> None:
        """Store a topology that is decided in a shard that has an older one; wait for transactions under that one."""
        await self._store(shard, topology, "version < %s", topology.version)
        logger.info("Shard %s has topology %d", shard, topology.version)

    async def decide(self, topology: Topology, on: str) -> bool:
        """Make a topology the next one, unless another process was faster; give whether it is."""
        stored = await self._store(on, topology, "version = %s", topology.version - 1)
        return stored or await self.stored(on) == topology

    async def _store(self, shard: str, topology: Topology, condition: LiteralString, version: int) -> bool:
        async with self.connection(shard) as connection, connection.transaction():
            await connection.execute("LOCK TABLE topology IN EXCLUSIVE MODE")
            cursor = await connection.execute(
                f"UPDATE topology SET version = %s, plan = %s WHERE {condition}",  # noqa: S608  a literal
                [topology.version, topology.dump(), version],
            )
            return cursor.rowcount == 1

    async def following(self, work: Callable[[Topology], Awaitable[T]]) -> T:
        """Run ``work`` with the topology, again with the next one if it changes meanwhile.

        ``work`` must not have changed anything when it raises StaleTopologyError. Raises UnavailableError.
        """
        try:
            return await within(FOLLOW_TIMEOUT_S + 0.5, self._follow(work))
        except TimeoutError:
            raise UnavailableError("The shard does not answer in time. Try again in a few seconds.") from None

    async def _follow(self, work: Callable[[Topology], Awaitable[T]]) -> T:
        give_up_at = time.monotonic() + FOLLOW_TIMEOUT_S
        topology = await self.topology()
        while True:
            try:
                return await work(topology)
            except StaleTopologyError as error:
                if time.monotonic() > give_up_at:
                    raise UnavailableError(f"Shard {error} is changing its topology. Try again.") from error
                newer = await self.refresh(topology)
                if newer is topology:
                    await asyncio.sleep(0.02)
                topology = newer


def _has_ended(connection: Connection) -> bool:
    """Give whether the server has ended a session, without asking it: to one that is idle, it sends only that.

    Otherwise every connection of the pool would fail once after the server has restarted.
    """
    if connection.closed:
        return True
    sent = select.poll()
    sent.register(connection.fileno(), select.POLLIN)
    return bool(sent.poll(0))


def _version(topology: Topology | None) -> int:
    return 0 if topology is None else topology.version


def _said(topology: Topology) -> tuple[int, Mapping[str, float], Mapping[str, float] | None]:
    return topology.version, topology.nodes, topology.becoming
