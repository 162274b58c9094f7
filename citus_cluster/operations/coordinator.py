"""How an operation gets a connection to the coordinator: each edge has its own way, and its own time limits."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10


class OnCoordinator(Protocol):
    """Runs work on a connection to the coordinator."""

    async def __call__(self, work: Callable[[Connection], Awaitable[T]], /) -> T:
        """Run the work. Raises what it raises, and UnreachableError if no connection opens."""


def connecting(info: ConnectionInfo) -> OnCoordinator:
    """Open a connection for each piece of work, and close it afterwards."""

    async def run(work: Callable[[Connection], Awaitable[T]], /) -> T:
        async with await connect(info, timeout_s=_CONNECT_TIMEOUT_S) as conn:
            return await work(conn)

    return run


def lent(conn: Connection) -> OnCoordinator:
    """Use one connection, which the caller has opened, for every piece of work."""

    async def run(work: Callable[[Connection], Awaitable[T]], /) -> T:
        return await work(conn)

    return run
