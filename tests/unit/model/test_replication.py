"""What is made of what the PostgreSQL 14 pair says: roles, lag, problems in words, and who may be promoted."""

from dataclasses import replace

import pytest

from citus_cluster.model.companion_status import Condition
from citus_cluster.model.plan.causes import probable_cause
from citus_cluster.model.replication import (
    Lag,
    PairStatus,
    Phase,
    SeenServer,
    ServerFacts,
    ServerRole,
    Slot,
    StandbyConnection,
    StartReport,
    default_target,
    judge,
    lag,
    parse_report,
    refusal_to_promote,
    slot_name,
)

PRIMARY, REPLICA = "pg14-primary", "pg14-replica"
STREAMING = StandbyConnection("streaming", "async", "0/3000000", None, 0.25)
SLOT = Slot("pg14_replica", True, "reserved", 0)
BASE = ServerFacts(
    in_recovery=False,
    timeline=1,
    system_identifier="7",
    lsn="0/3000000",
    received_lsn=None,
    since_replay_s=None,
    replay_paused=False,
    synchronous_standby_names="",
    waiting_sessions=0,
    longest_wait_s=None,
    standby_connection=STREAMING,
    slot=SLOT,
)

SYNC = replace(STREAMING, sync_state="sync")
CUT = {"synchronous_standby_names": "x", "standby_connection": replace(SYNC, reply_age_s=4.0)}


def primary(**values: object) -> SeenServer:
    return SeenServer(PRIMARY, replace(BASE, **values), container_state="running")  # type: ignore[arg-type]


def replica(**values: object) -> SeenServer:
    facts = replace(BASE, in_recovery=True, received_lsn="0/3000000", standby_connection=None, slot=None)
    return SeenServer(REPLICA, replace(facts, **values), container_state="running")  # type: ignore[arg-type]


def down(service: str, state: str | None = "exited", reason: str | None = None) -> SeenServer:
    return SeenServer(service, container_state=state, reason=reason)


def held(service: str, phase: Phase, sentence: str = "says why") -> SeenServer:
    return SeenServer(service, container_state="running", phase=phase, sentence=sentence)


def pair(*servers: SeenServer, synchronous: bool = False, chosen: str | None = PRIMARY) -> PairStatus:
    return judge(servers, synchronous=synchronous, chosen=chosen)


def told(found: PairStatus) -> str:
    return "\n".join(found.problems)


def test_a_pair_that_streams_is_well() -> None:
    found = pair(primary(), replica())
    assert found.ok
    assert found.condition is Condition.OK
    assert (found.primary, found.replica) == found.servers
    assert found.summary == "pg14-primary is the primary; pg14-replica streams (async), 0 bytes behind"
    assert found.companion_status().reason is None
    assert pair(primary(), replica(), chosen=None).ok, "without an engine nobody knows who was chosen"


@pytest.mark.parametrize(
    ("ahead", "behind", "expected"),
    [
        # Idle: nothing to replay, however long ago the last write was.
        (primary(), replica(since_replay_s=3600.0), Lag(0, 0.0)),
        (primary(), replica(lsn="0/3000100"), Lag(0, 0.0)),
        # The first write after a long rest is not an hour of lag; but what is not there yet is not 0 either.
        (primary(lsn="0/3000100"), replica(since_replay_s=3600.0), Lag(256, 0.25)),
        (primary(lsn="0/3000100", standby_connection=replace(STREAMING, replay_lag_s=0.5)), replica(), Lag(256, 0.5)),
        # The network is cut, and the primary has not noticed yet.
        (primary(lsn="0/3000100", standby_connection=replace(STREAMING, reply_age_s=40.0)), None, Lag(256, 40.0)),
        (
            primary(lsn="0/3000100", standby_connection=replace(STREAMING, replay_lag_s=0.0, reply_age_s=40.0)),
            None,
            Lag(256, 40.0),
        ),
        (primary(lsn="0/3000100", standby_connection=replace(STREAMING, reply_age_s=None)), None, Lag(256, None)),
        # Cut off: an upper bound.
        (primary(lsn="0/3000100", standby_connection=None), replica(since_replay_s=12.5), Lag(256, 12.5)),
        # The replica takes no questions: what the primary knows of it.
        (primary(lsn="0/3000100"), None, Lag(256, 0.25)),
        (None, replica(since_replay_s=12.5), Lag(None, 12.5)),
        (primary(standby_connection=None), None, Lag(None, None)),
        (None, None, Lag(None, None)),
    ],
)
def test_lag(ahead: SeenServer | None, behind: SeenServer | None, expected: Lag) -> None:
    assert lag(ahead, behind) == expected


