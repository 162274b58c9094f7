"""The Docker engine hangs, is stopped, killed, and the whole machine with it, under a cluster and a writer.

The engine is one of the test's own; the tests build on each other, and each ends with an equal checksum.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_support import require_engine
from faults_support import CountingWriter
from generated_cluster import GeneratedCluster
from private_engine import EngineDidNotStartError, PrivateEngine, private_network, require_private_engine
from waiting import eventually

pytestmark = pytest.mark.cluster

SERVICES = ["citus-coordinator", "citus-worker1", "citus-worker2"]
CHECKSUM = "SELECT count(*), sum(hashtextextended(id || ':' || payload, 0)) FROM events"


@pytest.fixture(scope="module")
def engine(default_image: str) -> Iterator[PrivateEngine]:
    require_engine()
    require_private_engine()
    with private_network():
        one = PrivateEngine()
        try:
            try:
                one.start()
            except EngineDidNotStartError as error:
                pytest.skip(f"a second engine does not start here: {error}")
            one.take_image(default_image)
            yield one
        finally:
            one.remove()


@pytest.fixture(scope="module")
def cluster(
    engine: PrivateEngine, default_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GeneratedCluster]:
    root = Path(tmp_path_factory.mktemp("engine"))
    one = GeneratedCluster(root, default_image, variables={"DOCKER_HOST": engine.host})
    one.create("--workers=2", "--services=citus", "--up")
    one.sql("CREATE TABLE events (id bigint PRIMARY KEY, payload text)")
    one.sql("SELECT create_distributed_table('events', 'id', shard_count => 6)")
    one.sql("INSERT INTO events SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
    yield one
    one.remove()


@pytest.fixture(scope="module")
def before(cluster: GeneratedCluster) -> list[Any]:
    return facts(cluster)


def facts(cluster: GeneratedCluster) -> list[Any]:
    """What a restart must not change: rows, nodes, and which containers there are."""
    nodes = "SELECT nodeid, nodename, nodeport, isactive, shouldhaveshards FROM pg_dist_node ORDER BY nodeid"
    containers = cluster.docker("ps", "--all", "--quiet", "--no-trunc").out.split()
    return [cluster.sql(CHECKSUM), cluster.sql(nodes), sorted(containers)]


def says_that_no_engine_answers(cluster: GeneratedCluster, engine: PrivateEngine, why: str, state: str) -> None:
    up = cluster.cli("up", check=False)
    assert (up.status, up.out) == (3, "")
    assert f"Docker engine at {engine.host}" in up.err and why in up.err
    assert "nothing was started" in up.err
    found = cluster.cli("status", "--format=json", check=False).json()
    assert found["state"] == state
    assert any(f"Docker engine at {engine.host}" in problem and why in problem for problem in found["problems"])
    assert {service["state"] for service in found["services"]} == {"unknown"}


def is_ok(cluster: GeneratedCluster) -> bool:
    return bool(cluster.cli("status", "--format=json", check=False).json()["state"] == "ok")


def test_an_engine_that_hangs(cluster: GeneratedCluster, engine: PrivateEngine, before: list[Any]) -> None:
    with CountingWriter(cluster) as writer:
        with engine.hanging():
            says_that_no_engine_answers(cluster, engine, "does not answer", "degraded")
            down = cluster.cli("down", check=False)
            assert down.status == 3
            assert "restart the engine" in down.err
        writer.goes_on()
    writer.check([1, 2])
    assert is_ok(cluster)
    assert facts(cluster) == before


def test_an_engine_that_is_restarted(cluster: GeneratedCluster, engine: PrivateEngine, before: list[Any]) -> None:
    with CountingWriter(cluster) as writer:
        writer.goes_on()
        engine.end(signal.SIGTERM)
        writer.fails()
        says_that_no_engine_answers(cluster, engine, "its socket does not exist", "down")
        engine.start()
        writer.goes_on()
        eventually(lambda: is_ok(cluster), "the cluster is as it was")
    writer.check([1, 2])
    assert facts(cluster) == before


def test_an_engine_that_is_killed(cluster: GeneratedCluster, engine: PrivateEngine, before: list[Any]) -> None:
    """Its containers go on without it. The next daemon stops them and remembers that as the user's wish
    (``killWithSignal`` in https://github.com/moby/moby/blob/master/daemon/kill.go), which ``unless-stopped`` obeys:
    so ``up`` brings them back, where an engine has not.
    """
    with CountingWriter(cluster) as writer:
        writer.goes_on()
        engine.end(signal.SIGKILL)
        writer.fails()
        says_that_no_engine_answers(cluster, engine, "connection refused", "down")
        engine.start()
        found = cluster.cli("status", "--format=json", check=False).json()
        if found["state"] != "ok":
            assert any("citus-coordinator: exited" in problem for problem in found["problems"]), found["problems"]
            assert cluster.cli("up", "--format=json").json()["changed"] == SERVICES
        writer.goes_on()
        assert is_ok(cluster)
    writer.check([1, 2])
    assert facts(cluster) == before


def test_a_machine_that_loses_its_power(cluster: GeneratedCluster, engine: PrivateEngine, before: list[Any]) -> None:
    with CountingWriter(cluster) as writer:
        writer.goes_on()
        engine.lose_power()
        writer.fails()
        engine.start()
        writer.goes_on()
        eventually(lambda: is_ok(cluster), "the cluster is as it was")
    writer.check([1, 2])
    assert facts(cluster) == before
