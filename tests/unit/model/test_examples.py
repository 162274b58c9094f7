"""The examples as components: their servers, accounts and secrets."""

from typing import Any

import pytest

from citus_cluster.errors import SpecError
from citus_cluster.model.component import Service
from citus_cluster.model.component_name import EXAMPLES, ComponentName
from citus_cluster.model.components import COMPONENTS, accounts_on
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve


def topology(*services: str, **values: Any) -> Topology:
    spec = parse_spec({"apiVersion": API_VERSION, "services": list(services), **values})
    return resolve(spec, memory_mb=12_000, cpus=2, pg_major=17)[0]


def example(name: ComponentName, *services: str, **values: Any) -> Service:
    return topology(*services, name.value, **values).service(name.value)


def test_an_example_finds_its_servers_in_the_network_and_only_its_own() -> None:
    found = example(ComponentName.EXAMPLE_REPLICATION, "citus", "pg14", "redis", "cassandra", ports={"pg14": 7000})
    assert found.facts.variables == {
        "PG14_PRIMARY": "pg14-primary:5432",
        "PG14_REPLICA": "pg14-replica:5432",
        "PG14_DATABASE": "testdb",
        "REDIS": "redis:6379",
        "CASSANDRA": "cassandra:9042",
        "AUTH": "on",
    }
    users = example(ComponentName.EXAMPLE_USERS, "citus", "redis", database="shop")
    assert users.facts.variables == {"CITUS_COORDINATOR": "citus-coordinator:5432", "CITUS_DATABASE": "shop"}


def test_what_it_can_do_without_may_be_left_out() -> None:
    """Then it gets neither the address nor the password."""
    found = example(ComponentName.EXAMPLE_REPLICATION, "pg14", "redis")
    assert "CASSANDRA" not in found.facts.variables
    assert [secret.name for secret in found.secrets] == [
        "example_replication_password",
        "example_replication_redis_password",
        "example_replication_jwt_key",
    ]
    with pytest.raises(SpecError) as refused:
        topology("citus", "redis", "example-replication")
    assert refused.value.details[0].startswith("services: example-replication needs pg14")


def test_an_example_keeps_no_password_of_a_superuser() -> None:
    own = {secret for name in EXAMPLES for secret in COMPONENTS[name].secrets}
    others = {secret for name, one in COMPONENTS.items() if name not in EXAMPLES for secret in one.secrets}
    assert not own & others
    made = topology("citus", "pg14", "redis", "cassandra", *EXAMPLES)
    for name in EXAMPLES:
        assert {*made.service(name.value).secrets} <= own


def test_a_server_has_the_accounts_of_wanted_examples_alone() -> None:
    wanted = [ComponentName.PG14, ComponentName.REDIS, ComponentName.EXAMPLE_SHARDING]
    assert [one.name for one in accounts_on(ComponentName.REDIS, wanted)] == ["example_sharding"]
    assert accounts_on(ComponentName.CASSANDRA, wanted) == ()
    assert [one.creates_databases for one in accounts_on(ComponentName.PG14, wanted)] == [True]


def test_the_admin_api_gets_the_passwords_that_it_makes_accounts_with() -> None:
    made = topology("citus", "pg14", "redis", "cassandra", "admin-api", *EXAMPLES)
    mounted = {secret.name for secret in made.service("admin-api").secrets}
    assert mounted >= {account.secret.name for name in EXAMPLES for account in COMPONENTS[name].accounts}
    assert "example_replication_jwt_key" not in mounted