def test_a_slot_is_named_as_postgresql_allows() -> None:
    assert slot_name(REPLICA) == "pg14_replica"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            pair(down(PRIMARY), replica()),
            ["container is exited", "no server takes writes", "citus-cluster pg14 promote"],
        ),
        (
            pair(primary(standby_connection=None), down(REPLICA, "missing")),
            ["pg14-replica does not answer: it has no container"],
        ),
        (pair(primary(standby_connection=None), down(REPLICA, "paused")), ["docker unpause"]),
        (
            pair(primary(standby_connection=None), down(REPLICA, None, "refused")),
            ["pg14-replica does not answer: refused"],
        ),
        (pair(primary(standby_connection=None), held(REPLICA, Phase.COPYING, "copies")), ["pg14-replica copies"]),
        (
            pair(primary(standby_connection=None), replica()),
            ["pg14-replica does not follow the primary", "docker logs"],
        ),
        (
            pair(primary(standby_connection=None, slot=None), replica()),
            ["pg_create_physical_replication_slot('pg14_replica')"],
        ),
        (pair(primary(standby_connection=None), replica(timeline=2)), ["have diverged", "rebuild-replica"]),
        (pair(primary(standby_connection=None, slot=replace(SLOT, wal_status="lost")), replica()), ["slot is lost"]),
        (pair(primary(slot=replace(SLOT, wal_status="unreserved")), replica()), ["max_slot_wal_keep_size"]),
        (pair(primary(), replica(replay_paused=True)), ["has paused its replay"]),
        (pair(primary(standby_connection=None), replica(system_identifier="8")), ["have unrelated databases"]),
        (pair(primary(), replica(), chosen=REPLICA), ["pg14-primary takes writes, but pg14-replica was chosen"]),
        (pair(down(PRIMARY), replica(), chosen=REPLICA), ["its promotion was interrupted", "promote pg14-replica"]),
        (
            pair(primary(), replica(), synchronous=True),
            ["replication is async, but sync is wanted", "citus-cluster up"],
        ),
        (pair(primary(synchronous_standby_names="x"), replica()), ["replication is sync, but async is wanted"]),
        (
            pair(
                primary(standby_connection=None, synchronous_standby_names="x", waiting_sessions=2),
                replica(),
                synchronous=True,
            ),
            ["commits wait for the replica", "2 sessions wait now"],
        ),
        # In the first minute of a cut network the primary still holds the replica for a synchronous standby.
        (
            pair(primary(**CUT, waiting_sessions=1, longest_wait_s=3.0), down(REPLICA), synchronous=True),
            ["commits wait for the replica", "1 session waits now", "has not answered the primary for 4 s"],
        ),
        (
            pair(primary(standby_connection=replace(STREAMING, reply_age_s=20.0)), replica()),
            ["has not answered the primary for 20 s"],
        ),
    ],
)
def test_problems_are_told_in_words(found: PairStatus, words: list[str]) -> None:
    assert not found.ok
    for word in words:
        assert word in told(found)


def test_sessions_that_wait_for_a_moment_are_no_problem() -> None:
    names = {"synchronous_standby_names": "x", "waiting_sessions": 3}
    assert pair(primary(**names, standby_connection=SYNC, longest_wait_s=5.0), replica(), synchronous=True).ok, (
        "it answers"
    )
    rested = replace(SYNC, reply_age_s=9.0)
    assert pair(primary(**names, standby_connection=rested, longest_wait_s=0.01), replica(), synchronous=True).ok, (
        "they just began"
    )


