"""Promotions of a pair in memory: never two primaries, no lost row that nobody accepted, and each step resumable."""

from pathlib import Path
from typing import Any

import fake_pair
import pytest
import virtual_time
from fake_pair import PRIMARY, REPLICA, Data, FakePair
from setup_support import set_up

from citus_cluster.errors import CitusClusterError, ReplicationError, UsageError
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.replication import Phase
from citus_cluster.operations.pair import promotion
from citus_cluster.operations.pair.promotion import Promotion


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    set_up(root, {"services": ["pg14"]})
    return root


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, shared: Path) -> FakePair:
    return fake_pair.in_place(monkeypatch, shared)


class Run:
    def __init__(self, pair: FakePair) -> None:
        self.pair = pair
        self.events: list[Event] = []

    def plan(self, service: str | None = None) -> Promotion:
        host: Any = self.pair.host
        return virtual_time.run(promotion.plan_promotion(host.directory, service, host.engine))

    def promote(self, service: str | None = None, *, accept_loss: bool = False, timeout_s: float = 30) -> Promotion:
        host: Any = self.pair.host

        async def work() -> Promotion:
            plan = await promotion.plan_promotion(host.directory, service, host.engine)
            return await promotion.promote(
                host.directory, plan, host.engine, self.events.append, accept_loss=accept_loss, timeout_s=timeout_s
            )

        return virtual_time.run(work())

    @property
    def told(self) -> list[tuple[str, EventKind]]:
        return [(event.step, event.kind) for event in self.events]

    def changes(self) -> list[str]:
        return [*self.pair.host.engine.done, *self.pair.done]


@pytest.fixture
def run(pair: FakePair) -> Run:
    return Run(pair)


def test_a_replica_that_follows_takes_over_after_the_primary_was_stopped(run: Run) -> None:
    plan = run.plan()
    assert (plan.target, plan.old, plan.already, plan.losses) == (REPLICA, PRIMARY, False, ())
    assert plan.notes[0] == "pg14-primary is shut down cleanly, after pg14-replica has received all of its writes."
    assert "rebuild-replica makes it a replica" in plan.notes[-1]
    assert (plan.port, plan.connection.port) == (5433, 5433)
    done = run.promote()
    assert done.losses == ()
    assert run.pair.host.engine.done == ["stop pg14-primary"]
    assert run.pair.done == ["choose pg14-replica", "promote pg14-replica"]
    assert run.told == [
        ("promote:stop", EventKind.STARTED),
        ("promote:stop", EventKind.DONE),
        ("promote:complete", EventKind.DONE),
        ("promote:fence", EventKind.DONE),
        ("promote", EventKind.STARTED),
        ("promote", EventKind.DONE),
    ]


def test_promoting_again_changes_nothing(run: Run) -> None:
    run.promote()
    before = run.changes()
    assert run.plan(REPLICA).already
    run.promote(REPLICA)
    assert run.changes() == before
    assert run.told[-1] == ("promote", EventKind.SKIPPED)


@pytest.mark.parametrize("wanted", ["pg14-third", "citus-worker1"])
def test_a_server_that_is_not_of_the_pair_is_refused(run: Run, wanted: str) -> None:
    with pytest.raises(UsageError, match="The pair has no server"):
        run.plan(wanted)


def test_the_only_server_that_is_left_is_the_one_that_is_meant(run: Run) -> None:
    run.pair.stop(REPLICA)
    assert run.plan().target == REPLICA, "its data are a standby's"
    run.pair.data[REPLICA].is_standby = False
    plan = run.plan()
    assert (plan.target, plan.already) == (PRIMARY, True)
    run.pair.stop(PRIMARY)
    with pytest.raises(ReplicationError, match="No replica can be promoted") as caught:
        run.plan()
    assert "pg14 promote pg14-replica" in (caught.value.hint or "")


def test_a_stopped_replica_is_started_first(run: Run) -> None:
    run.pair.stop(REPLICA)
    assert run.plan().notes[0] == "pg14-replica is started first."
    run.promote()
    assert run.pair.host.engine.done == ["start pg14-replica", "stop pg14-primary"]


# What would be lost


