"""Registering workers: all desired ones again and again (reconcile), or one explicitly (add).

Both only ever add. What an operator removed or disabled stays so until it is added explicitly.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import psycopg

from citus_cluster.errors import (
    AuthenticationError,
    CitusClusterError,
    LockedError,
    MismatchError,
    NotRegisteredError,
    UnreachableError,
    UntrustedCodeError,
    UsageError,
    WorkerUnreachableError,
)
from citus_cluster.model.citus.movers import new_node_hint
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.citus.registration import (
    NodeIdentity,
    RegistrationDecision,
    Registry,
    decide,
    decide_again,
    foreign_coordinator,
    mismatch,
    possible_twin,
    reconsider,
    unrecorded,
)
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.runtime.citus import limits as citus_limits
from citus_cluster.runtime.citus import movers as citus_movers
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.rebalance import running_job_id
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect, describe, translated

T = TypeVar("T")

POLL_S = 1.0
CONNECT_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 10.0
_UNSET_COORDINATOR = frozenset({"localhost", "127.0.0.1", "::1"})


async def reconcile(
    conn: Connection,
    coordinator: NodeAddress,
    desired: Sequence[NodeAddress],
    emit: Emit,
    *,
    timeout_s: float = 60,
    wait_for_lock_s: float = WAIT_FOR_LOCK_S,
) -> tuple[NodeResult, ...]:
    """Register the desired workers that are missing; one result for each, in the order given.

    Reads the node list and returns, without a lock, when there is nothing to do. A worker that does not
    answer is PENDING and does not hold up the others. Raises UnreachableError if the coordinator is away,
    LockedError if another run is at work for longer than ``wait_for_lock_s``.
    """
    deadline = time.monotonic() + timeout_s
    async with translated("registering workers"):
        registry = await citus_nodes.read_registry(conn)
        if not _settled(registry, coordinator, desired):
            registry = await _prepare(conn, coordinator, desired, wait_for_lock_s)
        decisions = [await _reconsider(conn, decision, registry) for decision in decide(registry, desired)]
        own = None
        blocked = None
        if any(decision.outcome is None for decision in decisions):
            own = await citus_probe.own_identity(conn)
            blocked = await _blocked(conn, registry)
        results = []
        for decision in decisions:
            if decision.outcome is None and blocked:
                results.append(NodeResult(decision.address, Outcome.PENDING, blocked))
            else:
                results.append(await _fulfil(conn, coordinator, decision, own, registry, deadline, wait_for_lock_s))
            _report(emit, results[-1])
        return tuple(results)


async def register_all(
    conn: Connection, coordinator: NodeAddress, desired: Sequence[NodeAddress], emit: Emit, *, deadline: float
) -> tuple[NodeResult, ...]:
    """Reconcile until no worker is pending, which may be starting still; errors as in :func:`reconcile`.

    Raises NotRegisteredError at ``deadline``, in seconds of ``time.monotonic``, or as soon as waiting helps none of the
    pending workers.
    """
    while True:
        left_s = max(POLL_S, deadline - time.monotonic())
        results = await reconcile(
            conn, coordinator, desired, emit, timeout_s=left_s, wait_for_lock_s=min(WAIT_FOR_LOCK_S, left_s)
        )
        pending = [result for result in results if result.outcome is Outcome.PENDING]
        if not pending:
            return results
        if time.monotonic() >= deadline or all(result.needs_operator for result in pending):
            raise NotRegisteredError(
                f"{len(pending)} of {len(desired)} workers could not be registered; the rest of the cluster works.",
                details=[f"{result.address}: {result.reason}" for result in pending],
                hint="Mend what each line says, then run citus-cluster up again: it resumes.",
            )
        await asyncio.sleep(0.5)


def _settled(registry: Registry, coordinator: NodeAddress, desired: Sequence[NodeAddress]) -> bool:
    here = registry.coordinator
    return bool(
        registry.recorded is not None and here and here.address == coordinator and not unrecorded(registry, desired)
    )


async def _prepare(
    conn: Connection, coordinator: NodeAddress, desired: Sequence[NodeAddress], wait_for_lock_s: float
) -> Registry:
    async with writer_lock(conn, wait_s=wait_for_lock_s):
        registry = await citus_nodes.read_registry(conn)
        if registry.recorded is None:
            await citus_nodes.create_record(conn)
        await _settle_coordinator(conn, registry, coordinator, holds_shards=not desired)
        for worker in unrecorded(registry, desired):
            await citus_nodes.record_worker(conn, worker)
        return await citus_nodes.read_registry(conn)


async def _settle_coordinator(
    conn: Connection, registry: Registry, coordinator: NodeAddress, *, holds_shards: bool
) -> None:
    here = registry.coordinator
    if here is None:
        await citus_nodes.set_coordinator_host(conn, coordinator, holds_shards=holds_shards)
    elif here.address == coordinator:
        return
    elif registry.has_workers:
        await citus_nodes.move_coordinator(conn, here.node_id, coordinator)
        await _wait_until_synced(conn)
    else:
        # Citus enters itself as localhost when the first table is distributed before any node was added.
        await citus_nodes.set_coordinator_host(conn, coordinator, holds_shards=None)


async def _reconsider(conn: Connection, decision: RegistrationDecision, registry: Registry) -> RegistrationDecision:
    """Look again at a worker whose name was another server's, which has left for good."""
    if decision.outcome is not Outcome.WITHDRAWN or decision.address not in registry.released:
        return decision
    try:
        return reconsider(decision, registry, await _system_identifier(conn, decision.address))
    except citus_probe.ProbeUnavailableError:
        return decision


