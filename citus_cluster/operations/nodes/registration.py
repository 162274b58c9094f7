"""Registering workers: all desired ones repeatedly (reconcile), or one explicitly (add).

Both only add workers. A worker that an operator removed or disabled stays so until it is added explicitly.
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
    """Register the desired workers that are missing. Returns one result for each, in the given order.

    Without anything to do, it reads the node list and returns without a lock. A worker that does not answer is PENDING
    and does not delay the others. Raises UnreachableError if the coordinator is down, LockedError if another run holds
    the lock for longer than ``wait_for_lock_s``.
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
    """Reconcile until no worker is pending, because workers may still be starting. Raises as :func:`reconcile`.

    Also raises NotRegisteredError at ``deadline``, in seconds of ``time.monotonic``, or as soon as waiting cannot help
    any of the pending workers.
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
                hint="Fix the problems listed above, then run citus-cluster up again, which continues.",
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
        await wait_until_synced(conn)
    else:
        # Citus registers itself as localhost when the first table is distributed before any node was added.
        await citus_nodes.set_coordinator_host(conn, coordinator, holds_shards=None)


async def _reconsider(conn: Connection, decision: RegistrationDecision, registry: Registry) -> RegistrationDecision:
    """Check a worker again whose name belonged to another server, which has left permanently."""
    if decision.outcome is not Outcome.WITHDRAWN or decision.address not in registry.released:
        return decision
    try:
        return reconsider(decision, registry, await _system_identifier(conn, decision.address))
    except citus_probe.ProbeUnavailableError:
        return decision


async def _blocked(conn: Connection, registry: Registry) -> str | None:
    """Return why no node can be added now: Citus announces a new node to every worker, or refuses it."""
    silent = await citus_probe.unreachable_nodes(conn, registry.nodes)
    if not silent:
        return None
    return "Citus cannot add a node while a registered node does not answer. " + " ".join(silent)


async def wait_until_synced(conn: Connection) -> None:
    """Wait until the other nodes know a change, before which Citus adds no node. Skips a node that is down."""
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
        return NodeResult(
            decision.address, Outcome.PENDING, "not tried yet, because the workers before it used all the time"
        )
    try:
        await check_candidate(conn, coordinator, decision.address, own, registry)
        return await _register(
            conn, decision, registry, timeout_s=max(POLL_S, remaining_s), wait_for_lock_s=wait_for_lock_s
        )
    except UntrustedCodeError as error:
        return NodeResult(decision.address, Outcome.PENDING, f"{error.message} {error.hint}", needs_operator=True)
    except (UnreachableError, MismatchError, LockedError) as error:
        if conn.closed:
            raise
        return NodeResult(decision.address, Outcome.PENDING, error.message)


async def check_candidate(
    conn: Connection, coordinator: NodeAddress, worker: NodeAddress, own: NodeIdentity, registry: Registry
) -> None:
    """Raise unless the worker answers, runs the same versions as the coordinator, and can connect to it."""
    try:
        identity = await citus_probe.identity(conn, worker)
    except citus_probe.ProbeUnavailableError:
        await _check_roughly(conn, worker)
        return
    reason = mismatch(own, identity) or await _membership(conn, coordinator, identity, own, registry)
    if reason:
        raise MismatchError(
            f"{worker} cannot join: {reason}.",
            hint="A worker needs the coordinator's image, its own data, and the same database.",
        )
    if not await citus_probe.reaches(conn, worker, coordinator):
        raise WorkerUnreachableError(
            f"{worker} answers, but cannot connect to the coordinator at {coordinator}.",
            hint="That name exists only on the coordinator's server. For workers on other servers, set up the "
            "coordinator "
            "with --advertise from the start."
            if coordinator.is_service and not worker.is_service
            else f"Check that {coordinator.host} resolves there, that the port is open, and that the password is the "
            "same. "
            f"See its log: {worker.compose_command('logs')}.",
        )


async def _membership(
    conn: Connection, coordinator: NodeAddress, worker: NodeIdentity, own: NodeIdentity, registry: Registry
) -> str | None:
    """Return whether the worker is already in a cluster: in ours under another name, or in another one.

    A worker keeps metadata of its membership after its removal, so these are compared with the servers that they name.
    """
    twin = possible_twin(worker, registry)
    if twin and await _system_identifier(conn, twin, registered=True) == worker.system_identifier:
        return f"it is already registered as {twin}"
    foreign = foreign_coordinator(worker, coordinator)
    if foreign is None or await _system_identifier(conn, foreign) == own.system_identifier:
        return None
    return (
        f"it belongs to another cluster, whose coordinator is {foreign}; if it has left that cluster permanently, "
        "empty its table pg_dist_node"
    )


async def _system_identifier(conn: Connection, node: NodeAddress, *, registered: bool = False) -> str | None:
    try:
        return (await citus_probe.identity(conn, node, registered=registered)).system_identifier
    except UnreachableError:
        return None


async def _check_roughly(conn: Connection, worker: NodeAddress) -> None:
    """Check the connection without dblink; citus_add_node checks the rest."""
    if not await citus_probe.coordinator_reaches(conn, worker):
        raise WorkerUnreachableError(
            f"The coordinator cannot connect to {worker}.",
            hint="See the coordinator's log: docker compose logs citus-coordinator",
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
    """Add a worker that passed the checks, under the lock, after comparing its state with that of ``before``."""
    worker = decision.address
    async with writer_lock(conn, wait_s=min(wait_for_lock_s, timeout_s)):
        registry = await citus_nodes.read_registry(conn)
        decision = decide_again(decision, before, registry)
        if decision.outcome is Outcome.ALREADY or (decision.outcome is Outcome.WITHDRAWN and not explicit):
            return NodeResult(worker, decision.outcome, decision.reason)
        if not trust_functions:
            await refuse_untrusted(conn, worker)
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
            raise await explain_failed_change(conn, worker, error) from error


async def refuse_untrusted(conn: Connection, worker: NodeAddress) -> None:
    found = tuple(map(str, await citus_movers.foreign_code_of_reference_tables(conn)))
    if found:
        raise UntrustedCodeError(
            f"{worker} was not registered: Citus copies reference tables to it as the superuser, which would run code "
            f"of ordinary roles: {'; '.join(found)}.",
            hint=new_node_hint(worker),
            details=found,
        )


async def _copy_role_passwords(conn: Connection, worker: NodeAddress) -> str | None:
    """Let the other roles connect from the new worker too. Returns what is left to do if that failed."""
    try:
        await citus_probe.copy_role_passwords(conn, worker)
    except CitusClusterError as error:
        return f"the credentials of other roles (pg_dist_authinfo) were not copied to it: {error.message}"
    try:
        await citus_limits.lift_on_new_worker(conn, worker)
    except CitusClusterError as error:
        return f"session limits that Citus copied to it were not removed there: {error.message}"
    return None


async def explain_failed_change(conn: Connection, worker: NodeAddress, error: psycopg.Error) -> CitusClusterError:
    if conn.closed and not isinstance(error, psycopg.errors.QueryCanceled):
        return UnreachableError(
            f"The connection to the coordinator was lost while {worker} was being registered: {describe(error)}."
        )
    if citus_nodes.is_busy(error):
        job_id = await running_job_id(conn)
        holder = f"rebalance {job_id} is running" if job_id else "another session is changing it"
        return LockedError(
            f"{worker} cannot be registered now, because the node list is locked: {holder}.",
            hint="Wait until it is done (citus-cluster rebalance wait), then run the command again.",
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return WorkerUnreachableError(
            f"{worker} stopped answering while it was being registered; nothing was changed.",
            hint=worker.silence_hint,
        )
    return WorkerUnreachableError(
        f"Citus refused {worker}: {describe(error)}", hint=error.diag.message_hint or "See the coordinator's log."
    )


async def reach_coordinator(info: ConnectionInfo, emit: Emit, *, timeout_s: float) -> Connection:
    """Connect to a coordinator that may still be starting: ``docker compose up -d`` does not wait for it.

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
    """Register one worker on request, even if it was removed or disabled before.

    ``coordinator`` is the address at which workers reach the coordinator; None means the registered one. Waits up to
    ``timeout_s`` for the worker to answer. Idempotent: ALREADY the second time. Raises MismatchError,
    AuthenticationError, WorkerUnreachableError, LockedError, UsageError, and, unless ``trust_functions``,
    UntrustedCodeError.
    """
    deadline = time.monotonic() + timeout_s
    step = f"register:{worker}"
    emit(Event(step, EventKind.STARTED, f"registering {worker}"))
    async with translated(f"registering {worker}"):
        here = coordinator or await registered_coordinator(conn)
        if worker == here:
            raise UsageError(f"{worker} is the coordinator itself; a worker must be another server.")
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


