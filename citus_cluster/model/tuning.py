"""From a machine and a wish to the settings of every server: what fits, and what to do where it does not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from citus_cluster.errors import DoesNotFitError
from citus_cluster.model import budget
from citus_cluster.model.budget import Server, Shares
from citus_cluster.model.formulae import (
    DEFAULT_CLIENTS,
    Facts,
    Group,
    Setting,
    Storage,
    Workload,
    lines,
    shm_mb,
)
from citus_cluster.model.images import PAIR_PG_MAJOR
from citus_cluster.model.parameters import Scalar, conf_value, needs_restart
from citus_cluster.model.services import Service
from citus_cluster.model.units import count

__all__ = [
    "Group",
    "NodeTuning",
    "Setting",
    "Storage",
    "Tuning",
    "TuningInput",
    "Workload",
    "tune",
    "with_user_settings",
]


@dataclass(frozen=True)
class TuningInput:
    """The machine and the wish.

    ``workers`` is the number on this host. ``connections`` is the number of clients if the user gave
    one. ``memory_given`` tells that ``total_mb`` is the user's, not detected.
    """

    total_mb: int
    cpus: int
    workload: Workload = Workload.MIXED
    storage: Storage = Storage.SSD
    workers: int = 2
    coordinator: bool = True
    services: frozenset[Service] = field(default_factory=lambda: frozenset({Service.CITUS, Service.ADMIN_API}))
    connections: int | None = None
    cassandra_nodes: int = 1
    memory_given: bool = False
    citus_pg_major: int = 17


@dataclass(frozen=True)
class NodeTuning:
    """Memory limit and /dev/shm of a server's container in MB, and its settings in the order of the file."""

    memory_mb: int
    shm_mb: int
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Tuning:
    """What every service gets; None where it is not wanted.

    ``connections`` is the number of clients on the coordinator, or of the PostgreSQL 14 servers where
    there is no Citus; 0 where there is neither. ``pair_connections`` is that of the PostgreSQL 14 servers, 0 without
    them. ``cassandra_mb`` is for each Cassandra node. ``fits`` is
    false where the machine is too small: the settings are sound, but the limits exceed its memory.
    """

    connections: int
    pair_connections: int
    coordinator: NodeTuning | None
    worker: NodeTuning | None
    pg14: NodeTuning | None
    redis_mb: int | None
    cassandra_mb: int | None
    admin_api_mb: int | None
    fits: bool
    warnings: tuple[str, ...]


def tune(given: TuningInput) -> Tuning:
    """Give every service its memory and every server its settings.

    Raises DoesNotFitError where the user gave the memory, or a number of connections, and it does not
    fit. Where the memory was detected, the smallest sound settings come with ``fits`` false and a warning
    that says what is missing and what would fit.
    """
    shares = _shares(given)
    clients = {servers: _clients(given, shares, servers) for servers in _groups(shares)}
    fits = all(clients.values()) and _fixed_limits_fit(given, shares)
    if not fits and (given.memory_given or given.connections or _ring_too_large(given)):
        message, hint = _shortage(given)
        raise DoesNotFitError(message, hint=hint)
    tuned = {server: _node(given, shares, server, count) for servers, count in clients.items() for server in servers}
    citus_first = [count or budget.CLIENTS_LEAST for _, count in clients.items()]
    return Tuning(
        connections=citus_first[0] if citus_first else 0,
        pair_connections=citus_first[-1] if Server.PG14 in tuned else 0,
        coordinator=tuned.get(Server.COORDINATOR),
        worker=tuned.get(Server.WORKER),
        pg14=tuned.get(Server.PG14),
        redis_mb=shares.redis_mb,
        cassandra_mb=shares.cassandra_mb,
        admin_api_mb=shares.admin_api_mb,
        fits=fits,
        warnings=() if fits else (" ".join(_shortage(given)),),
    )


def with_user_settings(settings: tuple[Setting, ...], user: Mapping[str, Scalar]) -> tuple[Setting, ...]:
    """Let the user's settings win: in the place of a computed one, or at the end.

    The values must have passed ``parameters.check_user_settings``.
    """
    wanted = {name.lower(): conf_value(value) for name, value in user.items()}
    known = {setting.name for setting in settings}
    merged = [_of_user(setting, wanted[setting.name]) if setting.name in wanted else setting for setting in settings]
    merged += [
        _of_user(Setting(name, value, Group.USER, "", "", "", needs_restart(name)), value)
        for name, value in sorted(wanted.items())
        if name not in known
    ]
    return tuple(merged)


def _of_user(setting: Setting, value: str) -> Setting:
    return replace(setting, value=value, formula="set in cluster.yaml", inputs="", source="cluster.yaml")


def _shares(given: TuningInput) -> Shares:
    return budget.share(
        given.total_mb,
        services=given.services,
        workers=given.workers,
        coordinator=given.coordinator,
        cassandra_nodes=given.cassandra_nodes,
    )


def _groups(shares: Shares) -> list[tuple[Server, ...]]:
    """Servers that have the same clients: the Citus nodes, then the PostgreSQL 14 pair."""
    citus = tuple(server for server in (Server.COORDINATOR, Server.WORKER) if server in shares.servers)
    pair = (Server.PG14,) if Server.PG14 in shares.servers else ()
    return [servers for servers in (citus, pair) if servers]


