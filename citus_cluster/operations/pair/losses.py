"""What a server of the PostgreSQL 14 pair would lack if it became the primary, as the other one's files prove it.

A server that was killed cannot be asked, but its volume can be read: its control file says how far it had come at
least, and its log which transactions it committed after what the other has.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from citus_cluster.model.pg14_log import Remainder, missing_bytes, parse_lsn, remainder
from citus_cluster.model.replication import UNDECIDED, PairStatus, Phase, SeenServer, ServerRole
from citus_cluster.model.units import count
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.pair.status import find_container
from citus_cluster.runtime import pg14
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread

HARMLESS = UNDECIDED | {Phase.WAITING, Phase.COPYING, Phase.RETRYING}
"""No server runs in these phases, and none starts while the choice is as it is."""
_REST_S = 1.5
_POLL_S = 0.3
# The health check looks every 5 s, and later on a busy machine.
_SEEN_SYNCHRONOUS_WITHIN_S = 60.0

AskTarget = Callable[[], Awaitable[SeenServer]]


@dataclass(frozen=True)
class Proof:
    """What the files of a server that does not run prove of what the other lacks.

    ``remainder`` is None where they cannot be read or compared. ``unconfirmed`` says that its transactions waited for
    the synchronous standby, so that no client was told of them.
    """

    remainder: Remainder | None = None
    unconfirmed: bool = False

    @property
    def clean(self) -> bool:
        return self.remainder is not None and self.remainder.clean

    @property
    def nothing_lost(self) -> bool:
        return self.remainder is not None and (self.remainder.nothing or self.unconfirmed)

    @property
    def lossy(self) -> bool:
        return self.remainder is not None and self.remainder.something and not self.unconfirmed


async def prove(directory: Directory, engine: Engine, old: SeenServer, target: SeenServer) -> Proof:
    """Compare the files of ``old`` with what ``target``, a replica that runs, has. No proof where ``old`` may run."""
    facts = target.facts
    runs = old.facts or (old.container_state in {"running", "restarting", "paused"} and old.phase not in UNDECIDED)
    container = None if runs else await find_container(directory, engine, old.service)
    if facts is None or not facts.in_recovery or container is None:
        return Proof()
    control = await in_thread(pg14.read_control_file, engine, container)
    if control is None or control.system_identifier != facts.system_identifier:
        return Proof()
    replayed = parse_lsn(facts.lsn)
    # What it has received it replays before it becomes the primary.
    had = replayed if control.clean else max(replayed, parse_lsn(facts.received_lsn or "0/0"))
    if control.clean and not missing_bytes(had, control.checkpoint):
        return Proof(remainder(control, had, None))
    tail = await in_thread(pg14.read_log_tail, engine, container, max(control.timeline, facts.timeline), replayed, had)
    found = remainder(control, had, tail)
    waited = found.whole and not found.clean and 0 < found.transactions <= control.most_sessions
    return Proof(found, waited and await _was_synchronous(directory, engine, container, target.service))


async def prove_for_rebuild(
    directory: Directory, engine: Engine, target: SeenServer, primary: SeenServer
) -> Remainder | None:
    """Compare the data of an old primary with the server that took its place; None where they cannot be compared.

    The primary's history says at which position of the common log it went its own way.
    """
    old, source = [await find_container(directory, engine, seen.service) for seen in (target, primary)]
    if target.facts or primary.facts is None or old is None or source is None:
        return None
    control = await in_thread(pg14.read_control_file, engine, old)
    if control is None or control.system_identifier != primary.facts.system_identifier:
        return None
    fork = await in_thread(pg14.read_fork, engine, source, primary.facts.timeline, control.timeline)
    if fork is None:
        return None
    tail = await in_thread(pg14.read_log_tail, engine, old, control.timeline, fork, fork)
    return remainder(control, fork, tail)


async def prove_at_rest(
    directory: Directory, engine: Engine, old: SeenServer, target: SeenServer, ask_target: AskTarget, *, within_s: float
) -> Proof:
    """The same, once the replica replays no more of its own log, as it does for a while after its start."""
    deadline = time.monotonic() + within_s
    proof, rested_since = await prove(directory, engine, old, target), time.monotonic()
    while proof.lossy and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
        now = await ask_target()
        if now.facts is None or target.facts is None or now.facts.lsn != target.facts.lsn:
            target, rested_since = now, time.monotonic()
        elif time.monotonic() > rested_since + _REST_S:
            return await prove(directory, engine, old, target)
    return proof


async def _was_synchronous(directory: Directory, engine: Engine, old: Container, witness: str) -> bool:
    """Whether the health check of a server, shortly before it ended, found that its commits wait for the standby."""
    container = await find_container(directory, engine, witness)
    if container is None or container.state != "running" or not old.finished_at:
        return False
    seen_at = await in_thread(pg14.last_seen_synchronous, engine, container, old.service or "")
    ended_at = datetime.fromisoformat(old.finished_at).timestamp()
    return seen_at is not None and seen_at > ended_at - _SEEN_SYNCHRONOUS_WITHIN_S


def notes(seen: SeenServer, old: SeenServer, proof: Proof) -> Iterator[str]:
    """Say what a person should know before ``seen`` takes the place of ``old``."""
    if seen.role is ServerRole.DOWN:
        yield f"{seen.service} is started first."
    if old.role is ServerRole.PRIMARY:
        yield f"{old.service} is stopped in good order, and what it has written reaches {seen.service} first."
    elif old.phase is Phase.LOST:
        yield f"{old.service} has no data any more: what it had committed and {seen.service} has not received is lost."
    elif old.phase not in HARMLESS and not proof.lossy and not proof.clean:
        yield _note_on_crash(seen, old, proof)
    yield f"{old.service} then stays out of service until citus-cluster pg14 rebuild-replica makes it a replica."


def _note_on_crash(seen: SeenServer, old: SeenServer, proof: Proof) -> str:
    ended = f"{old.service} was not shut down in good order"
    if proof.unconfirmed and proof.remainder:
        return f"{ended}. {_dropped(seen.service, proof.remainder)}."
    if proof.nothing_lost:
        return f"{ended}, but its log shows that {seen.service} has every transaction that it committed."
    if proof.remainder:
        return f"{ended}, and its log cannot be read: what it committed last may be missing on {seen.service}."
    if seen.facts is None or old.container_state in {"running", "restarting", "paused"}:
        return (
            f"{old.service} does not answer. Its log is compared with {seen.service} before anything changes for good: "
            f"where committed transactions are missing, the promotion is refused."
        )
    return (
        f"{old.service} does not answer, and its data cannot be read: what it committed last may be missing on "
        f"{seen.service}."
    )


def completeness(target: str, old: str, proof: Proof) -> str:
    """Say why nothing that ``old`` acknowledged is missing on ``target``, where :attr:`Proof.nothing_lost`."""
    if proof.remainder is None or proof.remainder.nothing:
        return f"{target} has everything that {old} has written"
    return f"{target} has everything that {old} has acknowledged. {_dropped(target, proof.remainder)}"


def _dropped(target: str, beyond: Remainder) -> str:
    one = beyond.transactions == 1
    return (
        f"The last {_count(beyond.transactions)} in its log did not reach {target} and {'is' if one else 'are'} "
        "dropped. Commits waited for the replica, by the server's settings and those of every role and database, so no "
        f"client was told that {'it was' if one else 'they were'} committed, except a session that had set "
        "synchronous_commit to local or off itself"
    )


def losses(found: PairStatus, seen: SeenServer, old: SeenServer, proof: Proof) -> Iterator[str]:
    """Say what ``seen`` would lack of what was committed, as far as that is known."""
    if seen.phase in UNDECIDED and old.role is ServerRole.REPLICA and found.chosen == old.service:
        yield (
            f"A promotion of {old.service} was interrupted, and {seen.service} may lack nothing; but it is fenced. "
            f"Complete that one: citus-cluster pg14 promote {old.service}."
        )
    elif seen.phase in UNDECIDED:
        yield f"{seen.service} has old data: it lacks all that {old.service} has written since it became the primary."
    elif old.role is ServerRole.PRIMARY and seen.role is ServerRole.PRIMARY:
        yield f"Both take writes now, so {seen.service} lacks what was written on {old.service} since they parted."
    elif old.role is ServerRole.PRIMARY and not found.streams and seen.role is not ServerRole.DOWN:
        size = f" ({found.lag.bytes:,} bytes)" if found.lag.bytes else ""
        yield f"{seen.service} does not follow {old.service}, and lacks what was written since{size}."
    elif proof.lossy:
        yield loss_by_proof(seen.service, old.service, proof)


def loss_by_proof(target: str, old: str, proof: Proof) -> str:
    """Say what a proof of a loss says."""
    found = proof.remainder
    assert found is not None  # noqa: S101 - a loss is proved by it
    if found.clean:
        return f"{old} was shut down in good order, and {target} lacks the last {found.bytes:,} bytes of its log."
    if not found.whole:
        known = f", with at least {_count(found.transactions)} that it had committed" if found.transactions else ""
        return f"{target} lacks at least the last {found.bytes:,} bytes of {old}'s log{known}."
    lacked = _count(found.transactions)
    return f"{target} lacks the last {lacked} that {old} had committed ({found.bytes:,} bytes of its log)."


def what_is_beyond(beyond: Remainder | None) -> str:
    """Name what the data of an old primary hold, in words that "the last copy of" begins."""
    if beyond is None or not beyond.something:
        return "whatever it committed"
    if beyond.transactions:
        return ("" if beyond.whole else "at least ") + _count(beyond.transactions, "1 transaction")
    return f"{beyond.bytes:,} bytes of its log"


def _count(transactions: int, one: str = "transaction") -> str:
    return one if transactions == 1 else count(transactions, "transaction")
