"""Making a server of the PostgreSQL 14 pair a fresh replica of the current primary.

The request is recorded in the volume that both share; at its start, the server removes its data, once the primary
answers, and copies the primary's. So the rebuild continues after an interruption.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from citus_cluster.errors import CitusClusterError, ReplicationError, ServiceFailedError, UsageError
from citus_cluster.model.documents import Documented
from citus_cluster.model.pg14_log import parse_lsn
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.replication import PairStatus, Phase, SeenServer, ServerRole
from citus_cluster.model.units import size
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.pair.losses import prove_for_rebuild, what_is_beyond
from citus_cluster.operations.pair.status import find_container, require_server, status
from citus_cluster.runtime import pg14
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.postgres import connect

_POLL_S = 0.5
_CONNECT_TIMEOUT_S = 5.0
_BUSY = frozenset({Phase.COPYING, Phase.RETRYING, Phase.WAITING})
# The WAL that the primary writes during the copy, in addition to the data.
_MARGIN_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class RebuildDocument:
    """A planned or completed rebuild."""

    replica: str
    primary: str
    losses: tuple[str, ...]
    kept_as: str | None


@dataclass(frozen=True)
class Rebuild(Documented):
    """A planned rebuild: ``target`` becomes a replica of ``primary``; ``losses`` are the data that are removed for it.

    ``keep_as`` is the new name of its old data in its volume; None if they are removed.
    """

    target: str
    primary: str
    losses: tuple[str, ...]
    keep_as: str | None

    def document(self) -> RebuildDocument:
        return RebuildDocument(self.target, self.primary, self.losses, self.keep_as)


async def plan_rebuild(directory: Directory, service: str | None, engine: Engine, *, discard: bool) -> Rebuild:
    """Plan the rebuild of ``service`` (the one that is not the primary, if None). Changes nothing.

    Data with rows that may be missing on the primary are kept, unless ``discard``.

    Raises UsageError for the current primary, ReplicationError if there is no primary to copy from.
    """
    found = await status(directory, engine)
    primary = _require_primary(found)
    other = next(server.service for server in found.servers if server.service != primary.service)
    target = require_server(directory, service) if service else other
    if target == primary.service:
        raise UsageError(
            f"{target} is the primary, which is the source of the copy.",
            hint=f"To rebuild the other server: citus-cluster pg14 rebuild-replica {other}. To change roles first: "
            f"citus-cluster pg14 promote {other}",
        )
    return await _weigh(directory, engine, found.server(target), primary, discard=discard)


async def _weigh(
    directory: Directory, engine: Engine, seen: SeenServer, primary: SeenServer, *, discard: bool
) -> Rebuild:
    """Determine whether the data of a server must be kept."""
    target, source = seen.service, primary.service
    if seen.phase in _BUSY or seen.phase is Phase.LOST:
        return Rebuild(target, source, (), None)
    if seen.role is ServerRole.REPLICA:
        loss = f"{target} runs as a replica; it serves no reads until its new copy is complete."
        return Rebuild(target, source, (loss,), None)
    container = await find_container(directory, engine, target)
    if container is None or await in_thread(pg14.is_standby, engine, container):
        return Rebuild(target, source, (f"The data of {target}, a stopped replica, are removed.",), None)
    beyond = await prove_for_rebuild(directory, engine, seen, primary)
    if beyond and beyond.nothing:
        loss = f"The data of {target} are removed; {source} has everything that {target} had committed."
        return Rebuild(target, source, (loss,), None)
    worth = f"{target} has the last copy of {what_is_beyond(beyond)} missing on {source}."
    if discard:
        return Rebuild(target, source, (worth, f"The data of {target} are removed, including that copy."), None)
    keep_as = datetime.now(UTC).strftime("pgdata.kept-%Y%m%dT%H%M%SZ")
    kept = f"The data of {target} are kept in its volume, renamed to {keep_as}; --discard removes them instead."
    return Rebuild(target, source, (worth, kept), keep_as)


def _require_primary(found: PairStatus) -> SeenServer:
    primary = found.primary
    if primary is None:
        raise ReplicationError(
            "No primary answers, so there is no source for the copy; nothing was changed.",
            details=found.problems,
            hint="Start the primary (citus-cluster up), or make a server the primary: citus-cluster pg14 promote "
            + (found.chosen or "pg14-replica"),
        )
    return primary


async def rebuild(directory: Directory, plan: Rebuild, engine: Engine, emit: Emit, *, timeout_s: float) -> PairStatus:
    """Remove or rename the data of ``plan.target``, copy the primary's, and wait until it follows. Idempotent.

    Raises ReplicationError if nothing could be done, ServiceFailedError if it is not done in time; it then continues in
    the background.
    """
    source = await find_container(directory, engine, plan.primary)
    container = await find_container(directory, engine, plan.target)
    for service, found in ((plan.primary, source), (plan.target, container)):
        if found is None:
            raise ReplicationError(f"{service} has no container.", hint="Create it: citus-cluster up")
        if found.state == "paused":
            raise ReplicationError(f"{service} is paused.", hint=f"Resume it: docker unpause {found.name}")
    assert source is not None and container is not None  # noqa: S101 - checked above
    seen = (await status(directory, engine)).server(plan.target)
    if seen.phase in _BUSY:
        emit(Event("rebuild", EventKind.STARTED, f"{plan.target} is already copying"))
    else:
        await _require_room(directory, plan, engine, container, emit)
        await in_thread(pg14.ask_for_rebuild, engine, source, plan.target, plan.keep_as)
        emit(Event("rebuild", EventKind.STARTED, f"restarting {plan.target}, which then copies {plan.primary}"))
        await in_thread(engine.restart, container)
    return await _wait_until_it_follows(directory, plan, engine, source, emit, timeout_s=timeout_s)


async def _require_room(directory: Directory, plan: Rebuild, engine: Engine, container: Container, emit: Emit) -> None:
    """Raise ReplicationError if the volume has too little space for the copy, before anything is removed."""
    if container.state != "running":
        await in_thread(engine.start, container)
    source = directory.topology.service(plan.primary)
    try:
        async with await connect(directory.connection(source), timeout_s=_CONNECT_TIMEOUT_S) as conn:
            needed = await pg14.data_bytes(conn) + _MARGIN_BYTES
        room = await in_thread(pg14.read_room, engine, container)
    except CitusClusterError as error:
        emit(Event("rebuild", EventKind.WARNING, f"the space for the copy could not be checked: {error.message}"))
        return
    usable = room.free_bytes + (0 if plan.keep_as else room.own_bytes)
    if needed <= usable:
        return
    counted = "" if plan.keep_as else f", including the {size(room.own_bytes)} of its own data, which the copy replaces"
    raise ReplicationError(
        f"The volume of {plan.target} has too little space for a copy of {plan.primary}: it needs {size(needed)}, but "
        f"{size(usable)} are free{counted}. Its data are unchanged.",
        hint="Free space on the disk of the Docker engine (docker system df), then run the command again."
        + (f" --discard also frees the {size(room.own_bytes)} of the old data." if plan.keep_as else ""),
    )


async def _wait_until_it_follows(
    directory: Directory, plan: Rebuild, engine: Engine, source: Container, emit: Emit, *, timeout_s: float
) -> PairStatus:
    deadline = time.monotonic() + timeout_s
    goal: int | None = None
    while True:
        found = await status(directory, engine)
        seen = found.server(plan.target)
        follows = found.streams and seen.role is ServerRole.REPLICA
        if follows and not await in_thread(pg14.rebuild_is_wanted, engine, source, plan.target):
            assert seen.facts is not None and found.primary and found.primary.facts  # noqa: S101 - both have roles
            goal = goal if goal is not None else parse_lsn(found.primary.facts.lsn)
            if parse_lsn(seen.facts.lsn) >= goal:
                emit(Event("rebuild", EventKind.DONE, f"{plan.target} follows {plan.primary}"))
                return found
        if seen.phase is Phase.RETRYING:
            raise ServiceFailedError(
                f"{plan.target} {seen.sentence}.",
                hint="Fix the cause; the copy then continues automatically. To see its progress: citus-cluster pg14 "
                "status",
            )
        emit(Event("rebuild", EventKind.PROGRESS, await _progress(directory, plan, engine, seen)))
        if time.monotonic() > deadline:
            raise ServiceFailedError(
                f"{plan.target} does not follow {plan.primary} after {timeout_s:g} s; it continues in the background.",
                details=found.problems,
                hint="Check it with citus-cluster pg14 status, and the log with docker logs.",
            )
        await asyncio.sleep(_POLL_S)


async def _progress(directory: Directory, plan: Rebuild, engine: Engine, seen: SeenServer) -> str:
    if seen.phase is not Phase.COPYING:
        return f"{plan.target} {seen.sentence}" if seen.sentence else f"waiting for {plan.target}"
    container = await find_container(directory, engine, plan.target)
    if container is None or container.state != "running":
        return f"waiting for {plan.target}"
    # Its health check reports how much is copied.
    probe = await in_thread(engine.run_health_check, container)
    return f"waiting for {plan.target}" if probe.ok else probe.output
