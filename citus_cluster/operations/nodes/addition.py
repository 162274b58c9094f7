"""Adding a worker, by a command or over HTTP: the worker is registered, and the journal gets a line.

This is separate from the removal of workers, which also needs files and containers, which the admin API does not have.
"""

from collections.abc import Callable
from dataclasses import dataclass

from citus_cluster.errors import WorkerUnreachableError
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.nodes import registration
from citus_cluster.operations.rebalance.use_cases import StartedRebalance, begin
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S
from citus_cluster.runtime.postgres import Connection


@dataclass(frozen=True)
class Addition:
    """The result of adding a worker; ``rebalance`` is None unless one was requested."""

    node: NodeResult
    rebalance: StartedRebalance | None = None


async def add(
    on_coordinator: OnCoordinator,
    journal: Journal,
    coordinator: NodeAddress | None,
    worker: NodeAddress,
    emit: Emit,
    *,
    patience_s: Callable[[], float],
    wait_for_lock_s: float = WAIT_FOR_LOCK_S,
    trust_functions: bool = False,
    rebalance: RebalanceOptions | None = None,
    wait: bool = False,
) -> Addition:
    """Register one worker, like ``registration.add_worker``, and then start a rebalance if one is requested.

    ``patience_s``: how long the worker may take to answer, once there is a connection. Raises
    WorkerUnreachableError also for a worker that was not registered, and what ``add_worker`` and ``begin`` raise.
    """

    async def work(conn: Connection) -> Addition:
        return await register(
            conn,
            coordinator,
            worker,
            emit,
            timeout_s=patience_s(),
            wait_for_lock_s=wait_for_lock_s,
            trust_functions=trust_functions,
            rebalance=rebalance,
            wait=wait,
            tell=entry.tell,
        )

    asked = {"trust_functions": trust_functions, "rebalance": rebalance, "wait": wait}
    with journal.entry("add-worker", worker=str(worker), **asked) as entry:
        return await on_coordinator(work)


async def register(
    conn: Connection,
    coordinator: NodeAddress | None,
    worker: NodeAddress,
    emit: Emit,
    *,
    timeout_s: float,
    wait_for_lock_s: float = WAIT_FOR_LOCK_S,
    trust_functions: bool = False,
    rebalance: RebalanceOptions | None = None,
    wait: bool = False,
    tell: Callable[..., None] = lambda **outcome: None,
) -> Addition:
    """Like :func:`add`, on a connection and without a line in the journal; ``tell`` gets the results as they arrive."""
    node = await registration.add_worker(
        conn,
        coordinator,
        worker,
        emit,
        timeout_s=timeout_s,
        wait_for_lock_s=wait_for_lock_s,
        trust_functions=trust_functions,
    )
    tell(outcome=node.outcome)
    if node.outcome in {Outcome.PENDING, Outcome.WITHDRAWN}:
        raise WorkerUnreachableError(f"{worker} was not registered: {node.reason}.")
    if rebalance is None:
        return Addition(node)
    started = await begin(conn, rebalance, emit, wait=wait)
    tell(job_id=started.job_id)
    return Addition(node, started)
