"""The API's connections to the coordinator: a pool that waits for it, and requests that end in time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

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
            check=AsyncConnectionPool.check_connection,
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
            # The pool hands out a connection only after a round trip on it.
            await self._bounded(self._on_connection(_nothing), self._settings.health_timeout_s)
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


async def _nothing(connection: Connection) -> None:
    return None
