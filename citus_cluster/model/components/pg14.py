"""The PostgreSQL 14 pair: a primary and a replica, plain PostgreSQL beside Citus."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from citus_cluster.model.component import (
    AsksPostgres,
    Component,
    ConfigFile,
    Login,
    Place,
    Reread,
    Secret,
    Service,
    Sign,
)
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.images import PAIR_PG_MAJOR, official_major, pg14_major_problem
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import DEFAULT_PG14_PORT, ClusterSpec, Pg14Log, Replication
from citus_cluster.model.tuning.budget import Part, Server
from citus_cluster.model.tuning.formulae import JUDGEMENT, PG_DOCS, Group, Setting
from citus_cluster.model.tuning.parameters import Checked, check_pair_settings
from citus_cluster.model.tuning.servers import Tuning, with_user_settings

PRIMARY = "pg14-primary"
"""The server that is the primary at the first start; later, the data decide."""
REPLICA = "pg14-replica"
REPLICATION_USER = "replicator"
PASSWORD = Secret("pg14_password")
REPLICATOR_PASSWORD = Secret("replicator_password", for_admin_api=False)
LOGIN = Login("postgres", "testdb", PASSWORD)
_ROLE_VOLUME = "pg14-role"


@dataclass(frozen=True)
class PairFacts:
    """``peer`` is the service of the other server."""

    peer: str


class _Pg14(Component):
    name = ComponentName.PG14
    owns = re.compile("pg14-(primary|replica)")
    secrets = (PASSWORD, REPLICATOR_PASSWORD)
    more_volumes = (_ROLE_VOLUME,)
    pg_major = PAIR_PG_MAJOR
    settle_together = True
    several = True
    signs = (
        Sign(
            r"has the data of an old primary, and",
            "it has the data of an old primary, but the other server of the pair is the primary now",
            "To make it a replica and drop rows that exist only there: citus-cluster pg14 rebuild-replica. To "
            "make it the "
            "primary and drop rows that exist only on the other server: citus-cluster pg14 promote",
        ),
        Sign(
            r"was the primary and has no data now",
            "it was the primary, but its volume is empty now",
            "To continue with the replica's data: citus-cluster pg14 promote. To begin with empty servers, remove the "
            "volumes of both servers and the volume pg14-role.",
        ),
        Sign(
            r"copies the data of the primary \S+ \(\d+ MB so far\)",
            "it is still copying the data of the primary",
            "The copy continues in the background. Wait, or run citus-cluster up again with a longer --timeout.",
        ),
    )

    def part(self, spec: ClusterSpec) -> Part:
        return Part(self.name, servers={Server.PLAIN: 2})

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        first = _first_port(spec.ports.citus, spec.ports.pg14)
        return ((PRIMARY, first), (REPLICA, first + 1))

    def image(self, spec: ClusterSpec) -> str:
        return spec.images.pg14

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        """Return both servers: with the same settings, because either may be the primary, and a standby's limits
        must be at least the primary's."""
        tuned = tuning.servers[Server.PLAIN]
        settings = with_user_settings((*_logged(tuned.settings, spec), *_waited_for(spec)), spec.settings.pg14)
        return tuple(
            Service(
                name=service,
                component=self.name,
                container_name=container_name(spec.name, service),
                image=self.image(spec),
                publish_on=(spec.bind,),
                host_port=port,
                port=5432,
                memory_mb=tuned.memory_mb,
                template="pg14.yml",
                config="pg14",
                files=(
                    ConfigFile("postgresql.conf", "pg14.conf", Reread.RELOAD),
                    ConfigFile("pg_hba.conf", "pg14_hba.conf", Reread.RELOAD),
                    ConfigFile("start.sh", "pg14-start.sh"),
                    ConfigFile("healthcheck.sh", "pg14-healthcheck.sh", Reread.ALWAYS),
                ),
                knock=AsksPostgres(),
                data="/var/lib/postgresql/data",
                volumes=(_ROLE_VOLUME,),
                secrets=self.secrets,
                login=LOGIN,
                settings=settings,
                shm_mb=tuned.shm_mb,
                synchronous=spec.pg14.replication is Replication.SYNC,
                facts=PairFacts(PRIMARY if service == REPLICA else REPLICA),
            )
            for service, port in self.ports(spec)
        )

    def completed(self, spec: ClusterSpec) -> ClusterSpec:
        first = _first_port(spec.ports.citus, spec.ports.pg14)
        return spec.model_copy(update={"ports": spec.ports.model_copy(update={"pg14": first})})

    def image_major_problem(self, image: str, major: int) -> str:
        return f"images.pg14: {pg14_major_problem(image, major)}"

    def tells_major(self, image: str) -> bool:
        return official_major(image, "postgres") is not None

    def check_settings(self, spec: ClusterSpec, citus_pg_major: int) -> Iterator[Checked]:
        yield check_pair_settings(spec.settings.pg14, "settings.pg14")

    def warnings(self, spec: ClusterSpec) -> Iterator[str]:
        if self.name not in spec.wanted and spec.pg14.replication is Replication.SYNC:
            yield "pg14.replication is sync, but has no effect until pg14 is enabled."

    def notes(self, asked: ClusterSpec, spec: ClusterSpec) -> Iterator[str]:
        """Report the ports of the pair if the user did not choose them and they are not the usual ones."""
        first = spec.ports.pg14
        if asked.ports.pg14 is None and first not in {None, DEFAULT_PG14_PORT}:
            usual = f"{DEFAULT_PG14_PORT} and {DEFAULT_PG14_PORT + 1}"
            yield (
                f"The PostgreSQL 14 pair gets ports {first} and {(first or 0) + 1} instead of {usual}, because "
                "the Citus "
                f"nodes may need those (--port={spec.ports.citus}). To choose others: --pg14-port"
            )

    def access(self, services: Sequence[Service], place: Place) -> Iterator[tuple[str, str]]:
        for service in services:
            yield (
                service.name,
                f'PGPASSWORD="$(cat {place.folder}{PASSWORD.path})" psql -h {place.host} -p {service.host_port} '
                f"-U {LOGIN.user} -d {LOGIN.database}",
            )


