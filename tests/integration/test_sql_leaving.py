"""Taking workers out of the node list, on real servers."""

import threading
import time

import pytest
from sql_drain_support import checksum, deregister, distribute, run_drain
from sql_servers import COORDINATOR, FOURTH, WORKERS, Recorder, Servers, on, register
from waiting import eventually

from citus_cluster.errors import InUseError, LockedError
from citus_cluster.model.citus.nodes import NodeAddress, Outcome
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.nodes import unregistration as unregistration
from citus_cluster.operations.nodes.registration import add_worker, reconcile
from citus_cluster.operations.nodes.verify import verify

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


def test_a_worker_leaves_once_it_is_drained_and_stays_away(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    before = checksum(cluster)
    with pytest.raises(InUseError, match="still holds the only copy of 4 shards") as caught:
        deregister(cluster, THIRD)
    assert [line.split(",")[0] for line in caught.value.details] == ["lines: 2 shards", "orders: 2 shards"]
    assert "nodes drain citus-worker3 --wait" in str(caught.value.hint)

    run_drain(cluster, THIRD)
    deregister(cluster, THIRD)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_node") == [(3,)]
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_cleanup") == [(0,)]
    shards_left = "SELECT count(*) FROM pg_class WHERE relname ~ '^(orders|lines)_[0-9]+$'"
    assert cluster.sql(THIRD.host, shards_left) == [(0,)], "what the moves left behind was dropped"
    assert register(cluster)[THIRD.host].outcome is Outcome.WITHDRAWN
    deregister(cluster, THIRD)
    assert checksum(cluster) == before
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))

    assert on(cluster, lambda conn: add_worker(conn, None, THIRD, ignore, timeout_s=10)).outcome is Outcome.ADDED
    assert checksum(cluster) == before


def test_one_that_does_not_answer_leaves_when_it_holds_nothing(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster, rows=1000)
    with (
        cluster.paused(SECOND.host),
        pytest.raises(InUseError, match=r"the only copy of 4 shards, which would be lost"),
    ):
        deregister(cluster, SECOND)
    # The first in the node list is the one on which Citus takes locks.
    run_drain(cluster, FIRST)
    before = checksum(cluster)
    started = time.monotonic()
    with cluster.paused(FIRST.host):
        deregister(cluster, FIRST)
        assert time.monotonic() - started < 20
        assert checksum(cluster) == before
        cluster.sql(COORDINATOR.host, "INSERT INTO countries VALUES (1000)", "DELETE FROM countries WHERE id = 1000")
    assert register(cluster)[FIRST.host].outcome is Outcome.WITHDRAWN


@pytest.mark.usefixtures("only_newest")
def test_another_one_that_hangs_keeps_everybody(cluster: Servers) -> None:
    register(cluster)
    with cluster.paused(FIRST.host), pytest.raises(InUseError, match="not all answer: citus-worker1:5432"):
        deregister(cluster, THIRD)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_node") == [(4,)]


