"""Previewing, starting and stopping rebalances of a cluster in memory: what is refused, and what Citus is told."""

from dataclasses import replace
from typing import Any

import psycopg
import pytest
import virtual_time
from fake_citus import NOON, ONE, THREE, TWO, FakeCitus, in_place, server_error

from citus_cluster.errors import LockedError, RebalanceError, UnreachableError, UsageError
from citus_cluster.model.citus.capacity import DiskSpace, NodeCapacity
from citus_cluster.model.citus.movers import Owner
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.rebalance_plan import Move, RebalanceOptions, RebalancePlan, TransferMode
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.coordinator import lent
from citus_cluster.operations.rebalance import control
from citus_cluster.operations.rebalance.use_cases import StartedRebalance, carry_out

AUTO = RebalanceOptions()
ONLINE = RebalanceOptions(online=True)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    """Two shards are on the first worker, and one of them shall move to the second."""
    found = in_place(monkeypatch, FakeCitus.of(ONE, TWO))
    found.place("orders", {101: [ONE], 102: [ONE]})
    found.moves = [Move("orders", 101, 1000, ONE, TWO)]
    return found


class Run:
    def __init__(self, cluster: FakeCitus) -> None:
        self.cluster = cluster
        self.events: list[Event] = []

    def plan(self, options: RebalanceOptions = AUTO) -> RebalancePlan:
        return virtual_time.run(control.plan(self.cluster.connection, options))

    def start(self, options: RebalanceOptions = AUTO) -> int | None:
        return virtual_time.run(control.start(self.cluster.connection, options, self.events.append))

    def refused(self, options: RebalanceOptions = AUTO) -> RebalanceError:
        with pytest.raises(RebalanceError) as caught:
            self.start(options)
        assert self.cluster.started == []
        return caught.value

    def warning(self, options: RebalanceOptions = AUTO) -> Event:
        assert self.start(options)
        (found,) = [event for event in self.events if event.kind is EventKind.WARNING]
        return found


@pytest.fixture
def run(cluster: FakeCitus) -> Run:
    return Run(cluster)


# The preview


def test_a_preview_has_the_moves_and_the_bytes_of_each_node(run: Run) -> None:
    found = run.plan(ONLINE)
    assert [move.shard_id for move in found.moves] == [101]
    assert found.bytes_before == {ONE: 2000, TWO: 0}
    assert found.bytes_after == {ONE: 1000, TWO: 1000}
    assert (found.mode, run.cluster.started) == (TransferMode.AUTO, [])


def test_a_node_that_neither_holds_shards_nor_may_is_left_out(run: Run) -> None:
    run.cluster.register(THREE, should_have_shards=False)
    run.cluster.change(ONE, should_have_shards=False)
    assert set(run.plan().bytes_before) == {ONE, TWO}


@pytest.mark.parametrize("values", [{"is_active": False}, {"role": "secondary"}])
def test_a_node_that_serves_no_queries_is_left_out(run: Run, values: dict[str, Any]) -> None:
    run.cluster.register(THREE, **values)
    assert set(run.plan().bytes_before) == {ONE, TWO}


@pytest.mark.parametrize(
    ("options", "functions", "holds"),
    [
        (AUTO, True, True),
        (AUTO, False, False),
        (ONLINE, True, False),
        (RebalanceOptions(mode=TransferMode.FORCE_LOGICAL), True, False),
    ],
)
def test_small_groups_move_with_writes_held_where_citus_can_do_that(
    run: Run, options: RebalanceOptions, functions: bool, holds: bool
) -> None:
    if not functions:
        run.cluster.functions = ()
    assert [move.is_short for move in run.plan(options).moves] == [holds]


def test_writes_cannot_be_held_in_every_move_and_in_none(run: Run) -> None:
    with pytest.raises(UsageError, match="cannot be combined"):
        run.plan(RebalanceOptions(mode=TransferMode.BLOCK_WRITES, online=True))
    assert run.plan(RebalanceOptions(mode=TransferMode.BLOCK_WRITES)).moves


