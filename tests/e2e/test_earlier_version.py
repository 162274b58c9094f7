"""Clusters that earlier versions generated and started, taken over by the newest one; the tests build on each other."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import yaml
from cluster_support import citus_images, require_engine, require_images, skip_or_fail
from earlier_versions import Place, kept_versions, unpack
from generated_cluster import GeneratedCluster
from waiting import eventually

pytestmark = pytest.mark.cluster

ROWS = 20_000
TABLES = """
CREATE TABLE events (tenant bigint, id bigint, payload text, PRIMARY KEY (tenant, id));
CREATE TABLE countries (code char(2) PRIMARY KEY, name text);
CREATE TABLE notes (id bigint PRIMARY KEY, note text);
"""
FILL = f"""
INSERT INTO events SELECT i % 100, i, md5(i::text) FROM generate_series(1, {ROWS}) i;
INSERT INTO countries VALUES ('at', 'Österreich'), ('ch', 'Schweiz');
INSERT INTO notes SELECT i, repeat('n', i) FROM generate_series(1, 500) i;
"""
CHECKSUMS = """
SELECT count(*), sum(hashtextextended(events::text, 0)) FROM events UNION ALL
SELECT count(*), sum(hashtextextended(countries::text, 0)) FROM countries UNION ALL
SELECT count(*), sum(hashtextextended(notes::text, 0)) FROM notes
"""
NODES = "SELECT nodeid, groupid, nodename, nodeport, isactive, shouldhaveshards FROM pg_dist_node ORDER BY nodeid"
PLACEMENTS = "SELECT shardid, nodename FROM citus_shards ORDER BY 1, 2"
RECORDED = "SELECT * FROM citus_cluster.worker ORDER BY 1"


@pytest.fixture(scope="module", params=kept_versions(), ids=lambda archive: archive.name.removesuffix(".tar.xz"))
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_engine()
    image = citus_images().get(17) or skip_or_fail("the engine has no image citusdata/citus with PostgreSQL 17")
    one = GeneratedCluster(Path(tmp_path_factory.mktemp("earlier")), image)
    unpack(request.param, one.root, Place(one.name, image, one.base_port))
    services = yaml.safe_load((one.root / "docker-compose.yml").read_text())["services"]
    require_images("python:3.13-slim", *(service["image"] for service in services.values() if "build" not in service))
    yield one
    one.remove()


@pytest.fixture(scope="module")
def before(cluster: GeneratedCluster) -> dict[str, Any]:
    """What was there before the take-over."""
    return {}


def has(cluster: GeneratedCluster, service: str) -> bool:
    return service in yaml.safe_load((cluster.root / "cluster.yaml").read_text())["services"]


def rows(cluster: GeneratedCluster) -> dict[str, Any]:
    """Everything that a user would miss: rows of every service, nodes, shards, and what is recorded of workers."""
    found: dict[str, Any] = {
        statement: cluster.sql(statement) for statement in (CHECKSUMS, NODES, PLACEMENTS, RECORDED)
    }
    if has(cluster, "pg14"):
        for port in (cluster.pg14_port, cluster.pg14_port + 1):
            found[f"pg14 {port}"] = pg14(cluster, port, "SELECT count(*), sum(id) FROM kept")
    if has(cluster, "redis"):
        with redis_client(cluster) as client:
            found["redis"] = client.get("kept")
    return found


def pg14(cluster: GeneratedCluster, port: int, statement: str) -> Sequence[tuple[Any, ...]]:
    with psycopg.connect(
        host="127.0.0.1",
        port=port,
        user="postgres",
        dbname="testdb",
        password=cluster.secret("pg14_password"),
        autocommit=True,
        connect_timeout=10,
    ) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def redis_client(cluster: GeneratedCluster) -> redis.Redis:
    return redis.Redis(port=cluster.redis_port, password=cluster.secret("redis_password"), socket_timeout=10)


def surroundings(cluster: GeneratedCluster) -> dict[str, Any]:
    """Passwords, the user's own files, volumes and published ports."""
    containers = cluster.compose("ps", "--all", "--format", "{{.Name}}").out.split()
    volumes = cluster.docker("volume", "ls", "--quiet", "--filter", f"name={cluster.name}_").out.split()
    return {
        "secrets": {name: cluster.secret(name) for name in cluster.secrets()},
        "override": (cluster.root / "docker-compose.override.yml").read_text(),
        # What Docker calls their creation is the last change of their folder; that they are the same, the rows tell.
        "volumes": sorted(volumes),
        "ports": {name: sorted(cluster.docker("port", name).out.splitlines()) for name in sorted(containers)},
    }


