"""Workers that leave a cluster in memory: what is known of one, and what keeps it."""

import psycopg
import pytest
import virtual_time
from fake_citus import COORDINATOR, ONE, THREE, TWO, FakeCitus, in_place, server_error

from citus_cluster.errors import CitusClusterError, InUseError, LockedError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import Move
from citus_cluster.model.citus.removal import Departure, HeldTable
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.operations.nodes import unregistration


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCitus:
    return in_place(monkeypatch, FakeCitus.of(ONE, TWO, THREE))


def look(cluster: FakeCitus, worker: NodeAddress = TWO) -> Departure:
    return virtual_time.run(unregistration.look(cluster.connection, worker.host, worker))


def leave(cluster: FakeCitus, worker: NodeAddress = TWO, *, force: bool = False) -> list[Event]:
    events: list[Event] = []
    found = look(cluster, worker)
    virtual_time.run(unregistration.deregister(cluster.connection, found, events.append, force=force))
    return events


def test_what_a_worker_holds_is_counted_by_table_with_what_is_nowhere_else(cluster: FakeCitus) -> None:
    cluster.place("orders", {101: [TWO], 102: [TWO, ONE], 103: [ONE]})
    cluster.place("countries", {201: [COORDINATOR, ONE, TWO, THREE]}, "reference")
    found = look(cluster)
    assert found.held == (HeldTable("orders", 2, 1, 2000),)
    assert (found.name, found.node, found.recorded) == ("citus-worker2", cluster.node(TWO), True)
    assert (found.coordinator, found.identifier, found.silence) == (COORDINATOR, "of server 2", None)
    assert found.shard_targets == (ONE, THREE)
    assert (found.standbys, found.others_unreachable, found.drained, found.twin) == ((), (), (), None)


def test_a_worker_that_does_not_answer_tells_no_sizes(cluster: FakeCitus) -> None:
    cluster.place("orders", {101: [TWO]})
    cluster.servers[TWO].silence = "it is paused"
    found = look(cluster)
    assert found.held == (HeldTable("orders", 1, 1, None),)
    assert found.identifier is None
    assert found.silence and "it is paused" in found.silence


def test_the_sizes_may_be_unknown_also_where_the_worker_answers(
    cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.place("orders", {101: [TWO]})

    async def hang(*_: object) -> object:
        raise CitusClusterError("It took too long.")

    monkeypatch.setattr("citus_cluster.runtime.citus.tables.ask_node", hang)
    assert look(cluster).held == (HeldTable("orders", 1, 1, None),)
    cluster.conn.closed = True
    with pytest.raises(CitusClusterError):
        look(cluster)


def test_without_dblink_a_worker_counts_as_answering(cluster: FakeCitus) -> None:
    cluster.has_dblink = False
    found = look(cluster)
    assert (found.silence, found.identifier) == (None, None)


def test_the_other_nodes_that_matter_are_told_apart(cluster: FakeCitus) -> None:
    standby = NodeAddress("citus-worker9")
    cluster.register(standby, group_id=cluster.node(TWO).group_id, role="secondary")
    cluster.change(THREE, should_have_shards=False)
    cluster.servers[ONE].silence = "it is paused"
    found = look(cluster)
    assert (found.standbys, found.drained, found.shard_targets) == ((standby,), (THREE,), (ONE,))
    assert [line[:18] for line in found.others_unreachable] == ["citus-worker1:5432"]


def test_a_server_that_is_registered_under_another_name_is_found(cluster: FakeCitus) -> None:
    other = NodeAddress("10.0.0.2")
    cluster.offer(other, system_identifier="of server 2")
    found = look(cluster, other)
    assert (found.node, found.recorded, found.twin) == (None, False, TWO)
    # A disabled node serves nobody, and the coordinator is no worker.
    cluster.change(TWO, is_active=False)
    cluster.offer(NodeAddress("10.0.0.3"), system_identifier="of server 0")
    assert look(cluster, other).twin is None
    assert look(cluster, NodeAddress("10.0.0.3")).twin is None


def test_a_worker_leaves_the_node_list_under_the_lock_and_is_recorded(cluster: FakeCitus) -> None:
    (done,) = leave(cluster)
    assert cluster.done == ["remove citus-worker2"]
    assert cluster.recorded == {ONE, TWO, THREE}
    assert (done.kind, done.step) == (EventKind.DONE, "deregister:citus-worker2:5432")
    assert done.message == "removed citus-worker2:5432 from the node list; it will not be registered again"
    assert done.data["host"] == "citus-worker2"


def test_one_that_left_already_is_recorded_alone_also_in_a_cluster_without_a_record(cluster: FakeCitus) -> None:
    cluster.nodes = [node for node in cluster.nodes if node.address != TWO]
    cluster.recorded = None
    (skipped,) = leave(cluster)
    assert cluster.done == ["make the record", "record that citus-worker2 left (of server 2)"]
    assert (skipped.kind, skipped.message) == (EventKind.SKIPPED, "citus-worker2:5432 is no longer in the node list")


def test_a_worker_that_does_not_answer_is_disabled_first(cluster: FakeCitus) -> None:
    cluster.servers[TWO].silence = "it is paused"
    cluster.cleanups = {cluster.node(TWO).group_id: 3}
    assert len(leave(cluster)) == 1, "nothing can be dropped on it"
    assert cluster.done == ["remove citus-worker2, which does not answer"]


def test_whether_data_would_be_lost_is_looked_at_again_under_the_lock(cluster: FakeCitus) -> None:
    cluster.before_lock = lambda: cluster.place("orders", {101: [TWO]})
    with pytest.raises(InUseError, match="still holds the only copy of 1 shard"):
        leave(cluster)
    assert cluster.done == []


def test_copies_that_others_have_go_only_by_force(cluster: FakeCitus) -> None:
    cluster.place("orders", {101: [TWO, ONE]})
    with pytest.raises(InUseError, match="that other nodes have too"):
        leave(cluster)
    leave(cluster, force=True)
    assert cluster.done == ["remove citus-worker2"]


def test_a_worker_that_a_rebalance_moves_shards_to_or_from_stays(cluster: FakeCitus) -> None:
    cluster.place("orders", {101: [ONE]})
    cluster.moves = [Move("orders", 101, 1000, ONE, TWO)]
    cluster.run_job(7)
    with pytest.raises(InUseError, match="Rebalance 7 moves shards to or from citus-worker2:5432"):
        leave(cluster)
    leave(cluster, THREE)
    assert cluster.done == ["remove citus-worker3"]


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (2, "2 things left by moves on citus-worker2:5432 could not be dropped"),
        (psycopg.errors.RaiseException("no"), "not all leftovers of moves were dropped: no"),
    ],
)
def test_what_moves_left_on_it_keeps_no_worker(cluster: FakeCitus, left: int | Exception, told: str) -> None:
    cluster.cleanups = {cluster.node(TWO).group_id: left}
    warning, done = leave(cluster)
    assert (warning.kind, warning.message) == (EventKind.WARNING, told)
    assert done.kind is EventKind.DONE


