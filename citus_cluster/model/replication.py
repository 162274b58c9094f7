"""The state of the PostgreSQL 14 pair: the primary, the position of the replica, and the problems.

Pure: a function of the data that servers and containers returned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.documents import Documented
from citus_cluster.model.pg14_log import parse_lsn


class ServerRole(StrEnum):
    """The phase of a server. ``starting`` creates or copies data; ``fenced`` must not serve until a person decides."""

    PRIMARY = "primary"
    REPLICA = "replica"
    FENCED = "fenced"
    STARTING = "starting"
    DOWN = "down"


class Phase(StrEnum):
    """The word that a container's start script writes while no server runs in it."""

    STARTING = "starting"
    LOCKED = "locked"
    INITIALISING = "initialising"
    WAITING = "waiting"
    COPYING = "copying"
    RETRYING = "retrying"
    FENCED = "fenced"
    LOST = "lost"
    CONFUSED = "confused"


UNDECIDED = frozenset({Phase.FENCED, Phase.LOST, Phase.CONFUSED})
"""Phases that end only by a decision."""
# While there is something to confirm, a standby answers within milliseconds.
_LATE_S, _WAITING_S = 2.0, 1.0
# It answers every 10 s in any case (wal_receiver_status_interval).
_SILENT_S = 15.0
_AWAY = frozenset({ServerRole.FENCED, ServerRole.STARTING, ServerRole.DOWN})


@dataclass(frozen=True)
class StartReport:
    """The report of a container's start script: the chosen primary and, while no server runs, its phase and why."""

    chosen: str | None
    phase: Phase | None
    sentence: str | None


@dataclass(frozen=True)
class StandbyConnection:
    """What the primary knows about its standby; ``replay_lag_s`` is None if there is nothing to replay.

    ``reply_age_s`` is the age of its last answer. The primary notices a cut network by it, but only after a minute
    (wal_sender_timeout).
    """

    state: str
    sync_state: str
    replay_lsn: str | None
    replay_lag_s: float | None
    reply_age_s: float | None = None

    @property
    def late(self) -> bool:
        """Whether its answer is overdue, if the primary expects one."""
        return self.reply_age_s is not None and self.reply_age_s > _LATE_S


@dataclass(frozen=True)
class Slot(Documented):
    """The standby's slot on the primary. ``kept_bytes``: the WAL that is kept for it, None if it was never used.

    ``wal_status`` is PostgreSQL's word: reserved, extended, unreserved (about to be lost), lost.
    """

    name: str
    active: bool
    wal_status: str | None
    kept_bytes: int | None


@dataclass(frozen=True)
class ServerFacts:
    """What a server reports about itself, and a primary about its standby.

    ``lsn`` is what a primary has written, or a standby replayed; ``received_lsn`` what a standby has on its disk.
    ``since_replay_s`` is the age of the last transaction that a standby replayed. ``waiting_sessions``: the number of
    sessions that wait for a synchronous standby, the longest for ``longest_wait_s``.
    """

    in_recovery: bool
    timeline: int
    system_identifier: str
    lsn: str
    received_lsn: str | None
    since_replay_s: float | None
    replay_paused: bool
    synchronous_standby_names: str
    waiting_sessions: int
    longest_wait_s: float | None
    standby_connection: StandbyConnection | None
    slot: Slot | None


@dataclass(frozen=True)
class ServerDocument:
    """One server of the pair; ``reason`` says why it cannot be asked."""

    service: str
    role: ServerRole
    container: str | None
    timeline: int | None
    lsn: str | None
    received_lsn: str | None
    reason: str | None


@dataclass(frozen=True)
class SeenServer(Documented):
    """One server as it was found.

    ``container_state`` is Docker's word, ``missing``, or None if no engine was asked. ``phase`` and ``sentence`` come
    from the container's start script while no server runs, ``facts`` from the server; ``reason`` says why it does not
    answer.
    """

    service: str
    facts: ServerFacts | None = None
    reason: str | None = None
    container_state: str | None = None
    phase: Phase | None = None
    sentence: str | None = None

    @property
    def role(self) -> ServerRole:
        if self.facts:
            return ServerRole.REPLICA if self.facts.in_recovery else ServerRole.PRIMARY
        if self.phase in UNDECIDED:
            return ServerRole.FENCED
        return ServerRole.STARTING if self.phase else ServerRole.DOWN

    def document(self) -> ServerDocument:
        facts = self.facts
        return ServerDocument(
            service=self.service,
            role=self.role,
            container=self.container_state,
            timeline=facts.timeline if facts else None,
            lsn=facts.lsn if facts else None,
            received_lsn=facts.received_lsn if facts else None,
            reason=None if facts else self.sentence or self.reason,
        )


