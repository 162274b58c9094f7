"""Workers that leave, on real clusters: drained, removed, and replaced by new ones while rows are written."""

import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from faults_support import CountingWriter, drop_orphans, killed_at_every_event
from generated_cluster import GeneratedCluster

pytestmark = pytest.mark.cluster

ROWS = 50_000
CHECKSUM = "SELECT count(*), sum(hashtextextended(id || ':' || payload, 0)) FROM events"


def fill(cluster: GeneratedCluster) -> None:
    cluster.sql("CREATE TABLE events (id bigint PRIMARY KEY, payload text)")
    cluster.sql("SELECT create_distributed_table('events', 'id', shard_count => 8)")
    cluster.sql(f"INSERT INTO events SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i")
    cluster.sql("CREATE TABLE countries (id bigint PRIMARY KEY)")
    cluster.sql("SELECT create_reference_table('countries')")
    cluster.sql("INSERT INTO countries SELECT generate_series(1, 100)")


def checksum(cluster: GeneratedCluster) -> tuple[Any, ...]:
    assert cluster.sql("SELECT count(*) FROM countries") == [(100,)]
    return cluster.sql(CHECKSUM)[0]


def workers_in(cluster: GeneratedCluster) -> Any:
    return yaml.safe_load((cluster.root / "cluster.yaml").read_text())["workers"]


def containers(cluster: GeneratedCluster) -> set[str]:
    names = cluster.docker("ps", "-a", "--filter", f"name={cluster.name}", "--format", "{{.Names}}").out.split()
    return {name.removeprefix(f"{cluster.name}-") for name in names}


def volumes(cluster: GeneratedCluster) -> set[str]:
    return set(cluster.docker("volume", "ls", "-q", "--filter", f"name={cluster.name}_citus-worker").out.split())


def workers(*numbers: int) -> list[str]:
    return [f"citus-worker{number}" for number in numbers]


def test_workers_leave_others_come_and_a_number_is_free_once_its_volume_is_gone(cluster: GeneratedCluster) -> None:
    """One major suffices: what differs between them is tested on both by tests/integration/test_sql_leaving.py."""
    four_two_four_under_a_writer(cluster)
    a_number_is_free_once_its_volume_is_gone(cluster)


