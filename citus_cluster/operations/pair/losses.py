"""The transactions that a promotion of the PostgreSQL 14 pair would lose, as the files of the other server prove.

A server that was killed cannot be asked, but its volume can be read: its control file has the position of its last
checkpoint, and its WAL has the transactions that it committed after the position of the other server.
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
"""No server runs in these phases, and none starts while the choice does not change."""
_REST_S = 1.5
_POLL_S = 0.3
# The health check runs every 5 s, and less often on a busy machine.
_SEEN_SYNCHRONOUS_WITHIN_S = 60.0

AskTarget = Callable[[], Awaitable[SeenServer]]


@dataclass(frozen=True)
class Proof:
    """The transactions that are missing on the other server, according to the files of a stopped server.

    ``remainder`` is None if the files cannot be read or compared. ``unconfirmed`` says that the transactions waited for
    the synchronous standby, so that no client received a confirmation.
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
    """Compare the files of ``old`` with ``target``, a running replica. There is no proof if ``old`` may run."""
    facts = target.facts
    runs = old.facts or (old.container_state in {"running", "restarting", "paused"} and old.phase not in UNDECIDED)
    container = None if runs else await find_container(directory, engine, old.service)
    if facts is None or not facts.in_recovery or container is None:
        return Proof()
    control = await in_thread(pg14.read_control_file, engine, container)
    if control is None or control.system_identifier != facts.system_identifier:
        return Proof()
    replayed = parse_lsn(facts.lsn)
    # It replays everything that it has received before it becomes the primary.
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
    """Compare the data of an old primary with the current primary. Returns None if they cannot be compared.

    The primary's timeline history has the position at which the timelines diverged.
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
    """The same as :func:`prove`, after the replica has replayed its own WAL, which takes a while after its start."""
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
    """Return whether the last health check of a server found that its commits wait for the standby."""
    container = await find_container(directory, engine, witness)
    if container is None or container.state != "running" or not old.finished_at:
        return False
    seen_at = await in_thread(pg14.last_seen_synchronous, engine, container, old.service or "")
    ended_at = datetime.fromisoformat(old.finished_at).timestamp()
    return seen_at is not None and seen_at > ended_at - _SEEN_SYNCHRONOUS_WITHIN_S


def notes(seen: SeenServer, old: SeenServer, proof: Proof) -> Iterator[str]:
    """Yield what a person should know before ``seen`` replaces ``old`` as the primary."""
    if seen.role is ServerRole.DOWN:
        yield f"{seen.service} is started first."
    if old.role is ServerRole.PRIMARY:
        yield f"{old.service} is shut down cleanly, after {seen.service} has received all of its writes."
    elif old.phase is Phase.LOST:
        yield f"{old.service} has no data: transactions that {seen.service} has not received are lost."
    elif old.phase not in HARMLESS and not proof.lossy and not proof.clean:
        yield _note_on_crash(seen, old, proof)
    yield f"Afterwards, {old.service} stays out of service until citus-cluster pg14 rebuild-replica makes it a replica."


def _note_on_crash(seen: SeenServer, old: SeenServer, proof: Proof) -> str:
    ended = f"{old.service} was not shut down cleanly"
    if proof.unconfirmed and proof.remainder:
        return f"{ended}. {_dropped(seen.service, proof.remainder)}."
    if proof.nothing_lost:
        return f"{ended}, but its WAL shows that {seen.service} has every transaction that it committed."
    if proof.remainder:
        return f"{ended}, and its WAL cannot be read: its last transactions may be missing on {seen.service}."
    if seen.facts is None or old.container_state in {"running", "restarting", "paused"}:
        return (
            f"{old.service} does not answer. Its WAL is compared with {seen.service} before any permanent change: "
            f"if committed transactions are missing, the promotion is refused."
        )
    return (
        f"{old.service} does not answer, and its data cannot be read: its last transactions may be missing on "
        f"{seen.service}."
    )


def completeness(target: str, old: str, proof: Proof) -> str:
    """Explain why no transaction that ``old`` confirmed is missing on ``target``, given :attr:`Proof.nothing_lost`."""
    if proof.remainder is None or proof.remainder.nothing:
        return f"{target} has everything that {old} has written"
    return f"{target} has every transaction that {old} has confirmed. {_dropped(target, proof.remainder)}"


def _dropped(target: str, beyond: Remainder) -> str:
    one = beyond.transactions == 1
    return (
        f"The last {_count(beyond.transactions)} in its WAL did not reach {target} and {'is' if one else 'are'} "
        "dropped. According to the settings of the server and of every role and database, commits waited for "
        "the replica, so "
        f"no client received a confirmation for {'it' if one else 'them'}, except a session that set "
        "synchronous_commit to local or off itself"
    )


def losses(found: PairStatus, seen: SeenServer, old: SeenServer, proof: Proof) -> Iterator[str]:
    """Yield the committed transactions that would be missing on ``seen``, as far as they are known."""
    if seen.phase in UNDECIDED and old.role is ServerRole.REPLICA and found.chosen == old.service:
        yield (
            f"A promotion of {old.service} was interrupted, so {seen.service} is fenced, although its data may "
            "be complete. "
            f"Complete that promotion: citus-cluster pg14 promote {old.service}."
        )
    elif seen.phase in UNDECIDED:
        yield (
            f"{seen.service} has old data, without anything that {old.service} has written since it became the primary."
        )
    elif old.role is ServerRole.PRIMARY and seen.role is ServerRole.PRIMARY:
        yield (
            f"Both servers accept writes now, so rows written on {old.service} since they diverged are missing on "
            f"{seen.service}."
        )
    elif old.role is ServerRole.PRIMARY and not found.streams and seen.role is not ServerRole.DOWN:
        size = f" ({found.lag.bytes:,} bytes)" if found.lag.bytes else ""
        yield f"{seen.service} does not follow {old.service}, and later writes are missing on it{size}."
    elif proof.lossy:
        yield loss_by_proof(seen.service, old.service, proof)


def loss_by_proof(target: str, old: str, proof: Proof) -> str:
    """Describe a proven loss."""
    found = proof.remainder
    assert found is not None  # noqa: S101 - a loss is proved by it
    if found.clean:
        return f"{old} was shut down cleanly, but the last {found.bytes:,} bytes of its WAL are missing on {target}."
    if not found.whole:
        known = (
            f" (at least {_count(found.transactions, '1 transaction')} that it committed)" if found.transactions else ""
        )
        return f"At least the last {found.bytes:,} bytes of {old}'s WAL{known} are missing on {target}."
    lacked = _count(found.transactions)
    return (
        f"The last {lacked} that {old} committed {'is' if found.transactions == 1 else 'are'} missing on {target} "
        f"({found.bytes:,} bytes of WAL)."
    )


def what_is_beyond(beyond: Remainder | None) -> str:
    """Name the unique data of an old primary, as the end of "the last copy of …"."""
    if beyond is None or not beyond.something:
        return "any transactions"
    if beyond.transactions:
        return ("" if beyond.whole else "at least ") + _count(beyond.transactions, "1 transaction")
    return f"{beyond.bytes:,} bytes of WAL"


def _count(transactions: int, one: str = "transaction") -> str:
    return one if transactions == 1 else count(transactions, "transaction")