async def _blocked(conn: Connection, registry: Registry) -> str | None:
    """Say why no node can be added now: Citus tells every worker about a new one, or refuses."""
    silent = await citus_probe.unreachable_nodes(conn, registry.nodes)
    if not silent:
        return None
    return "Citus adds no node while one that is registered does not answer. " + " ".join(silent)


async def _wait_until_synced(conn: Connection) -> None:
    """Citus adds no node before the others know of a change; one that is away must not stop everything."""
    deadline = time.monotonic() + SYNC_TIMEOUT_S
    while not await citus_nodes.all_synced(conn) and time.monotonic() < deadline:  # noqa: ASYNC110 # another process
        await asyncio.sleep(0.2)


async def _fulfil(
    conn: Connection,
    coordinator: NodeAddress,
    decision: RegistrationDecision,
    own: NodeIdentity | None,
    registry: Registry,
    deadline: float,
    wait_for_lock_s: float,
) -> NodeResult:
    if decision.outcome is not None or own is None:
        return NodeResult(decision.address, decision.outcome or Outcome.PENDING, decision.reason)
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        return NodeResult(decision.address, Outcome.PENDING, "not tried yet: the workers before it used up the time")
    try:
        await _check_candidate(conn, coordinator, decision.address, own, registry)
        return await _register(
            conn, decision, registry, timeout_s=max(POLL_S, remaining_s), wait_for_lock_s=wait_for_lock_s
        )
    except UntrustedCodeError as error:
        return NodeResult(decision.address, Outcome.PENDING, f"{error.message} {error.hint}", needs_operator=True)
    except (UnreachableError, MismatchError, LockedError) as error:
        if conn.closed:
            raise
        return NodeResult(decision.address, Outcome.PENDING, error.message)


async def _check_candidate(
    conn: Connection, coordinator: NodeAddress, worker: NodeAddress, own: NodeIdentity, registry: Registry
) -> None:
    """Raise unless the worker answers, runs the same as the coordinator, and reaches it in turn."""
    try:
        identity = await citus_probe.identity(conn, worker)
    except citus_probe.ProbeUnavailableError:
        await _check_roughly(conn, worker)
        return
    reason = mismatch(own, identity) or await _membership(conn, coordinator, identity, own, registry)
    if reason:
        raise MismatchError(
            f"{worker} cannot join: {reason}.",
            hint="A worker runs the coordinator's image, on data of its own, with the same database.",
        )
    if not await citus_probe.reaches(conn, worker, coordinator):
        raise WorkerUnreachableError(
            f"{worker} answers, but cannot connect to the coordinator at {coordinator} in turn.",
            hint="That name is known on the coordinator's server alone: workers of other servers need a coordinator "
            "that was set up with --advertise from the start."
            if coordinator.is_service and not worker.is_service
            else f"Does {coordinator.host} resolve there, is the port open, and is the password the same? "
            f"See its log: {worker.compose_command('logs')}.",
        )


async def _membership(
    conn: Connection, coordinator: NodeAddress, worker: NodeIdentity, own: NodeIdentity, registry: Registry
) -> str | None:
    """Say whether the worker is in a cluster already: ours, under another name, or another one.

    What a worker keeps of a membership outlives its removal, so it is compared with the servers it names.
    """
    twin = possible_twin(worker, registry)
    if twin and await _system_identifier(conn, twin, registered=True) == worker.system_identifier:
        return f"it is registered already, as {twin}"
    foreign = foreign_coordinator(worker, coordinator)
    if foreign is None or await _system_identifier(conn, foreign) == own.system_identifier:
        return None
    return (
        f"it belongs to another cluster, whose coordinator is {foreign}; if it has left that one for good, "
        "empty its table pg_dist_node"
    )


