"""Two servers: two directories and projects that see each other only through the addresses that they advertise.

The tests build on each other. Both projects run on this machine's engine, so that they need names and ports of their
own; the addresses are those that two Docker networks give to this machine.
"""

import ipaddress
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cluster_support import require_engine, skip_or_fail
from generated_cluster import GeneratedCluster

from citus_cluster.runtime.ports import PortState, port_state

pytestmark = pytest.mark.cluster

ROWS = 20_000
CHECKSUM = "SELECT count(*), sum(hashtextextended(id || ':' || payload, 0)) FROM events"


@dataclass
class Server:
    """A server: its address for the others, and the directory and project on it."""

    address: str
    cluster: GeneratedCluster

    def node(self, number: int) -> tuple[str, int]:
        """Address and port of the coordinator (0) or a worker, as every other node reaches it."""
        return self.address, self.cluster.base_port + number

    def up(self) -> None:
        self.cluster.compose("up", "-d")


@dataclass
class Servers:
    """``first`` has the coordinator, ``second`` workers alone."""

    first: Server
    second: Server

    def shards(self) -> dict[tuple[str, int], int]:
        rows = self.first.cluster.sql("SELECT nodename, nodeport, count(*) FROM citus_shards GROUP BY 1, 2")
        return {(name, port): count for name, port, count in rows}

    def status(self) -> Any:
        return self.first.cluster.cli("status", "--format=json", check=False).json()


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    engine = require_engine()
    networks = [engine.networks.create(f"two-servers-{secrets.token_hex(4)}") for _ in range(2)]
    try:
        found = []
        for network in networks:
            network.reload()
            config = network.attrs["IPAM"]["Config"][0]
            found.append(config.get("Gateway") or str(ipaddress.ip_network(config["Subnet"])[1]))
        if any(port_state(address, 0) is PortState.NOT_HERE for address in found):
            skip_or_fail("the engine's networks give this machine no addresses")
        yield found
    finally:
        for network in networks:
            network.remove()