async def registered_coordinator(conn: Connection) -> NodeAddress:
    registry = await citus_nodes.read_registry(conn)
    if registry.coordinator is None or registry.coordinator.address.host in _UNSET_COORDINATOR:
        raise UsageError(
            "The coordinator does not know yet at which name its workers reach it.",
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
                hint="Start or unpause the node. If it is lost, run on the coordinator: SELECT "
                "citus_disable_node('HOST', PORT);",
            )
        await check_candidate(conn, coordinator, worker, own, registry)

    await _wait_for(check, emit, deadline, f"register:{worker}", WorkerUnreachableError)


async def _wait_until_answering(conn: Connection, worker: NodeAddress, emit: Emit, deadline: float) -> None:
    """Report a worker as registered only if it answers, because the registration itself is only metadata."""

    async def check() -> None:
        try:
            await citus_probe.identity(conn, worker, registered=True)
        except citus_probe.ProbeUnavailableError:
            await _check_roughly(conn, worker)

    await _wait_for(check, emit, deadline, f"register:{worker}", WorkerUnreachableError)


async def _wait_for(
    check: Callable[[], Awaitable[T]], emit: Emit, deadline: float, step: str, awaited: type[UnreachableError]
) -> T:
    """Repeat the check until it no longer raises ``awaited``, or the time is up."""
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
        Outcome.ALREADY: (EventKind.DONE, "already registered"),
        Outcome.WITHDRAWN: (EventKind.SKIPPED, "skipped"),
        Outcome.PENDING: (EventKind.WARNING, "not registered yet"),
    }
    kind, text = kinds[result.outcome]
    reason = f": {result.reason}" if result.reason else ""
    emit(Event(f"register:{result.address}", kind, f"{result.address} {text}{reason}", result.as_dict()))
