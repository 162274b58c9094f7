"""The API's connections to the coordinator: a pool that waits for it, and requests that end in time."""

import asyncio
import select
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from admin_api.configuration import Configuration
from admin_api.settings import APPLICATION_NAME, POOL_MAX_SIZE, POOL_MAX_WAITING, POOL_MIN_SIZE, Settings
from citus_cluster.errors import CitusClusterError, UnreachableError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]


def connection_info(cluster: ApiConfig, configuration: Configuration) -> ConnectionInfo:
    """Say where the coordinator is and who we are there."""
    return ConnectionInfo(
        host=cluster.coordinator.host,
        port=cluster.coordinator.port,
        user=cluster.user,
        database=cluster.database,
        password=configuration.password(),
    )


class _Dialled(psycopg.AsyncConnection[TupleRow]):
    """Lets the pool connect as everybody else does, with the same errors and what the files say now."""

    @classmethod
    async def connect(  # type: ignore[override]  # the pool alone calls it
        cls, conninfo: str = "", *, dial: Callable[[], Awaitable[Connection]]
    ) -> Connection:
        return await dial()


class Coordinator:
    """Runs work on pooled connections; the pool is open between ``open`` and ``close``."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        self._settings = settings
        self._configuration = configuration
        self._refusal: CitusClusterError | None = None
        # One connection is always left for /health.
        self._turns = asyncio.Semaphore(POOL_MAX_SIZE - 1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            connection_class=_Dialled,
            kwargs={"dial": self._dial},
            min_size=POOL_MIN_SIZE,
            max_size=POOL_MAX_SIZE,
            max_waiting=POOL_MAX_WAITING,
            open=False,
            check=_check,
            timeout=settings.connect_timeout_s,
            # The default goes on for five minutes at growing intervals, and so finds the coordinator late;
            # given up early, the next request tries at once.
            reconnect_timeout=settings.connect_timeout_s,
            name="coordinator",
        )

    async def open(self) -> None:
        """Begin to connect; never waits for the coordinator."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """End what still runs, and close all connections."""
        for task in self._tasks:
            task.cancel()
        await self._pool.close(timeout=1)

    async def run(self, work: Work[T], *, timeout_s: float) -> T:
        """Run a request's work on a connection; raise TimeoutError after ``timeout_s``.

        Raises UnreachableError, or what the coordinator's refusal means, if there is no connection in time.
        """
        return await self._bounded(self._in_turn(work), timeout_s)

    async def check(self) -> CitusClusterError | None:
        """Ask the coordinator for a sign of life; return why there is none."""
        try:
            await self._bounded(
                self._on_connection(AsyncConnectionPool.check_connection), self._settings.health_timeout_s
            )
        except CitusClusterError as error:
            return error
        except (psycopg.OperationalError, TimeoutError):
            return self._refusal or self._silence(self._settings.health_timeout_s)
        return None

    async def _in_turn(self, work: Work[T]) -> T:
        async with self._turns:
            return await self._on_connection(work)

    async def _on_connection(self, work: Work[T]) -> T:
        try:
            connection = await self._pool.getconn()
        except PoolTimeout:
            raise self._refusal or self._silence(self._settings.connect_timeout_s) from None
        try:
            return await work(connection)
        finally:
            await self._pool.putconn(connection)

    async def _bounded(self, work: Awaitable[T], timeout_s: float) -> T:
        """Wait for work no longer than this, even if it cannot be cancelled.

        The driver ends a cancelled query with the server's help, so under a paused server it lasts on:
        it is left to itself then, and its connection with it.
        """
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            raise TimeoutError
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Marks the error as seen; whoever still waits for the task gets it as well.
            task.exception()

    async def _dial(self) -> Connection:
        try:
            info = connection_info(self._configuration.cluster(), self._configuration)
            connection = await connect(
                info, timeout_s=self._settings.connect_timeout_s, application_name=APPLICATION_NAME
            )
        except CitusClusterError as error:
            self._refusal = error
            raise
        self._refusal = None
        return connection

    def _silence(self, timeout_s: float) -> UnreachableError:
        return UnreachableError(
            f"The coordinator did not answer within {timeout_s:g} s.",
            hint="Is it running? docker compose ps; docker compose logs citus-coordinator",
        )


class Shared(Generic[T]):
    """A question about the cluster that those who ask at the same time share.

    It begins only after each of them has asked, so nobody gets an answer that is older than the request. While a
    connection is free, everybody has a question of their own; when none is, all who wait are answered by the next one.
    """

    def __init__(self, coordinator: Coordinator, work: Work[T], *, timeout_s: float) -> None:
        self._coordinator = coordinator
        self._work = work
        self._timeout_s = timeout_s
        self._waiting: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """Ask, or wait with those who do; raises as Coordinator.run, after ``timeout_s`` at the latest."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._coordinator.run(self._begin, timeout_s=self._timeout_s))
            self._waiting.add_done_callback(self._end)
        # A request that ends must not end the question of the others.
        return await asyncio.shield(self._waiting)

    async def _begin(self, connection: Connection) -> T:
        self._waiting = None
        return await self._work(connection)

    def _end(self, task: asyncio.Task[T]) -> None:
        if self._waiting is task:
            self._waiting = None
        if not task.cancelled():
            # Marks the error as seen, if nobody waits any more.
            task.exception()


async def _check(connection: Connection) -> None:
    """Refuse a connection that the server has closed; a round trip is made only where it has sent something unasked.

    One whose server has fallen silent shows only by asking, which the request does itself.
    """
    line = select.poll()
    line.register(connection.fileno(), select.POLLIN)
    if line.poll(0):
        await AsyncConnectionPool.check_connection(connection)
