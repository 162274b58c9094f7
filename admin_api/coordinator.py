"""The API's queries to the coordinator: limited in number and time, with one health check for all requests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import psycopg

from admin_api.configuration import Configuration
from admin_api.connections import Connections
from admin_api.reader import Reader
from admin_api.recent import Recent
from admin_api.request_context import operation_id
from admin_api.settings import APPLICATION_NAME, MAX_CHANGES, MAX_CONNECTIONS, MAX_LASTING, MAX_REQUESTS, Settings
from citus_cluster.errors import CitusClusterError, UnreachableError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

_CANCEL_GRACE_S = 1.0
_BRIEF_WAIT_S = 0.2
"""A shorter wait is not reported: two changes that now and then look at the progress of a job have many of them."""

T = TypeVar("T")
Work = Callable[[Connection], Awaitable[T]]
OnWait = Callable[[int, Sequence[int] | None], None]
"""Gets the id of an operation that waits, and those of the operations before it; None when its turn has come."""


def connection_info(cluster: ApiConfig, configuration: Configuration) -> ConnectionInfo:
    """Return the address of the coordinator, and the user and password of the API."""
    return ConnectionInfo(
        host=cluster.coordinator.host,
        port=cluster.coordinator.port,
        user=cluster.user,
        database=cluster.database,
        password=configuration.password(),
    )


class BusyError(CitusClusterError):
    """Too many requests at once."""

    code = "busy"
    http_status = 503


class _Turns:
    """A number of turns, in the order in which they are requested."""

    def __init__(self, number: int, on_wait: OnWait) -> None:
        self._free = asyncio.Semaphore(number)
        self._on_wait = on_wait
        self._ahead: list[int | None] = []
        """The operations that have a turn or wait for one, in their order; None for what is none, such as a plan."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it within the block."""
        text = operation_id()
        own = int(text) if text else None
        telling: asyncio.TimerHandle | None = None
        has_told = False

        def tell(number: int, ahead: Sequence[int]) -> None:
            nonlocal has_told
            has_told = True
            self._on_wait(number, ahead)

        if own is not None and self._free.locked():
            ahead = tuple(dict.fromkeys(one for one in self._ahead if one not in {None, own}))
            telling = asyncio.get_running_loop().call_later(_BRIEF_WAIT_S, tell, own, ahead)
        self._ahead.append(own)
        try:
            async with self._free:
                if telling is not None:
                    telling.cancel()
                if own is not None and has_told:
                    self._on_wait(own, None)
                yield
        finally:
            if telling is not None:
                telling.cancel()
            self._ahead.remove(own)


