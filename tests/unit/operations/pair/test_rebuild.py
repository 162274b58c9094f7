"""Rebuilds of a pair in memory: the last copy of a row is kept, and the copy needs room."""

import re
from pathlib import Path
from typing import Any

import fake_engine
import fake_pair
import pytest
import virtual_time
from fake_pair import PRIMARY, REPLICA, Data, FakePair
from setup_support import set_up

from citus_cluster.errors import CitusClusterError, ReplicationError, ServiceFailedError, UsageError
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.replication import PairStatus, Phase, Room
from citus_cluster.operations.pair import rebuild, status
from citus_cluster.operations.pair.rebuild import Rebuild
from citus_cluster.runtime.docker.engine import HealthProbe


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    set_up(root, {"services": ["pg14"]})
    return root


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, shared: Path) -> FakePair:
    """The replica was promoted; the old primary is fenced, with its data."""
    found = fake_pair.in_place(monkeypatch, shared)
    found.chosen = REPLICA
    found.data = {PRIMARY: Data(False, 10, phase=Phase.FENCED), REPLICA: Data(False, 12, timeline=2)}
    found.fork = found.data[PRIMARY].lsn
    return found


def plan(pair: FakePair, service: str | None = None, *, discard: bool = False) -> Rebuild:
    host: Any = pair.host
    return virtual_time.run(rebuild.plan_rebuild(host.directory, service, host.engine, discard=discard))


def carry_out(pair: FakePair, planned: Rebuild, timeout_s: float = 30) -> tuple[PairStatus, list[Event]]:
    events: list[Event] = []
    host: Any = pair.host
    work = rebuild.rebuild(host.directory, planned, host.engine, events.append, timeout_s=timeout_s)
    return virtual_time.run(work), events


def test_an_old_primary_whose_rows_are_all_on_the_new_one_becomes_its_replica(pair: FakePair) -> None:
    planned = plan(pair)
    assert (planned.target, planned.primary, planned.keep_as) == (PRIMARY, REPLICA, None)
    assert planned.losses == (
        "The data of pg14-primary are removed; pg14-replica has everything that pg14-primary had committed.",
    )
    found, events = carry_out(pair, planned)
    assert found.streams
    assert pair.done == ["rebuild pg14-primary"]
    assert pair.host.engine.done == ["restart pg14-primary"]
    assert (events[-1].kind, events[-1].message) == (EventKind.DONE, "pg14-primary follows pg14-replica")


def test_the_last_copy_of_rows_is_kept_unless_somebody_discards_it(pair: FakePair) -> None:
    pair.data[PRIMARY].is_clean = False
    pair.data[PRIMARY].transactions += 2
    planned = plan(pair)
    assert planned.losses[0] == ("pg14-primary has the last copy of 2 transactions missing on pg14-replica.")
    assert planned.keep_as and re.fullmatch(r"pgdata\.kept-\d{8}T\d{6}Z", planned.keep_as)
    assert planned.keep_as in planned.losses[1]
    discarded = plan(pair, discard=True)
    assert discarded.keep_as is None
    assert discarded.losses[1] == "The data of pg14-primary are removed, including that copy."


