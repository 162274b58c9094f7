"""The tuning in a test: a short form of its input, and its servers by name."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import tuning_input
from citus_cluster.model.tuning.budget import Server
from citus_cluster.model.tuning.servers import NodeTuning, Tuning, TuningInput, tune

SMALL = frozenset({ComponentName.CITUS, ComponentName.ADMIN_API})


def wish(
    total_mb: int,
    *,
    cpus: int = 2,
    services: Collection[ComponentName] = SMALL,
    workers: int = 3,
    coordinator: bool = True,
    cassandra_nodes: int = 1,
    memory_given: bool = False,
    citus_pg_major: int = 17,
    **resources: Any,
) -> TuningInput:
    """Return the input of the tuning for a specification; ``resources`` as in the specification."""
    data: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "services": list(services),
        "workers": workers,
        "coordinator": coordinator,
        "cassandra": {"nodes": cassandra_nodes},
        "resources": {"detected": [] if memory_given else ["memory_mb"], **resources},
    }
    if not coordinator:
        data["advertise"] = "192.0.2.1"
    return tuning_input(parse_spec(data), memory_mb=total_mb, cpus=cpus, pg_major=citus_pg_major)


@dataclass(frozen=True)
class Tuned:
    """The result of the tuning; None for a server that is not wanted."""

    tuning: Tuning

    @property
    def coordinator(self) -> NodeTuning | None:
        return self.tuning.servers.get(Server.COORDINATOR)

    @property
    def worker(self) -> NodeTuning | None:
        return self.tuning.servers.get(Server.WORKER)

    @property
    def plain(self) -> NodeTuning | None:
        return self.tuning.servers.get(Server.PLAIN)

    @property
    def connections(self) -> int:
        return self.tuning.connections

    @property
    def plain_connections(self) -> int:
        return self.tuning.clients.get(Server.PLAIN, 0)

    @property
    def fits(self) -> bool:
        return self.tuning.fits

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.tuning.warnings


def tuned(total_mb: int, **given: Any) -> Tuned:
    return Tuned(tune(wish(total_mb, **given)))
