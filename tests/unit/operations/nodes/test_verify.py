"""Verifying a cluster in memory: each thing that can be wrong is named, and nothing else is."""

from typing import Any

import psycopg
import pytest
import virtual_time
from fake_citus import COORDINATOR, ONE, TWO, FakeCitus, in_place, server_error

from citus_cluster.errors import CitusClusterError, UnreachableError, VerificationError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.plan.events import Event, EventKind, ignore
from citus_cluster.operations.nodes.verify import verify


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    found = in_place(monkeypatch, FakeCitus.of(ONE, TWO))
    found.place("orders", {101: [ONE], 102: [TWO]})
    return found


def verified(cluster: FakeCitus, *expected: NodeAddress) -> list[Event]:
    events: list[Event] = []
    virtual_time.run(verify(cluster.connection, expected or (ONE, TWO), events.append))
    return events


def failure(cluster: FakeCitus, *expected: NodeAddress) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verified(cluster, *expected)
    return caught.value


def test_a_sound_cluster_is_verified_in_four_steps(cluster: FakeCitus) -> None:
    events = verified(cluster)
    assert [(event.step, event.kind) for event in events] == [
        ("verify:workers", EventKind.DONE),
        ("verify:connections", EventKind.DONE),
        ("verify:data", EventKind.DONE),
        ("verify:round-trip", EventKind.DONE),
    ]
    assert "all 9 connections" in events[1].message
    assert "64 rows written and read on every node that holds shards" in events[3].message
    assert (events[0].data, events[3].data) == ({"workers": 2}, {"nodes": 2})


def test_a_worker_that_is_not_active_is_named(cluster: FakeCitus) -> None:
    cluster.change(TWO, is_active=False)
    error = failure(cluster)
    assert error.message == "These workers are not active: citus-worker2:5432."
    assert error.details == ("citus-worker2:5432",)
    assert next(event.step for event in verified(cluster, ONE)) == "verify:workers"


def test_a_node_that_does_not_answer_is_named_before_citus_asks_it(cluster: FakeCitus) -> None:
    cluster.servers[TWO].silence = "it is paused"
    error = failure(cluster)
    assert error.message.startswith("Not every node answers: citus-worker2:5432")
    assert len(error.details) == 1
    assert cluster.time_limits == []


def test_nodes_that_do_not_connect_to_each_other_are_named(cluster: FakeCitus) -> None:
    cluster.unconnected = [(ONE, TWO, False), (TWO, ONE, None), (TWO, COORDINATOR, None)]
    assert failure(cluster).details == (
        "citus-worker1:5432 cannot connect to citus-worker2:5432",
        "the coordinator cannot connect to citus-worker2:5432",
    )


def test_connections_get_more_time_the_more_there_are(cluster: FakeCitus) -> None:
    verified(cluster)
    assert cluster.time_limits == [pytest.approx(20 + 0.05 * 9)]
    cluster.refusal = server_error(psycopg.errors.QueryCanceled, "canceled")
    assert "did not connect to each other within 20.45 s" in failure(cluster).message


# The data


def test_a_shard_that_does_not_exist_is_a_loss(cluster: FakeCitus) -> None:
    cluster.missing[cluster.node(TWO).group_id] = {102}
    error = failure(cluster)
    assert "citus-worker2:5432 has lost data: 1 of the 1 shards placed there does not exist: orders (102)" in str(error)
    assert "DROP TABLE orders" in (error.hint or "")
    assert error.details == ()


def test_the_losses_of_several_nodes_are_told_one_by_one(cluster: FakeCitus) -> None:
    cluster.missing = {cluster.node(ONE).group_id: {101}, cluster.node(TWO).group_id: {102}}
    assert [line[:18] for line in failure(cluster).details] == ["citus-worker1:5432", "citus-worker2:5432"]