def _clients(given: TuningInput, shares: Shares, servers: tuple[Server, ...]) -> int:
    """Give the number of clients that these servers carry, 0 where they do not fit."""

    def fits(clients: int, work_mem_mb: float) -> bool:
        loads = (budget.load_of(s, clients=clients, workers=given.workers, cpus=given.cpus) for s in servers)
        return all(budget.carries(load, shares.servers[load.server], work_mem_mb) for load in loads)

    wanted = given.connections
    # The number that the user gives is of the coordinator's clients; beside Citus, the pair takes what it can.
    if wanted and (Server.PG14 not in servers or Service.CITUS not in given.services):
        return wanted if fits(wanted, budget.WORK_MEM_LEAST_MB) else 0
    return budget.most_clients(fits, wanted or DEFAULT_CLIENTS[given.workload])


def _ring_too_large(given: TuningInput) -> bool:
    """Tell whether more than one Cassandra node was asked for where one would fit."""
    return given.cassandra_nodes > 1 and _fits(replace(given, cassandra_nodes=1))


def _fixed_limits_fit(given: TuningInput, shares: Shares) -> bool:
    """Tell whether the services with fixed limits fit; where there are servers, those are short first."""
    fixed_mb = (shares.redis_mb or 0) + (shares.admin_api_mb or 0) + (shares.cassandra_mb or 0) * given.cassandra_nodes
    return fixed_mb <= budget.USABLE_PART * given.total_mb


def _node(given: TuningInput, shares: Shares, server: Server, clients: int) -> NodeTuning:
    count = clients or budget.CLIENTS_LEAST
    load = budget.load_of(server, clients=count, workers=given.workers, cpus=given.cpus)
    memory_mb = shares.servers[server]
    buffers_mb: float = budget.shared_buffers_mb(memory_mb)
    work_mem_mb = budget.work_mem_mb(load, memory_mb, buffers_mb)
    if not clients:
        memory_mb = max(memory_mb, budget.least_memory_mb(load))
        buffers_mb = budget.LEAST_SHARED_BUFFERS_MB
        work_mem_mb = budget.WORK_MEM_LEAST_MB
    facts = Facts(
        load=load,
        memory_mb=memory_mb,
        shared_buffers_mb=buffers_mb,
        work_mem_mb=work_mem_mb,
        cpus=given.cpus,
        workers=given.workers,
        workload=given.workload,
        storage=given.storage,
        pg_major=PAIR_PG_MAJOR if server is Server.PG14 else given.citus_pg_major,
    )
    settings = tuple(
        Setting(
            line.name, str(line.value), line.group, line.formula, line.inputs, line.source, needs_restart(line.name)
        )
        for line in lines(facts)
    )
    return NodeTuning(math.floor(memory_mb + 0.5), shm_mb(facts), settings)


def _fits(given: TuningInput) -> bool:
    shares = _shares(given)
    return _fixed_limits_fit(given, shares) and all(_clients(given, shares, s) for s in _groups(shares))


def _shortage(given: TuningInput) -> tuple[str, str]:
    """Say what is missing, and, found by trying, what would fit."""
    needed_mb = budget.smallest(lambda total_mb: _fits(replace(given, total_mb=total_mb)), given.total_mb)
    message = (
        f"{_wish(given)} need {needed_mb:,} MB of memory; "
        f"{given.total_mb:,} MB were {'given' if given.memory_given else 'found'}."
    )
    more = f"--memory={needed_mb}" if given.memory_given else f"{needed_mb:,} MB for the Docker engine"
    smaller = _smaller_wishes(given)
    # A wish far beyond any machine is answered by what this one can do.
    ways = smaller if smaller and needed_mb > 16 * given.total_mb else [*smaller, more]
    return message, f"What would fit: {', or '.join(ways)}."


def _wish(given: TuningInput) -> str:
    names = ", ".join(service.value for service in Service if service in given.services)
    if Service.CASSANDRA in given.services and given.cassandra_nodes > 1:
        names = names.replace(Service.CASSANDRA.value, f"{Service.CASSANDRA.value} ({given.cassandra_nodes} nodes)")
    if not given.services & {Service.CITUS, Service.PG14}:
        return f"The services {names}"
    nodes = ["a coordinator"] if given.coordinator else []
    nodes += [count(given.workers, "worker")] if given.workers else []
    citus = f" ({' and '.join(nodes)})" if Service.CITUS in given.services else ""
    return f"The services {names}{citus} with {given.connections or budget.CLIENTS_LEAST} connections"


def _smaller_wishes(given: TuningInput) -> list[str]:
    """Give the flags of smaller wishes that fit into the same memory."""
    ways = []
    connections = _fewer_connections(given)
    if connections:
        ways.append(f"--connections={connections}")
    if Service.CASSANDRA in given.services and given.cassandra_nodes > 1:
        ring = budget.smallest(lambda n: not _fits(replace(given, cassandra_nodes=n + 1)), 0)
        ways += [f"--cassandra-nodes={ring}"] if ring else []
    citus = given.services & {Service.CITUS, Service.ADMIN_API}
    for fewer in (given.services - {Service.CASSANDRA}, citus, citus - {Service.ADMIN_API}):
        if fewer and fewer < given.services and _fits(replace(given, services=fewer)):
            names = ",".join(service.value for service in Service if service in fewer)
            ways.append(f"--services={names}")
            break
    if Service.CITUS in given.services and given.workers > 1:
        workers = budget.smallest(lambda w: not _fits(replace(given, workers=w + 1)), 0)
        if workers:
            ways.append(f"--workers={workers}")
    return ways


def _fewer_connections(given: TuningInput) -> int | None:
    """Give the largest number of connections that fits; None where none was asked for, or none fits."""
    wanted = given.connections
    if not wanted:
        return None
    fewer = budget.smallest(lambda c: not _fits(replace(given, connections=c + 1)), budget.CLIENTS_LEAST - 1)
    return fewer if fewer >= budget.CLIENTS_LEAST else None
