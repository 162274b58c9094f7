"""The specification resolved: every service with its names, ports, address, image and settings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from citus_cluster.errors import SpecError
from citus_cluster.model import components
from citus_cluster.model.citus.nodes import Node, Role
from citus_cluster.model.component import Account, Component, Service
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.images import Image
from citus_cluster.model.spec import ClusterSpec, LogDriver, Logging, Shared
from citus_cluster.model.tuning.budget import Shares
from citus_cluster.model.tuning.servers import Tuning, TuningInput, tune


@dataclass(frozen=True)
class Topology:
    """All values from which the files of one host are rendered.

    ``components`` are the wanted ones, ``services`` their containers, in the order of the Compose file.
    """

    name: str
    user: str
    database: str
    components: tuple[ComponentName, ...]
    services: tuple[Service, ...]
    citus_image: Image
    """Kept even if Citus is switched off, because the data of its nodes were created with it."""
    connect_host: str
    """Address at which this machine itself reaches the published ports."""
    tuning: Tuning
    logging: Logging | None
    """Limits of every container's log; None if the engine's own configuration is to decide."""

    def of(self, component: ComponentName) -> tuple[Service, ...]:
        """Return the services of one component; none if it is not wanted."""
        return tuple(service for service in self.services if service.component is component)

    def accounts_on(self, server: ComponentName) -> tuple[Account, ...]:
        """Return the accounts of applications on a component's server."""
        return components.accounts_on(server, self.components)

    def service(self, name: str) -> Service:
        """Return the service of this name, which must exist."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Service]:
        return {service.name: service for service in self.services}

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the Citus cluster that run on this host, the coordinator first."""
        return tuple(service.facts for service in self.services if isinstance(service.facts, Node))

    @cached_property
    def coordinator(self) -> Node | None:
        return next((node for node in self.nodes if node.role is Role.COORDINATOR), None)

    @cached_property
    def workers(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.role is Role.WORKER)

    @property
    def companions(self) -> tuple[Service, ...]:
        """The services beside Citus."""
        return tuple(service for service in self.services if COMPONENTS[service.component].companion)

    @property
    def service_names(self) -> tuple[str, ...]:
        """Every Compose service, in the order of the file."""
        return tuple(service.name for service in self.services)


def resolve(spec: ClusterSpec, *, memory_mb: int, cpus: int, pg_major: int) -> tuple[Topology, tuple[str, ...]]:
    """Return the topology of ``spec`` on a host with this memory and these processors, and warnings.

    ``pg_major`` is that of the Citus image. Raises SpecError with all problems at once, DoesNotFitError if the memory
    that the user gave is too small.
    """
    warnings = refuse_contradictions(spec, pg_major=pg_major)
    tuning = tune(tuning_input(spec, memory_mb=memory_mb, cpus=cpus, pg_major=pg_major))
    services: tuple[Service, ...] = ()
    for component in components.wanted(spec):
        services += component.services(spec, tuning, services)
    topology = Topology(
        name=spec.name,
        user=spec.user,
        database=spec.database,
        components=spec.wanted,
        services=services,
        citus_image=Image(spec.images.citus, pg_major),
        connect_host={"0.0.0.0": "127.0.0.1", "::": "::1"}.get(spec.bind, spec.bind),  # noqa: S104
        tuning=tuning,
        logging=None if spec.logging.driver is LogDriver.ENGINE else spec.logging,
    )
    return topology, (*tuning.warnings, *warnings)


def refuse_contradictions(spec: ClusterSpec, *, pg_major: int) -> tuple[str, ...]:
    """Check ports and the user's settings. Returns warnings. Raises SpecError with all problems at once."""
    checked = [check for component in COMPONENTS.values() for check in component.check_settings(spec, pg_major)]
    problems = [*_port_problems(spec), *(problem for check in checked for problem in check.problems)]
    for component in components.wanted(spec):
        problems += [*unmet_needs(component, spec), *component.problems(spec)]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"The specification has {count}; nothing was written.", details=problems)
    return tuple(warning for check in checked for warning in check.warnings)


def unmet_needs(component: Component, spec: ClusterSpec) -> Iterator[str]:
    """Return a problem for each component that a wanted one needs and that is missing."""
    for need in component.needs:
        if need not in spec.wanted:
            yield (
                f"services: {component.name} needs {need} in this directory: add {need} to the services, or remove "
                f"{component.name}"
            )
        elif need is ComponentName.CITUS and not spec.coordinator:
            yield f"services: {component.name} needs a coordinator in this directory: remove {component.name}"


def tuning_input(spec: ClusterSpec, *, memory_mb: int, cpus: int, pg_major: int) -> TuningInput:
    """Return the input of the tuning: the machine, and what the wanted components need."""
    return TuningInput(
        total_mb=memory_mb,
        cpus=cpus,
        parts=tuple(component.part(spec) for component in components.wanted(spec)),
        workload=spec.resources.workload,
        storage=spec.resources.storage,
        connections=spec.resources.connections,
        memory_given="memory_mb" not in spec.resources.detected,
        citus_pg_major=pg_major,
        kept=_kept(spec.resources.shared, memory_mb),
    )


def _kept(shared: Shared | None, memory_mb: int) -> Shares | None:
    """Return how the memory was shared; None if the memory has changed."""
    if shared is None or shared.memory_mb != memory_mb:
        return None
    return Shares(shared.workers, shared.clients, shared.servers, shared.nodes or {}, bool(shared.holds_shards))


def _port_problems(spec: ClusterSpec) -> Iterator[str]:
    taken: dict[int, tuple[str, Component]] = {}
    ports = [(port, name, component) for component in components.wanted(spec) for name, port in component.ports(spec)]
    outside = [(port, service) for port, service, _ in ports if not 1 <= port <= 65535]
    if outside:
        port, service = outside[-1]
        more = len(outside) - 1
        others = f" ({more} more service{'s' if more > 1 else ''} would get one too high)" if more else ""
        yield (
            f"ports: {service} would get port {port}{others}; ports are numbers from 1 to 65535: choose another --port"
        )
    for port, service, component in ports:
        if port in taken:
            other, its_component = taken[port]
            flags = " or ".join(dict.fromkeys((its_component.port_option, component.port_option)))
            yield f"ports: {other} and {service} would both get port {port}: choose another {flags}"
        else:
            taken[port] = (service, component)
