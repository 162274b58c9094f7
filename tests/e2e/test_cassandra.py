"""Cassandra as our generator starts it, real; the tests build on each other, since each start takes its time."""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import docker.errors
import pytest
from cassandra import ConsistencyLevel, OperationTimedOut, ReadTimeout
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.policies import WhiteListRoundRobinPolicy
from cluster_support import require_engine, require_images
from generated_cluster import GeneratedCluster

pytestmark = pytest.mark.cluster

PATIENCE_S = 400
PASSWORD = """it's "a" %s ; -- $HOME \\ ü"""
"""Everything that a shell, CQL or a file of credentials might read otherwise."""


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory, default_image: str) -> Iterator[GeneratedCluster]:
    require_images("cassandra:5")
    one = GeneratedCluster(tmp_path_factory.mktemp("ring"), default_image)
    yield one
    one.remove()


@contextmanager
def session(
    ring: GeneratedCluster, user: str, password: str, *, number: int = 1, timeout_s: float = 60
) -> Iterator[Session]:
    """Log in to one node by its published port; addresses that it tells of others are not followed."""
    profile = ExecutionProfile(
        load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]),
        consistency_level=ConsistencyLevel.ONE,
        request_timeout=30,
    )
    cluster = Cluster(
        ["127.0.0.1"],
        port=ring.cassandra_port + number - 1,
        auth_provider=PlainTextAuthProvider(user, password),
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        protocol_version=4,
        connect_timeout=timeout_s,
        control_connection_timeout=timeout_s,
        schema_metadata_enabled=False,
        token_metadata_enabled=False,
    )
    try:
        yield cluster.connect()
    finally:
        cluster.shutdown()


def cql(ring: GeneratedCluster, *statements: str, number: int = 1) -> list[tuple[Any, ...]]:
    """Run statements as the superuser; rows of the last."""
    with session(ring, "admin", ring.secret("cassandra_password"), number=number) as connected:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            rows = [tuple(row) for row in connected.execute(statement)]
        return rows


def refused(ring: GeneratedCluster, user: str, password: str) -> str:
    """Fail to log in; the reason."""
    with pytest.raises(NoHostAvailable) as caught, session(ring, user, password):
        pass
    return str(caught.value)


def states(ring: GeneratedCluster) -> Sequence[tuple[bool, str]]:
    return [(node["up"], node["state"]) for node in ring.cli("status", "--format=json").json()["cassandra_ring"]]


def started(ring: GeneratedCluster) -> str:
    return ring.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", ring.container("cassandra")).out


def start_faster(ring: GeneratedCluster, *services: str) -> None:
    """Spare Java its thorough compiler, and a node that joins the half minute until the ring knows it.

    Nobody writes meanwhile, so nothing depends on that here.
    """
    options = {"JVM_EXTRA_OPTS": "-XX:TieredStopAtLevel=1 -Dcassandra.ring_delay_ms=5000"}
    override = {"services": {service: {"environment": options} for service in services}}
    (ring.root / "docker-compose.override.yml").write_text(json.dumps(override))


def test_the_default_superuser_never_gets_in_from_outside(ring: GeneratedCluster) -> None:
    """Not for a moment: from before the first start on, somebody tries. And somebody looks at the processes."""
    (ring.root / "generated/secrets").mkdir(parents=True)
    (ring.root / "generated/secrets/cassandra_password").write_text(PASSWORD)
    ring.create("--services=cassandra")
    start_faster(ring, "cassandra")
    done, got_in, attempts = threading.Event(), [], []
    processes: list[str] = []

    def try_again_and_again() -> None:
        while not done.is_set():
            attempts.append(time.monotonic())
            try:
                with session(ring, "cassandra", "cassandra", timeout_s=0.5):
                    got_in.append(time.monotonic())
            except NoHostAvailable:
                done.wait(0.05)

    engine = require_engine()

    def look_at_processes() -> None:
        while not done.wait(0.1):
            with suppress(docker.errors.APIError):  # it does not run yet
                found = engine.api.top(ring.container("cassandra"), "-eo pid,args")
                processes.append("\n".join(" ".join(row) for row in found["Processes"]))

    threads = [threading.Thread(target=run) for run in (try_again_and_again, look_at_processes)]
    for thread in threads:
        thread.start()
    try:
        ring.compose("up", "-d", "--wait")
        assert "authentic" in refused(ring, "cassandra", "cassandra").lower()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not got_in
    assert len(attempts) > 10
    assert [seen for seen in processes if "cqlsh" in seen], "the first start was not seen at work"
    assert not [seen for seen in processes if PASSWORD[6:-2] in seen], "a part that neither CQL nor ps writes otherwise"
    roles = cql(ring, "SELECT role, can_login, is_superuser FROM system_auth.roles")
    assert sorted(roles) == [("admin", True, True), ("cassandra", False, False)]


