"""Common parts of commands: find the cluster, show progress.

This module imports everything that works on clusters, so commands import it only when they run.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import typer

from citus_cluster.cli.options import invocation_of
from citus_cluster.console import screen
from citus_cluster.entry import INTERRUPTED
from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.coordinator import OnCoordinator, connecting
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.journaled import Journal, of_command
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.runtime.postgres import Connection, ConnectionInfo

T = TypeVar("T")

_FOLLOW = "citus-cluster rebalance wait"


def journal_of(context: typer.Context, root: Path | None) -> Journal:
    """Return the journal of this run of the program, for the cluster in ``root``."""
    return of_command(root, invocation_of(context).redacted)


@contextmanager
def following(follow: str = _FOLLOW, stop: str = "citus-cluster rebalance stop") -> Iterator[screen.Progress]:
    """Show progress. If Ctrl-C ends it during a rebalance, say that the rebalance continues, and how to follow it."""
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
        sys.exit(INTERRUPTED)  # at once: the parser would print that the work is not done


def locate(directory: Path, dsn: str | None) -> tuple[ConnectionInfo, Directory | None]:
    """Return the connection info of the coordinator, and its directory unless a DSN names it."""
    if dsn is not None:
        return ConnectionInfo.from_dsn(dsn), None
    loaded = load(directory.absolute())
    return loaded.coordinator(), loaded


def cluster_of(info: ConnectionInfo, loaded: Directory | None) -> Cluster:
    """Return the cluster for a declared change or view: with its directory, unless a DSN names it."""
    if loaded is None:
        return Cluster(connecting(info), info)
    coordinator = loaded.topology.coordinator
    return Cluster(
        connecting(info),
        info,
        coordinator=coordinator.address if coordinator else None,
        workers=tuple(worker.address for worker in loaded.topology.workers),
        root=loaded.root,
        services={node.service: node.address for node in loaded.topology.nodes},
    )


def run_on(info: ConnectionInfo, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Connect, and run ``work``, which only reads, on the connection."""
    return asyncio.run(connecting(info)(work))


async def now_running(
    on_coordinator: OnCoordinator, job_id: int | None, ended: RebalanceStatus | None
) -> RebalanceStatus | None:
    """Return the progress of a rebalance that was started, or its result if that was awaited; None if none was."""
    if job_id is None or ended is not None:
        return ended
    found = await on_coordinator(lambda conn: rebalance_watch.status(conn, job_id))
    screen.err.print(f"The rebalance continues in the background. To follow it: {_FOLLOW}")
    return found
