"""Registering workers, on a cluster in memory: who is added, who is left alone, and what is waited for."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import virtual_time
from fake_citus import COORDINATOR, ONE, THREE, TWO, FakeCitus, in_place, server_error

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
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.plan.events import Event, EventKind, ignore
from citus_cluster.operations.nodes import registration
from citus_cluster.runtime.postgres import ConnectionInfo

FAR = NodeAddress("10.0.0.9", 6000)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCitus]:
    """A cluster of registered workers; the others that are named may be registered."""

    def cluster(*registered: NodeAddress, offered: tuple[NodeAddress, ...] = (), **values: Any) -> FakeCitus:
        found = in_place(monkeypatch, FakeCitus.of(*registered, **values))
        for address in offered:
            found.offer(address)
        return found

    return cluster


class Run:
    """Registrations on a cluster, with what they reported."""

    def __init__(self, cluster: FakeCitus) -> None:
        self.cluster = cluster
        self.events: list[Event] = []

    def reconcile(self, *desired: NodeAddress, **more: Any) -> tuple[NodeResult, ...]:
        work = registration.reconcile(self.cluster.connection, COORDINATOR, desired, self.events.append, **more)
        return virtual_time.run(work)

    def register_all(self, *desired: NodeAddress, for_s: float = 20) -> tuple[NodeResult, ...]:
        async def work() -> tuple[NodeResult, ...]:
            return await registration.register_all(
                self.cluster.connection,
                COORDINATOR,
                desired,
                self.events.append,
                deadline=virtual_time.clock() + for_s,
            )

        return virtual_time.run(work())

    def add(self, worker: NodeAddress, coordinator: NodeAddress | None = COORDINATOR, **more: Any) -> NodeResult:
        return virtual_time.run(
            registration.add_worker(
                self.cluster.connection, coordinator, worker, self.events.append, **{"timeout_s": 5, **more}
            )
        )

    @property
    def told(self) -> list[tuple[EventKind, str]]:
        return [(event.kind, event.message) for event in self.events]


def outcomes(results: tuple[NodeResult, ...]) -> list[Outcome]:
    return [result.outcome for result in results]


# All desired workers


def test_a_new_cluster_gets_its_record_its_coordinator_and_its_workers(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE, TWO), recorded=None)
    cluster.nodes = []
    run = Run(cluster)
    assert outcomes(run.reconcile(ONE, TWO)) == [Outcome.ADDED, Outcome.ADDED]
    added = [
        [f"add {host}", f"credentials for {host}", f"no session limits on {host}"] for host in (ONE.host, TWO.host)
    ]
    assert cluster.done == ["make the record", "name the coordinator citus-coordinator", *added[0], *added[1]]
    assert [(kind, message) for kind, message in run.told] == [
        (EventKind.DONE, "citus-worker1:5432 registered"),
        (EventKind.DONE, "citus-worker2:5432 registered"),
    ]


def test_registering_again_takes_no_lock_and_changes_nothing(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, TWO)
    run = Run(cluster)
    assert outcomes(run.reconcile(ONE, TWO)) == [Outcome.ALREADY, Outcome.ALREADY]
    assert (cluster.done, cluster.lock_waits) == ([], [])
    assert run.told[0] == (EventKind.DONE, "citus-worker1:5432 already registered")


@pytest.mark.parametrize(("workers", "holds"), [((ONE,), False), ((), True)])
def test_a_coordinator_holds_shards_only_where_no_worker_is_wanted(
    make: Callable[..., FakeCitus], workers: tuple[NodeAddress, ...], holds: bool
) -> None:
    cluster = make(offered=workers)
    cluster.nodes = []
    Run(cluster).reconcile(*workers)
    assert cluster.node(COORDINATOR).should_have_shards is holds


def test_the_first_worker_takes_over_from_a_coordinator_that_held_the_shards(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE, TWO))
    cluster.change(COORDINATOR, should_have_shards=True)
    Run(cluster).reconcile(ONE, TWO)
    assert [line for line in cluster.done if line.startswith("add")] == [
        "add citus-worker1, and no shards for citus-coordinator",
        "add citus-worker2",
    ]


def test_a_later_worker_leaves_a_coordinator_that_shall_hold_shards_as_it_is(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, offered=(TWO,))
    cluster.change(COORDINATOR, should_have_shards=True)
    Run(cluster).reconcile(ONE, TWO)
    assert cluster.node(COORDINATOR).should_have_shards


def test_a_coordinator_that_registered_itself_is_renamed_with_what_it_holds(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,))
    cluster.change(COORDINATOR, address=NodeAddress("localhost"), should_have_shards=True)
    Run(cluster).reconcile()
    assert cluster.done == ["name the coordinator citus-coordinator"]
    assert cluster.node(COORDINATOR).should_have_shards


def test_a_coordinator_with_workers_moves_and_every_node_is_told_before_one_is_added(
    make: Callable[..., FakeCitus],
) -> None:
    cluster = make(ONE, offered=(TWO,), synced_after=3)
    cluster.change(COORDINATOR, address=NodeAddress("old-name"))
    Run(cluster).reconcile(ONE, TWO)
    assert cluster.done[:2] == ["move node 1 to citus-coordinator", "add citus-worker2"]
    assert cluster.synced_after < 0


def test_a_node_that_never_learns_of_the_change_holds_up_nobody_for_long(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, synced_after=10_000)
    cluster.change(COORDINATOR, address=NodeAddress("old-name"))
    assert outcomes(Run(cluster).reconcile(ONE)) == [Outcome.ALREADY]
    assert 10_000 - cluster.synced_after == pytest.approx(registration.SYNC_TIMEOUT_S / 0.2, abs=2)


def test_a_worker_that_was_registered_by_other_means_is_recorded(make: Callable[..., FakeCitus]) -> None:
    cluster = make()
    cluster.register(ONE)
    assert outcomes(Run(cluster).reconcile(ONE)) == [Outcome.ALREADY]
    assert cluster.done == ["record citus-worker1"]
    assert cluster.recorded == {ONE}


@pytest.mark.parametrize(
    ("break_off", "reason"),
    [
        (lambda cluster: cluster.change(ONE, is_active=False), "it is in the node list, but disabled"),
        (lambda cluster: cluster.nodes.pop(), "an operator removed it from the node list"),
    ],
)
def test_what_an_operator_took_out_is_not_brought_back(
    make: Callable[..., FakeCitus], break_off: Callable[[FakeCitus], None], reason: str
) -> None:
    cluster = make(ONE)
    break_off(cluster)
    run = Run(cluster)
    (result,) = run.reconcile(ONE)
    assert (result.outcome, result.reason) == (Outcome.WITHDRAWN, reason)
    assert cluster.done == []
    assert run.told == [(EventKind.SKIPPED, f"citus-worker1:5432 skipped: {reason}")]


def test_another_server_under_a_released_name_is_registered_and_the_old_one_is_not(
    make: Callable[..., FakeCitus],
) -> None:
    cluster = make(offered=(ONE, TWO))
    cluster.recorded = {ONE, TWO}
    cluster.released = {ONE: "of a server that is gone", TWO: cluster.servers[TWO].identity.system_identifier}
    assert outcomes(Run(cluster).reconcile(ONE, TWO)) == [Outcome.ADDED, Outcome.WITHDRAWN]


def test_without_dblink_nobody_can_tell_another_server_from_the_one_that_left(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,), has_dblink=False)
    cluster.recorded, cluster.released = {ONE}, {ONE: "of a server that is gone"}
    assert outcomes(Run(cluster).reconcile(ONE)) == [Outcome.WITHDRAWN]


def test_a_worker_that_does_not_answer_delays_no_other(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE, TWO))
    cluster.servers[ONE].silence = "connection refused"
    run = Run(cluster)
    silent, added = run.reconcile(ONE, TWO)
    assert (silent.outcome, added.outcome) == (Outcome.PENDING, Outcome.ADDED)
    assert silent.reason == "citus-worker1:5432 does not answer the coordinator: connection refused."
    assert run.told[0][0] is EventKind.WARNING
    assert "citus-worker1:5432 not registered yet: " in run.told[0][1]


def test_no_node_is_added_while_a_registered_one_does_not_answer(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, offered=(TWO,))
    cluster.servers[ONE].silence = "it is paused"
    already, blocked = Run(cluster).reconcile(ONE, TWO)
    assert (already.outcome, blocked.outcome) == (Outcome.ALREADY, Outcome.PENDING)
    assert blocked.reason and blocked.reason.startswith("Citus cannot add a node while")
    assert "it is paused" in blocked.reason
    assert cluster.done == []


def test_the_workers_before_one_may_use_up_all_the_time(make: Callable[..., FakeCitus]) -> None:
    (result,) = Run(make(offered=(ONE,))).reconcile(ONE, timeout_s=0)
    assert (result.outcome, result.reason) == (
        Outcome.PENDING,
        "not tried yet, because the workers before it used all the time",
    )


@pytest.mark.parametrize(("timeout_s", "limit_s"), [(60, 45), (20, 20), (0.5, 1)])
def test_a_registration_takes_no_longer_than_there_is_time(
    make: Callable[..., FakeCitus], timeout_s: float, limit_s: float
) -> None:
    cluster = make(offered=(ONE,))
    Run(cluster).reconcile(ONE, timeout_s=timeout_s)
    assert cluster.time_limits == [pytest.approx(limit_s)]


def test_a_locked_cluster_leaves_a_worker_pending(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,), locked_by="session 7")
    (result,) = Run(cluster).reconcile(ONE, wait_for_lock_s=3)
    assert (result.outcome, cluster.lock_waits) == (Outcome.PENDING, [3])
    assert result.reason and "session 7" in result.reason


def test_a_lost_connection_is_not_taken_for_a_worker_that_does_not_answer(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,), refusal=server_error(psycopg.OperationalError, "the server closed the connection"))

    def lose() -> None:
        cluster.conn.closed = True

    cluster.before_lock = lose
    with pytest.raises(UnreachableError, match=r"connection to the coordinator was lost while citus-worker1:5432"):
        Run(cluster).reconcile(ONE)


@pytest.mark.parametrize(
    ("refusal", "job", "told"),
    [
        (psycopg.errors.LockNotAvailable, False, "the node list is locked: another session is changing it"),
        (psycopg.errors.DeadlockDetected, True, "the node list is locked: rebalance 7 is running"),
        (psycopg.errors.QueryCanceled, False, "stopped answering while it was being registered; nothing was changed"),
        (psycopg.errors.RaiseException, False, "Citus refused citus-worker1:5432: no room"),
    ],
)
def test_why_citus_did_not_add_a_worker_is_said(
    make: Callable[..., FakeCitus], refusal: type[psycopg.Error], job: bool, told: str
) -> None:
    cluster = make(offered=(ONE,), refusal=server_error(refusal, "no room"))
    if job:
        cluster.run_job(7)
    (result,) = Run(cluster).reconcile(ONE)
    assert result.outcome is Outcome.PENDING
    assert result.reason and told in result.reason


def test_a_worker_that_somebody_else_registered_meanwhile_is_not_added_twice(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,))

    def add() -> None:
        cluster.register(ONE)
        assert cluster.recorded is not None
        cluster.recorded.add(ONE)

    cluster.before_lock = add
    assert outcomes(Run(cluster).reconcile(ONE)) == [Outcome.ALREADY]
    assert cluster.done == []


def test_a_worker_that_somebody_removed_meanwhile_is_left_out(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,))

    def remove() -> None:
        assert cluster.recorded is not None
        cluster.recorded.add(ONE)

    cluster.before_lock = remove
    assert outcomes(Run(cluster).reconcile(ONE)) == [Outcome.WITHDRAWN]


def test_code_that_would_run_as_the_superuser_needs_an_operator(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,), foreign_code=("check constraint c of table t",))
    (result,) = Run(cluster).reconcile(ONE)
    assert (result.outcome, result.needs_operator) == (Outcome.PENDING, True)
    assert result.reason and "check constraint c of table t" in result.reason
    assert cluster.done == []


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        ({"credentials_failure": CitusClusterError("It refused.")}, "(pg_dist_authinfo) were not copied to it: It re"),
        ({"limits_failure": CitusClusterError("It refused.")}, "session limits that Citus copied to it were not remo"),
    ],
)
def test_a_worker_is_added_even_if_the_roles_are_not_ready_there(
    make: Callable[..., FakeCitus], failure: dict[str, Any], told: str
) -> None:
    (result,) = Run(make(offered=(ONE,), **failure)).reconcile(ONE)
    assert result.outcome is Outcome.ADDED
    assert result.reason and told in result.reason


# Who may join


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"postgres_version": "18.1"}, "it runs PostgreSQL 18, the coordinator PostgreSQL 17"),
        ({"system_identifier": "of server 0"}, "it is the coordinator itself, or a copy"),
        ({"in_recovery": True}, "it is a standby"),
    ],
)
def test_a_server_that_does_not_fit_cannot_join(
    make: Callable[..., FakeCitus], facts: dict[str, Any], told: str
) -> None:
    cluster = make()
    cluster.offer(ONE, **facts)
    (result,) = Run(cluster).reconcile(ONE)
    assert result.outcome is Outcome.PENDING
    assert result.reason and told in result.reason


def test_one_server_does_not_join_under_two_names(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE)
    group = cluster.node(ONE).group_id
    cluster.offer(TWO, system_identifier="of server 1", group_id=group, coordinator=COORDINATOR)
    (_, result) = Run(cluster).reconcile(ONE, TWO)
    assert result.reason and "it is already registered as citus-worker1:5432" in result.reason
    # A number alone proves nothing: a worker that was removed keeps its own.
    cluster.offer(THREE, system_identifier="of server 3", group_id=group, coordinator=COORDINATOR)
    assert outcomes(Run(cluster).reconcile(ONE, THREE)) == [Outcome.ALREADY, Outcome.ADDED]


@pytest.mark.parametrize(("there", "joins"), [("of another coordinator", False), ("of server 0", True), (None, False)])
def test_a_worker_of_another_cluster_cannot_join(
    make: Callable[..., FakeCitus], there: str | None, joins: bool
) -> None:
    cluster = make()
    cluster.offer(ONE, group_id=5, coordinator=FAR)
    if there:
        cluster.offer(FAR, system_identifier=there)
    (result,) = Run(cluster).reconcile(ONE)
    assert (result.outcome is Outcome.ADDED) is joins
    assert joins or (result.reason and "another cluster, whose coordinator is 10.0.0.9:6000" in result.reason)


@pytest.mark.parametrize(
    ("worker", "hint"),
    [(FAR, "set up the coordinator with --advertise"), (ONE, "Check that citus-coordinator resolves there")],
)
def test_a_worker_must_reach_the_coordinator(make: Callable[..., FakeCitus], worker: NodeAddress, hint: str) -> None:
    cluster = make(offered=(worker,))
    cluster.servers[worker].reaches_coordinator = False
    with pytest.raises(WorkerUnreachableError, match="cannot connect to the coordinator") as caught:
        Run(cluster).add(worker)
    assert hint in (caught.value.hint or "")


def test_without_dblink_citus_itself_connects_to_try(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE, TWO), has_dblink=False)
    cluster.servers[TWO].silence = "it is paused"
    added, silent = Run(cluster).reconcile(ONE, TWO)
    assert (added.outcome, silent.outcome) == (Outcome.ADDED, Outcome.PENDING)
    assert silent.reason == "The coordinator cannot connect to citus-worker2:5432."


# Until all are there


def answer_at(cluster: FakeCitus, address: NodeAddress, attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server answer once it was asked so often."""
    server, asked = cluster.servers[address], 0
    server.silence = "starting up"
    whole = cluster._ask

    def ask(node: NodeAddress) -> Any:
        nonlocal asked
        asked += node == address
        if asked == attempt:
            server.silence = None
        return whole(node)

    monkeypatch.setattr(cluster, "_ask", ask)