@pytest.mark.parametrize("values", [{"identifier": "another"}, {"is_readable": False}])
def test_data_that_cannot_be_compared_are_kept(pair: FakePair, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(pair.data[PRIMARY], name, value)
    planned = plan(pair)
    assert planned.losses[0].startswith("pg14-primary has the last copy of any transactions")
    assert planned.keep_as


def test_data_of_a_timeline_that_the_primary_does_not_know_are_kept(pair: FakePair) -> None:
    pair.fork = None
    assert plan(pair).keep_as


def test_a_stopped_replica_has_nothing_of_its_own(pair: FakePair) -> None:
    pair.data = {PRIMARY: Data(False), REPLICA: Data(True)}
    pair.chosen = PRIMARY
    pair.stop(REPLICA)
    planned = plan(pair)
    assert (planned.target, planned.losses) == (REPLICA, ("The data of pg14-replica, a stopped replica, are removed.",))


def test_the_primary_itself_is_not_rebuilt(pair: FakePair) -> None:
    with pytest.raises(UsageError, match="pg14-replica is the primary") as caught:
        plan(pair, REPLICA)
    assert "rebuild-replica pg14-primary" in (caught.value.hint or "")


def test_without_a_primary_there_is_nothing_to_copy(pair: FakePair) -> None:
    pair.stop(REPLICA)
    with pytest.raises(ReplicationError, match="No primary answers") as caught:
        plan(pair)
    assert (caught.value.hint or "").endswith("pg14 promote pg14-replica")


@pytest.mark.parametrize("service", [PRIMARY, REPLICA])
def test_both_containers_must_be_there_and_none_paused(pair: FakePair, service: str) -> None:
    planned = plan(pair)
    pair.host.engine.change(service, state="paused")
    with pytest.raises(ReplicationError, match=f"{service} is paused"):
        carry_out(pair, planned)
    pair.host.engine.containers = [one for one in pair.host.engine.containers if one.service != service]
    with pytest.raises(ReplicationError, match=f"{service} has no container"):
        carry_out(pair, planned)
    assert pair.done == []


MARGIN = 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("free_bytes", "keep_as", "fits"),
    [
        (MARGIN, None, True),
        (MARGIN - 1, None, False),
        (MARGIN + 500, "kept", False),
        (MARGIN + 1000, "kept", True),
    ],
)
def test_nothing_is_removed_unless_the_copy_has_room(
    pair: FakePair, free_bytes: int, keep_as: str | None, fits: bool
) -> None:
    """What is removed makes room; what is kept does not."""
    pair.size_bytes, pair.room = 1000, Room(free_bytes, 1000)
    planned = Rebuild(PRIMARY, REPLICA, (), keep_as)
    if fits:
        carry_out(pair, planned)
        return
    with pytest.raises(ReplicationError, match="has too little space for a copy of pg14-replica") as caught:
        carry_out(pair, planned)
    assert ("--discard also frees" in (caught.value.hint or "")) is bool(keep_as)
    assert pair.done == []


def test_room_that_cannot_be_measured_prevents_nothing(pair: FakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Room:
        raise CitusClusterError("It hangs.")

    monkeypatch.setattr("citus_cluster.runtime.pg14.read_room", fail)
    _, events = carry_out(pair, plan(pair))
    (warning,) = [event for event in events if event.kind is EventKind.WARNING]
    assert warning.message == "the space for the copy could not be checked: It hangs."


def test_a_copy_that_is_under_way_is_followed_and_not_begun_again(pair: FakePair) -> None:
    planned = plan(pair)
    pair.data[PRIMARY].phase = Phase.COPYING
    whole = pair.host.engine.health
    asked = 0

    def check() -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            pair.data[PRIMARY] = Data(True, 12, timeline=2)
        return HealthProbe(False, f"copied {asked} MB")

    whole[PRIMARY] = check
    _, events = carry_out(pair, planned)
    assert pair.done == []
    assert events[0].message == "pg14-primary is already copying"
    assert [event.message for event in events if event.kind is EventKind.PROGRESS] == [
        "copied 1 MB",
        "copied 2 MB",
        "copied 3 MB",
    ]


def test_a_copy_that_fails_is_told_at_once_and_a_slow_one_in_time(
    pair: FakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(pair)
    pair.data[PRIMARY].phase = Phase.RETRYING
    with pytest.raises(ServiceFailedError, match="pg14-primary waits for a decision"):
        carry_out(pair, planned)
    pair.data[PRIMARY].phase = Phase.WAITING
    with pytest.raises(ServiceFailedError, match="does not follow pg14-replica after 30 s; it continues"):
        carry_out(pair, planned)


# The status of the pair


def test_a_directory_without_the_pair_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, {"services": ["redis"]})
    host: Any = fake_engine.in_place(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match="has no PostgreSQL 14 pair"):
        virtual_time.run(status.status(host.directory))


def test_a_replica_that_has_just_started_has_time_to_connect(pair: FakePair) -> None:
    host: Any = pair.host
    pair.chosen = PRIMARY
    pair.data = {PRIMARY: Data(False), REPLICA: Data(True)}
    assert virtual_time.run(status.problems_at_rest(host.directory, host.engine)) == ()
    pair.streams = False
    assert virtual_time.run(status.problems_at_rest(host.directory, host.engine)) != ()


def test_a_container_that_has_just_ended_tells_nothing_but_the_rest_is_told(
    pair: FakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CitusClusterError("It has ended.")

    monkeypatch.setattr("citus_cluster.runtime.pg14.read_report", fail)
    host: Any = pair.host
    found = virtual_time.run(status.status(host.directory))
    assert found.chosen is None
    assert [server.container_state for server in found.servers] == ["running", "running"]
