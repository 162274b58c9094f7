"""What commands do around an operation: find the cluster, connect, keep the journal, show progress.

Imports what works on clusters; so commands import this when they run.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from citus_cluster.cli.options import Invocation
from citus_cluster.console import screen
from citus_cluster.entry import INTERRUPTED
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect
from citus_cluster.runtime.store import journal

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10
_FOLLOW = "citus-cluster rebalance wait"


def recorded(invocation: Invocation, root: Path | None, operation: str, work: Callable[[], T]) -> T:
    """Run ``work`` and keep a line of it in the journal, whatever comes of it."""
    details: dict[str, object] = {"arguments": invocation.redacted}
    try:
        result = work()
    except BaseException as error:
        if root:
            said = {"error": type(error).__name__}
            if isinstance(error, CitusClusterError):
                said = {"error": error.code, "message": error.message}
            journal.record(root, operation, "failed", {**details, **said})
        raise
    if root:
        journal.record(root, operation, "done", details)
    return result


@contextmanager
def following(follow: str = _FOLLOW, stop: str = "citus-cluster rebalance stop") -> Iterator[screen.Progress]:
    """Show progress. Where Ctrl-C ends it while a rebalance runs, say that this goes on, and how to go on with it."""
    progress = screen.Progress()
    try:
        with progress:
            yield progress
    except KeyboardInterrupt:
        if not progress.is_under_way(rebalance_watch.STEP):
            raise
        screen.err.print(
            f"Interrupted. The rebalance continues in the background. To follow it: {follow}\nTo stop it: {stop}",
            markup=False,
        )
        sys.exit(INTERRUPTED)  # at once: the way by the parser ends in a word about work that is not done


def locate(directory: Path, dsn: str | None) -> tuple[ConnectionInfo, Directory | None]:
    """Give how to reach the coordinator, and its directory unless it was named by a DSN."""
    if dsn is not None:
        return ConnectionInfo.from_dsn(dsn), None
    loaded = load(directory.absolute())
    return loaded.coordinator(), loaded


@asynccontextmanager
async def connected(info: ConnectionInfo) -> AsyncIterator[Connection]:
    """Be connected to a server for the length of a block."""
    conn = await connect(info, timeout_s=_CONNECT_TIMEOUT_S)
    async with conn:
        yield conn


def run_on(info: ConnectionInfo, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Connect, and run ``work`` on the connection."""

    async def run() -> T:
        async with connected(info) as conn:
            return await work(conn)

    return asyncio.run(run())


async def start_rebalance(
    conn: Connection, options: RebalanceOptions, progress: screen.Progress, *, wait: bool
) -> RebalanceStatus | None:
    """Start a rebalance, and with ``wait`` follow it to its end. None where there is nothing to move."""
    # Running the command again is how it resumes: a rebalance that runs already is followed first.
    if wait:
        await rebalance.wait_for_running(conn, progress.emit)
    job_id = await rebalance.start(conn, options, progress.emit)
    if job_id is None:
        return None
    if wait:
        return await rebalance_watch.wait(conn, progress.emit, job_id=job_id)
    found = await rebalance_watch.status(conn, job_id)
    screen.err.print(f"It continues in the background; watch it with: {_FOLLOW}")
    return found