class Coordinator:
    """Runs work on a few connections that requests share, until ``close``.

    ``on_wait`` is told which operation waits behind which others.
    """

    def __init__(
        self, settings: Settings, configuration: Configuration, on_wait: OnWait = lambda number, ahead: None
    ) -> None:
        self._settings = settings
        self._configuration = configuration
        self._connections = Connections(self.dial)
        self.reader = Reader()
        self._readers = Connections(self._dial_reader)
        # One connection is always reserved for /health, and one more for requests that only read.
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS - 1)
        self._changes = _Turns(MAX_CHANGES, on_wait)
        self._lasting = _Turns(MAX_LASTING, on_wait)
        self._health = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sign_of_life = Recent(
            self._ask_for_life,
            lambda refusal: settings.health_life_s if refusal is None else settings.refusal_life_s,
        )

    async def close(self) -> None:
        """Cancel running work, and close all connections."""
        for task in self._tasks:
            task.cancel()
        await self._connections.close()
        await self._readers.close()

    async def run(self, work: Work[T], *, timeout_s: float) -> T:
        """Run the work of a request that only reads. Raises TimeoutError after ``timeout_s``, including all waiting.

        Raises UnreachableError, or the error for the coordinator's refusal, if no connection opens in time, and
        BusyError if too many requests are waiting already.
        """
        self._refuse_crowd()
        return await self._bounded(self._in_turn(work), timeout_s)

    async def change(self, work: Work[T], *, timeout_s: float) -> T:
        """Like :meth:`run`, for a request that changes the cluster and may take long."""
        self._refuse_crowd()
        return await self._bounded(self._change_in_turn(work), timeout_s)

    def changing(self, *, timeout_s: float) -> OnCoordinator:
        """Return the function with which an operation gets a connection, by :meth:`change`."""

        async def run(work: Callable[[Connection], Awaitable[T]], /) -> T:
            return await self.change(work, timeout_s=timeout_s)

        return run

    def reading(self, *, timeout_s: float) -> OnCoordinator:
        """Return the function with which a view or a plan gets a connection, by :meth:`run`."""

        async def run(work: Callable[[Connection], Awaitable[T]], /) -> T:
            return await self.run(work, timeout_s=timeout_s)

        return run

    def reading_little(self, *, timeout_s: float) -> OnCoordinator:
        """Like :meth:`reading`, but with a connection of the role that only reads."""

        async def run(work: Callable[[Connection], Awaitable[T]], /) -> T:
            self._refuse_crowd()
            return await self._bounded(self._read_in_turn(work), timeout_s)

        return run

    def lasting(self) -> OnCoordinator:
        """Return the function with which an operation gets a connection that may take minutes: it has no time limit.

        Its statements have theirs, and cancelling it ends it.
        """

        async def run(work: Callable[[Connection], Awaitable[T]], /) -> T:
            return await self._bounded(self._last_in_turn(work), None)

        return run

    async def check(self) -> CitusClusterError | None:
        """Return why the coordinator does not answer, None if it does; it is queried about once a second at most."""
        return await self._sign_of_life.answer()

    async def _ask_for_life(self) -> CitusClusterError | None:
        try:
            await self._bounded(self._ask_nothing(), self._settings.health_timeout_s)
        except CitusClusterError as error:
            return error
        except (psycopg.OperationalError, TimeoutError):
            timeout_s = self._settings.health_timeout_s
            return UnreachableError(
                f"The coordinator did not answer within {timeout_s:g} s.",
                hint="Check whether it runs: docker compose ps; docker compose logs citus-coordinator",
            )
        return None

    async def _ask_nothing(self) -> None:
        # An earlier check that timed out may still be ending.
        async with self._health, self._connections.lent() as connection:
            await connection.execute("")

    def _refuse_crowd(self) -> None:
        if len(self._tasks) >= MAX_REQUESTS:
            raise BusyError(hint="Try again in a few seconds.")

    async def _change_in_turn(self, work: Work[T]) -> T:
        async with self._changes.turn():
            return await self._in_turn(work)

    async def _last_in_turn(self, work: Work[T]) -> T:
        async with self._lasting.turn():
            return await self._change_in_turn(work)

    async def _in_turn(self, work: Work[T]) -> T:
        async with self._turns:
            return await self._on_connection(work)

    async def _read_in_turn(self, work: Work[T]) -> T:
        async with self._turns, self._readers.lent() as connection:
            return await work(connection)

    async def _on_connection(self, work: Work[T]) -> T:
        async with self._connections.lent() as connection:
            return await work(connection)

    async def _bounded(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        """Wait for work no longer than this, even if it cannot be cancelled.

        The driver needs the server to cancel a query, and a paused server does not respond. A second cancellation ends
        the work together with its connection.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        except asyncio.CancelledError:
            self._end(task)
            raise
        if not task.done():
            self._end(task)
            raise TimeoutError
        return task.result()

    def _end(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        asyncio.get_running_loop().call_later(_CANCEL_GRACE_S, task.cancel)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Marks the error as retrieved; other waiters still get it.
            task.exception()

    async def dial(self) -> Connection:
        """Open one more connection, which the caller closes. Raises CitusClusterError."""
        info = connection_info(self._configuration.cluster(), self._configuration)
        return await connect(info, timeout_s=self._settings.connect_timeout_s, application_name=APPLICATION_NAME)

    async def _dial_reader(self) -> Connection:
        info = self.reader.login(connection_info(self._configuration.cluster(), self._configuration))
        return await connect(info, timeout_s=self._settings.connect_timeout_s, application_name=APPLICATION_NAME)


class Shared(Generic[T]):
    """A query about the cluster that simultaneous requests share.

    It begins only after each of these requests, so no request gets an answer that is older than itself. While a
    connection is free, each request has its own query; otherwise, the next query answers all that wait.
    """

    def __init__(self, coordinator: Coordinator, work: Work[T], *, timeout_s: float) -> None:
        self._coordinator = coordinator
        self._work = work
        self._timeout_s = timeout_s
        self._waiting: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        """Run the query, or wait for a shared one, for ``timeout_s`` at most. Raises like ``Coordinator.run``."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._coordinator.run(self._begin, timeout_s=self._timeout_s))
            self._waiting.add_done_callback(self._end)
        # A request that ends must not cancel the query for the others.
        return await asyncio.shield(self._waiting)

    async def _begin(self, connection: Connection) -> T:
        self._waiting = None
        return await self._work(connection)

    def _end(self, task: asyncio.Task[T]) -> None:
        if self._waiting is task:
            self._waiting = None
        if not task.cancelled():
            # Marks the error as retrieved, in case no request waits any more.
            task.exception()
