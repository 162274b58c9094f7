"""Requests to start or stop a rebalance, by a command or over HTTP, each with a line in the journal."""

from dataclasses import dataclass

from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.rebalance import control, watch
from citus_cluster.runtime.postgres import Connection


@dataclass(frozen=True)
class StartedRebalance:
    """The job that was started, None if there was nothing to move; ``ended`` is its result, if that was awaited."""

    job_id: int | None
    ended: RebalanceStatus | None = None


async def start(
    on_coordinator: OnCoordinator, journal: Journal, options: RebalanceOptions, emit: Emit, *, wait: bool = False
) -> StartedRebalance:
    """Start a rebalance, and with ``wait`` follow it to its end. Raises like :func:`begin`."""
    with journal.entry("rebalance-start", options=options, wait=wait) as entry:
        started = await on_coordinator(lambda conn: begin(conn, options, emit, wait=wait))
        entry.tell(job_id=started.job_id)
        return started


async def begin(conn: Connection, options: RebalanceOptions, emit: Emit, *, wait: bool) -> StartedRebalance:
    """Start a rebalance on a connection, as a part of a larger use case.

    With ``wait``, a rebalance that is already running is followed first, so running the command again resumes it.
    Raises RebalanceError, UsageError, LockedError.
    """
    if wait:
        await control.wait_for_running(conn, emit)
    job_id = await control.start(conn, options, emit)
    if job_id is None or not wait:
        return StartedRebalance(job_id)
    return StartedRebalance(job_id, await watch.wait(conn, emit, job_id=job_id))


async def stop(on_coordinator: OnCoordinator, journal: Journal) -> RebalanceStatus:
    """Stop the running rebalance; shards that have moved stay where they are. Raises RebalanceError if none runs."""
    with journal.entry("rebalance-stop") as entry:
        found = await on_coordinator(control.stop)
        entry.tell(job_id=found.job_id)
        return found
