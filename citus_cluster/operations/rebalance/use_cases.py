"""Requests to start or stop a rebalance, by a command or over HTTP, each with a line in the journal."""

from dataclasses import dataclass

from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.coordinator import OnCoordinator, lent
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
        started = await carry_out(on_coordinator, options, emit, wait=wait)
        entry.tell(job_id=started.job_id)
        return started


async def begin(conn: Connection, options: RebalanceOptions, emit: Emit, *, wait: bool) -> StartedRebalance:
    """Start a rebalance on a connection, as a part of a larger use case. As :func:`carry_out`."""
    return await carry_out(lent(conn), options, emit, wait=wait, patience_s=0.0)


async def carry_out(
    on_coordinator: OnCoordinator,
    options: RebalanceOptions,
    emit: Emit,
    *,
    wait: bool,
    patience_s: float = watch.PATIENCE_S,
) -> StartedRebalance:
    """Start a rebalance, and with ``wait`` follow it to its end; a connection is held only for a moment each time.

    With ``wait``, a rebalance that is already running is followed first, so running the command again resumes it.
    Raises RebalanceError, UsageError, LockedError.
    """
    if wait and (moving := await on_coordinator(control.find_moving)) is not None:
        watch.tell_followed(moving, emit)
        await watch.follow(on_coordinator, emit, moving, patience_s=patience_s)
    job_id = await on_coordinator(lambda conn: control.start(conn, options, emit))
    if job_id is None or not wait:
        return StartedRebalance(job_id)
    return StartedRebalance(job_id, await watch.follow(on_coordinator, emit, job_id, patience_s=patience_s))


async def stop(on_coordinator: OnCoordinator, journal: Journal) -> RebalanceStatus:
    """Stop the running rebalance; shards that have moved stay where they are. Raises RebalanceError if none runs."""
    with journal.entry("rebalance-stop") as entry:
        found = await on_coordinator(control.stop)
        entry.tell(job_id=found.job_id)
        return found
