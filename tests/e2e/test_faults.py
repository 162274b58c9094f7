"""Faults of a year's use, on one real cluster: the tests build on each other, and each ends with an equal checksum.

Commands are killed at each of their events, containers are killed, paused and removed. Which events there are is found
by running the commands.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster_support import require_images
from faults_support import CountingWriter, drop_orphans, killed_at_every_event, shard_tables
from generated_cluster import GeneratedCluster
from waiting import eventually

pytestmark = pytest.mark.cluster

ROWS = 60_000
CHECKSUM = "SELECT count(*), sum(hashtextextended(id || ':' || payload, 0)) FROM events"


@pytest.fixture(scope="module")
def cluster(default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    one = GeneratedCluster(Path(tmp_path_factory.mktemp("faults")), default_image)
    yield one
    one.remove()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What an earlier test of the module saw, for the later ones."""
    return {}


@pytest.fixture(autouse=True)
def equal_checksum(cluster: GeneratedCluster, facts: dict[str, Any]) -> Iterator[None]:
    yield
    if "checksum" in facts:
        assert cluster.sql(CHECKSUM)[0] == facts["checksum"]


def nodes(cluster: GeneratedCluster) -> list[str]:
    return [str(row[0]) for row in cluster.sql("SELECT nodename FROM pg_dist_node ORDER BY groupid")]


def containers(cluster: GeneratedCluster) -> list[str]:
    found = cluster.docker("ps", "-a", "--filter", f"name={cluster.name}", "--format", "{{.Names}} {{.State}}")
    return sorted(found.out.splitlines())


def holders(cluster: GeneratedCluster) -> set[str]:
    rows = cluster.sql("SELECT DISTINCT nodename FROM citus_shards WHERE table_name = 'events'::regclass")
    return {str(row[0]) for row in rows}


def running(cluster: GeneratedCluster, workers: int) -> list[str]:
    names = ["coordinator", *(f"worker{number}" for number in range(1, workers + 1))]
    return [f"{cluster.name}-{name} running" for name in names]


def files(cluster: GeneratedCluster) -> set[str]:
    return {path.relative_to(cluster.root).as_posix() for path in cluster.root.rglob("*")}


@contextmanager
def paused(cluster: GeneratedCluster, service: str) -> Iterator[None]:
    cluster.docker("pause", cluster.container(service))
    try:
        yield
    finally:
        cluster.docker("unpause", cluster.container(service))


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def unchanged_by_another_up(cluster: GeneratedCluster) -> None:
    again = cluster.cli("up", "--format=json").json()
    assert (again["changed"], again["reloaded"], again["verified"]) == ([], [], True)


def test_a_first_start_killed_at_every_event(cluster: GeneratedCluster, facts: dict[str, Any]) -> None:
    cluster.create("--workers=2", "--services=citus")
    before = files(cluster)
    events = killed_at_every_event(cluster, "up", with_children=True)
    said = "\n".join(events)
    assert "Creating" in said and "is ready" in said and "the cluster is verified" in said
    assert nodes(cluster) == ["citus-coordinator", "citus-worker1", "citus-worker2"]
    assert containers(cluster) == running(cluster, 2), "no container is left that a killed run began to make"
    assert files(cluster) == before | {"generated/journal.jsonl"}
    unchanged_by_another_up(cluster)

    cluster.sql("CREATE TABLE events (id bigint PRIMARY KEY, payload text)")
    cluster.sql("SELECT create_distributed_table('events', 'id', shard_count => 6)")
    cluster.sql(f"INSERT INTO events SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i")
    facts["checksum"] = cluster.sql(CHECKSUM)[0]


def test_a_start_that_recreates_every_container_killed_at_every_event(cluster: GeneratedCluster) -> None:
    cluster.setup("--memory=6000", "--yes")
    events = killed_at_every_event(cluster, "up", with_children=False)
    assert any("Recreate" in event for event in events)
    assert containers(cluster) == running(cluster, 2)
    unchanged_by_another_up(cluster)