def test_no_plan_is_made_while_a_node_does_not_answer(run: Run) -> None:
    run.cluster.servers[TWO].silence = "it is paused"
    with pytest.raises(RebalanceError, match=r"every node answers: citus-worker2:5432 .* it is paused"):
        run.plan()
    assert run.cluster.planned == []


@pytest.mark.parametrize(
    ("failure", "error", "told"),
    [
        (psycopg.errors.RaiseException("could not find the rebalance strategy x"), UsageError, "these options: could"),
        (psycopg.errors.RaiseException("no room"), RebalanceError, "Citus cannot plan a rebalance: no room"),
        (psycopg.OperationalError("the server is gone"), UnreachableError, "planning the rebalance"),
    ],
)
def test_why_citus_plans_nothing_is_said(run: Run, failure: Exception, error: type[Exception], told: str) -> None:
    run.cluster.plan_failure = failure
    with pytest.raises(error, match=told):
        run.plan()


def test_a_strategy_whose_functions_are_not_found_gets_a_hint(run: Run) -> None:
    run.cluster.plan_failure = server_error(psycopg.errors.UndefinedFunction, "function cost(bigint) does not exist")
    with pytest.raises(RebalanceError) as caught:
        run.plan()
    assert "qualify it with its schema" in (caught.value.hint or "")


def test_the_preview_names_the_code_that_a_start_would_refuse(run: Run) -> None:
    run.cluster.foreign_code = ("trigger t of orders",)
    preview = run.plan()
    found = virtual_time.run(control.warnings(run.cluster.connection, preview))
    assert found == ("rebalance start would refuse this without --trust-functions: trigger t of orders",)
    nothing = virtual_time.run(control.warnings(run.cluster.connection, replace(preview, moves=())))
    assert nothing == ()


# The start


def test_a_start_gives_the_job_and_says_what_moves(run: Run) -> None:
    assert run.start() == 7
    assert run.cluster.started == [{"options": AUTO, "held": (101,), "unburden": ()}]
    (event,) = run.events
    assert event.kind is EventKind.STARTED
    assert event.message.startswith("rebalance started as job 7: one move of shards, 1000 B; ")
    assert (event.data["job_id"], event.data["size_bytes"]) == (7, 1000)


def test_several_moves_online_hold_no_writes(run: Run) -> None:
    run.cluster.moves.append(Move("orders", 102, 3000, ONE, TWO))
    run.start(ONLINE)
    assert run.events[0].message == "rebalance started as job 7: 2 moves of shards, 3.9 kB"
    assert run.cluster.started[0]["held"] == ()


def test_a_balanced_cluster_starts_nothing(run: Run) -> None:
    run.cluster.moves = []
    assert run.start() is None
    assert run.cluster.started == []
    assert [event.kind for event in run.events] == [EventKind.SKIPPED]
    assert run.events[0].message == "the shards are already balanced: nothing to move"


def test_where_citus_finds_nothing_to_move_any_more_that_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(*_: object, **__: object) -> None: ...

    monkeypatch.setattr("citus_cluster.runtime.citus.rebalance.start", start)
    assert run.start() is None
    assert run.events[-1].message == "Citus found nothing to move"


def test_a_second_rebalance_is_refused_while_one_is_at_work(run: Run) -> None:
    run.cluster.run_job(3)
    error = run.refused()
    assert error.message == "A rebalance is already running as job 3."
    assert "rebalance wait" in (error.hint or "")
    assert run.cluster.jobs[3].state is JobState.RUNNING


@pytest.mark.parametrize(("state", "restarts"), [("runnable", True), ("running", False)])
def test_a_job_that_only_waits_for_its_next_attempt_is_started_again(run: Run, state: str, restarts: bool) -> None:
    run.cluster.run_job(3)
    run.cluster.tasks[3] = [replace(task, state=state, retry_count=2) for task in run.cluster.tasks[3]]
    if not restarts:
        run.refused()
        return
    assert run.start() == 4
    assert run.cluster.jobs[3].state is JobState.CANCELLED
    assert [event.message for event in run.events][:2] == ["stopping rebalance 3", "stopped rebalance 3"]
    assert len(run.cluster.started) == 1