def four_two_four_under_a_writer(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=4", "--up")
    fill(cluster)
    before = checksum(cluster)
    with CountingWriter(cluster) as writer:
        refused = cluster.cli("nodes", "remove", "citus-worker4", "--yes", check=False)
        assert refused.status == 1
        assert "events: 2 shards" in refused.err
        assert "nodes drain citus-worker4 --wait" in refused.err

        preview = cluster.cli(
            "nodes", "drain", "citus-worker3", "citus-worker4", "--dry-run", "--format=json", check=False
        )
        assert preview.status == 4
        assert {move["target"] for move in preview.json()["moves"]} == {"citus-worker1:5432", "citus-worker2:5432"}
        drained = cluster.cli("nodes", "drain", "citus-worker3", "citus-worker4", "--wait")
        assert "shards" in drained.err
        assert re.search(r"(\d) moves of shards, .*; \1 small shard groups move with writes held", drained.err)
        assert "nodes remove citus-worker4" in drained.out
        writer.goes_on()
        # A drained worker stays drained, and part of the cluster, whatever is started again.
        cluster.docker("restart", cluster.container("citus-coordinator"))
        cluster.cli("up")
        assert cluster.active_workers() == workers(1, 2, 3, 4)

        planned = cluster.cli("nodes", "remove", "citus-worker4", check=False)
        assert planned.status == 4
        assert "citus-cluster up" not in planned.out, "no other container restarts"
        assert workers_in(cluster) == 4
        removed = cluster.cli("nodes", "remove", "citus-worker4", "--yes")
        assert f"docker volume rm {cluster.name}_citus-worker4-data" in removed.out
        assert workers_in(cluster) == 3
        answer = cluster.cli("nodes", "remove", "citus-worker3", "--yes", "--format=json").json()
        assert answer["volume_kept"] == f"{cluster.name}_citus-worker3-data"
        assert answer["container"] == cluster.container("citus-worker3")
        assert workers_in(cluster) == 2
        again = cluster.cli("nodes", "remove", "citus-worker3")
        assert "Nothing to do" in again.out
        assert containers(cluster) == {"coordinator", "worker1", "worker2", "admin-api"}
        assert volumes(cluster) == {f"{cluster.name}_{service}-data" for service in workers(1, 2, 3, 4)}
        writer.goes_on()

        cluster.compose("down")
        cluster.compose("up", "-d", "--wait")
        cluster.cli("up")
        assert cluster.active_workers() == workers(1, 2)
        assert cluster.cli("status", "--format=json").json()["state"] == "ok"
        writer.goes_on()

        cluster.setup("--workers=4", "--yes", "--up")
        assert workers_in(cluster) == [1, 2, 5, 6]
        assert cluster.active_workers() == workers(1, 2, 5, 6)
        cluster.cli("rebalance", "start", "--wait")
        writer.goes_on()
    writer.check([1, 2, 5, 6])
    assert checksum(cluster) == before
    held = "SELECT nodename FROM citus_shards WHERE table_name = 'events'::regclass GROUP BY 1 ORDER BY 1"
    assert [row[0] for row in cluster.sql(held)] == workers(1, 2, 5, 6)


def a_number_is_free_once_its_volume_is_gone(cluster: GeneratedCluster) -> None:
    before = checksum(cluster)
    cluster.cli("nodes", "drain", "citus-worker5", "citus-worker6", "--wait")
    for service in workers(6, 5):
        cluster.cli("nodes", "remove", service, "--yes")
    cluster.docker("volume", "rm", *(f"{cluster.name}_{service}-data" for service in workers(3, 5, 6)))
    planned = cluster.setup("--workers=3", "--dry-run", "--format=json", check=False).json()
    assert planned["spec"]["workers"] == [1, 2, 5], "that of worker 4 is here still"
    cluster.docker("volume", "rm", f"{cluster.name}_citus-worker4-data")
    cluster.setup("--workers=3", "--yes", "--up")
    assert workers_in(cluster) == [1, 2, 3]
    assert cluster.active_workers() == workers(1, 2, 3), "another server has the name"
    assert checksum(cluster) == before


def test_drain_and_removal_killed_at_every_event(cluster: GeneratedCluster) -> None:
    cluster.create("--workers=3", "--services=citus", "--up")
    fill(cluster)
    before = checksum(cluster)
    with CountingWriter(cluster) as writer:
        events = killed_at_every_event(cluster, "nodes", "drain", "citus-worker3", "--wait", with_children=True)
        assert any("rebalance started" in event for event in events)
        assert any("holds no shards" in event for event in events)
        events = killed_at_every_event(cluster, "nodes", "remove", "citus-worker3", "--yes", with_children=True)
        for told in ("from the node list", "no longer contain citus-worker3", "removed the container"):
            assert any(told in event for event in events), told
        writer.goes_on()
    writer.check([1, 2])
    assert workers_in(cluster) == 2
    assert containers(cluster) == {"coordinator", "worker1", "worker2"}
    assert not list(cluster.root.rglob(".citus-cluster.staging-*"))
    again = cluster.cli("nodes", "remove", "citus-worker3", "--dry-run")
    assert "Nothing to do" in again.out
    cluster.cli("up")
    assert cluster.active_workers() == workers(1, 2)
    drop_orphans(cluster)
    assert checksum(cluster) == before


def test_cluster_yaml_follows_what_was_done_on_the_coordinator_alone(
    make_cluster: Callable[[], GeneratedCluster],
) -> None:
    cluster, elsewhere = make_cluster(), make_cluster()
    result = cluster.create("--workers=4", "--services=citus", "--up", "--show-secrets")
    dsn = next(line.split(None, 1)[1] for line in result.out.splitlines() if line.strip().startswith("DSN"))
    cluster.sql("SELECT citus_remove_node('citus-worker4', 5432)")
    elsewhere.cli("nodes", "drain", "citus-worker3:5432", "--wait", "--dsn", dsn)
    far = elsewhere.cli("nodes", "remove", "citus-worker3", "--yes", "--dsn", dsn)
    assert "keeps running, and answers queries" in far.err
    assert workers_in(cluster) == 4, "only the coordinator was changed"
    told = cluster.cli("up").err
    for service in workers(3, 4):
        assert f"citus-cluster nodes remove {service}" in told
    assert cluster.active_workers() == workers(1, 2)

    override = cluster.root / "docker-compose.override.yml"
    override.write_text("services:\n  citus-worker3:\n    environment: {X: y}\n")
    spec = cluster.root / "cluster.yaml"
    spec.write_text(spec.read_text().replace("workers: 4", "workers: 2"))
    refused = cluster.cli("up", check=False)
    assert refused.status == 2
    assert "nodes drain citus-worker3 citus-worker4 --wait" in refused.err
    removed = cluster.cli("nodes", "remove", "citus-worker3", "--yes")
    assert "citus-worker4 is missing in cluster.yaml too" in removed.err
    assert workers_in(cluster) == [1, 2, 4]
    assert "docker-compose.override.yml names citus-worker3" in removed.err
    override.unlink()
    # Ended before its container was removed.
    half = (sys.executable, "-m", "citus_cluster", "nodes", "remove", "citus-worker4", "--yes")
    cluster.run("env", "DOCKER_HOST=unix:///nowhere.sock", *half)
    assert workers_in(cluster) == [1, 2]
    assert "To finish its removal: citus-cluster nodes remove citus-worker4" in cluster.cli("up").err
    cluster.cli("nodes", "remove", "citus-worker4", "--yes")
    assert containers(cluster) == {"coordinator", "worker1", "worker2"}
    assert "skipped" not in cluster.cli("up").err

    # A worker that is lost: its container and its volume are gone, and it held nothing.
    cluster.docker("rm", "-f", cluster.container("citus-worker2"))
    cluster.docker("volume", "rm", f"{cluster.name}_citus-worker2-data")
    cluster.cli("nodes", "remove", "citus-worker2", "--yes")
    assert workers_in(cluster) == [1]
    last = cluster.cli("nodes", "remove", "citus-worker1", "--yes", check=False)
    assert last.status == 1
    assert "No node would be left to hold shards" in last.err
    cluster.docker("volume", "rm", *(f"{cluster.name}_{service}-data" for service in workers(3, 4)))
    cluster.setup("--workers=2", "--yes", "--up")
    assert cluster.active_workers() == workers(1, 2)
