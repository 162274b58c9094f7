"""The services beside Citus, resolved: the PostgreSQL 14 pair, Redis, and the ring of Cassandra."""

from dataclasses import dataclass, replace

from citus_cluster.model import budget
from citus_cluster.model.formulae import JUDGEMENT, PG_DOCS, Group, Setting
from citus_cluster.model.names import container_name
from citus_cluster.model.spec import DEFAULT_PG14_PORT, ClusterSpec, Pg14Log, Replication
from citus_cluster.model.tuning import Tuning, with_user_settings

PG14_PRIMARY = "pg14-primary"
"""The server that is the primary at the first start; who is it now, the data say."""
PG14_REPLICA = "pg14-replica"
FENCED = "fenced"
"""So begins what the health check of a server says that must not serve until someone decides."""
PG14_USER = "postgres"
PG14_DATABASE = "testdb"
REPLICATION_USER = "replicator"
REDIS = "redis"
REDIS_PORT = 6379
CASSANDRA_PORT = 9042
"""Ports inside the network; those of the host are in the specification."""
CASSANDRA_USER = "admin"
"""The superuser that takes the place of Cassandra's own, whose password everybody knows."""
CASSANDRA_DATACENTER = "dc1"
_RACKS = 3


@dataclass(frozen=True)
class Pg14Server:
    """One of the two PostgreSQL 14 servers; ``peer`` is the service of the other."""

    service: str
    peer: str
    container_name: str
    host_port: int
    image: str
    memory_mb: int
    shm_mb: int
    settings: tuple[Setting, ...]
    config: str = "pg14"


@dataclass(frozen=True)
class RedisServer:
    """The Redis server. ``memory_mb`` is the container's limit, ``maxmemory_mb`` what its data may take."""

    service: str
    container_name: str
    host_port: int
    image: str
    memory_mb: int
    maxmemory_mb: int
    maxmemory_policy: str
    config: str = "redis"


@dataclass(frozen=True)
class CassandraNode:
    """One node of the ring."""

    service: str
    number: int
    container_name: str
    host_port: int
    image: str
    memory_mb: int
    heap_mb: int
    rack: str
    config: str = "cassandra"


def pg14_port(base: int, given: int | None) -> int:
    """Host port of the PostgreSQL 14 primary: moved below Citus' range where they would meet."""
    if given is not None:
        return given
    meets = base <= DEFAULT_PG14_PORT + 1 and base + 1000 >= DEFAULT_PG14_PORT
    return base - 2 if meets else DEFAULT_PG14_PORT


def cassandra_service(number: int) -> str:
    """Compose service of a Cassandra node; the first keeps its name when the ring grows."""
    return "cassandra" if number == 1 else f"cassandra{number}"


def pg14_pair(spec: ClusterSpec, tuning: Tuning) -> tuple[Pg14Server, ...]:
    """Give both servers: with the same settings, because either may be the primary, and a standby's limits
    must be at least the primary's."""
    tuned = tuning.pg14
    assert tuned is not None, "the tuning covers every service of the specification"  # noqa: S101
    first = pg14_port(spec.ports.citus, spec.ports.pg14)
    settings = with_user_settings((*_logged(tuned.settings, spec), *_waited_for(spec)), spec.settings.pg14)
    return tuple(
        Pg14Server(
            service=service,
            peer=peer,
            container_name=container_name(spec.name, service),
            host_port=port,
            image=spec.images.pg14,
            memory_mb=tuned.memory_mb,
            shm_mb=tuned.shm_mb,
            settings=settings,
        )
        for service, peer, port in ((PG14_PRIMARY, PG14_REPLICA, first), (PG14_REPLICA, PG14_PRIMARY, first + 1))
    )


def redis_server(spec: ClusterSpec, tuning: Tuning) -> RedisServer:
    return RedisServer(
        service=REDIS,
        container_name=container_name(spec.name, REDIS),
        host_port=spec.ports.redis,
        image=spec.images.redis,
        memory_mb=tuning.redis_mb or budget.REDIS_MB,
        maxmemory_mb=budget.REDIS_MAXMEMORY_MB,
        maxmemory_policy=spec.redis.maxmemory_policy.value,
    )


def cassandra_ring(spec: ClusterSpec, tuning: Tuning) -> tuple[CassandraNode, ...]:
    """Give the nodes in the order in which they join."""
    return tuple(
        CassandraNode(
            service=cassandra_service(number),
            number=number,
            container_name=container_name(spec.name, cassandra_service(number)),
            host_port=spec.ports.cassandra + number - 1,
            image=spec.images.cassandra,
            memory_mb=tuning.cassandra_mb or budget.CASSANDRA_MB,
            heap_mb=budget.CASSANDRA_HEAP_MB,
            rack=f"rack{(number - 1) % _RACKS + 1}",
        )
        for number in range(1, spec.cassandra.nodes + 1)
    )


def _waited_for(spec: ClusterSpec) -> tuple[Setting, ...]:
    """What makes replication synchronous; both names, because either server may be the standby."""
    if spec.pg14.replication is not Replication.SYNC:
        return ()
    value = f'FIRST 1 ("{PG14_REPLICA}", "{PG14_PRIMARY}")'
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