async def _system_identifier(conn: Connection, node: NodeAddress, *, registered: bool = False) -> str | None:
    try:
        return (await citus_probe.identity(conn, node, registered=registered)).system_identifier
    except UnreachableError:
        return None


async def _check_roughly(conn: Connection, worker: NodeAddress) -> None:
    """Without dblink, Citus' own checks remain: that it connects, and what citus_add_node refuses."""
    if not await citus_probe.coordinator_reaches(conn, worker):
        raise WorkerUnreachableError(
            f"The coordinator cannot connect to {worker}.",
            hint="Its log says why: docker compose logs citus-coordinator.",
        )


async def _register(
    conn: Connection,
    decision: RegistrationDecision,
    before: Registry,
    *,
    explicit: bool = False,
    trust_functions: bool = False,
    timeout_s: float,
    wait_for_lock_s: float,
) -> NodeResult:
    """Add one worker that was found fit, under the lock, looking once more at what has become of it ``before``."""
    worker = decision.address
    async with writer_lock(conn, wait_s=min(wait_for_lock_s, timeout_s)):
        registry = await citus_nodes.read_registry(conn)
        decision = decide_again(decision, before, registry)
        if decision.outcome is Outcome.ALREADY or (decision.outcome is Outcome.WITHDRAWN and not explicit):
            return NodeResult(worker, decision.outcome, decision.reason)
        if not trust_functions:
            await _refuse_untrusted(conn, worker)
        patience_s = min(timeout_s, citus_nodes.CHANGE_TIMEOUT_S)
        try:
            if registry.find(worker):
                await citus_nodes.activate_worker(conn, worker, timeout_s=patience_s)
                return NodeResult(worker, Outcome.ACTIVATED, await _copy_role_passwords(conn, worker))
            here = registry.coordinator
            first = here and here.should_have_shards and not registry.has_workers
            unburden = here.address if here and first else None
            await citus_nodes.add_worker(conn, worker, unburden=unburden, timeout_s=patience_s)
            return NodeResult(worker, Outcome.ADDED, await _copy_role_passwords(conn, worker))
        except psycopg.Error as error:
            raise await _explain_failed_change(conn, worker, error) from error


async def _refuse_untrusted(conn: Connection, worker: NodeAddress) -> None:
    found = tuple(map(str, await citus_movers.foreign_code_of_reference_tables(conn)))
    if found:
        raise UntrustedCodeError(
            f"{worker} was not registered: Citus copies reference tables to it as the superuser, which would run code "
            f"of ordinary roles: {'; '.join(found)}.",
            hint=new_node_hint(worker),
            details=found,
        )


async def _copy_role_passwords(conn: Connection, worker: NodeAddress) -> str | None:
    """Let the other roles connect from the new worker too; what is left to do, if that failed."""
    try:
        await citus_probe.copy_role_passwords(conn, worker)
    except CitusClusterError as error:
        return f"the rows of other roles in pg_dist_authinfo were not copied to it: {error.message}"
    try:
        await citus_limits.lift_on_new_worker(conn, worker)
    except CitusClusterError as error:
        return f"limits of sessions that Citus has copied to it were not taken away there: {error.message}"
    return None