PG14 = _Pg14()


def _first_port(base: int, given: int | None) -> int:
    """Host port of the primary: moved below Citus' range where they would meet."""
    if given is not None:
        return given
    meets = base <= DEFAULT_PG14_PORT + 1 and base + 1000 >= DEFAULT_PG14_PORT
    return base - 2 if meets else DEFAULT_PG14_PORT


def _waited_for(spec: ClusterSpec) -> tuple[Setting, ...]:
    """Return the setting for synchronous replication; it has both names, because either server may be the standby."""
    if spec.pg14.replication is not Replication.SYNC:
        return ()
    value = f'FIRST 1 ("{REPLICA}", "{PRIMARY}")'
    formula = "pg14.replication is sync: a commit returns once the standby has it on its disk"
    return (Setting("synchronous_standby_names", value, Group.REPLICATION, formula, "", PG_DOCS, restart=False),)


_VERBOSE = {
    "log_min_messages": "debug1",
    "log_replication_commands": "on",
    "log_line_prefix": "%m [%p] %u@%d ",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_statement": "all",
}


def _logged(settings: tuple[Setting, ...], spec: ClusterSpec) -> tuple[Setting, ...]:
    if spec.pg14.log is not Pg14Log.VERBOSE:
        return settings
    formula = "pg14.log is verbose: to watch replication and every statement; costs speed and disk"
    known = {setting.name for setting in settings}
    changed = [replace(s, value=_VERBOSE[s.name], formula=formula) if s.name in _VERBOSE else s for s in settings]
    added = [
        Setting(name, value, Group.LOGGING, formula, "", JUDGEMENT, restart=False)
        for name, value in _VERBOSE.items()
        if name not in known
    ]
    return (*changed, *added)