def test_a_disabled_worker_is_not_cleaned_up(cluster: FakeCitus) -> None:
    cluster.change(TWO, is_active=False)
    cluster.cleanups = {cluster.node(TWO).group_id: 3}
    assert [event.kind for event in leave(cluster)] == [EventKind.DONE]


@pytest.mark.parametrize(
    ("refusal", "job", "error", "told"),
    [
        (psycopg.errors.LockNotAvailable, False, LockedError, "is locked: another session is changing it"),
        (psycopg.errors.LockNotAvailable, True, LockedError, "is locked: rebalance 7 is running"),
        (psycopg.errors.RaiseException, False, InUseError, "Citus did not remove citus-worker2:5432: no; nothing was"),
    ],
)
def test_why_citus_did_not_remove_a_worker_is_said(
    cluster: FakeCitus, refusal: type[psycopg.Error], job: bool, error: type[CitusClusterError], told: str
) -> None:
    cluster.refusal = server_error(refusal, "no")
    if job:
        cluster.run_job(7)
    with pytest.raises(error, match=told):
        leave(cluster)


def test_a_lost_connection_is_told_as_one(cluster: FakeCitus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(*_: object, **__: object) -> None:
        cluster.conn.closed = True
        raise psycopg.OperationalError("the server closed the connection")

    monkeypatch.setattr("citus_cluster.runtime.citus.removal.remove_worker", lose)
    with pytest.raises(UnreachableError, match="connection to the coordinator was lost while citus-worker2:5432"):
        leave(cluster)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_name_is_released_unless_it_was_taken_again(cluster: FakeCitus, is_gone: bool) -> None:
    gone = NodeAddress("citus-worker8")
    for worker in (TWO, gone):
        virtual_time.run(unregistration.release(cluster.connection, worker, is_gone=is_gone))
    assert cluster.done == ["release the name citus-worker8" + (", whose server is gone" if is_gone else "")]


def test_the_node_list_is_read_for_names(cluster: FakeCitus) -> None:
    registry = virtual_time.run(unregistration.registry(cluster.connection))
    assert [node.address for node in registry.nodes] == [COORDINATOR, ONE, TWO, THREE]