def test_flags_that_this_citus_does_not_have_are_refused(run: Run) -> None:
    run.cluster.functions, run.cluster.version = (), "13.1.0"
    for options in (
        RebalanceOptions(parallel_transfer_reference_tables=True),
        RebalanceOptions(parallel_transfer_colocated_shards=True),
    ):
        with pytest.raises(UsageError, match=r"Citus 13\.1\.0, but the parallel flags require"):
            run.start(options)
    assert run.start(AUTO)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (psycopg.errors.RaiseException("another rebalance runs"), RebalanceError),
        (psycopg.errors.LockNotAvailable("lock timeout"), LockedError),
        (psycopg.OperationalError("the server is gone"), UnreachableError),
    ],
)
def test_why_citus_starts_nothing_is_said(run: Run, failure: Exception, error: type[Exception]) -> None:
    run.cluster.start_failure = failure
    with pytest.raises(error):
        run.start()


# What Citus would retry in silence


def capacity(node: NodeAddress, **values: Any) -> NodeCapacity:
    return replace(NodeCapacity(str(node), "logical", 100, 0, 100, 0, 100, 0, 100), **values)


def test_a_node_that_cannot_copy_online_is_named_and_holding_writes_needs_less(run: Run) -> None:
    run.cluster.capacities[TWO] = capacity(TWO, wal_level="replica")
    assert run.refused(ONLINE).details == (
        "citus-worker2:5432: wal_level is replica; set it to logical and restart the node",
    )
    assert run.start(RebalanceOptions(mode=TransferMode.BLOCK_WRITES))


@pytest.mark.parametrize("values", [{"is_active": False}, {"role": "secondary"}])
def test_nodes_that_take_no_part_need_no_capacity(run: Run, values: dict[str, Any]) -> None:
    run.cluster.register(THREE, **values)
    run.cluster.capacities[THREE] = capacity(THREE, wal_level="replica")
    assert run.start()


def test_a_move_that_fits_on_no_disk_is_refused(run: Run) -> None:
    run.cluster.disks[TWO] = DiskSpace(TWO, 1500, 501)
    (line,) = run.refused().details
    assert line.startswith("citus-worker2:5432: would get 1000 B in one move")
    run.cluster.disks[TWO] = DiskSpace(TWO, 1500, 500)
    assert run.start()


def test_a_disk_that_lacks_room_for_all_moves_together_is_warned_of(run: Run) -> None:
    run.cluster.moves.append(Move("orders", 102, 1000, ONE, TWO))
    run.cluster.disks[TWO] = DiskSpace(TWO, 1500, 0)
    warning = run.warning()
    assert "may not be enough disk space for all shards: citus-worker2:5432: would get 2.0 kB in all" in warning.message
    assert list(warning.data) == ["nodes"]


def test_without_dblink_room_is_not_looked_at(run: Run) -> None:
    run.cluster.has_dblink = False
    assert run.start()


def test_a_table_without_identity_moves_online_only_by_force(run: Run) -> None:
    run.cluster.unidentified = (("orders", "ALTER TABLE orders REPLICA IDENTITY FULL;"),)
    error = run.refused(ONLINE)
    assert "cannot move online: orders" in error.message
    assert error.details == ("ALTER TABLE orders REPLICA IDENTITY FULL;",)
    warning = run.warning(RebalanceOptions(mode=TransferMode.FORCE_LOGICAL))
    assert warning.data == {"statements": ["ALTER TABLE orders REPLICA IDENTITY FULL;"]}


@pytest.mark.parametrize("options", [AUTO, RebalanceOptions(mode=TransferMode.BLOCK_WRITES)])
def test_a_table_without_identity_moves_with_writes_held(run: Run, options: RebalanceOptions) -> None:
    run.cluster.unidentified = (("orders", "ALTER TABLE orders REPLICA IDENTITY FULL;"),)
    assert run.start(options)


def test_a_table_whose_owner_may_not_log_in_cannot_move(run: Run) -> None:
    run.cluster.owners = (Owner("app", False, None, ("orders",), ()),)
    error = run.refused()
    assert error.details == ("orders belong to role app, which may not log in",)