@dataclass(frozen=True)
class Room:
    """The free space of a server's volume, and the size of the server's own data, in bytes."""

    free_bytes: int
    own_bytes: int


@dataclass(frozen=True)
class Lag(Documented):
    """How far the replica is behind; None if unknown.

    ``seconds`` is 0 only if there is nothing to replay, however long ago the last write was. While the replica does
    not answer the primary, it is the age of its last answer or, once the primary has closed the connection, of the last
    transaction that it replayed: an upper bound.
    """

    bytes: int | None
    seconds: float | None


@dataclass(frozen=True)
class PairDocument:
    """The pair: its servers, and how one follows the other."""

    ok: bool
    wanted: str
    chosen_primary: str | None
    servers: tuple[SeenServer, ...]
    state: str | None
    sync_state: str | None
    lag: Lag
    slot: Slot | None
    last_answer_s: float | None
    waiting_sessions: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class PairStatus(Documented):
    """The pair. ``chosen`` is the service that may take writes, None if that could not be read."""

    synchronous: bool
    chosen: str | None
    servers: tuple[SeenServer, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def primary(self) -> SeenServer | None:
        """The chosen server, if it accepts writes."""
        return next(
            (s for s in self.servers if s.role is ServerRole.PRIMARY and self.chosen in {s.service, None}), None
        )

    @property
    def replica(self) -> SeenServer | None:
        return next((server for server in self.servers if server.role is ServerRole.REPLICA), None)

    @property
    def standby_connection(self) -> StandbyConnection | None:
        return self.primary.facts.standby_connection if self.primary and self.primary.facts else None

    @property
    def slot(self) -> Slot | None:
        return self.primary.facts.slot if self.primary and self.primary.facts else None

    @property
    def streams(self) -> bool:
        return self.standby_connection is not None and self.standby_connection.state == "streaming"

    @property
    def waiting_sessions(self) -> int:
        return self.primary.facts.waiting_sessions if self.primary and self.primary.facts else 0

    @property
    def lag(self) -> Lag:
        return lag(self.primary, self.replica)

    @property
    def condition(self) -> Condition:
        if self.ok:
            return Condition.OK
        roles = {server.role for server in self.servers}
        if roles & {ServerRole.PRIMARY, ServerRole.REPLICA}:
            return Condition.DEGRADED
        return Condition.STARTING if ServerRole.STARTING in roles else Condition.DOWN

    @property
    def summary(self) -> str:
        """Return one line for people."""
        words = [f"{self.primary.service} is the primary" if self.primary else "no primary is available"]
        if self.replica:
            follows = (
                f"streams ({self.standby_connection.sync_state})"
                if self.streams and self.standby_connection
                else "does not follow the primary"
            )
            behind = "" if self.lag.bytes is None else f", {self.lag.bytes:,} bytes behind"
            words.append(f"{self.replica.service} {follows}{behind}")
        words += [f"{server.service} is {server.role}" for server in self.servers if server.role in _AWAY]
        return "; ".join(words)

    def companion_status(self) -> CompanionStatus:
        """Return the form that every companion has."""
        reason = "; ".join(self.problems) or None
        return CompanionStatus(ComponentName.PG14, self.condition, reason, self.as_dict(), self.summary)

    def server(self, service: str) -> SeenServer:
        return next(server for server in self.servers if server.service == service)

    def document(self) -> PairDocument:
        return PairDocument(
            ok=self.ok,
            wanted="sync" if self.synchronous else "async",
            chosen_primary=self.chosen,
            servers=self.servers,
            state=self.standby_connection.state if self.standby_connection else None,
            sync_state=self.standby_connection.sync_state if self.standby_connection else None,
            lag=self.lag,
            slot=self.slot,
            last_answer_s=self.standby_connection.reply_age_s if self.standby_connection else None,
            waiting_sessions=self.waiting_sessions,
            problems=self.problems,
        )


def parse_report(text: str) -> StartReport:
    """Read ``primary: pg14-primary`` and, while no server runs, a word and a sentence below it."""
    chosen, word, sentence = (*(line.strip() for line in text.splitlines()), "", "", "")[:3]
    known = word in set(Phase)
    return StartReport(
        chosen.removeprefix("primary:").strip() or None,
        Phase(word) if known else None,
        sentence if known and sentence else None,
    )


def lag(primary: SeenServer | None, replica: SeenServer | None) -> Lag:
    """Compare the two servers. The primary must be queried first; otherwise a busy replica seems to be ahead of it."""
    ahead, behind = (seen.facts if seen else None for seen in (primary, replica))
    standby_connection = ahead.standby_connection if ahead else None
    replayed = behind.lsn if behind else standby_connection.replay_lsn if standby_connection else None
    if ahead is None or replayed is None:
        return Lag(None, behind.since_replay_s if behind else None)
    missing = max(0, parse_lsn(ahead.lsn) - parse_lsn(replayed))
    if missing == 0:
        return Lag(0, 0.0)
    if standby_connection is None or standby_connection.reply_age_s is None:
        return Lag(missing, behind.since_replay_s if behind else None)
    if standby_connection.late:
        return Lag(missing, max(standby_connection.reply_age_s, standby_connection.replay_lag_s or 0.0))
    # Writes since the last answer have no time yet.
    return Lag(missing, standby_connection.replay_lag_s or standby_connection.reply_age_s)


def slot_name(service: str) -> str:
    """Return the name of a standby's slot on its primary; slot names have no hyphens."""
    return service.replace("-", "_")


def judge(seen: Sequence[SeenServer], *, synchronous: bool, chosen: str | None) -> PairStatus:
    """Combine the findings, and describe every problem."""
    found = PairStatus(synchronous, chosen, tuple(seen), ())
    return PairStatus(synchronous, chosen, tuple(seen), tuple(_problems(found)))


def _problems(found: PairStatus) -> Iterator[str]:
    for server in found.servers:
        if server.role in {ServerRole.FENCED, ServerRole.STARTING}:
            yield f"{server.service} {server.sentence}"
        elif server.role is ServerRole.DOWN:
            yield f"{server.service} does not answer: {_why_down(server, found.chosen)}"
    yield from _problems_of_roles(found)
    if found.primary and found.primary.facts:
        yield from _problems_of_replication(found, found.primary.facts)


def _why_down(server: SeenServer, chosen: str | None) -> str:
    rejected = chosen not in {server.service, None} and server.container_state in {"exited", "created"}
    if rejected and server.facts is None:
        return (
            f"its container is {server.container_state}. If it is an old primary: citus-cluster pg14 rebuild-replica "
            f"{server.service}; if it is a replica, citus-cluster up starts it"
        )
    match server.container_state:
        case "missing":
            return "it has no container (citus-cluster up creates it)"
        case "paused":
            return "its container is paused (docker unpause)"
        case None | "running":
            return server.reason or "no reason given"
        case state:
            return f"its container is {state} (citus-cluster up starts it)"


def _problems_of_roles(found: PairStatus) -> Iterator[str]:
    if found.chosen is None and all(server.role is ServerRole.PRIMARY for server in found.servers):
        yield "both servers take writes. To see which one was chosen: citus-cluster pg14 status"
    for server in found.servers:
        if server.role is ServerRole.PRIMARY and found.chosen not in {server.service, None}:
            yield (
                f"{server.service} takes writes, but {found.chosen} was chosen as the primary. To choose again: "
                f"citus-cluster pg14 promote {server.service}, or citus-cluster pg14 promote {found.chosen}"
            )
        if server.role is ServerRole.REPLICA and found.primary is None and found.chosen == server.service:
            yield (
                f"no server takes writes: a promotion of {server.service} was interrupted. To complete it: "
                f"citus-cluster pg14 promote {server.service}"
            )
        elif server.role is ServerRole.REPLICA and found.primary is None:
            yield (
                "no server takes writes: start the primary (citus-cluster up), or, if it is lost, make "
                f"{server.service} "
                f"the primary: citus-cluster pg14 promote"
            )
        if server.role is ServerRole.REPLICA and found.chosen == server.service:
            yield (
                f"{server.service} was chosen as the primary, but is still a replica: its promotion was interrupted. "
                f"To complete it: citus-cluster pg14 promote {server.service}"
            )
    identifiers = {server.facts.system_identifier for server in found.servers if server.facts}
    if len(identifiers) > 1:
        yield (
            "the two servers have unrelated databases: a volume was removed or replaced. To copy the primary's data to "
            "the other: citus-cluster pg14 rebuild-replica"
        )


def _problems_of_replication(found: PairStatus, primary: ServerFacts) -> Iterator[str]:
    standby_connection, slot, replica = found.standby_connection, found.slot, found.replica
    lost = slot is not None and slot.wal_status == "lost"
    if lost:
        yield (
            "the primary no longer has the WAL that the replica needs (its slot is lost). To copy the data again: "
            "citus-cluster pg14 rebuild-replica"
        )
    elif slot is not None and slot.wal_status == "unreserved":
        yield "the WAL that the replica needs will soon be removed (max_slot_wal_keep_size): start the replica now"
    if replica and not lost and not found.streams:
        yield _why_not_streaming(found, primary, slot)
    if replica and replica.facts and replica.facts.replay_paused:
        yield (
            f"{replica.service} has paused its replay, because its limits (max_connections …) are lower than "
            f"the primary's, or because you paused it: restart its container, or run SELECT pg_wal_replay_resume()"
        )
    if found.synchronous != bool(primary.synchronous_standby_names):
        wanted, has = ("sync", "async") if found.synchronous else ("async", "sync")
        yield f"replication is {has}, but {wanted} is wanted. To reload the settings: citus-cluster up"
    stuck = bool(standby_connection and standby_connection.late and (primary.longest_wait_s or 0.0) > _WAITING_S)
    if primary.synchronous_standby_names and (
        stuck or not (found.streams and standby_connection and standby_connection.sync_state == "sync")
    ):
        count = found.waiting_sessions
        sessions = f"{count} session{'' if count == 1 else 's'} wait{'s' if count == 1 else ''} now"
        yield f"commits wait for the replica, because replication is sync: {sessions}"
    if found.streams and standby_connection and (stuck or (standby_connection.reply_age_s or 0.0) > _SILENT_S):
        yield (
            f"the replica has not answered the primary for {standby_connection.reply_age_s:.0f} s: check the network "
            "between them, and whether its container is paused"
        )


def _why_not_streaming(found: PairStatus, primary: ServerFacts, slot: Slot | None) -> str:
    replica = found.replica
    assert replica is not None and replica.facts is not None  # noqa: S101 - the caller has looked
    doing = f"{replica.service} does not follow the primary"
    if slot is None:
        return f"{doing}: it has no slot there. Run on the primary: {_make_slot(replica.service)}"
    if replica.facts.timeline > primary.timeline:
        return f"{doing}: its data have diverged. To copy the primary's data: citus-cluster pg14 rebuild-replica"
    state = f" ({found.standby_connection.state})" if found.standby_connection else ""
    return f"{doing}{state}. See its log: docker logs"


def _make_slot(service: str) -> str:
    return f"SELECT pg_create_physical_replication_slot('{slot_name(service)}')"


def default_target(found: PairStatus) -> str | None:
    """Return the default server of ``promote``: the replica, or the chosen server whose promotion was interrupted."""
    if found.replica:
        return found.replica.service
    away = [server for server in found.servers if server.role is not ServerRole.PRIMARY]
    chosen = [server.service for server in away if server.service == found.chosen and server.phase is not Phase.LOST]
    return chosen[0] if chosen else None


def refusal_to_promote(target: SeenServer) -> str | None:
    """Return why a server that was started cannot become the primary; None if it can."""
    if target.role in {ServerRole.PRIMARY, ServerRole.REPLICA} or target.phase in {Phase.FENCED, Phase.CONFUSED}:
        return None
    return f"it {target.sentence}" if target.sentence else target.reason or "it does not answer"