def test_two_primaries_are_told_also_without_an_engine() -> None:
    both = primary(), replace(primary(), service=REPLICA)
    assert "pg14-replica takes writes, but pg14-primary was chosen" in told(pair(*both))
    assert "both servers take writes" in told(pair(*both, chosen=None))


@pytest.mark.parametrize(
    ("server", "role"),
    [
        (primary(), ServerRole.PRIMARY),
        (replica(), ServerRole.REPLICA),
        (held(PRIMARY, Phase.FENCED), ServerRole.FENCED),
        (held(PRIMARY, Phase.LOST), ServerRole.FENCED),
        (held(PRIMARY, Phase.WAITING), ServerRole.STARTING),
        (down(PRIMARY), ServerRole.DOWN),
    ],
)
def test_roles(server: SeenServer, role: ServerRole) -> None:
    assert server.role is role
    assert server.as_dict()["role"] == role.value


@pytest.mark.parametrize(
    ("found", "condition"),
    [
        (pair(primary(), down(REPLICA)), Condition.DEGRADED),
        (pair(down(PRIMARY), replica()), Condition.DEGRADED),
        (pair(held(PRIMARY, Phase.INITIALISING), held(REPLICA, Phase.WAITING)), Condition.STARTING),
        (pair(down(PRIMARY), down(REPLICA)), Condition.DOWN),
        (pair(down(PRIMARY), held(REPLICA, Phase.FENCED)), Condition.DOWN),
    ],
)
def test_conditions(found: PairStatus, condition: Condition) -> None:
    assert found.companion_status().condition is condition


def test_who_is_promoted_when_nobody_is_named() -> None:
    assert default_target(pair(primary(), replica())) == REPLICA
    assert default_target(pair(down(PRIMARY), replica(), chosen=REPLICA)) == REPLICA
    assert default_target(pair(primary(), held(REPLICA, Phase.FENCED))) is None
    assert default_target(pair(held(PRIMARY, Phase.LOST), held(REPLICA, Phase.WAITING))) is None


@pytest.mark.parametrize("phase", [Phase.LOST, Phase.COPYING, Phase.RETRYING, Phase.WAITING])
def test_a_server_without_complete_data_is_not_promoted(phase: Phase) -> None:
    assert refusal_to_promote(held(REPLICA, phase, "has none")) == "it has none"


def test_a_server_with_data_may_be_promoted() -> None:
    assert refusal_to_promote(replica()) is None
    assert refusal_to_promote(held(PRIMARY, Phase.FENCED)) is None
    assert refusal_to_promote(down(PRIMARY, reason="no answer")) == "no answer"


@pytest.mark.parametrize(
    ("health", "hint"),
    [
        ("fenced: pg14-primary has the data of an old primary, and pg14-replica is …", "rebuild-replica"),
        ("fenced: pg14-primary was the primary and has no data now: it …", "citus-cluster pg14 promote"),
        ("pg14-replica copies the data of the primary pg14-primary (12 MB so far)", "--timeout"),
    ],
)
def test_why_the_start_of_one_ends_is_known(health: str, hint: str) -> None:
    cause = probable_cause(health)
    assert cause is not None
    assert hint in cause.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("primary: pg14-primary", StartReport("pg14-primary", None, None)),
        ("primary:", StartReport(None, None, None)),
        ("", StartReport(None, None, None)),
        ("primary: pg14-replica\nfenced\nhas old data", StartReport("pg14-replica", Phase.FENCED, "has old data")),
        ("primary: \nwaiting\nwaits", StartReport(None, Phase.WAITING, "waits")),
        ("primary: pg14-primary\nnonsense\nwhat", StartReport("pg14-primary", None, None)),
    ],
)
def test_reading_what_the_start_of_a_container_says(text: str, expected: StartReport) -> None:
    assert parse_report(text) == expected