def test_only_the_password_of_the_secret_opens_it(ring: GeneratedCluster) -> None:
    assert "authentic" in refused(ring, "admin", "cassandra").lower()
    assert ring.secret("cassandra_password") == PASSWORD
    assert PASSWORD not in ring.docker("logs", ring.container("cassandra")).text


def test_nothing_acknowledged_is_lost_when_it_is_killed(ring: GeneratedCluster) -> None:
    """Killed while it is written to: `commitlog_sync: periodic`, Cassandra's default, loses some of it."""
    replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 1}"
    cql(
        ring,
        f"CREATE KEYSPACE shop WITH replication = {replication}",
        "CREATE TABLE shop.activity (person text, number int, what text, PRIMARY KEY (person, number))",
    )
    acknowledged: list[int] = []
    with session(ring, "admin", ring.secret("cassandra_password")) as connected:
        insert = connected.prepare("INSERT INTO shop.activity (person, number, what) VALUES ('Dave', ?, 'buys')")

        def write() -> None:
            with suppress(NoHostAvailable, OperationTimedOut):
                for number in range(1_000_000):
                    connected.execute(insert, (number,), timeout=5)
                    acknowledged.append(number)

        writer = threading.Thread(target=write)
        writer.start()
        while len(acknowledged) <= 100:
            assert writer.is_alive()
            time.sleep(0.01)
        ring.docker("kill", ring.container("cassandra"))
        writer.join()
    ring.docker("start", ring.container("cassandra"))
    ring.cli("up", f"--timeout={PATIENCE_S}")
    assert {number for (number,) in cql(ring, "SELECT number FROM shop.activity")} >= set(acknowledged)
    assert "authentic" in refused(ring, "cassandra", "cassandra").lower()


def test_a_second_set_up_and_start_change_nothing(ring: GeneratedCluster) -> None:
    before = started(ring)
    assert "Nothing to do" in ring.setup("--services=cassandra").out
    up = ring.cli("up", "--format=json").json()
    assert (up["changed"], up["companions"]) == ([], ["cassandra"])
    assert before == started(ring)
    assert states(ring) == [(True, "normal")]


def test_a_ring_of_two_keeps_what_one_of_them_loses(ring: GeneratedCluster) -> None:
    count = cql(ring, "SELECT count(*) FROM shop.activity")
    before = started(ring)
    ring.setup("--cassandra-nodes=2", "--yes")
    start_faster(ring, "cassandra", "cassandra2")
    ring.cli("up", f"--timeout={PATIENCE_S}")
    assert started(ring) == before
    assert states(ring) == [(True, "normal")] * 2
    replication = "{'class': 'NetworkTopologyStrategy', 'dc1': 2}"
    cql(ring, f"ALTER KEYSPACE shop WITH replication = {replication}")
    ring.docker("exec", ring.container("cassandra"), "nodetool", "repair", "-full", "shop")
    ring.docker("kill", ring.container("cassandra"))
    # Logging in, and reading, with the first node away; the second one notices that after some seconds.
    deadline = time.monotonic() + 60
    while True:
        try:
            assert cql(ring, "SELECT count(*) FROM shop.activity", number=2) == count
            break
        except ReadTimeout:
            assert time.monotonic() < deadline
    seen = ring.cli("status", "--format=json", check=False).json()
    assert [one["condition"] for one in seen["companions"]] == ["degraded"]


def test_the_ring_comes_back_after_down_and_up(ring: GeneratedCluster) -> None:
    ring.cli("up", f"--timeout={PATIENCE_S}")
    ring.cli("down")
    ring.cli("up", f"--timeout={PATIENCE_S}")
    assert states(ring) == [(True, "normal")] * 2
    one, other = (cql(ring, "SELECT count(*) FROM shop.activity", number=number) for number in (1, 2))
    assert one == other != [(0,)]
