from typing import Any

import pytest

from citus_cluster.errors import SpecError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS, wanted
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve


def topology_of(pg_major: int = 17, **data: Any) -> Topology:
    spec = parse_spec({"apiVersion": API_VERSION, **data})
    topology, _ = resolve(spec, memory_mb=16000, cpus=4, pg_major=pg_major)
    return topology


def problems_of(**data: Any) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        topology_of(**data)
    return caught.value.details


def test_default_ports_names_and_addresses() -> None:
    topology = topology_of(workers=3)
    assert [(one.name, one.container_name, one.host_port) for one in topology.of(ComponentName.CITUS)] == [
        ("citus-coordinator", "citus-coordinator", 5434),
        ("citus-worker1", "citus-worker1", 5435),
        ("citus-worker2", "citus-worker2", 5436),
        ("citus-worker3", "citus-worker3", 5437),
    ]
    assert {node.address for node in topology.nodes} == {NodeAddress(node.service, 5432) for node in topology.nodes}
    api = topology.service("admin-api")
    assert (api.container_name, api.host_port) == ("admin-api", 8000)
    assert {one.publish_on for one in topology.services} == {("127.0.0.1",)}
    assert topology.service_names == (
        "citus-coordinator",
        "citus-worker1",
        "citus-worker2",
        "citus-worker3",
        "pg14-primary",
        "pg14-replica",
        "redis",
        "cassandra",
        "admin-api",
    )
    assert [one.host_port for one in topology.companions] == [5432, 5433, 6379, 9042]


def test_a_missing_worker_keeps_the_ports_of_the_others() -> None:
    assert [(one.name, one.host_port) for one in topology_of(workers=[4, 1, 3]).of(ComponentName.CITUS)[1:]] == [
        ("citus-worker1", 5435),
        ("citus-worker3", 5437),
        ("citus-worker4", 5438),
    ]


@pytest.mark.parametrize(
    ("project", "service", "expected"),
    [
        ("citus", "citus-worker1", "citus-worker1"),
        ("citus", "redis", "redis"),
        ("shop", "citus-coordinator", "shop-coordinator"),
        ("shop", "citus-worker1", "shop-worker1"),
        ("shop", "redis", "shop-redis"),
        ("shop", "admin-api", "shop-admin-api"),
    ],
)
def test_container_names(project: str, service: str, expected: str) -> None:
    assert container_name(project, service) == expected


@pytest.mark.parametrize(
    ("base", "primary"),
    [
        (5434, 5432),  # the default: the pair lies just below
        (5433, 5431),  # the replica would meet the coordinator
        (5432, 5430),
        (5000, 4998),  # workers could grow up to the pair
        (4432, 4430),
        (4431, 5432),  # 1,000 workers end just below
        (6000, 5432),
        (1, 5432),
    ],
)
def test_the_pair_of_postgresql_14_gives_way_to_citus(base: int, primary: int) -> None:
    for given, first in ((None, primary), (7000, 7000)):
        spec = parse_spec({"apiVersion": API_VERSION, "ports": {"citus": base, "pg14": given}})
        assert COMPONENTS[ComponentName.PG14].ports(spec) == (("pg14-primary", first), ("pg14-replica", first + 1))


def test_a_given_port_of_the_pair_that_clashes_is_refused() -> None:
    assert problems_of(services=["citus", "pg14"], ports={"pg14": 5434}) == (
        "ports: citus-coordinator and pg14-primary would both get port 5434: choose another --port or --pg14-port",
        "ports: citus-worker1 and pg14-replica would both get port 5435: choose another --port or --pg14-port",
    )


def test_default_ports_of_every_service_never_meet() -> None:
    for base in (1, 4431, 4432, 5000, 5431, 5432, 5433, 5434, 5435, 6432):
        spec = parse_spec({"apiVersion": API_VERSION, "services": ["citus", "pg14"], "ports": {"citus": base}})
        ports = [port for component in wanted(spec) for _, port in component.ports(spec)]
        assert len(set(ports)) == len(ports)
        assert min(ports) >= 1


def test_two_services_on_one_port() -> None:
    assert problems_of(workers=3, ports={"admin_api": 5436}) == (
        "ports: citus-worker2 and admin-api would both get port 5436: choose another --port or --admin-port",
    )


def test_ports_above_the_last_are_told_once() -> None:
    (problem,) = problems_of(workers=500, ports={"citus": 65530})
    assert problem == (
        "ports: citus-worker500 would get port 66030 (494 more services would get one too high); "
        "ports are numbers from 1 to 65535: choose another --port"
    )