def test_workers_that_are_starting_are_waited_for(
    make: Callable[..., FakeCitus], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(offered=(ONE, TWO))
    answer_at(cluster, TWO, 4, monkeypatch)
    run = Run(cluster)
    assert outcomes(run.register_all(ONE, TWO)) == [Outcome.ALREADY, Outcome.ADDED]


def test_workers_that_do_not_come_are_given_up_in_time_with_their_reasons(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE, TWO))
    cluster.servers[TWO].silence = "it is paused"
    with pytest.raises(NotRegisteredError, match=r"^1 of 2 workers could not be registered") as caught:
        Run(cluster).register_all(ONE, TWO, for_s=10)
    (reason,) = caught.value.details
    assert reason.startswith("citus-worker2:5432: ") and "it is paused" in reason


def test_what_needs_an_operator_is_not_waited_for(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,), foreign_code=("trigger t",))
    run = Run(cluster)
    with pytest.raises(NotRegisteredError):
        run.register_all(ONE, for_s=1000)
    assert len(run.events) == 1


# One worker, as somebody asks for it


def test_a_worker_is_added_on_request_with_what_happens(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(FAR,))
    run = Run(cluster)
    assert run.add(FAR).outcome is Outcome.ADDED
    assert run.told == [
        (EventKind.STARTED, "registering 10.0.0.9:6000"),
        (EventKind.DONE, "10.0.0.9:6000 registered"),
    ]
    assert run.add(FAR).outcome is Outcome.ALREADY