@pytest.mark.usefixtures("only_newest")
def test_a_disabled_one_can_leave(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(COORDINATOR.host, "SELECT citus_disable_node('citus-worker3', 5432, true)")
    with pytest.raises(InUseError, match="is disabled"):
        run_drain(cluster, THIRD)
    deregister(cluster, THIRD)
    assert register(cluster)[THIRD.host].outcome is Outcome.WITHDRAWN


def test_copies_of_shards_go_only_when_they_are_let_go(cluster: Servers) -> None:
    register(cluster)
    cluster.sql(
        COORDINATOR.host,
        "SET citus.shard_replication_factor = 3",
        "CREATE TABLE copied (id bigint PRIMARY KEY)",
        "SELECT create_distributed_table('copied', 'id', shard_count => 4)",
        "INSERT INTO copied SELECT generate_series(1, 1000)",
    )
    events = Recorder()
    result = run_drain(cluster, THIRD, emit=events)
    assert result.done
    assert "nodes remove citus-worker3 --force" in events.events[-1].message
    with pytest.raises(InUseError, match="holds copies of 4 shards that other nodes have too"):
        deregister(cluster, THIRD)
    deregister(cluster, THIRD, force=True)
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM copied") == [(1000,)]
    left = cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_dist_placement")
    assert left == [(8,)]


@pytest.mark.usefixtures("only_newest")
def test_a_server_that_is_registered_under_another_name_is_not_taken_for_gone(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    address = NodeAddress(cluster.ip_address(THIRD.host))
    register(cluster, FIRST, SECOND, address)
    with pytest.raises(InUseError, match=f"is registered under another name, {address}"):
        deregister(cluster, THIRD)
    deregister(cluster, address)
    deregister(cluster, THIRD)


@pytest.mark.usefixtures("only_newest")
def test_another_server_gets_a_name_that_was_released_and_the_old_one_does_not(cluster: Servers) -> None:
    def outcome() -> Outcome:
        results = on(cluster, lambda conn: reconcile(conn, COORDINATOR, [FIRST, FOURTH], ignore))
        return results[-1].outcome

    def release(*, is_gone: bool = False) -> None:
        on(cluster, lambda conn: unregistration.release(conn, FOURTH, is_gone=is_gone))

    register(cluster, FIRST)
    cluster.start(FOURTH.host)
    try:
        cluster.wait(FOURTH.host)
        assert outcome() is Outcome.ADDED
        deregister(cluster, FOURTH)
        release()
        assert outcome() is Outcome.WITHDRAWN, "it is the server that left"
        deregister(cluster, FOURTH)
        cluster.stop(FOURTH.host)
        cluster.start(FOURTH.host)
        cluster.wait(FOURTH.host)
        assert outcome() is Outcome.WITHDRAWN, "cluster.yaml still named it when it was made anew"
        release()
        # The clock was put back in between.
        cluster.sql(
            COORDINATOR.host, "UPDATE citus_cluster.departed SET left_at = '2000-1-1', released_at = '2000-1-1'"
        )
        assert outcome() is Outcome.ADDED
        assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM citus_cluster.departed") == [(0,)]
        release()
        assert outcome() is Outcome.ALREADY
        cluster.sql(COORDINATOR.host, "SELECT citus_remove_node('citus-worker4', 5432)")
        assert outcome() is Outcome.WITHDRAWN, "what was released before its registration is of the past"
        kept_by_an_earlier_version = "VALUES ('citus-worker4', 5432, 'old', '2000-1-1', '2000-1-1')"
        cluster.sql(COORDINATOR.host, f"INSERT INTO citus_cluster.departed {kept_by_an_earlier_version}")
        assert outcome() is Outcome.WITHDRAWN
        deregister(cluster, FOURTH)
        release()
        assert outcome() is Outcome.WITHDRAWN, "it is the server that left"
    finally:
        cluster.take_apart()
        cluster.stop(FOURTH.host)


@pytest.mark.usefixtures("only_newest")
def test_a_deadlock_with_the_recovery_of_prepared_transactions_is_said_to_be_a_lock(cluster: Servers) -> None:
    """Citus' daemon deletes the same rows; here another session does, in the other order."""
    register(cluster)
    (group,) = cluster.sql(COORDINATOR.host, "SELECT groupid FROM pg_dist_node WHERE nodename = 'citus-worker3'")[0]
    row = f"pg_dist_transaction WHERE groupid = {group} AND gid ="
    for gid in ("first", "second"):
        cluster.sql(COORDINATOR.host, f"INSERT INTO pg_dist_transaction (groupid, gid) VALUES ({group}, '{gid}')")
    refusals: list[BaseException] = []

    def remove() -> None:
        try:
            deregister(cluster, THIRD)
        except LockedError as error:
            refusals.append(error)

    removing = threading.Thread(target=remove)
    with cluster.session() as other:
        other.execute("SET deadlock_timeout = '1min'")  # so that it is the removal that is ended
        other.execute("BEGIN")
        other.execute(f"DELETE FROM {row} 'second'".encode())
        removing.start()
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid' AND query LIKE '%remove_node%'"
        )
        eventually(lambda: cluster.sql(COORDINATOR.host, waits) != [(0,)], "the removal waits for the row", 30)
        other.execute(f"DELETE FROM {row} 'first'".encode())
        removing.join(timeout=30)
        other.execute("ROLLBACK")
    (refusal,) = refusals
    assert "cannot be removed now" in str(refusal)
    deregister(cluster, THIRD)