def test_rows_that_the_replica_does_not_have_are_not_given_up_without_a_yes(run: Run) -> None:
    run.pair.crash(PRIMARY)
    run.pair.data[PRIMARY].transactions += 3
    with pytest.raises(ReplicationError, match="committed rows would be lost; nothing was changed") as caught:
        run.promote()
    assert caught.value.details == (
        "The last 3 transactions that pg14-primary committed are missing on pg14-replica (300 bytes of WAL).",
    )
    assert "--accept-loss" in (caught.value.hint or "")
    assert run.changes() == []
    done = run.promote(accept_loss=True)
    assert len(done.losses) == 1
    assert run.pair.done == ["choose pg14-replica", "promote pg14-replica"]


def test_a_killed_primary_whose_log_the_replica_has_loses_nothing(run: Run) -> None:
    run.pair.crash(PRIMARY)
    (note, *_) = run.plan().notes
    assert note.startswith("pg14-primary was not shut down cleanly, but its WAL shows that pg14-replica has every")
    assert run.promote().losses == ()


def test_transactions_that_waited_for_the_replica_were_confirmed_to_nobody(run: Run) -> None:
    run.pair.crash(PRIMARY)
    run.pair.data[PRIMARY].transactions += 1
    ended_s = 1767268800.0  # finished_at
    for seen_at, lost in ((ended_s - 30, False), (ended_s - 61, True), (None, True)):
        run.pair.seen_synchronous_at = seen_at
        assert bool(run.plan().losses) is lost, seen_at
    run.pair.seen_synchronous_at = ended_s
    assert "The last transaction in its WAL did not reach pg14-replica and is dropped" in run.plan().notes[0]
    run.pair.data[PRIMARY].transactions += 1000
    assert run.plan().losses, "more transactions than sessions cannot have waited"


def test_files_that_cannot_be_read_prove_nothing(run: Run) -> None:
    run.pair.crash(PRIMARY)
    run.pair.data[PRIMARY].is_readable = False
    plan = run.plan()
    assert plan.losses == ()
    assert plan.notes[0].startswith("pg14-primary does not answer, and its data cannot be read")


def test_data_of_another_pair_are_not_compared(run: Run) -> None:
    run.pair.crash(PRIMARY)
    run.pair.data[PRIMARY].identifier = "another"
    run.pair.data[PRIMARY].transactions += 3
    assert run.plan().losses == ()


def test_a_clean_shutdown_whose_end_did_not_arrive_is_a_loss(run: Run) -> None:
    run.pair.stop(PRIMARY)
    run.pair.data[PRIMARY].transactions += 2
    assert run.plan().losses == (
        "pg14-primary was shut down cleanly, but the last 200 bytes of its WAL are missing on pg14-replica.",
    )


def test_a_replica_that_lags_behind_is_not_promoted_and_the_primary_runs_on(run: Run) -> None:
    run.pair.streams = False
    (loss,) = run.plan().losses
    assert loss.startswith("pg14-replica does not follow pg14-primary, and later writes are missing on it")
    with pytest.raises(ReplicationError):
        run.promote()
    assert run.changes() == []


def test_a_primary_that_loses_rows_at_its_stop_is_started_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = run.pair.host.engine.stop

    def write_last(container: Any, timeout_s: int = 120) -> None:
        stop(container, timeout_s)
        run.pair.data[PRIMARY].transactions += 1

    monkeypatch.setattr(run.pair.host.engine, "stop", write_last)
    with pytest.raises(ReplicationError, match="nothing was changed"):
        run.promote()
    assert run.pair.host.engine.done == ["stop pg14-primary", "start pg14-primary"]
    assert run.pair.done == []
    assert run.told[-1] == ("promote:stop", EventKind.WARNING)


def test_a_choice_that_cannot_be_written_promotes_nobody(run: Run) -> None:
    run.pair.choice_failure = CitusClusterError("The disk is full.")
    with pytest.raises(CitusClusterError, match="The disk is full"):
        run.promote()
    assert run.pair.done == []
    assert run.pair.data[REPLICA].is_standby


# Never two primaries


def test_a_primary_that_cannot_be_stopped_stays_the_only_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(container: Any, timeout_s: int = 120) -> None:
        raise CitusClusterError("The engine refused.")

    monkeypatch.setattr(run.pair.host.engine, "stop", fail)
    with pytest.raises(ReplicationError, match="cannot be stopped, and two primaries would make their data diverge"):
        run.promote()
    assert run.pair.done == []