def test_a_request_brings_back_what_an_operator_took_out(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, TWO)
    cluster.change(ONE, is_active=False)
    cluster.nodes = [node for node in cluster.nodes if node.address != TWO]
    run = Run(cluster)
    assert run.add(ONE).outcome is Outcome.ACTIVATED
    assert run.add(TWO).outcome is Outcome.ADDED
    assert next(line for line in cluster.done if "worker1" in line) == "activate citus-worker1"
    assert run.told[1] == (EventKind.DONE, "citus-worker1:5432 active again")


def test_the_coordinator_is_no_worker(make: Callable[..., FakeCitus]) -> None:
    with pytest.raises(UsageError, match="is the coordinator itself"):
        Run(make()).add(COORDINATOR)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", None])
def test_a_coordinator_that_workers_cannot_find_is_named_first(
    make: Callable[..., FakeCitus], host: str | None
) -> None:
    cluster = make(offered=(ONE,))
    if host:
        cluster.change(COORDINATOR, address=NodeAddress(host))
    else:
        cluster.nodes = []
    with pytest.raises(UsageError, match="does not know yet at which name"):
        Run(cluster).add(ONE, None)
    assert Run(cluster).add(ONE, COORDINATOR).outcome is Outcome.ADDED


def test_the_registered_name_of_the_coordinator_is_taken_where_none_is_given(make: Callable[..., FakeCitus]) -> None:
    assert Run(make(offered=(ONE,))).add(ONE, None).outcome is Outcome.ADDED


