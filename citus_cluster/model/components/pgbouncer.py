"""PgBouncer: one container in front of the coordinator."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from citus_cluster.model.citus.nodes import Role
from citus_cluster.model.component import AsksTcp, Component, ConfigFile, Place, Reread, Secret, Service, Sign
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components.citus import service_name
from citus_cluster.model.names import container_name
from citus_cluster.model.pooling import CONSOLE_DATABASE, Pool, memory_mb, pool_of
from citus_cluster.model.spec import ClusterSpec
from citus_cluster.model.tuning.budget import Part, Server
from citus_cluster.model.tuning.servers import Tuning

_SERVICE = "pgbouncer"
PASSWORD = Secret("pgbouncer_password", opens_data=False, read_without_root=True)
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""A PostgreSQL client's first request, before it names its role; any server answers with one letter."""


@dataclass(frozen=True)
class PgBouncerFacts:
    """The values for the settings and the Compose file; ``coordinator`` is the name of its service."""

    pool: Pool
    coordinator: str


class _PgBouncer(Component):
    name = ComponentName.PGBOUNCER
    owns = re.compile(_SERVICE)
    needs = (ComponentName.CITUS,)
    secrets = (PASSWORD,)
    signs = (
        Sign(
            r"the image has no openssl",
            "the start script needs openssl to create a certificate, but the image does not contain it",
            "Use the default image: remove images.pgbouncer from cluster.yaml.",
        ),
        Sign(
            r"PgBouncer refuses the password",
            "PgBouncer and generated/secrets/pgbouncer_password do not agree",
            "Restart it, because it reads the password only at its start: docker compose restart pgbouncer.",
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        return Part(self.name, fixed_mb=memory_mb(spec.pgbouncer.max_clients))

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        return ((_SERVICE, spec.ports.pgbouncer),)

    def image(self, spec: ClusterSpec) -> str:
        return spec.images.pgbouncer

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        return (
            Service(
                name=_SERVICE,
                component=self.name,
                container_name=container_name(spec.name, _SERVICE),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=spec.ports.pgbouncer,
                port=6432,
                memory_mb=memory_mb(spec.pgbouncer.max_clients),
                template="pgbouncer.yml",
                config="pgbouncer",
                files=(
                    # The start script makes PgBouncer reload these three when they change.
                    ConfigFile("pgbouncer.ini", "pgbouncer.ini", Reread.ALWAYS),
                    ConfigFile("databases.ini", "pgbouncer-databases.ini", Reread.ALWAYS),
                    ConfigFile("hba.conf", "pgbouncer-hba.conf", Reread.ALWAYS),
                    ConfigFile("start.sh", "pgbouncer-start.sh"),
                    ConfigFile("healthcheck.sh", "pgbouncer-healthcheck.sh", Reread.ALWAYS),
                ),
                knock=AsksTcp(_SSL_REQUEST),
                secrets=self.secrets,
                restart_secrets=self.secrets,
                facts=PgBouncerFacts(
                    pool_of(tuning.clients[Server.COORDINATOR], spec.pgbouncer.max_clients),
                    service_name(Role.COORDINATOR, 0),
                ),
            ),
        )

    def problems(self, spec: ClusterSpec) -> Iterator[str]:
        if spec.database == CONSOLE_DATABASE:
            yield (
                f"database: {CONSOLE_DATABASE!r} is the name of PgBouncer's admin console: choose another name, or "
                "remove pgbouncer from the services"
            )

    def access(self, services: Sequence[Service], place: Place) -> Iterator[tuple[str, str]]:
        # Ordinary roles connect, whose names only `roles list` knows; so this opens PgBouncer's admin console.
        for service in services:
            yield (
                service.name,
                f'PGPASSWORD="$(cat {place.folder}{PASSWORD.path})" '
                f"psql -h {place.host} -p {service.host_port} -U pgbouncer -d {CONSOLE_DATABASE}",
            )


PGBOUNCER = _PgBouncer()
