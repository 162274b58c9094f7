"""The example applications: one container each, which answers HTTP."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from citus_cluster.model.citus.nodes import Role
from citus_cluster.model.component import (
    ROLES_FOLDER,
    Account,
    AsksHttp,
    Component,
    Place,
    Secret,
    Service,
    Sign,
)
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components.citus import service_name
from citus_cluster.model.components.pg14 import LOGIN, PRIMARY, REPLICA
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.servers import Tuning


@dataclass(frozen=True)
class ExampleFacts:
    """``package`` is the Python package that it runs, ``variables`` those of its environment: where its servers are."""

    package: str
    variables: Mapping[str, str]


class _Example(Component):
    """An example; the subclass declares its package, its memory and its accounts."""

    package: ClassVar[str]
    memory_mb: ClassVar[int]
    own_secrets: ClassVar[tuple[Secret, ...]] = ()
    own_variables: ClassVar[Mapping[str, str]] = {}
    request: ClassVar[str]
    """A path to try."""
    signs = (
        Sign(
            r"NotConfiguredError: (?P<reason>.*)",
            "the example cannot find its servers or its passwords",
            "Write the files again: python setup_citus_cluster.py --yes. Then run citus-cluster up.",
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        return Part(self.name, fixed_mb=self.memory_mb)

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return ((self.name.value, int(getattr(spec.ports, self.name.key))),)

    def image(self, spec: ClusterSpec) -> str | None:
        image: str | None = getattr(spec.images, self.name.key)
        return image

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        used = {account.server: account.secret for account in self.accounts if account.server in spec.wanted}
        secrets = (*used.values(), *self.own_secrets)
        ((name, host_port),) = self.ports(spec)
        return (
            Service(
                name=name,
                component=self.name,
                container_name=container_name(spec.name, name),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=host_port,
                port=8000,
                memory_mb=self.memory_mb,
                template="example.yml",
                config=name,
                files=(),
                knock=AsksHttp(),
                secrets=secrets,
                restart_secrets=secrets,
                facts=ExampleFacts(self.package, {**_variables(spec, used, others), **self.own_variables}),
            ),
        )

    def access(self, services: Sequence[Service], place: Place) -> Iterator[tuple[str, str]]:
        for service in services:
            yield service.name, f"curl http://{place.host}:{service.host_port}{self.request}"


def _variables(
    spec: ClusterSpec, servers: Mapping[ComponentName, Secret], others: Sequence[Service]
) -> Mapping[str, str]:
    """Return where an application finds its servers, in the network of the containers."""
    at = {service.name: f"{service.name}:{service.port}" for service in others}
    of = {service.component: at[service.name] for service in reversed(others)}
    found: dict[str, str] = {}
    if ComponentName.CITUS in servers:
        coordinator = at[service_name(Role.COORDINATOR, 0)]
        found |= {"CITUS_COORDINATOR": coordinator, "CITUS_DATABASE": spec.database}
    if ComponentName.PG14 in servers:
        found |= {
            "PG14_PRIMARY": at[PRIMARY],
            "PG14_REPLICA": at[REPLICA],
            "PG14_DATABASE": LOGIN.database,
        }
    for name in (ComponentName.REDIS, ComponentName.CASSANDRA):
        if name in servers:
            found[name.key.upper()] = of[name]
    return found


def _secret(name: str) -> Secret:
    return Secret(name, opens_data=False, read_without_root=True)


class _ReadWriteSplit(_Example):
    name = ComponentName.EXAMPLE_REPLICATION
    owns = re.compile("example-replication")
    needs = (ComponentName.PG14,)
    package = "read_write_split"
    context = "examples/read_write_split"
    memory_mb = 160
    accounts = (
        Account(ComponentName.PG14, "example_replication", _secret("example_replication_password")),
        Account(ComponentName.REDIS, "example_replication", _secret("example_replication_redis_password")),
        Account(ComponentName.CASSANDRA, "example_replication", _secret("example_replication_cassandra_password")),
    )
    own_secrets = (
        Secret("example_replication_jwt_key", opens_data=False, read_without_root=True, for_admin_api=False),
    )
    own_variables: ClassVar[Mapping[str, str]] = {"AUTH": "on"}
    secrets = (*(account.secret for account in accounts), *own_secrets)
    request = "/health"


class _ConsistentHashing(_Example):
    name = ComponentName.EXAMPLE_SHARDING
    owns = re.compile("example-sharding")
    needs = (ComponentName.PG14,)
    package = "consistent_hashing"
    context = "examples/consistent_hashing"
    memory_mb = 128
    accounts = (
        Account(
            ComponentName.PG14,
            "example_sharding",
            _secret("example_sharding_password"),
            creates_databases=True,
        ),
        Account(ComponentName.REDIS, "example_sharding", _secret("example_sharding_redis_password")),
    )
    secrets = tuple(account.secret for account in accounts)
    request = "/shards"


class _CitusUsers(_Example):
    name = ComponentName.EXAMPLE_USERS
    owns = re.compile("example-users")
    needs = (ComponentName.CITUS,)
    package = "citus_users"
    context = "examples/citus_users"
    memory_mb = 128
    accounts = (
        Account(
            ComponentName.CITUS,
            "example_users",
            # Where the commands for roles look for it.
            Secret("example_users_password", opens_data=False, read_without_root=True, folder=ROLES_FOLDER),
        ),
    )
    secrets = tuple(account.secret for account in accounts)
    request = "/users/1"


EXAMPLES = (_ReadWriteSplit(), _ConsistentHashing(), _CitusUsers())