def test_a_registered_worker_that_does_not_answer_is_not_reported_as_registered(
    make: Callable[..., FakeCitus],
) -> None:
    cluster = make(ONE)
    cluster.servers[ONE].silence = "it is paused"
    run = Run(cluster)
    with pytest.raises(WorkerUnreachableError, match="it is paused"):
        run.add(ONE)
    assert [message for kind, message in run.told if kind is EventKind.PROGRESS] == [
        "waiting: citus-worker1:5432 does not answer the coordinator: it is paused."
    ]


def test_without_dblink_a_registered_worker_is_tried_by_citus(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, has_dblink=False)
    assert Run(cluster).add(ONE).outcome is Outcome.ALREADY
    cluster.servers[ONE].silence = "it is paused"
    with pytest.raises(WorkerUnreachableError, match="cannot connect to citus-worker1"):
        Run(cluster).add(ONE)


def test_a_worker_that_starts_late_is_waited_for(
    make: Callable[..., FakeCitus], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make(offered=(ONE,))
    answer_at(cluster, ONE, 3, monkeypatch)
    assert Run(cluster).add(ONE, timeout_s=20).outcome is Outcome.ADDED


def test_what_waiting_cannot_mend_is_told_at_once(make: Callable[..., FakeCitus]) -> None:
    cluster = make()
    cluster.offer(ONE, postgres_version="18.1")
    with pytest.raises(MismatchError, match="it runs PostgreSQL 18"):
        Run(cluster).add(ONE, timeout_s=1000)


def test_a_worker_is_not_added_on_request_while_another_node_does_not_answer(make: Callable[..., FakeCitus]) -> None:
    cluster = make(ONE, offered=(TWO,))
    cluster.servers[ONE].silence = "it is paused"
    with pytest.raises(WorkerUnreachableError, match="cannot add a node while") as caught:
        Run(cluster).add(TWO)
    assert "citus_disable_node" in (caught.value.hint or "")


def test_somebody_may_trust_the_code_of_ordinary_roles(make: Callable[..., FakeCitus]) -> None:
    cluster = make(offered=(ONE,), foreign_code=("trigger t",))
    with pytest.raises(UntrustedCodeError) as caught:
        Run(cluster).add(ONE)
    assert caught.value.details == ("trigger t",)
    assert Run(cluster).add(ONE, trust_functions=True).outcome is Outcome.ADDED


def test_a_locked_cluster_is_told_to_who_asked(make: Callable[..., FakeCitus]) -> None:
    with pytest.raises(LockedError, match="session 7"):
        Run(make(offered=(ONE,), locked_by="session 7")).add(ONE)


@pytest.mark.parametrize(("timeout_s", "limit_s"), [(60, 45), (1, 10)])
def test_a_request_leaves_citus_time_to_add_the_worker(
    make: Callable[..., FakeCitus], timeout_s: float, limit_s: float
) -> None:
    cluster = make(offered=(ONE,))
    Run(cluster).add(ONE, timeout_s=timeout_s, wait_for_lock_s=30)
    assert cluster.time_limits == [pytest.approx(limit_s)]
    assert cluster.lock_waits == [pytest.approx(min(30, max(10, timeout_s)))]


# The coordinator may be starting

INFO = ConnectionInfo("127.0.0.1", 5434, "postgres", "postgres", "secret")


def connecting(monkeypatch: pytest.MonkeyPatch, *outcomes: Any) -> list[float]:
    """Let connections come to this, the last for good; gives the time that each had."""
    limits: list[float] = []
    left = list(outcomes)

    async def connect(info: ConnectionInfo, *, timeout_s: float) -> Any:
        limits.append(timeout_s)
        found = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(registration, "connect", connect)
    return limits


def test_a_coordinator_that_is_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    starting = UnreachableError("It is starting up.")
    limits = connecting(monkeypatch, starting, starting, "the connection")
    found = virtual_time.run(registration.reach_coordinator(INFO, events.append, timeout_s=30))
    assert found == "the connection"  # type: ignore[comparison-overlap]
    assert [event.message for event in events] == ["waiting: It is starting up."]
    assert limits == [10, 10, 10]


def test_a_coordinator_that_does_not_come_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = connecting(monkeypatch, UnreachableError("It is starting up."))
    with pytest.raises(UnreachableError):
        virtual_time.run(registration.reach_coordinator(INFO, ignore, timeout_s=5))
    assert limits == [pytest.approx(left) for left in (5, 4, 3, 2, 1)]


def test_a_wrong_password_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = connecting(monkeypatch, AuthenticationError("The password is wrong."))
    with pytest.raises(AuthenticationError):
        virtual_time.run(registration.reach_coordinator(INFO, ignore, timeout_s=5))
    assert len(limits) == 1
