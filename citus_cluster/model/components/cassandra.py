"""Cassandra: a ring of one or more nodes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from citus_cluster.model.component import AsksTcp, Component, ConfigFile, Place, Reread, Secret, Service, Sign
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.names import container_name, volume_name
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.servers import Tuning

USER = "admin"
"""The superuser that replaces Cassandra's own, whose password is public."""
DATACENTER = "dc1"
MEMORY_MB = 1280
"""For each node: its heap, and the memory of the JVM besides it."""
HEAP_MB = 512
PASSWORD = Secret("cassandra_password", read_without_root=True)
OPTIONS = bytes.fromhex("040000000500000000")
"""A request of the native protocol, version 4, which is answered without a login."""
_RACKS = 3
_JOIN_S = 150.0
"""The time that a node may take to join the ring, besides copying; 80 s on an idle machine."""


@dataclass(frozen=True)
class CassandraFacts:
    """The values of one node for the settings and the Compose file."""

    number: int
    heap_mb: int
    rack: str


def _service(number: int) -> str:
    """The first keeps its name when the ring grows."""
    return "cassandra" if number == 1 else f"cassandra{number}"


class _Cassandra(Component):
    name = ComponentName.CASSANDRA
    owns = re.compile(r"cassandra\d*")
    secrets = (PASSWORD,)
    several = True
    start_factor = 2.5
    signs = (
        Sign(
            r"Unable to gossip with any peers|Unable to contact any seeds",
            "no other node of Cassandra's ring answers",
            "Start the first node and wait for it: docker compose up -d cassandra; this node then finds it.",
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        return Part(
            self.name,
            fixed_mb=MEMORY_MB,
            count=spec.cassandra.nodes,
            count_option="--cassandra-nodes",
            unit="nodes",
        )

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return [(_service(number), spec.ports.cassandra + number - 1) for number in range(1, spec.cassandra.nodes + 1)]

    def image(self, spec: ClusterSpec) -> str:
        return spec.images.cassandra

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        """Return the nodes in the order in which they join, one after the other."""
        return tuple(
            Service(
                name=service,
                component=self.name,
                container_name=container_name(spec.name, service),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=port,
                port=9042,
                memory_mb=MEMORY_MB,
                template="cassandra.yml",
                config="cassandra",
                files=(
                    ConfigFile("cassandra.yaml", "cassandra.yaml"),
                    # A restart because the ring has grown would make nodes unavailable while the new one joins.
                    ConfigFile("ring.txt", "cassandra-ring.txt", Reread.ALWAYS),
                    ConfigFile("start.sh", "cassandra-start.sh"),
                    ConfigFile("healthcheck.sh", "cassandra-healthcheck.sh", Reread.ALWAYS),
                ),
                knock=AsksTcp(OPTIONS),
                data="/var/lib/cassandra",
                secrets=self.secrets,
                patience_s=_JOIN_S * (number - 1),
                facts=CassandraFacts(number, HEAP_MB, f"rack{(number - 1) % _RACKS + 1}"),
            )
            for number, (service, port) in enumerate(self.ports(spec), 1)
        )

    def loss_of(self, gone: Sequence[str], project: str) -> tuple[str, str]:
        """Refuse to omit a node: its part of the data is lost unless it was decommissioned."""
        last = gone[-1]
        return (
            f"This would remove {', '.join(gone)} from Cassandra's ring, with the data there; nothing was written.",
            "Keep the number of nodes, or first run, from the last to the first of these nodes: docker compose "
            f"exec {last} "
            f"nodetool decommission --force; docker compose rm -sf {last}; "
            f"docker volume rm {volume_name(project, last)}. docs/services.md has all steps.",
        )

    def access(self, services: Sequence[Service], place: Place) -> Iterator[tuple[str, str]]:
        # In the container, cqlsh finds its credentials in a file that start.sh writes.
        for service in services[:1]:
            yield service.name, f"docker exec -it {service.container_name} cqlsh"


CASSANDRA = _Cassandra()