def test_a_shard_that_was_just_being_made_is_no_loss(cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    whole = cluster._ask

    def ask(node: NodeAddress) -> Any:
        nonlocal asked
        asked += node == TWO
        if asked == 2:
            cluster.missing.clear()
        return whole(node)

    cluster.missing[cluster.node(TWO).group_id] = {102}
    monkeypatch.setattr(cluster, "_ask", ask)
    assert len(verified(cluster)) == 4


def test_prepared_transactions_that_a_crash_left_may_yet_make_the_shards(cluster: FakeCitus) -> None:
    group = cluster.node(TWO).group_id
    cluster.missing[group] = {102}
    cluster.prepared[group] = [("citus_0_1",)]
    events = verified(cluster)
    (warning,) = [event for event in events if event.kind is EventKind.WARNING]
    assert warning.step == "verify:data" and "citus-worker2:5432 is recovering transactions" in warning.message
    assert [event.step for event in events if event.kind is EventKind.DONE and "data" in event.step] == []


@pytest.mark.parametrize("second", [(), ("citus_0_2",)])
def test_a_transaction_that_ends_meanwhile_makes_no_shard_any_more(cluster: FakeCitus, second: tuple[str, ...]) -> None:
    group = cluster.node(TWO).group_id
    cluster.missing[group] = {102}
    cluster.prepared[group] = [("citus_0_1",), second]
    assert "has lost data" in failure(cluster).message


def test_a_server_with_a_new_data_directory_has_lost_all_and_the_roles_too(cluster: FakeCitus) -> None:
    group = cluster.node(TWO).group_id
    cluster.group_ids[group] = 0
    cluster.missing[group] = {102}
    cluster.roles, cluster.roles_of_nodes = ("app", "postgres"), {group: ("postgres",)}
    cluster.prepared[group] = [("citus_0_1",)]
    error = failure(cluster)
    assert "the server no longer knows the cluster; a role is missing: app" in error.message
    assert "roles create app" in (error.hint or "")


def test_a_new_data_directory_is_noticed_without_a_shard(cluster: FakeCitus) -> None:
    cluster.placements.clear()
    cluster.group_ids[cluster.node(TWO).group_id] = 0
    assert "citus-worker2:5432 has lost its data: the server no longer knows the cluster." in failure(cluster).message
    # The coordinator's own group is 0 on any server.
    cluster.group_ids = {0: 5}
    assert len(verified(cluster)) == 4


@pytest.mark.parametrize("values", [{"is_active": False}, {"role": "secondary"}])
def test_a_node_that_serves_no_queries_is_not_compared(cluster: FakeCitus, values: dict[str, Any]) -> None:
    cluster.change(TWO, **values)
    cluster.missing[cluster.node(TWO).group_id] = {102}
    cluster.sizes.pop(102)
    assert [event.step for event in verified(cluster, ONE)][2] == "verify:data"


def test_a_shard_of_which_another_node_has_a_copy_is_not_lost(cluster: FakeCitus) -> None:
    cluster.place("copied", {201: [ONE, TWO]})
    cluster.missing[cluster.node(TWO).group_id] = {201}
    error = failure(cluster)
    assert "No row of copied is lost: citus-worker1:5432 has a copy" in error.message
    assert "DROP TABLE" not in (error.hint or "")


def test_a_copy_that_is_missing_too_saves_nothing(cluster: FakeCitus) -> None:
    cluster.place("copied", {201: [ONE, TWO]})
    cluster.missing = {cluster.node(one).group_id: {201} for one in (ONE, TWO)}
    assert "DROP TABLE copied" in (failure(cluster).hint or "")


def test_the_copies_of_reference_tables_are_made_again(cluster: FakeCitus) -> None:
    cluster.place("countries", {301: [COORDINATOR, ONE, TWO]}, "reference")
    cluster.missing[cluster.node(TWO).group_id] = {301}
    error = failure(cluster)
    assert "countries (301)" in error.message
    assert "replicate_reference_tables" in (error.hint or "") and "DROP TABLE" not in (error.hint or "")


# The round trip


def test_a_cluster_without_workers_writes_on_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = in_place(monkeypatch, FakeCitus())
    events: list[Event] = []
    virtual_time.run(verify(cluster.connection, (), events.append))
    assert events[-1].data == {"nodes": 1}


def test_a_drained_node_is_not_expected_to_get_a_shard(cluster: FakeCitus) -> None:
    cluster.change(TWO, should_have_shards=False)
    assert verified(cluster)[-1].data == {"nodes": 1}


@pytest.mark.parametrize(
    ("trip", "told"),
    [
        ({"shard_nodes": {1: ONE, 2: ONE}}, "citus-worker2:5432 got no shard"),
        ({"read": frozenset({1})}, "shard 2 on citus-worker2:5432 did not return its row"),
        ({"rows_counted": 63}, "64 rows were written, 63 counted"),
        ({"checksum_read": 8}, "the checksum of the rows differs from what was written"),
    ],
)
def test_a_distributed_table_that_does_not_work_is_described(
    cluster: FakeCitus, trip: dict[str, Any], told: str
) -> None:
    cluster.trip = trip
    assert failure(cluster).details == (told,)


def test_what_a_verification_leaves_behind_is_a_failure(cluster: FakeCitus) -> None:
    cluster.left = ("citus-worker1:5432: 1",)
    assert failure(cluster).details == ("citus-worker1:5432: 1",)


@pytest.mark.parametrize("kind", [psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled])
def test_a_running_rebalance_may_block_the_write_and_nothing_else_may(
    cluster: FakeCitus, kind: type[psycopg.Error]
) -> None:
    cluster.trip = server_error(kind, "canceled")
    assert "did not end in time: canceled" in failure(cluster).message
    cluster.run_job(7)
    (skipped,) = [event for event in verified(cluster) if event.kind is EventKind.SKIPPED]
    assert (skipped.step, skipped.data) == ("verify:round-trip", {"job_id": 7})


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ('role "app" does not exist', "citus-cluster roles create app"),
        ("something else", "See the logs of the nodes"),
    ],
)
def test_a_write_that_fails_says_where_to_look(cluster: FakeCitus, message: str, hint: str) -> None:
    cluster.trip = server_error(psycopg.errors.RaiseException, message)
    error = failure(cluster)
    assert error.message == f"A distributed table could not be written and read: {message}"
    assert hint in (error.hint or "")


def test_a_coordinator_that_goes_away_is_no_broken_table(cluster: FakeCitus) -> None:
    cluster.trip = server_error(psycopg.OperationalError, "the server closed the connection")

    async def close(*_: Any, **__: Any) -> Any:
        cluster.conn.closed = True
        raise cluster.trip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("citus_cluster.runtime.citus.verify.write_and_read", close)
        with pytest.raises(UnreachableError, match="verifying the cluster"):
            verified(cluster)


def test_a_cluster_without_any_node_cannot_hold_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = in_place(monkeypatch, FakeCitus())
    cluster.nodes = []
    with pytest.raises(VerificationError, match="No node may hold shards"):
        virtual_time.run(verify(cluster.connection, (), ignore))


def test_a_node_that_stops_answering_meanwhile_is_skipped_but_a_lost_connection_is_told(
    cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any) -> Any:
        raise CitusClusterError("It has stopped.")

    monkeypatch.setattr("citus_cluster.runtime.citus.tables.presence", silent)
    assert [event.step for event in verified(cluster)][2] == "verify:data"
    cluster.conn.closed = True
    with pytest.raises(CitusClusterError, match="It has stopped"):
        verified(cluster)