def test_a_worker_added_and_shards_moved_killed_at_every_event(cluster: GeneratedCluster) -> None:
    cluster.setup("--workers=3", "--yes")
    cluster.compose("up", "-d", "--wait")  # without the admin API, nobody registers it
    before = files(cluster)
    with CountingWriter(cluster) as writer:
        command = ("add_worker.py", "--host=citus-worker3", "--rebalance", "--wait")
        events = killed_at_every_event(cluster, *command, with_children=True)
        writer.goes_on()
    writer.check([1, 2, 3])
    assert any("citus-worker3:# registered" in event for event in events)
    assert any("rebalance started" in event for event in events)
    assert nodes(cluster) == ["citus-coordinator", "citus-worker1", "citus-worker2", "citus-worker3"]
    shards = "SELECT nodename, count(*) FROM citus_shards WHERE table_name = 'events'::regclass GROUP BY 1 ORDER BY 1"
    assert cluster.sql(shards) == [("citus-worker1", 2), ("citus-worker2", 2), ("citus-worker3", 2)]
    assert files(cluster) == before
    assert cluster.sql("SELECT count(*), min(state::text) FROM pg_dist_background_job") == [(1, "finished")]
    drop_orphans(cluster)
    # Plain Compose does not load the settings that follow from the number of workers.
    assert cluster.cli("up", "--format=json").json()["reloaded"] == ["citus-coordinator"]
    unchanged_by_another_up(cluster)


def test_containers_killed_alone_and_at_once_under_a_writer(cluster: GeneratedCluster) -> None:
    services = ["citus-coordinator", "citus-worker1", "citus-worker2", "citus-worker3"]
    with CountingWriter(cluster) as writer:
        for victims in (*([service] for service in services), services):
            writer.goes_on()
            cluster.docker("kill", *(cluster.container(service) for service in victims))
            writer.fails()
            found = cluster.cli("status", "--format=json", check=False).json()
            assert found["state"] == ("down" if "citus-coordinator" in victims else "degraded")
            assert {s["service"] for s in found["services"] if s["state"] != "running"} == set(victims)
            assert cluster.cli("up", "--format=json").json()["changed"] == victims
        writer.goes_on()
    writer.check([1, 2, 3])


def test_a_container_removed_and_brought_back_to_its_volume(cluster: GeneratedCluster) -> None:
    with CountingWriter(cluster) as writer:
        writer.goes_on()
        cluster.docker("rm", "--force", cluster.container("citus-worker2"))
        writer.fails()
        found = cluster.cli("status", "--format=json", check=False).json()
        assert any("citus-worker2: missing" in problem for problem in found["problems"])
        assert cluster.cli("up", "--format=json").json()["changed"] == ["citus-worker2"]
        writer.goes_on()
    writer.check([1, 2, 3])