def test_a_node_in_maintenance_is_not_emptied(run: Run) -> None:
    run.cluster.nodes = [replace(node, in_maintenance=node.address == ONE) for node in run.cluster.nodes]
    error = run.refused()
    assert "citus-worker1:5432 is in maintenance" in error.message
    assert "citus-cluster nodes resume citus-worker1" in str(error.hint)
    run.cluster.nodes = [replace(node, in_maintenance=node.address == TWO) for node in run.cluster.nodes]
    assert run.start() is not None, "a node that only gets shards has none to lose"


def test_an_owner_whose_time_limit_ends_a_copy_is_warned_of(run: Run) -> None:
    run.cluster.owners = (Owner("app", True, "5s", ("orders",), ("orders",)),)
    assert "whose statement_timeout of 5s cancels the copy" in run.warning().message


def test_code_of_ordinary_roles_runs_as_the_superuser_only_where_it_is_trusted(run: Run) -> None:
    run.cluster.foreign_code = ("trigger t of orders",)
    error = run.refused()
    assert error.details == ("trigger t of orders",)
    assert "--trust-functions" in (error.hint or "")
    warning = run.warning(RebalanceOptions(trust_functions=True))
    assert warning.data == {"trusted": ["trigger t of orders"]}


# The end


def stop(cluster: FakeCitus) -> RebalanceStatus:
    return virtual_time.run(control.stop(cluster.connection))


def test_a_running_rebalance_is_stopped_and_told_of(cluster: FakeCitus) -> None:
    cluster.run_job(3)
    assert (stop(cluster).job_id, cluster.jobs[3].state) == (3, JobState.CANCELLED)
    with pytest.raises(RebalanceError, match="No rebalance is running"):
        stop(cluster)


def test_a_job_that_takes_its_time_to_stop_is_waited_for_but_not_for_ever(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.cluster.run_job(3)

    async def stop(conn: object) -> None:
        run.cluster.jobs[3] = replace(run.cluster.jobs[3], state=JobState.CANCELLING)

    monkeypatch.setattr("citus_cluster.runtime.citus.rebalance.stop", stop)
    with pytest.raises(LockedError, match="Rebalance 3 did not stop within 60 s"):
        virtual_time.run(control.end(run.cluster.connection, 3, run.events.append))
    assert [event.message for event in run.events] == ["stopping rebalance 3"]


def test_a_job_that_has_ended_meanwhile_is_stopped(run: Run) -> None:
    run.cluster.run_job(3)
    run.cluster.end_job(3)
    virtual_time.run(control.end(run.cluster.connection, 3, run.events.append))
    assert run.events[-1].message == "stopped rebalance 3"


# Followed to its end


def started(run: Run, *, wait: bool) -> StartedRebalance:
    return virtual_time.run(carry_out(lent(run.cluster.connection), ONLINE, run.events.append, wait=wait))


@pytest.fixture
def ending(cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs end once they are looked at."""
    whole = cluster.last_job

    async def last_job(conn: object, job_id: int | None = None) -> object:
        found = await whole(cluster.connection, job_id)
        if found and not found.state.is_final:
            cluster.end_job(found.job_id)
        return found and replace(cluster.jobs[found.job_id], observed_at=NOON)

    monkeypatch.setattr("citus_cluster.runtime.citus.rebalance.last_job", last_job)


def test_a_rebalance_that_runs_already_is_followed_before_the_next_one(run: Run, ending: None) -> None:
    run.cluster.run_job(3)
    found = started(run, wait=True)
    assert found.job_id == 4
    assert found.rebalance and found.rebalance.state is JobState.FINISHED
    assert run.events[0].message == "a rebalance is already running as job 3; following it first"


def test_one_that_only_waits_for_its_next_attempt_is_not_followed(run: Run, ending: None) -> None:
    run.cluster.run_job(3)
    run.cluster.tasks[3] = [replace(task, state="runnable", retry_count=2) for task in run.cluster.tasks[3]]
    found = started(run, wait=True)
    assert found.job_id == 4
    assert run.events[0].message == "stopping rebalance 3"


def test_without_waiting_the_job_is_given_at_once(run: Run) -> None:
    assert started(run, wait=False) == StartedRebalance(7)
    run.cluster.jobs.clear()
    run.cluster.moves = []
    assert started(run, wait=True) == StartedRebalance(None)
