"""Starting a rebalance and following it to its end."""

from dataclasses import dataclass

from citus_cluster.model.citus.rebalance import RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.rebalance import control, watch


@dataclass(frozen=True)
class StartedRebalance(Documented):
    """The job that was started, None if there was nothing to move; ``rebalance`` is its result, if that was awaited."""

    job_id: int | None
    rebalance: RebalanceStatus | None = None


async def carry_out(
    on_coordinator: OnCoordinator, options: RebalanceOptions, emit: Emit, *, wait: bool
) -> StartedRebalance:
    """Start a rebalance, and with ``wait`` follow it to its end; a connection is held only for a moment each time.

    With ``wait``, a rebalance that is already running is followed first, so running the command again resumes it.
    Raises RebalanceError, UsageError, LockedError.
    """
    if wait and (moving := await on_coordinator(control.find_moving)) is not None:
        watch.tell_followed(moving, emit)
        await watch.follow(on_coordinator, emit, moving)
    job_id = await on_coordinator(lambda conn: control.start(conn, options, emit))
    if job_id is None or not wait:
        return StartedRebalance(job_id)
    return StartedRebalance(job_id, await watch.follow(on_coordinator, emit, job_id))