def made_by_hand(cluster: GeneratedCluster) -> str:
    return cluster.docker("exec", cluster.container("citus-worker1"), "printenv", "MADE").out.strip()


def test_it_starts_as_it_did_then(cluster: GeneratedCluster, before: dict[str, Any]) -> None:
    """Its own admin API registers the workers."""
    cluster.compose("up", "-d", "--wait")
    eventually(lambda: cluster.active_workers() == ["citus-worker1", "citus-worker2"], "workers are registered")
    cluster.sql(TABLES)
    cluster.sql("SELECT create_distributed_table('events', 'tenant', shard_count => 8)")
    cluster.sql("SELECT create_reference_table('countries')")
    cluster.sql(FILL)
    if has(cluster, "pg14"):
        pg14(cluster, cluster.pg14_port, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS id")
        replica = cluster.pg14_port + 1
        eventually(lambda: pg14(cluster, replica, "SELECT to_regclass('kept')") == [("kept",)], "the replica follows")
    if has(cluster, "redis"):
        with redis_client(cluster) as client:
            client.set("kept", "yes")
    assert made_by_hand(cluster) == "by hand"
    before |= {"rows": rows(cluster), "surroundings": surroundings(cluster)}


def test_the_newest_commands_know_it_as_it_is(cluster: GeneratedCluster) -> None:
    found = cluster.cli("status", "--format=json").json()
    assert (found["state"], found["problems"]) == ("ok", [])


def test_it_is_taken_over_without_loss(cluster: GeneratedCluster, before: dict[str, Any]) -> None:
    services = yaml.safe_load((cluster.root / "cluster.yaml").read_text())["services"]
    result = cluster.setup("--yes", "--up")
    assert "registered and verified" in result.out
    now = surroundings(cluster)
    # Earlier versions kept no record of operations.
    now["volumes"] = [name for name in now["volumes"] if name != f"{cluster.name}_admin-api-data"]
    assert now == before["surroundings"]
    assert rows(cluster) == before["rows"]
    assert made_by_hand(cluster) == "by hand"
    assert cluster.sql("SHOW work_mem", 2) == [("6MB",)]
    assert yaml.safe_load((cluster.root / "cluster.yaml").read_text())["services"] == services
    found = cluster.cli("status", "--format=json").json()
    assert (found["state"], found["problems"]) == ("ok", [])
    assert not list(cluster.root.rglob("*.bak*"))


def test_it_is_like_one_of_the_newest(cluster: GeneratedCluster, before: dict[str, Any]) -> None:
    assert "Nothing to do" in cluster.setup().out
    assert cluster.cli("up", "--format=json").json()["changed"] == []
    refused = cluster.setup("--workers=3", "--yes", "--up", check=False)
    assert "--retune" in refused.err, "it has no room for another worker"
    cluster.setup("--workers=3", "--retune", "--yes", "--up")
    assert cluster.active_workers() == ["citus-worker1", "citus-worker2", "citus-worker3"]
    cluster.cli("nodes", "drain", "citus-worker2", "--wait")
    cluster.cli("nodes", "remove", "citus-worker2", "--yes")
    assert cluster.active_workers() == ["citus-worker1", "citus-worker3"]
    assert cluster.sql(CHECKSUMS) == before["rows"][CHECKSUMS]
