"""Citus: the coordinator and the workers of this host."""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence

from citus_cluster.model.citus.nodes import POSTGRES_PORT, Node, NodeAddress, Role
from citus_cluster.model.component import AsksPostgres, Component, ConfigFile, Login, Reread, Secret, Service, Sign
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.images import Image
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part, Server
from citus_cluster.model.tuning.parameters import Checked, Scalar, check_user_settings
from citus_cluster.model.tuning.servers import Tuning, with_user_settings

SUPERUSER_PASSWORD = Secret("superuser_password")
"""Every directory has it, even without Citus, because Citus may be added later."""
_WORKER = "citus-worker"


class _Citus(Component):
    name = ComponentName.CITUS
    owns = re.compile(r"citus-(coordinator|worker\d+)")
    companion = False
    secrets = (SUPERUSER_PASSWORD,)
    signs = (
        Sign(
            r"the init script did not run|the extension citus is missing",
            "its first start was not completed, or its volume belongs to another program",
            "If you do not need the data in its volume, remove the container and the volume, and start again: "
            "docker rm -f NAME; docker volume rm PROJECT_SERVICE-data.",
            is_symptom=True,
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        workers = {Server.WORKER: len(spec.worker_numbers)} if spec.worker_numbers else {}
        coordinator = {Server.COORDINATOR: 1} if spec.coordinator else {}
        return Part(self.name, servers={**coordinator, **workers}, companion=False)

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return [(node.service, spec.ports.citus + node.number) for node in self.nodes(spec)]

    def image(self, spec: ClusterSpec) -> str:
        return spec.images.citus

    def nodes(self, spec: ClusterSpec) -> tuple[Node, ...]:
        """Return the nodes of the cluster that run on this host, the coordinator first."""
        coordinator = (_node(spec, Role.COORDINATOR, 0),) if spec.coordinator else ()
        return (*coordinator, *(_node(spec, Role.WORKER, number) for number in spec.worker_numbers))

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        return tuple(self._service(spec, tuning, node) for node in self.nodes(spec))

    def _service(self, spec: ClusterSpec, tuning: Tuning, node: Node) -> Service:
        is_coordinator = node.role is Role.COORDINATOR
        usual = tuning.servers[Server.COORDINATOR if is_coordinator else Server.WORKER]
        tuned = tuning.nodes.get(node.service, usual)
        own = spec.settings.nodes.get(node.service, {})
        of_role = spec.settings.coordinator if is_coordinator else spec.settings.worker
        image = Image(self.image(spec), tuning.citus_pg_major)
        return Service(
            name=node.service,
            component=self.name,
            container_name=container_name(spec.name, node.service),
            image=image.name,
            platform=image.platform,
            publish_on=_addresses(spec),
            host_port=spec.ports.citus + node.number,
            port=POSTGRES_PORT,
            memory_mb=tuned.memory_mb,
            template=f"{node.role}.yml",
            config=node.service if own or node.service in tuning.nodes else node.role.value,
            files=(
                ConfigFile("postgresql.conf", f"{node.role}.conf", Reread.RELOAD),
                ConfigFile("pg_hba.conf", "pg_hba.conf", Reread.RELOAD),
                ConfigFile("healthcheck.sh", "healthcheck.sh", Reread.ALWAYS),
            ),
            knock=AsksPostgres(),
            data=image.data_mount,
            secrets=self.secrets,
            login=Login(spec.user, spec.database, SUPERUSER_PASSWORD),
            settings=with_user_settings(tuned.settings, {**of_role, **own}),
            shm_mb=tuned.shm_mb,
            initdb=True,
            facts=node,
        )

    def check_settings(self, spec: ClusterSpec, citus_pg_major: int) -> Iterator[Checked]:
        names = [node.service for node in self.nodes(spec)]
        for where, values in _user_settings(spec):
            yield check_user_settings(values, where, citus_pg_major)
        unknown = [name for name in spec.settings.nodes if name not in names]
        yield Checked(
            tuple(
                f"settings.nodes.{name}: there is no such node; the nodes are {', '.join(names)}" for name in unknown
            ),
            (),
        )


CITUS = _Citus()


def service_name(role: Role, number: int) -> str:
    """Compose service of a node, and its name in the network."""
    return "citus-coordinator" if role is Role.COORDINATOR else f"{_WORKER}{number}"


def _node(spec: ClusterSpec, role: Role, number: int) -> Node:
    service = service_name(role, number)
    address = NodeAddress(spec.advertise, spec.ports.citus + number) if spec.advertise else NodeAddress(service)
    return Node(service=service, role=role, number=number, address=address)


def _addresses(spec: ClusterSpec) -> tuple[str, ...]:
    """Addresses on which Citus' ports are published.

    Docker publishes only on addresses. If other servers know this one by a name, and only this machine was to be
    bound, that is every interface, because the address behind a name may change.
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