def test_a_server_that_still_answers_on_the_port_of_the_old_primary_prevents_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.pair.host.engine, "stop", lambda container, timeout_s=120: None)
    with pytest.raises(ReplicationError, match="still answers on port 5432 as a primary") as caught:
        run.promote()
    assert "Stop the server on that port" in (caught.value.hint or "")
    assert run.pair.done == []


def test_an_old_primary_that_was_started_before_the_choice_is_stopped_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = run.pair.choose_primary

    def start_before(engine: Any, container: Any, service: str) -> None:
        run.pair.host.engine.start(run.pair.host.engine.find(PRIMARY))
        choose(engine, container, service)

    monkeypatch.setattr("citus_cluster.runtime.pg14.choose_primary", start_before)
    run.promote()
    assert run.pair.host.engine.done == ["stop pg14-primary", "start pg14-primary", "stop pg14-primary"]


def test_the_second_of_two_primaries_is_stopped_only_by_a_yes(run: Run) -> None:
    run.pair.data[REPLICA].is_standby = False
    (loss,) = run.plan(REPLICA).losses
    assert loss.startswith("Both servers accept writes now, so rows written on pg14-primary")
    run.promote(REPLICA, accept_loss=True)
    assert run.pair.host.engine.done == ["stop pg14-primary"]
    assert run.pair.done == ["choose pg14-replica"], "it is a primary already"


# What cannot be promoted


def test_a_server_without_a_container_or_a_paused_one_is_not_promoted(run: Run) -> None:
    run.pair.host.engine.change(REPLICA, state="paused")
    with pytest.raises(ReplicationError, match="pg14-replica is paused") as caught:
        run.promote(REPLICA)
    assert caught.value.hint == "Resume it: docker unpause pg14-replica"
    run.pair.host.engine.containers = [one for one in run.pair.host.engine.containers if one.service != REPLICA]
    with pytest.raises(ReplicationError, match="pg14-replica has no container"):
        run.promote(REPLICA)
    assert run.changes() == []


@pytest.mark.parametrize("phase", [Phase.COPYING, Phase.RETRYING, Phase.WAITING, Phase.INITIALISING])
def test_a_server_without_whole_data_is_not_promoted(run: Run, phase: Phase) -> None:
    run.pair.stop(PRIMARY)
    run.pair.data[REPLICA].phase = phase
    with pytest.raises(ReplicationError, match="waits for a decision"):
        run.promote(REPLICA)
    assert run.pair.done == []


def test_a_server_that_does_not_answer_is_given_up_in_time(run: Run) -> None:
    run.pair.host.refused[REPLICA] = CitusClusterError("It is starting.")
    run.pair.stop(PRIMARY)
    with pytest.raises(ReplicationError, match="pg14-replica cannot be promoted: It is starting"):
        run.promote(REPLICA, timeout_s=10)
    assert run.pair.done == []


def test_a_replica_with_a_paused_replay_is_restarted_to_end_the_pause(run: Run) -> None:
    run.pair.data[REPLICA].replay_paused = True
    run.promote()
    assert run.pair.host.engine.done == ["restart pg14-replica", "stop pg14-primary"]


def test_a_fenced_server_with_old_data_is_promoted_only_by_a_yes(run: Run) -> None:
    run.pair.data[REPLICA] = Data(False, 5, phase=Phase.FENCED)
    (loss,) = run.plan(REPLICA).losses
    assert loss.startswith("pg14-replica has old data, without anything that pg14-primary has written")
    run.promote(REPLICA, accept_loss=True)
    assert run.pair.done == ["choose pg14-replica"]


def test_an_interrupted_promotion_is_named_with_how_to_complete_it(run: Run) -> None:
    run.pair.data[PRIMARY] = Data(False, phase=Phase.FENCED)
    run.pair.chosen = REPLICA
    (loss,) = run.plan(PRIMARY).losses
    assert loss.startswith("A promotion of pg14-replica was interrupted")
    assert "citus-cluster pg14 promote pg14-replica" in loss
    assert run.plan().target == REPLICA
    run.promote()
    assert run.pair.done == ["choose pg14-replica", "promote pg14-replica"]


def test_commits_wait_for_a_replica_as_the_server_itself_says(run: Run) -> None:
    assert not run.plan().synchronous
    run.pair.synchronous = "pg14-replica"
    assert run.plan().synchronous