@pytest.fixture(scope="module")
def servers(default_image: str, addresses: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    first = GeneratedCluster(Path(tmp_path_factory.mktemp("first")), default_image)
    second = GeneratedCluster(Path(tmp_path_factory.mktemp("second")), default_image, base_port=first.base_port + 25)
    try:
        yield Servers(Server(addresses[0], first), Server(addresses[1], second))
    finally:
        second.remove()
        first.remove()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What an earlier test of the module saw, for the later ones."""
    return {}


def checksum(servers: Servers, node: tuple[Server, int] | None = None) -> tuple[Any, ...]:
    server, number = node or (servers.first, 0)
    return server.cluster.sql(CHECKSUM, number)[0]


def readable(cluster: GeneratedCluster, row_id: int) -> bool:
    try:
        return cluster.sql(f"SELECT count(*) FROM events WHERE id = {row_id}") == [(1,)]
    except psycopg.Error:
        return False


def test_set_up_here_copied_there_started_and_registered(servers: Servers, tmp_path: Path) -> None:
    first, second = servers.first, servers.second
    made = first.cluster.create("--workers=1", f"--advertise={first.address}")
    assert "must be trusted" in made.err
    password = first.cluster.root / "generated/secrets/superuser_password"
    made = first.cluster.setup(
        *second.cluster.identity(),
        *("--citus-image", second.cluster.image, "--memory=4000", "--cpus=2", "--services=citus"),
        *("--no-coordinator", "--workers=1", "--advertise", second.address),
        *("--password-file", str(password), "--output-dir", str(tmp_path / "second")),
    )
    assert "must be trusted" in made.err
    assert "new random password" not in made.err
    host, port = second.node(1)
    assert f"add_worker.py --host {host} --port {port}" in made.out
    first.cluster.run("cp", "-r", f"{tmp_path}/second/.", str(second.cluster.root))

    first.up()
    second.up()
    added = first.cluster.add_worker("--host", host, "--port", str(port))  # while both are starting
    assert f"{host}:{port} is registered." in added.out


def test_every_node_is_known_by_its_advertised_address_and_reaches_every_other(servers: Servers) -> None:
    first, second = servers.first, servers.second
    first.cluster.cli("up")  # also waits until the admin API has registered this server's own worker
    nodes = first.cluster.sql("SELECT nodename, nodeport FROM pg_dist_node ORDER BY groupid = 0 DESC, 1 = 1")
    assert nodes[0] == first.node(0)
    assert set(nodes) == {first.node(0), first.node(1), second.node(1)}
    reached = first.cluster.sql("SELECT count(*), bool_and(result) FROM citus_check_cluster_node_health()")
    assert reached == [(9, True)]
    inspected = second.cluster.docker(
        "inspect", "-f", "{{json .HostConfig.PortBindings}}", f"{second.cluster.name}-worker1"
    )
    bound = {one["HostIp"] for one in json.loads(inspected.out)["5432/tcp"]}
    assert bound == {"127.0.0.1", second.address}
    inspected = first.cluster.docker(
        "inspect", "-f", "{{json .HostConfig.PortBindings}}", f"{first.cluster.name}-admin-api"
    )
    assert {one["HostIp"] for one in json.loads(inspected.out)["8000/tcp"]} == {"127.0.0.1"}, "Citus' ports alone"


def test_each_side_looks_after_itself(servers: Servers) -> None:
    host, port = servers.second.node(1)
    started = servers.second.cluster.cli("up")
    assert "on the coordinator's server" in started.out
    assert f"add_worker.py --host {host} --port {port}" in started.out
    assert servers.second.cluster.cli("status", "--format=json").json()["state"] == "ok"
    refused = servers.second.cluster.add_worker("--host", host, "--port", str(port), check=False)
    assert refused.status == 2
    assert "no coordinator" in refused.err
    found = servers.status()
    assert (found["state"], found["problems"], found["not_desired"]) == ("ok", [], [])


def test_a_table_is_spread_over_both(servers: Servers, facts: dict[str, Any]) -> None:
    cluster = servers.first.cluster
    cluster.sql("CREATE TABLE events (id bigint PRIMARY KEY, payload text)")
    cluster.sql("SELECT create_distributed_table('events', 'id', shard_count => 6)")
    cluster.sql(f"INSERT INTO events SELECT i, md5(i::text) FROM generate_series(1, {ROWS}) i")
    facts["checksum"] = checksum(servers)
    assert facts["checksum"][0] == ROWS
    assert servers.shards() == {servers.first.node(1): 3, servers.second.node(1): 3}
    for node in ((servers.first, 1), (servers.second, 1)):
        assert checksum(servers, node) == facts["checksum"], "a worker asks the other server too"


def test_a_second_worker_there_gets_its_share(servers: Servers, facts: dict[str, Any]) -> None:
    servers.second.cluster.setup("--workers=2", "--yes", "--up")
    host, port = servers.second.node(2)
    servers.first.cluster.add_worker("--host", host, "--port", str(port), "--rebalance", "--wait")
    assert servers.shards() == {servers.first.node(1): 2, servers.second.node(1): 2, servers.second.node(2): 2}
    assert checksum(servers) == facts["checksum"]


def test_a_server_that_is_away_is_named_in_bounded_time(servers: Servers, facts: dict[str, Any]) -> None:
    cluster, (host, port) = servers.first.cluster, servers.second.node(1)
    servers.second.cluster.compose("stop")
    found = servers.status()
    assert found["state"] == "degraded"
    assert any(f"{host}:{port}" in problem for problem in found["problems"])
    assert {readable(cluster, row_id) for row_id in range(1, 40)} == {True, False}, "the shards here are still there"
    refused = cluster.cli("up", check=False)
    assert refused.status == 1
    assert f"{host}:{port}" in refused.err
    refused = cluster.add_worker("--host", host, "--port", str(port), "--timeout=2", check=False)
    assert refused.status == 1
    assert f"docker compose ps, on {host}" in refused.err
    servers.second.up()
    assert "already registered" in cluster.add_worker("--host", host, "--port", str(port)).out
    assert checksum(servers) == facts["checksum"]


def test_each_side_is_made_anew_and_nothing_is_lost(servers: Servers, facts: dict[str, Any]) -> None:
    for server in (servers.first, servers.second):
        server.cluster.compose("down")
        server.up()
        server.cluster.cli("up")
        assert checksum(servers) == facts["checksum"]
        for number in (1, 2):
            assert checksum(servers, (servers.second, number)) == facts["checksum"]
    assert servers.status()["state"] == "ok"
