"""Faults in the middle of a rebalance, on each Citus: a full disk and a killed target, a restarted coordinator.

Shards move to worker 3 and back. Each test ends with an equal checksum, and leaves the shards where the next one wants
them; where one has failed, the next begins by moving them there.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from faults_support import drop_orphans, shard_tables
from generated_cluster import GeneratedCluster
from waiting import eventually

pytestmark = pytest.mark.cluster

ROWS = 60_000
CHECKSUM = "SELECT count(*), sum(hashtextextended(id || ':' || payload, 0)) FROM events"
DISK_MB = 512
# What Citus starts once no more shards are to be on a worker, or again.
HOLDS_SHARDS = "SELECT citus_set_node_property('citus-worker3', 5432, 'shouldhaveshards', {})"
WORKERS = (1, 2, 3)


class Disk:
    """The disk of worker 3, of a size of its own. A container that sleeps keeps it while the worker is restarted."""

    def __init__(self, cluster: GeneratedCluster) -> None:
        self._cluster = cluster
        self._name = f"{cluster.name}-disk"
        volume = f"{cluster.name}_citus-worker3-data:/disk"
        options = ("--detach", "--name", self._name, "--network=none", "--volume", volume, "--entrypoint=sleep")
        cluster.docker("run", *options, cluster.image, "infinity")

    def _run(self, script: str) -> str:
        return self._cluster.docker("exec", "--user=root", self._name, "sh", "-c", script).out

    def fill(self, *, free_kb: int) -> None:
        left = int(self._run("df -k --output=avail /disk | tail -n 1")) - free_kb
        self._run(f"head -c {left}K /dev/zero > /disk/filler || test {free_kb} = 0")

    def make_room(self) -> None:
        self._run("rm -f /disk/filler")

    def remove(self) -> None:
        self._cluster.docker("rm", "--force", "--volumes", self._name)


@pytest.fixture(scope="module")
def cluster(main_cluster: GeneratedCluster) -> Iterator[GeneratedCluster]:
    main_cluster.create("--workers=2", "--services=citus", "--up")
    main_cluster.sql("CREATE TABLE events (id bigint PRIMARY KEY, payload text)")
    main_cluster.sql("SELECT create_distributed_table('events', 'id', shard_count => 6)")
    main_cluster.sql(f"INSERT INTO events SELECT i, repeat(md5(i::text), 16) FROM generate_series(1, {ROWS}) i")
    volume = f'citus-worker3-data: {{driver_opts: {{type: tmpfs, device: tmpfs, o: "size={DISK_MB}m"}}}}'
    (main_cluster.root / "docker-compose.override.yml").write_text(f"volumes:\n  {volume}\n")
    main_cluster.setup("--workers=3", "--yes", "--up")
    yield main_cluster


@pytest.fixture(scope="module")
def disk(cluster: GeneratedCluster) -> Iterator[Disk]:
    one = Disk(cluster)
    yield one
    one.remove()


@pytest.fixture(scope="module")
def checksum(cluster: GeneratedCluster) -> tuple[Any, ...]:
    return cluster.sql(CHECKSUM)[0]


@pytest.fixture(autouse=True)
def equal_checksum(cluster: GeneratedCluster, checksum: tuple[Any, ...]) -> Iterator[None]:
    yield
    assert cluster.sql(CHECKSUM)[0] == checksum


def shards(cluster: GeneratedCluster) -> list[int]:
    """How many each worker holds."""
    found = dict(cluster.sql("SELECT nodename, count(*) FROM citus_shards GROUP BY 1"))
    return [found.get(f"citus-worker{number}", 0) for number in WORKERS]


def begin_with(cluster: GeneratedCluster, disk: Disk, expected: list[int]) -> None:
    """Bring the shards to where they are to be, should the test before have failed."""
    if shards(cluster) != expected:
        disk.make_room()
        cluster.cli("rebalance", "stop", check=False)
        cluster.cli("up")
        cluster.sql(HOLDS_SHARDS.format(expected[-1] > 0))
        finished_by_a_second_start(cluster, expected)


def problems(cluster: GeneratedCluster) -> str:
    return "\n".join(cluster.cli("status", "--format=json", check=False).json()["problems"])


def running_target(cluster: GeneratedCluster) -> tuple[int, int]:
    """Wait for a move: the number of the worker that gets the shard, and the shard."""
    moving = r"""
        SELECT right(nodename, 1)::int, shard[1]::bigint
        FROM pg_dist_background_task, regexp_match(command, 'placement\((\d+),\d+,(\d+)') AS shard, pg_dist_node
        WHERE status = 'running' AND nodeid = shard[2]::int"""
    eventually(lambda: cluster.sql(moving), "a shard is being moved")
    number, shard = cluster.sql(moving)[0]
    return number, shard


@contextmanager
def started_with_writes_held(cluster: GeneratedCluster) -> Iterator[None]:
    """Start a rebalance, online, that has checked everything, and copies nothing before the block ends."""
    with closing(cluster.connect()) as conn, conn.transaction(force_rollback=True):
        conn.execute("INSERT INTO events SELECT -i, 'open' FROM generate_series(1, 100) i")
        cluster.cli("rebalance", "start", "--online")
        running_target(cluster)
        yield


@contextmanager
def started_with_an_end_held(cluster: GeneratedCluster) -> Iterator[int]:
    """Start a rebalance whose first moves have copied rows, and cannot end before the block does: gives a target.

    The shards are small: these moves hold writes.
    """
    with closing(cluster.connect()) as conn:
        conn.execute("BEGIN")
        conn.execute("LOCK TABLE pg_dist_placement IN SHARE MODE")
        cluster.cli("rebalance", "start")
        number, shard = running_target(cluster)
        copied = f"SELECT pg_relation_size(to_regclass('events_{shard}')) > 0"
        eventually(lambda: cluster.sql(copied, number) == [(True,)], "rows are copied")
        yield number


def finished_by_a_second_start(cluster: GeneratedCluster, expected: list[int]) -> None:
    cluster.cli("rebalance", "start", "--wait")
    assert shards(cluster) == expected
    assert "nothing to move" in cluster.cli("rebalance", "start", "--wait").text
    assert cluster.cli("status", "--format=json").json()["state"] == "ok"


def test_the_disk_of_the_target_is_full(cluster: GeneratedCluster, disk: Disk) -> None:
    with started_with_writes_held(cluster):
        cluster.sql("SELECT pg_switch_wal()", 3)
        cluster.sql("CHECKPOINT", 3)  # there is WAL for what comes, and so no crash: that is another test
        disk.fill(free_kb=4096)
    eventually(lambda: "enough" in problems(cluster) or "No space left" in problems(cluster), "the reason is told")
    for told in (problems(cluster), cluster.cli("rebalance", "status").out):
        assert "to citus-worker3:5432 failed" in told
        assert "is retried" in told
        assert "free some space on the target's disk" in told
    refused = cluster.cli("rebalance", "start", "--wait", check=False)
    assert refused.status == 1
    assert "There is not enough disk space" in refused.err
    assert "citus-worker3:5432: would get" in refused.err
    disk.make_room()
    finished_by_a_second_start(cluster, [2, 2, 2])


def test_the_target_killed(cluster: GeneratedCluster, disk: Disk) -> None:
    begin_with(cluster, disk, [2, 2, 2])
    cluster.sql(HOLDS_SHARDS.format("false"))
    with started_with_an_end_held(cluster) as number:
        service = f"citus-worker{number}"
        cluster.docker("kill", cluster.container(service))
    # If Citus was about to talk to it, its own attempt to cancel that hangs for a minute, and no failure shows so long.
    asked = ("rebalance", "status", "--format=json")
    eventually(lambda: cluster.cli(*asked).json()["problems"], "the reason is told", 30)
    told = cluster.cli(*asked).json()["problems"]
    assert any(f"{service}:5432" in problem and "(citus-cluster status)" in problem for problem in told), told
    assert f"{service}: exited" in problems(cluster)
    assert f"{service}:5432" in problems(cluster)
    assert cluster.cli("rebalance", "start", check=False).status == 1
    assert cluster.cli("up", "--format=json").json()["changed"] == [service]
    finished_by_a_second_start(cluster, [3, 3, 0])


def test_the_target_crashes_on_its_full_disk(cluster: GeneratedCluster, disk: Disk) -> None:
    begin_with(cluster, disk, [3, 3, 0])
    cluster.sql(HOLDS_SHARDS.format("true"))
    with started_with_writes_held(cluster):
        disk.fill(free_kb=0)
        with pytest.raises(psycopg.OperationalError):
            cluster.sql(
                f"SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, {DISK_MB})",
                3,
            )
    # A server that came up again on the full disk refuses sessions, in PostgreSQL's words.
    full = ("the disk is full", "No space left on device")
    eventually(lambda: any(words in problems(cluster) for words in full), "the reason is told")
    assert "to citus-worker3:5432 failed" in problems(cluster)
    assert "to citus-worker3:5432 failed" in cluster.cli("rebalance", "status").out
    disk.make_room()
    cluster.cli("up")
    finished_by_a_second_start(cluster, [2, 2, 2])


def test_the_coordinator_restarted(cluster: GeneratedCluster, disk: Disk) -> None:
    begin_with(cluster, disk, [2, 2, 2])
    cluster.sql(HOLDS_SHARDS.format("false"))
    with started_with_an_end_held(cluster):
        cluster.docker("restart", cluster.container("citus-coordinator"))
    begun = time.monotonic()
    eventually(lambda: cluster.cli("rebalance", "status", check=False).status == 0, "the coordinator answers")
    assert "Rebalance" in cluster.cli("rebalance", "status").out
    assert time.monotonic() - begun < 30
    finished_by_a_second_start(cluster, [3, 3, 0])


def test_nothing_is_left_of_what_was_broken_off(cluster: GeneratedCluster) -> None:
    drop_orphans(cluster)
    for number in WORKERS:
        placed = f"SELECT shard_name::text FROM citus_shards WHERE nodename = 'citus-worker{number}' ORDER BY 1"
        assert shard_tables(cluster, "events", number) == [row[0] for row in cluster.sql(placed)]
        assert cluster.sql("SELECT slot_name FROM pg_replication_slots", number) == []
        assert cluster.sql("SELECT subname FROM pg_subscription", number) == []
        assert cluster.sql("SELECT pubname FROM pg_publication", number) == []
        assert cluster.sql("SELECT count(*) FROM pg_prepared_xacts", number) == [(0,)]
