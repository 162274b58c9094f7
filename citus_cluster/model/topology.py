"""The specification resolved: every service with its names, ports, address, image and settings."""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.errors import SpecError
from citus_cluster.model import images
from citus_cluster.model.companions import (
    PG14_PRIMARY,
    PG14_REPLICA,
    REDIS,
    CassandraNode,
    Pg14Server,
    RedisServer,
    cassandra_ring,
    cassandra_service,
    pg14_pair,
    pg14_port,
    redis_server,
)
from citus_cluster.model.names import container_name
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.parameters import check_pair_settings, check_user_settings
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.spec import ClusterSpec, LogDriver, Logging, Replication, Scalar
from citus_cluster.model.tuning import Setting, Tuning, TuningInput, tune, with_user_settings

POSTGRES_PORT = 5432


class Role(StrEnum):
    """What a node is for."""

    COORDINATOR = "coordinator"
    WORKER = "worker"


@dataclass(frozen=True)
class Node:
    """One PostgreSQL server of the Citus cluster.

    ``service`` is the Compose service and the name in the network, ``config`` the folder below
    generated/config that the container mounts, ``address`` where every other node reaches it.
    """

    service: str
    role: Role
    number: int
    container_name: str
    host_port: int
    address: NodeAddress
    config: str
    memory_mb: int
    shm_mb: int
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class AdminApi:
    """The container of the admin API; ``image`` is None where one is built from its context."""

    service: str
    container_name: str
    host_port: int
    image: str | None
    memory_mb: int
    config: str = "admin-api"


Member = Node | Pg14Server | RedisServer | CassandraNode | AdminApi
"""One container of the cluster."""


