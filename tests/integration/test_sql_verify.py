"""Verifying a cluster and looking at it, on real servers."""

import time
from typing import Any

import psycopg
import pytest
from sql_servers import COORDINATOR, WORKERS, Recorder, Servers, on, register
from sql_tables import checksum, distribute

from citus_cluster.errors import UnreachableError, VerificationError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.plan.events import EventKind, ignore
from citus_cluster.operations.nodes.checks import troubles
from citus_cluster.operations.nodes.registration import reconcile
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import tables as citus_tables
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.postgres import Connection

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS
RELATIONS = "SELECT relname, relkind::text FROM pg_class WHERE oid >= 16384 ORDER BY 1, 2"
METADATA = """
SELECT (SELECT count(*) FROM pg_dist_shard), (SELECT count(*) FROM pg_dist_cleanup),
       (SELECT count(*) FROM pg_dist_object), (SELECT count(*) FROM pg_dist_colocation)
"""


def test_a_node_that_timed_out_is_asked_once_more_before_it_is_unwell(
    cluster: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock stands for a busy machine: the node answers as soon as it is asked for the second time."""
    register(cluster, FIRST)
    info = cluster.info(FIRST.host)
    asked: list[NodeAddress] = []
    ask = citus_probe.ask

    async def look(conn: Connection) -> tuple[str, ...]:
        nodes = (await read_registry(conn)).nodes
        return await troubles(conn, [node for node in nodes if node.address == FIRST])

    with psycopg.connect(info.dsn(masked=False)) as holder:

        async def ask_and_release(conn: Connection, node: NodeAddress, *args: Any, **options: Any) -> Any:
            asked.append(node)
            if len(asked) == 2:
                holder.rollback()
            return await ask(conn, node, *args, **options)

        monkeypatch.setattr(citus_probe, "ask", ask_and_release)
        holder.execute("LOCK TABLE pg_dist_node IN ACCESS EXCLUSIVE MODE")
        assert on(cluster, look) == ()
        assert asked == [FIRST, FIRST]
        holder.execute("LOCK TABLE pg_dist_node IN ACCESS EXCLUSIVE MODE")
        (trouble,) = on(cluster, look)
        assert "did not answer within" in trouble


@pytest.mark.parametrize("workers", [0, 3])
def test_verify_writes_and_reads_everywhere_and_leaves_nothing(
    cluster: Servers, recorder: Recorder, workers: int
) -> None:
    expected = WORKERS[:workers]
    on(cluster, lambda conn: reconcile(conn, COORDINATOR, expected, ignore))
    queries = [(node.host, query) for node in (COORDINATOR, *WORKERS) for query in (RELATIONS, METADATA)]
    before = [cluster.sql(*query) for query in queries]

    on(cluster, lambda conn: verify(conn, expected, recorder))

    assert [cluster.sql(*query) for query in queries] == before
    assert [event.kind for event in recorder.events] == [EventKind.DONE] * 4
    assert recorder.events[-1].data["nodes"] == max(1, workers)


@pytest.mark.usefixtures("only_newest")
def test_verify_names_a_missing_and_a_silent_worker(cluster: Servers) -> None:
    register(cluster, FIRST, SECOND)
    with pytest.raises(VerificationError, match="citus-worker3:5432"):
        on(cluster, lambda conn: verify(conn, WORKERS, ignore))
    started = time.monotonic()
    with cluster.paused(SECOND.host), pytest.raises(VerificationError, match=r"citus-worker2|does not answer"):
        on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    assert time.monotonic() - started < 12


@pytest.mark.usefixtures("only_newest")
def test_a_node_that_is_late_once_is_asked_again(cluster: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    register(cluster, FIRST, SECOND)
    container = cluster.containers[SECOND.host]
    late: list[str] = []
    ask_node = citus_tables.ask_node

    async def let_go_on_when_late(*arguments: Any, **options: Any) -> citus_tables.NodeAnswer:
        try:
            return await ask_node(*arguments, **options)
        except UnreachableError as error:
            if not late:
                container.unpause()
            late.append(error.message)
            raise

    monkeypatch.setattr(citus_tables, "ask_node", let_go_on_when_late)
    container.pause()
    seen = on(cluster, overview)
    assert len(late) == 1
    assert {node.address: node.reason for node in seen.nodes} == {COORDINATOR: None, FIRST: None, SECOND: None}


@pytest.mark.usefixtures("only_newest")
def test_verify_that_a_lock_blocks_ends_in_time(cluster: Servers) -> None:
    register(cluster, FIRST)

    async def body(conn: Connection) -> None:
        other = await cluster.connect()
        async with other, other.transaction():
            await other.execute("LOCK TABLE pg_dist_partition IN SHARE MODE")
            with pytest.raises(VerificationError, match="did not end in time"):
                await verify(conn, [FIRST], ignore)

    started = time.monotonic()
    on(cluster, body)
    assert time.monotonic() - started < 15


def test_coordinator_restarted_still_queries_and_verifies(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    before = checksum(cluster)
    cluster.containers[COORDINATOR.host].restart(timeout=20)
    cluster.wait(COORDINATOR.host)
    assert checksum(cluster) == before
    on(cluster, lambda conn: verify(conn, WORKERS, ignore))


def test_overview_is_whole_and_stays_in_time_when_a_worker_hangs(cluster: Servers) -> None:
    register(cluster)
    distribute(cluster)
    cluster.sql(
        COORDINATOR.host, "CREATE TABLE countries (id int PRIMARY KEY)", "SELECT create_reference_table('countries')"
    )
    look = on(cluster, overview)
    assert [(node.address, node.role) for node in look.nodes] == [
        (COORDINATOR, "coordinator"),
        *[(worker, "worker") for worker in WORKERS],
    ]
    assert {node.postgres_version for node in look.nodes} == {look.nodes[0].postgres_version}
    assert {node.citus_version for node in look.nodes} != {None}
    assert [(t.name, t.type, t.distribution_column, t.shard_count) for t in look.tables] == [
        ("countries", "reference", None, 1),
        ("lines", "distributed", "id", 8),
        ("orders", "distributed", "id", 8),
    ]
    assert all(table.size_bytes for table in look.tables)

    started = time.monotonic()
    with cluster.paused(SECOND.host):
        look = on(cluster, overview)
    assert time.monotonic() - started < 20
    silent = [node for node in look.nodes if node.postgres_version is None]
    assert [node.address for node in silent] == [SECOND]
    assert silent[0].shard_count > 0
    assert silent[0].reason
    assert [table.size_bytes for table in look.tables] == [None] * 3
