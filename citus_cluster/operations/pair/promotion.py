"""Making a server of the PostgreSQL 14 pair the primary, so that there is never more than one.

First comes the plan (the new primary, the old one, the losses), which a person confirms; then its execution. The other
server is stopped before the choice is recorded, and cannot start as a primary from then on. Each step is checked before
it is done, so running an interrupted promotion again completes it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from citus_cluster.errors import CitusClusterError, ReplicationError, UnreachableError
from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.replication import (
    UNDECIDED,
    PairStatus,
    Phase,
    SeenServer,
    ServerRole,
    default_target,
    refusal_to_promote,
)
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.pair.losses import (
    HARMLESS,
    Proof,
    completeness,
    loss_by_proof,
    losses,
    notes,
    prove_at_rest,
)
from citus_cluster.operations.pair.status import find_container, require_server, status
from citus_cluster.runtime import pg14
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.postgres import ConnectionInfo, connect
from citus_cluster.runtime.probes.pair import ask

_POLL_S = 0.3
_CONNECT_TIMEOUT_S = 3.0
_CATCH_UP_S = 30.0
_WITHOUT_DATA = frozenset({Phase.LOST, Phase.COPYING, Phase.RETRYING, Phase.WAITING, Phase.INITIALISING})
_RUNNING = frozenset({"running", "restarting", "paused"})


@dataclass(frozen=True)
class PromotionDocument:
    """A planned or completed promotion; ``dsn`` does not contain the password."""

    primary: str
    old: str
    already: bool
    port: int
    dsn: str
    notes: tuple[str, ...]
    losses: tuple[str, ...]


@dataclass(frozen=True)
class Promotion(Documented):
    """A planned or completed promotion.

    ``old`` is the other server. ``notes`` are what a person should know first; ``losses`` are the committed
    transactions that will be missing on the new primary, as far as they are known. ``synchronous`` comes from the new
    primary itself if it could be asked.
    """

    target: str
    old: str
    already: bool
    synchronous: bool
    notes: tuple[str, ...]
    losses: tuple[str, ...]
    port: int
    connection: ConnectionInfo

    def document(self) -> PromotionDocument:
        return PromotionDocument(
            primary=self.target,
            old=self.old,
            already=self.already,
            port=self.port,
            dsn=self.connection.dsn(),
            notes=self.notes,
            losses=self.losses,
        )


async def plan_promotion(directory: Directory, service: str | None, engine: Engine) -> Promotion:
    """Plan the promotion of ``service`` (the replica, if None). Changes nothing.

    Raises UsageError for a name that is not in the pair, ReplicationError if no server can be promoted.
    """
    found = await status(directory, engine)
    target = require_server(directory, service) if service else await _default_target(directory, found, engine)
    server = directory.topology.service(target)
    seen, old = found.server(target), found.server(server.facts.peer)
    proof = await prove_at_rest(
        directory,
        engine,
        old,
        seen,
        lambda: ask(directory.connection(server), SeenServer(target)),
        within_s=_CATCH_UP_S,
    )
    return Promotion(
        target=target,
        old=old.service,
        already=seen.role is ServerRole.PRIMARY and found.chosen == target and old.role is not ServerRole.PRIMARY,
        synchronous=_waits_for_a_replica(seen, found.synchronous),
        notes=tuple(notes(seen, old, proof)),
        losses=tuple(losses(found, seen, old, proof)),
        port=server.host_port,
        connection=directory.connection(server),
    )


def _waits_for_a_replica(seen: SeenServer, wanted: bool) -> bool:
    """Return whether commits on a server wait for a standby, according to its current settings."""
    return bool(seen.facts.synchronous_standby_names) if seen.facts else wanted


async def _default_target(directory: Directory, found: PairStatus, engine: Engine) -> str:
    """Return the replica, even if it is stopped, or the primary if there is no replica: the promotion is done then."""
    if target := default_target(found):
        return target
    for server in found.servers:
        container = await find_container(directory, engine, server.service)
        if server.role is ServerRole.DOWN and container and await in_thread(pg14.is_standby, engine, container):
            return server.service
    if found.primary:
        return found.primary.service
    raise ReplicationError(
        "No replica can be promoted.",
        details=found.problems,
        hint="To start stopped servers: citus-cluster up. To choose a server yourself, name it: "
        "citus-cluster pg14 promote pg14-replica",
    )


async def promote(
    directory: Directory, plan: Promotion, engine: Engine, emit: Emit, *, accept_loss: bool, timeout_s: float
) -> Promotion:
    """Make ``plan.target`` the primary. Idempotent; running an interrupted promotion again completes it.

    Raises ReplicationError, before anything has changed, if the other server cannot be stopped, if committed rows
    would be lost without ``accept_loss``, or if the target has no complete data; UnreachableError.
    """
    if plan.already:
        emit(Event("promote", EventKind.SKIPPED, f"{plan.target} is already the primary"))
        return plan
    if plan.losses and not accept_loss:
        raise _would_lose(plan, plan.losses)
    target = await _start_target(directory, plan, engine, emit, timeout_s=timeout_s)
    lost = await _fence(directory, plan, engine, target, emit, accept_loss=accept_loss)
    seen = await _take_over(plan, emit, timeout_s=timeout_s)
    known = tuple(dict.fromkeys((*plan.losses, *lost)))
    return replace(plan, losses=known, synchronous=_waits_for_a_replica(seen, plan.synchronous))


def _would_lose(plan: Promotion, lost: Sequence[str]) -> ReplicationError:
    return ReplicationError(
        f"{plan.target} was not promoted, because committed rows would be lost; nothing was changed.",
        details=lost,
        hint=f"Make {plan.target} follow {plan.old} first (citus-cluster pg14 status shows the problem; citus-cluster "
        "pg14 rebuild-replica copies the data again). To continue without those rows: citus-cluster pg14 "
        f"promote {plan.target} "
        "--accept-loss",
    )


async def _start_target(
    directory: Directory, plan: Promotion, engine: Engine, emit: Emit, *, timeout_s: float
) -> Container:
    """Start the future primary, and check that it has data."""
    deadline = time.monotonic() + timeout_s
    container = await find_container(directory, engine, plan.target)
    if container is None:
        raise ReplicationError(
            f"{plan.target} has no container.",
            hint="Create the container from the data in its volume: citus-cluster up",
        )
    if container.state == "paused":
        raise ReplicationError(f"{plan.target} is paused.", hint=f"Resume it: docker unpause {container.name}")
    if container.state != "running":
        emit(Event("promote:start", EventKind.STARTED, f"starting {plan.target}"))
        await in_thread(engine.start, container)
    while True:
        found = await status(directory, engine)
        seen = found.server(plan.target)
        refusal = refusal_to_promote(seen)
        if refusal is None:
            break
        if seen.phase in _WITHOUT_DATA or time.monotonic() > deadline:
            raise ReplicationError(
                f"{plan.target} cannot be promoted: {refusal.rstrip('.')}.",
                hint="Only a server with complete data can be the primary. To see both servers: citus-cluster pg14 "
                "status",
            )
        await asyncio.sleep(_POLL_S)
    container = await find_container(directory, engine, plan.target) or container
    if seen.facts and seen.facts.replay_paused:
        # It was paused by hand, or by limits that are too low; a restart ends both, and reads the limits from the data.
        emit(Event("promote:start", EventKind.STARTED, f"restarting {plan.target}, which has paused its replay"))
        await in_thread(engine.restart, container)
        await _wait_for(plan, deadline, roles={ServerRole.REPLICA})
    return container


async def _fence(
    directory: Directory, plan: Promotion, engine: Engine, target: Container, emit: Emit, *, accept_loss: bool
) -> Sequence[str]:
    """Stop the other server, determine the losses, and record the choice."""
    found = await status(directory, engine)
    old = found.server(plan.old)
    if old.role is ServerRole.PRIMARY and not accept_loss:
        found = await _wait_until_it_follows(directory, plan, engine, found)
    stopped = await _stop_old(directory, plan, engine, old, emit)
    try:
        lost = await _missing(directory, plan, engine, old, emit, wait_s=0 if accept_loss else _CATCH_UP_S)
        if lost and not accept_loss:
            raise _would_lose(plan, lost)
    except BaseException:
        if stopped and found.chosen == plan.old:
            emit(Event("promote:stop", EventKind.WARNING, f"starting {plan.old} again: nothing was changed"))
            await asyncio.shield(in_thread(engine.start, stopped))
        raise
    for loss in lost:
        if loss not in plan.losses:
            emit(Event("promote:loss", EventKind.WARNING, f"--accept-loss allows this loss: {loss}"))
    # From here on nothing is undone: after an interruption it would be unknown whether the choice was written.
    choice = asyncio.ensure_future(in_thread(pg14.choose_primary, engine, target, plan.target))
    try:
        await asyncio.shield(choice)
    except asyncio.CancelledError:
        await asyncio.wait({choice})
        way = f"citus-cluster pg14 promote {plan.target}"
        emit(Event("promote:fence", EventKind.WARNING, f"the promotion was interrupted; to complete it: {way}"))
        raise
    emit(Event("promote:fence", EventKind.DONE, f"{plan.old} is fenced: it can no longer start as the primary"))
    # If it was started between the stop and the choice, there is a second primary.
    again = (await status(directory, engine)).server(plan.old)
    await _stop_old(directory, plan, engine, again, emit)
    return lost


async def _wait_until_it_follows(
    directory: Directory, plan: Promotion, engine: Engine, found: PairStatus
) -> PairStatus:
    """Wait for a replica that has just started, or is slow, so that the primary is not stopped needlessly."""
    deadline = time.monotonic() + _CATCH_UP_S
    while found.server(plan.target).role is not ServerRole.PRIMARY and not found.streams:
        seen = found.server(plan.target)
        # A server with old data never follows; on a busy machine, the plan may have missed that its data are old.
        if seen.phase in UNDECIDED or time.monotonic() > deadline:
            lost = tuple(losses(found, seen, found.server(plan.old), Proof()))
            raise _would_lose(plan, lost or found.problems)
        await asyncio.sleep(_POLL_S)
        found = await status(directory, engine)
    return found


async def _stop_old(
    directory: Directory, plan: Promotion, engine: Engine, old: SeenServer, emit: Emit
) -> Container | None:
    """Stop a server that accepts writes, or may accept them. Raises ReplicationError if it keeps running."""
    container = await find_container(directory, engine, plan.old)
    harmless = old.role is ServerRole.REPLICA or old.phase in HARMLESS
    if container is None or container.state not in _RUNNING or harmless:
        stopped = None
    else:
        emit(Event("promote:stop", EventKind.STARTED, f"stopping {plan.old}"))
        try:
            await in_thread(engine.stop, container)
        except CitusClusterError as error:
            raise ReplicationError(
                f"{plan.old} cannot be stopped, and two primaries would make their data diverge: {error.message}",
                hint=f"Stop it (docker stop {container.name}), then run the command again.",
            ) from error
        emit(Event("promote:stop", EventKind.DONE, f"{plan.old} is stopped"))
        stopped = container
    server = directory.topology.service(plan.old)
    still = await ask(directory.connection(server), SeenServer(plan.old))
    if still.role is ServerRole.PRIMARY:
        raise ReplicationError(
            f"{plan.old} still answers on port {server.host_port} as a primary; {plan.target} was not promoted.",
            hint="Stop the server on that port, then run the command again.",
        )
    return stopped


async def _missing(
    directory: Directory, plan: Promotion, engine: Engine, old: SeenServer, emit: Emit, *, wait_s: float
) -> Sequence[str]:
    """Return the writes of the stopped server that are missing on the target. Empty if nothing is known.

    The target has ``wait_s`` to replay its WAL, and to receive the end of it from a server that shuts down.
    """
    deadline = time.monotonic() + wait_s
    while True:
        found = await status(directory, engine)
        seen, stopped = found.server(plan.target), found.server(plan.old)
        if seen.facts and not seen.facts.in_recovery:
            return ()
        if seen.phase in UNDECIDED:
            return tuple(losses(found, seen, stopped, Proof()))
        proof = await prove_at_rest(
            directory, engine, stopped, seen, lambda: _ask_target(plan), within_s=max(0.0, deadline - time.monotonic())
        )
        if proof.nothing_lost:
            emit(Event("promote:complete", EventKind.DONE, completeness(plan.target, plan.old, proof)))
            return ()
        # The last WAL of a clean shutdown is still in transit, or the target is starting.
        if not (proof.clean or seen.facts is None) or time.monotonic() > deadline:
            break
        await asyncio.sleep(_POLL_S)
    if proof.lossy:
        return (loss_by_proof(plan.target, plan.old, proof),)
    if old.role is ServerRole.PRIMARY:
        return (f"{plan.old} was stopped, but did not shut down cleanly in time.",)
    return ()


async def _take_over(plan: Promotion, emit: Emit, *, timeout_s: float) -> SeenServer:
    """End the recovery once all received WAL is replayed, and check that the server accepts writes."""
    deadline = time.monotonic() + timeout_s
    emit(Event("promote", EventKind.STARTED, f"promoting {plan.target}"))
    # A fenced server reads the choice within two seconds.
    seen = await _wait_for(plan, deadline, roles={ServerRole.REPLICA, ServerRole.PRIMARY})
    if seen.role is ServerRole.REPLICA:
        async with await connect(plan.connection, timeout_s=_CONNECT_TIMEOUT_S) as conn:
            await pg14.promote(conn, timeout_s=max(1.0, deadline - time.monotonic()))
        seen = await _wait_for(plan, deadline, roles={ServerRole.PRIMARY})
    emit(Event("promote", EventKind.DONE, f"{plan.target} is the primary"))
    return seen


async def _ask_target(plan: Promotion) -> SeenServer:
    return await ask(plan.connection, SeenServer(plan.target))


async def _wait_for(plan: Promotion, deadline: float, *, roles: set[ServerRole]) -> SeenServer:
    while True:
        seen = await _ask_target(plan)
        if seen.role in roles:
            return seen
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"{plan.target} is not the primary yet: {seen.reason or 'it is still a replica'}.",
                hint="Run the command again, which continues where this one ended.",
            )
        await asyncio.sleep(_POLL_S)