@dataclass(frozen=True)
class Topology:
    """Everything that the files of one host are rendered from."""

    name: str
    user: str
    database: str
    services: tuple[ComponentName, ...]
    publish_on: tuple[str, ...]
    publish_citus_on: tuple[str, ...]
    citus_image: images.Image
    coordinator: Node | None
    workers: tuple[Node, ...]
    pg14: tuple[Pg14Server, ...]
    pg14_synchronous: bool
    redis: RedisServer | None
    cassandra: tuple[CassandraNode, ...]
    admin_api: AdminApi | None
    tuning: Tuning
    logging: Logging | None
    """Limits of every container's log; None where the engine's own configuration is to decide."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        return ((self.coordinator,) if self.coordinator else ()) + self.workers

    @property
    def companions(self) -> tuple[Pg14Server | RedisServer | CassandraNode, ...]:
        return (*self.pg14, *((self.redis,) if self.redis else ()), *self.cassandra)

    @property
    def members(self) -> tuple[Member, ...]:
        """Every container, in the order of the Compose file."""
        return (*self.nodes, *self.companions, *((self.admin_api,) if self.admin_api else ()))

    @property
    def service_names(self) -> tuple[str, ...]:
        """Every Compose service, in the order of the file."""
        return tuple(member.service for member in self.members)

    @property
    def connect_host(self) -> str:
        """Address at which this machine itself reaches the published ports."""
        first = self.publish_on[0]
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first)  # noqa: S104


def resolve(spec: ClusterSpec, *, memory_mb: int, cpus: int, pg_major: int) -> tuple[Topology, tuple[str, ...]]:
    """Give the topology of ``spec`` on a host with so much memory and so many processors, and warnings.

    Raises SpecError with all problems at once, DoesNotFitError where given memory is too small.
    """
    problems = [*_port_problems(spec)]
    checked = [check_user_settings(values, where, pg_major) for where, values in _user_settings(spec)]
    checked.append(check_pair_settings(spec.settings.pg14, "settings.pg14"))
    problems += [problem for check in checked for problem in check.problems]
    problems += [
        f"settings.nodes.{name}: there is no such node; known are {', '.join(_node_names(spec))}"
        for name in spec.settings.nodes
        if name not in _node_names(spec)
    ]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"The specification has {count}; nothing was written.", details=problems)
    tuning = tune(
        TuningInput(
            total_mb=memory_mb,
            cpus=cpus,
            workload=spec.resources.workload,
            storage=spec.resources.storage,
            workers=len(spec.worker_numbers) if ComponentName.CITUS in spec.wanted else 0,
            coordinator=spec.coordinator and ComponentName.CITUS in spec.wanted,
            services=frozenset(spec.wanted),
            connections=spec.resources.connections,
            cassandra_nodes=spec.cassandra.nodes,
            memory_given="memory_mb" not in spec.resources.detected,
            citus_pg_major=pg_major,
        )
    )
    warnings = [*tuning.warnings, *(warning for check in checked for warning in check.warnings)]
    return _topology(spec, tuning, images.Image(spec.images.citus, pg_major)), tuple(warnings)


def _topology(spec: ClusterSpec, tuning: Tuning, image: images.Image) -> Topology:
    citus = ComponentName.CITUS in spec.wanted
    api_service = ComponentName.ADMIN_API.value
    return Topology(
        name=spec.name,
        user=spec.user,
        database=spec.database,
        services=spec.wanted,
        publish_on=(spec.bind,),
        publish_citus_on=_citus_addresses(spec),
        citus_image=image,
        coordinator=_node(spec, tuning, Role.COORDINATOR, 0) if citus and spec.coordinator else None,
        workers=tuple(_node(spec, tuning, Role.WORKER, n) for n in spec.worker_numbers) if citus else (),
        pg14=pg14_pair(spec, tuning) if ComponentName.PG14 in spec.wanted else (),
        pg14_synchronous=spec.pg14.replication is Replication.SYNC,
        redis=redis_server(spec, tuning) if ComponentName.REDIS in spec.wanted else None,
        cassandra=cassandra_ring(spec, tuning) if ComponentName.CASSANDRA in spec.wanted else (),
        admin_api=AdminApi(
            service=api_service,
            container_name=container_name(spec.name, api_service),
            host_port=spec.ports.admin_api,
            image=spec.images.admin_api,
            memory_mb=tuning.admin_api_mb or 0,
        )
        if ComponentName.ADMIN_API in spec.wanted
        else None,
        tuning=tuning,
        logging=None if spec.logging.driver is LogDriver.ENGINE else spec.logging,
    )


def _node(spec: ClusterSpec, tuning: Tuning, role: Role, number: int) -> Node:
    service = service_name(role, number)
    tuned = tuning.coordinator if role is Role.COORDINATOR else tuning.worker
    assert tuned is not None, "the tuning covers every role of the specification"  # noqa: S101
    own = spec.settings.nodes.get(service, {})
    of_role = spec.settings.coordinator if role is Role.COORDINATOR else spec.settings.worker
    host_port = spec.ports.citus + number
    return Node(
        service=service,
        role=role,
        number=number,
        container_name=container_name(spec.name, service),
        host_port=host_port,
        address=NodeAddress(spec.advertise, host_port) if spec.advertise else NodeAddress(service, POSTGRES_PORT),
        config=service if own else role.value,
        memory_mb=tuned.memory_mb,
        shm_mb=tuned.shm_mb,
        settings=with_user_settings(tuned.settings, {**of_role, **own}),
    )


def service_name(role: Role, number: int) -> str:
    """Compose service of a node, and its name in the network."""
    return "citus-coordinator" if role is Role.COORDINATOR else f"citus-worker{number}"


def _node_names(spec: ClusterSpec) -> list[str]:
    coordinator = [service_name(Role.COORDINATOR, 0)] if spec.coordinator else []
    return coordinator + [service_name(Role.WORKER, number) for number in spec.worker_numbers]


def _citus_addresses(spec: ClusterSpec) -> tuple[str, ...]:
    """Addresses on which Citus' ports are published.

    Docker publishes on addresses only. Where other servers know this one by a name, and none but this
    machine was to be bound, that is every interface, since the address behind a name may change.
    """
    bind = ipaddress.ip_address(spec.bind)
    if spec.advertise is None:
        return (spec.bind,)
    try:
        advertised = ipaddress.ip_address(spec.advertise)
    except ValueError:
        return ("0.0.0.0",) if bind.is_loopback else (spec.bind,)  # noqa: S104
    if advertised == bind or (bind.is_unspecified and bind.version == advertised.version):
        return (spec.bind,)
    return (spec.bind, spec.advertise)


def _user_settings(spec: ClusterSpec) -> Iterator[tuple[str, Mapping[str, Scalar]]]:
    yield "settings.coordinator", spec.settings.coordinator
    yield "settings.worker", spec.settings.worker
    for name, values in spec.settings.nodes.items():
        yield f"settings.nodes.{name}", values


def host_ports(spec: ClusterSpec) -> list[tuple[int, str]]:
    """Every host port of the wanted services, with the service that it is for."""
    ports: list[tuple[int, str]] = []
    if ComponentName.CITUS in spec.wanted:
        if spec.coordinator:
            ports.append((spec.ports.citus, service_name(Role.COORDINATOR, 0)))
        ports += [(spec.ports.citus + number, service_name(Role.WORKER, number)) for number in spec.worker_numbers]
    if ComponentName.PG14 in spec.wanted:
        first = pg14_port(spec.ports.citus, spec.ports.pg14)
        ports += [(first, PG14_PRIMARY), (first + 1, PG14_REPLICA)]
    if ComponentName.REDIS in spec.wanted:
        ports.append((spec.ports.redis, REDIS))
    if ComponentName.CASSANDRA in spec.wanted:
        ports += [(spec.ports.cassandra + i, cassandra_service(i + 1)) for i in range(spec.cassandra.nodes)]
    if ComponentName.ADMIN_API in spec.wanted:
        ports.append((spec.ports.admin_api, ComponentName.ADMIN_API.value))
    return ports


_PORT_FLAGS = {
    ComponentName.ADMIN_API: "--admin-port",
    ComponentName.PG14: "--pg14-port",
    ComponentName.REDIS: "--redis-port",
    ComponentName.CASSANDRA: "--cassandra-port",
}


def port_flag(service: str) -> str:
    """Option of the set-up that chooses the host port of a Compose service."""
    return next((flag for kind, flag in _PORT_FLAGS.items() if service.startswith(kind.value)), "--port")


def _port_problems(spec: ClusterSpec) -> Iterator[str]:
    taken: dict[int, str] = {}
    ports = host_ports(spec)
    outside = [(port, service) for port, service in ports if not 1 <= port <= 65535]
    if outside:
        port, service = outside[-1]
        more = len(outside) - 1
        others = f" ({more} more service{'s' if more > 1 else ''} would get one too high)" if more else ""
        yield f"ports: {service} would get port {port}{others}; ports go from 1 to 65535: choose another --port"
    for port, service in ports:
        if port in taken:
            flags = " or ".join(dict.fromkeys((port_flag(taken[port]), port_flag(service))))
            yield f"ports: {taken[port]} and {service} would both get port {port}: choose another {flags}"
        else:
            taken[port] = service