async def _explain_failed_change(conn: Connection, worker: NodeAddress, error: psycopg.Error) -> CitusClusterError:
    if conn.closed and not isinstance(error, psycopg.errors.QueryCanceled):
        return UnreachableError(f"The coordinator went away while {worker} was being registered: {describe(error)}.")
    if citus_nodes.is_busy(error):
        job_id = await running_job_id(conn)
        holder = f"rebalance {job_id} is running" if job_id else "another session is changing it"
        return LockedError(
            f"{worker} cannot be registered now: the node list is locked, {holder}.",
            hint="Wait until it is done (citus-cluster rebalance wait) and run the command again.",
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return WorkerUnreachableError(
            f"{worker} stopped answering while it was being registered; nothing was changed.",
            hint=worker.silence_hint,
        )
    return WorkerUnreachableError(
        f"Citus did not take {worker}: {describe(error)}", hint=error.diag.message_hint or "See the coordinator's log."
    )


async def reach_coordinator(info: ConnectionInfo, emit: Emit, *, timeout_s: float) -> Connection:
    """Connect to a coordinator that may be starting still: ``docker compose up -d`` does not wait for it.

    Raises AuthenticationError at once, and UnreachableError when the time is up.
    """
    deadline = time.monotonic() + timeout_s

    async def check() -> Connection:
        left_s = max(POLL_S, deadline - time.monotonic())
        return await connect(info, timeout_s=min(CONNECT_TIMEOUT_S, left_s))

    return await _wait_for(check, emit, deadline, "coordinator", UnreachableError)


async def add_worker(
    conn: Connection,
    coordinator: NodeAddress | None,
    worker: NodeAddress,
    emit: Emit,
    *,
    timeout_s: float,
    wait_for_lock_s: float = WAIT_FOR_LOCK_S,
    trust_functions: bool = False,
) -> NodeResult:
    """Register one worker because somebody asked for it, also if it was removed or disabled before.

    ``coordinator`` is the address under which workers reach the coordinator; None takes the registered one.
    Waits up to ``timeout_s`` for the worker to answer. Idempotent: ALREADY the second time. Raises
    MismatchError, AuthenticationError, WorkerUnreachableError, LockedError, UsageError, and, unless
    ``trust_functions``, UntrustedCodeError.
    """
    deadline = time.monotonic() + timeout_s
    step = f"register:{worker}"
    emit(Event(step, EventKind.STARTED, f"registering {worker}"))
    async with translated(f"registering {worker}"):
        here = coordinator or await _registered_coordinator(conn)
        if worker == here:
            raise UsageError(f"{worker} is the coordinator itself; a worker is another server.")
        registry = await citus_nodes.read_registry(conn)
        if not _settled(registry, here, [worker]):
            registry = await _prepare(conn, here, [worker], wait_for_lock_s)
        decision = decide(registry, [worker])[0]
        if decision.outcome is Outcome.ALREADY:
            await _wait_until_answering(conn, worker, emit, deadline)
            result = NodeResult(worker, Outcome.ALREADY)
        else:
            own = await citus_probe.own_identity(conn)
            await _wait_until_fit(conn, here, worker, own, emit, deadline)
            left_s = max(10.0, deadline - time.monotonic())
            result = await _register(
                conn,
                decision,
                registry,
                explicit=True,
                trust_functions=trust_functions,
                timeout_s=left_s,
                wait_for_lock_s=wait_for_lock_s,
            )
        _report(emit, result)
        return result


async def _registered_coordinator(conn: Connection) -> NodeAddress:
    registry = await citus_nodes.read_registry(conn)
    if registry.coordinator is None or registry.coordinator.address.host in _UNSET_COORDINATOR:
        raise UsageError(
            "The coordinator does not know yet under which name its workers reach it.",
            hint="Run citus-cluster up in the directory of the coordinator, or, as superuser: "
            "SELECT citus_set_coordinator_host('NAME-OR-ADDRESS', 5432);",
        )
    return registry.coordinator.address


async def _wait_until_fit(
    conn: Connection, coordinator: NodeAddress, worker: NodeAddress, own: NodeIdentity, emit: Emit, deadline: float
) -> None:
    async def check() -> None:
        registry = await citus_nodes.read_registry(conn)
        blocked = await _blocked(conn, registry)
        if blocked:
            raise WorkerUnreachableError(
                blocked,
                hint="Start or unpause it, or, if it is lost: SELECT citus_disable_node('HOST', PORT); on the "
                "coordinator.",
            )
        await _check_candidate(conn, coordinator, worker, own, registry)

    await _wait_for(check, emit, deadline, f"register:{worker}", WorkerUnreachableError)


async def _wait_until_answering(conn: Connection, worker: NodeAddress, emit: Emit, deadline: float) -> None:
    """Being registered is metadata: it is said only of a worker that answers."""

    async def check() -> None:
        try:
            await citus_probe.identity(conn, worker, registered=True)
        except citus_probe.ProbeUnavailableError:
            await _check_roughly(conn, worker)

    await _wait_for(check, emit, deadline, f"register:{worker}", WorkerUnreachableError)


async def _wait_for(
    check: Callable[[], Awaitable[T]], emit: Emit, deadline: float, step: str, awaited: type[UnreachableError]
) -> T:
    """Check again and again until it raises ``awaited`` no more, or the time is up."""
    said = ""
    while True:
        try:
            return await check()
        except AuthenticationError:
            raise
        except awaited as error:
            if time.monotonic() + POLL_S >= deadline:
                raise
            if error.message != said:
                emit(Event(step, EventKind.PROGRESS, f"waiting: {error.message}"))
            said = error.message
        await asyncio.sleep(POLL_S)


def _report(emit: Emit, result: NodeResult) -> None:
    kinds = {
        Outcome.ADDED: (EventKind.DONE, "registered"),
        Outcome.ACTIVATED: (EventKind.DONE, "active again"),
        Outcome.ALREADY: (EventKind.DONE, "registered already"),
        Outcome.WITHDRAWN: (EventKind.SKIPPED, "left out"),
        Outcome.PENDING: (EventKind.WARNING, "not registered yet"),
    }
    kind, text = kinds[result.outcome]
    reason = f": {result.reason}" if result.reason else ""
    emit(Event(f"register:{result.address}", kind, f"{result.address} {text}{reason}", result.as_dict()))