def test_a_worker_paused_while_it_is_registered(cluster: GeneratedCluster) -> None:
    cluster.setup("--workers=4", "--retune", "--yes")
    cluster.compose("up", "-d", "--wait")
    adding = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT citus_add_node(%'"
    with cluster.connect(4) as conn, conn.transaction():
        conn.execute("LOCK TABLE pg_dist_partition IN SHARE MODE")  # what Citus is about to write there waits
        with cluster.running_add_worker("--host=citus-worker4", "--timeout=10") as adding_it, within(60):
            eventually(lambda: cluster.sql(adding) == [(1,)], "Citus adds the node")
            with paused(cluster, "citus-worker4"):
                said = adding_it.rest()
                assert adding_it.process.returncode == 1
                assert "citus-worker4:5432 stopped answering while it was being registered" in said
                refused = cluster.add_worker("--host=citus-worker4", "--timeout=2", check=False)
                assert "citus-worker4:5432 does not answer" in refused.err
    added = cluster.add_worker("--host=citus-worker4")
    assert "is registered." in added.out
    assert nodes(cluster).count("citus-worker4") == 1
    with paused(cluster, "citus-worker1"), within(30):
        found = cluster.cli("status", "--format=json", check=False).json()
        assert any("citus-worker1:5432 does not answer" in problem for problem in found["problems"])


def test_a_worker_paused_in_a_rebalance(cluster: GeneratedCluster) -> None:
    patient_for_5_s = (
        "import citus_cluster.operations.rebalance.watch as watch; watch._SILENCE_TOLERATED_S = 5; "
        "from citus_cluster.cli.program import main; main()"
    )
    silent = "citus-worker4:5432 does not answer the coordinator"
    command = (sys.executable, "-c", patient_for_5_s, "rebalance", "start", "--wait")
    with cluster.connect() as conn, cluster.running(*command) as run:
        with conn.transaction(force_rollback=True):
            # The move that has begun cannot end before this does.
            conn.execute("INSERT INTO events SELECT -i, 'open' FROM generate_series(1, 100) i")
            assert next((line for line in run.err if "running:" in line), None)
            cluster.docker("pause", cluster.container("citus-worker4"))
        try:
            with within(15):
                assert next((line for line in run.err if silent in line), None)
            with within(60):
                said = run.rest()
            assert run.process.returncode == 1
            assert f"does not continue: {silent}" in said
            assert "citus-cluster rebalance wait" in said
            with within(30):
                assert silent in cluster.cli("rebalance", "status").out
            with within(30):
                found = cluster.cli("status", "--format=json", check=False).json()
            assert sum(silent in problem for problem in found["problems"]) == 1
        finally:
            cluster.docker("unpause", cluster.container("citus-worker4"))
    assert "finished" in cluster.cli("rebalance", "wait").err
    assert "citus-worker4" in holders(cluster)
    assert cluster.cli("status", "--format=json").json()["state"] == "ok"


def test_coordinator_and_source_killed_in_a_rebalance(cluster: GeneratedCluster) -> None:
    cluster.sql("SELECT citus_set_node_property('citus-worker4', 5432, 'shouldhaveshards', false)")
    with closing(cluster.connect()) as conn:
        conn.execute("BEGIN")
        conn.execute("INSERT INTO events SELECT -i, 'open' FROM generate_series(1, 100) i")
        cluster.cli("rebalance", "start")
        running = "SELECT count(*) FROM pg_dist_background_task WHERE status = 'running'"
        eventually(lambda: cluster.sql(running) != [(0,)], "a shard is being moved")
        cluster.docker("kill", *(cluster.container(service) for service in ("citus-coordinator", "citus-worker4")))
    refused = cluster.cli("rebalance", "status", check=False)
    assert refused.status == 1
    assert "citus-cluster up" in refused.err
    cluster.cli("up")
    cluster.cli("rebalance", "wait")
    assert "othing to move" in cluster.cli("rebalance", "start", "--wait").text
    assert "citus-worker4" not in holders(cluster)
    drop_orphans(cluster)
    for number in range(1, 5):
        assert cluster.sql("SELECT slot_name FROM pg_replication_slots", number) == []
        assert cluster.sql("SELECT subname FROM pg_subscription", number) == []
    assert shard_tables(cluster, "events", 3) != []
    assert shard_tables(cluster, "events", 4) == []
    assert cluster.cli("status", "--format=json").json()["state"] == "ok"


def test_a_clock_that_was_put_back(make_cluster: Callable[[], GeneratedCluster]) -> None:
    """What was written before, or started, is of the future now: it counts as changed once, and then no more."""
    require_images("redis:7")
    other = make_cluster()
    other.create("--workers=1", "--services=citus,redis,admin-api", "--up")
    tomorrow = time.time() + 86400
    for path in other.root.rglob("*"):
        os.utime(path, (tomorrow, tomorrow), follow_symlinks=False)
    assert "Nothing to do" in other.setup().out
    again = other.cli("up", "--format=json").json()
    assert (again["changed"], again["reloaded"], again["verified"]) == (
        ["admin-api", "redis"],
        ["citus-coordinator", "citus-worker1"],
        True,
    )
    unchanged_by_another_up(other)