@pytest.mark.parametrize(
    ("bind", "advertise", "published"),
    [
        ("127.0.0.1", "10.0.0.5", ("127.0.0.1", "10.0.0.5")),
        ("127.0.0.1", "db1.example.org", ("0.0.0.0",)),
        ("10.0.0.5", "db1.example.org", ("10.0.0.5",)),
        ("10.0.0.5", "10.0.0.5", ("10.0.0.5",)),
        ("0.0.0.0", "10.0.0.5", ("0.0.0.0",)),
        ("0.0.0.0", "db1", ("0.0.0.0",)),
        ("0.0.0.0", "fd00::5", ("0.0.0.0", "fd00::5")),
        ("::", "fd00::5", ("::",)),
    ],
)
def test_advertised_nodes_are_reached_by_their_published_ports(
    bind: str, advertise: str, published: tuple[str, ...]
) -> None:
    topology = topology_of(workers=2, bind=bind, advertise=advertise)
    assert {one.publish_on for one in topology.of(ComponentName.CITUS)} == {published}
    assert {one.publish_on for one in topology.companions} == {(bind,)}
    assert [node.address for node in topology.nodes] == [NodeAddress(advertise, port) for port in (5434, 5435, 5436)]


@pytest.mark.parametrize(
    ("bind", "host"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5")]
)
def test_where_this_machine_reaches_its_own_ports(bind: str, host: str) -> None:
    assert topology_of(bind=bind).connect_host == host


def test_settings_of_a_role_and_of_one_node() -> None:
    topology = topology_of(
        workers=2,
        settings={"worker": {"work_mem": "7MB"}, "nodes": {"citus-worker2": {"work_mem": "9MB"}}},
    )

    def work_mem(index: int) -> str:
        return next(setting.value for setting in topology.services[index].settings if setting.name == "work_mem")

    assert work_mem(0) not in {"7MB", "9MB"}
    assert (work_mem(1), work_mem(2)) == ("7MB", "9MB")
    assert [one.config for one in topology.of(ComponentName.CITUS)] == ["coordinator", "worker", "citus-worker2"]


def test_settings_that_break_citus_and_unknown_nodes_are_refused_together() -> None:
    found = problems_of(
        settings={
            "coordinator": {"wal_level": "replica"},
            "worker": {"shared_preload_libraries": "pg_stat_statements"},
            "nodes": {"citus-worker9": {"work_mem": "8MB"}},
        }
    )
    assert [line.split(":")[0] for line in found] == [
        "settings.coordinator.wal_level",
        "settings.worker.shared_preload_libraries",
        "settings.nodes.citus-worker9",
    ]


def test_a_ring_names_its_nodes_and_racks() -> None:
    ring = topology_of(name="shop", services=["cassandra"], cassandra={"nodes": 4}).services
    assert [(node.name, node.container_name, node.host_port, node.facts.rack) for node in ring] == [
        ("cassandra", "shop-cassandra", 9042, "rack1"),
        ("cassandra2", "shop-cassandra2", 9043, "rack2"),
        ("cassandra3", "shop-cassandra3", 9044, "rack3"),
        ("cassandra4", "shop-cassandra4", 9045, "rack1"),
    ]


def test_both_servers_of_the_pair_have_the_same_settings() -> None:
    primary, replica = topology_of(services=["pg14"], pg14={"replication": "sync"}).services
    assert primary.settings == replica.settings
    assert (primary.facts.peer, replica.facts.peer) == (replica.name, primary.name)
    values = {setting.name: setting.value for setting in primary.settings}
    assert values["synchronous_standby_names"] == 'FIRST 1 ("pg14-replica", "pg14-primary")'
    assert (values["wal_level"], values["max_wal_senders"], values["wal_keep_size"]) == ("replica", "10", "64MB")
    plain = {setting.name for setting in topology_of(services=["pg14"]).services[0].settings}
    assert not {"synchronous_standby_names", "log_statement"} & plain


def test_a_verbose_pair_logs_what_the_source_documents_ask_for() -> None:
    pair = topology_of(services=["pg14"], pg14={"log": "verbose"}).services
    values = {setting.name: setting.value for setting in pair[0].settings}
    assert {name: values[name] for name in values if name.startswith("log_") and values[name] in {"all", "debug1"}} == {
        "log_min_messages": "debug1",
        "log_statement": "all",
    }
    assert values["log_line_prefix"] == "%m [%p] %u@%d "
    assert len(values) == len(pair[0].settings)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("citus.shard_count", 8, "without Citus"),
        ("primary_conninfo", "host=x", "cannot be set"),
        ("max_wal_senders", 0, "the replica needs"),
        ("wal_level", "minimal", "does not allow a replica"),
        ("summarize_wal", "on", "PostgreSQL 14 has no such parameter"),
        ("work_memm", "1MB", "did you mean work_mem?"),
    ],
)
def test_settings_that_would_break_the_pair_are_refused(name: str, value: object, reason: str) -> None:
    (problem,) = problems_of(services=["pg14"], settings={"pg14": {name: value}})
    assert problem.startswith(f"settings.pg14.{name}: ")
    assert reason in problem


def test_a_host_of_companions_has_no_citus_nodes() -> None:
    topology = topology_of(services=["redis"], workers=3)
    assert topology.nodes == ()
    assert topology.coordinator is None
    assert topology.of(ComponentName.ADMIN_API) == ()
