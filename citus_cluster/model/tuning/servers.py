"""The settings of every server, from a machine and a specification: what fits, and what to do if it does not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from citus_cluster.errors import DoesNotFitError
from citus_cluster.model.images import PAIR_PG_MAJOR
from citus_cluster.model.tuning import budget
from citus_cluster.model.tuning.budget import CITUS_SERVERS, Load, Part, Server, Shares
from citus_cluster.model.tuning.formulae import (
    DEFAULT_CLIENTS,
    Facts,
    Group,
    Setting,
    Storage,
    Workload,
    lines,
    shm_mb,
)
from citus_cluster.model.tuning.parameters import Scalar, conf_value, needs_restart
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
    """The machine, and what must fit on it.

    ``parts``: what the wanted components take, in their order. ``connections``: the number of clients if the user gave
    one. ``memory_given``: ``total_mb`` was set by the user, not detected. ``kept``: how an earlier run shared the
    memory; the servers keep what only a restart changes.
    """

    total_mb: int
    cpus: int
    parts: tuple[Part, ...]
    workload: Workload = Workload.MIXED
    storage: Storage = Storage.SSD
    connections: int | None = None
    memory_given: bool = False
    citus_pg_major: int = 17
    kept: Shares | None = None

    def number_of(self, server: Server) -> int:
        return sum(part.servers.get(server, 0) for part in self.parts)

    @property
    def workers(self) -> int:
        return self.number_of(Server.WORKER)

    @property
    def planned_workers(self) -> int:
        """Workers that connections are planned for."""
        return self.kept.workers if self.kept else self.workers

    @property
    def unplanned_clients(self) -> int:
        """Clients whose connections the nodes take instead, because there are more workers than planned."""
        return 4 * max(0, self.workers - self.planned_workers)

    @property
    def shares(self) -> Mapping[Server, float]:
        """Memory of each kind of server in MB, including kept kinds that have no server now."""
        anew = budget.share(self.total_mb, self.parts)
        kept = self.kept.servers if self.kept else {}
        # The room for workers counts if the coordinator is alone.
        among = {*anew, *(CITUS_SERVERS if any(server in CITUS_SERVERS for server in anew) else ())}
        return {**anew, **{server: memory_mb for server, memory_mb in kept.items() if server in among}}

    def load_of(self, server: Server, clients: int) -> Load:
        """Return the load of a server that is planned for this number of clients."""
        holds_shards = self.kept.holds_shards if self.kept else None
        return budget.load_of(
            server, clients=clients, workers=self.planned_workers, cpus=self.cpus, holds_shards=holds_shards
        )


@dataclass(frozen=True)
class NodeTuning:
    """Memory limit and /dev/shm of a server's container in MB, and its settings in the order of the file."""

    memory_mb: int
    shm_mb: int
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Tuning:
    """What every wanted kind of PostgreSQL server gets, and the number of its clients.

    ``nodes``: single workers that get less than the others, by service.
    ``fits``: false if the machine is too small: the settings are sound, but the limits exceed its memory.
    """

    clients: Mapping[Server, int]
    servers: Mapping[Server, NodeTuning]
    nodes: Mapping[str, NodeTuning]
    citus_pg_major: int
    fits: bool
    warnings: tuple[str, ...]

    @property
    def citus_clients(self) -> int:
        """Number of clients of the Citus nodes; 0 if there are no nodes."""
        return next((number for server, number in self.clients.items() if server in CITUS_SERVERS), 0)

    @property
    def connections(self) -> int:
        """Number of clients of the coordinator, or of the plain servers without Citus; 0 if there is neither."""
        return next(iter(self.clients.values()), 0)


def tune(given: TuningInput) -> Tuning:
    """Give every service its memory and every server its settings.

    Raises DoesNotFitError if the user gave the memory, or a number of connections, and it does not fit, or fits
    only if the memory is divided again. If the memory was detected, the result has the smallest sound settings, with
    ``fits`` false and a warning that says what is missing and what would fit.
    """
    shares = given.shares
    planned = {servers: clients_of(given, servers) for servers in groups(shares)}
    fits = all(planned.values()) and _fixed_limits_fit(given)
    if not fits and given.kept:
        return _tune_anew(given)
    if not fits and (given.memory_given or given.connections or any(_fewer(given, part) for part in given.parts)):
        message, hint = shortage(given)
        raise DoesNotFitError(message, hint=hint)
    clients = {server: n for servers, n in planned.items() for server in servers if given.number_of(server)}
    return Tuning(
        clients={server: clients_now(given, server, n or budget.CLIENTS_LEAST) for server, n in clients.items()},
        servers={server: _node(given, shares[server], server, n) for server, n in clients.items()},
        nodes={
            name: _node(given, memory_mb, Server.WORKER, clients[Server.WORKER])
            for name, memory_mb in (given.kept.nodes.items() if given.kept else ())
            if Server.WORKER in clients
        },
        citus_pg_major=given.citus_pg_major,
        fits=fits,
        warnings=() if fits else (" ".join(shortage(given)),),
    )


def with_user_settings(settings: tuple[Setting, ...], user: Mapping[str, Scalar]) -> tuple[Setting, ...]:
    """Apply the user's settings: in the place of a computed one, or at the end.

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


def _tune_anew(given: TuningInput) -> Tuning:
    """Refuse what would fit only if the memory were divided again; otherwise tune as if nothing was kept."""
    anew = replace(given, kept=None)
    if fits_memory(anew):
        raise DoesNotFitError(
            f"{requested(given, 'does', 'do')} not fit into the memory as it is divided now; nothing was written.",
            hint=f"What would fit: {RETUNE}.",
        )
    return tune(anew)


RETUNE = "--retune, which divides the memory again and restarts PostgreSQL servers (add --dry-run to see which)"


def groups(shares: Mapping[Server, float]) -> list[tuple[Server, ...]]:
    """Servers that have the same clients: the Citus nodes, then the plain ones."""
    citus = tuple(server for server in CITUS_SERVERS if server in shares)
    plain = tuple(server for server in shares if server not in CITUS_SERVERS)
    return [servers for servers in (citus, plain) if servers]


def clients_of(given: TuningInput, servers: tuple[Server, ...]) -> int:
    """Return the number of clients that these servers are planned for; 0 if they do not fit."""
    wanted = wanted_clients(given, servers)
    if wanted:
        return wanted if carry(given, servers, wanted, budget.WORK_MEM_LEAST_MB) else 0
    kept = given.kept.clients if given.kept and set(servers) & set(CITUS_SERVERS) else 0
    if kept:
        return kept if carry(given, servers, kept, budget.WORK_MEM_LEAST_MB) else 0
    most = given.connections or DEFAULT_CLIENTS[given.workload]
    return budget.most_clients(lambda clients, work_mem_mb: carry(given, servers, clients, work_mem_mb), most)


def carry(given: TuningInput, servers: tuple[Server, ...], clients: int, work_mem_mb: float) -> bool:
    """Return whether these servers can serve this number of clients, each query with this ``work_mem``."""
    shares = given.shares
    return all(budget.carries(given.load_of(server, clients), shares[server], work_mem_mb) for server in servers)


def clients_now(given: TuningInput, server: Server, planned: int) -> int:
    """Return how many of its planned clients a server serves now."""
    return planned - given.unplanned_clients if server in CITUS_SERVERS else planned


def wanted_clients(given: TuningInput, servers: tuple[Server, ...]) -> int | None:
    """Return the number of clients that the user has chosen for these servers; None if there is none."""
    # The user's number is that of the coordinator's clients; besides Citus, plain servers serve as many as they can.
    return given.connections if servers == groups(given.shares)[0] else None


def _fewer(given: TuningInput, part: Part) -> int:
    """Return the largest smaller count of a part's containers that fits; 0 if there is none."""
    if not part.count_option or part.count < 2 or not fits_memory(_with_count(given, part, 1)):
        return 0
    return budget.smallest(lambda n: not fits_memory(_with_count(given, part, n + 1)), 0)


def _with_count(given: TuningInput, part: Part, count: int) -> TuningInput:
    return replace(given, parts=tuple(replace(one, count=count) if one is part else one for one in given.parts))


def _fixed_limits_fit(given: TuningInput) -> bool:
    """Return whether the services with fixed limits fit; if there are servers, those lack memory first."""
    return sum(part.total_fixed_mb for part in given.parts) <= budget.USABLE_PART * given.total_mb


def _node(given: TuningInput, memory_mb: float, server: Server, clients: int) -> NodeTuning:
    count = clients or budget.CLIENTS_LEAST
    load = given.load_of(server, count)
    buffers_mb: float = budget.shared_buffers_mb(memory_mb)
    work_mem_mb = max(budget.WORK_MEM_LEAST_MB, budget.work_mem_mb(load, memory_mb, buffers_mb))
    if not clients:
        memory_mb = max(memory_mb, budget.least_memory_mb(load))
        buffers_mb = budget.LEAST_SHARED_BUFFERS_MB
        work_mem_mb = budget.WORK_MEM_LEAST_MB
    facts = Facts(
        load=load,
        clients=clients_now(given, server, count),
        memory_mb=memory_mb,
        shared_buffers_mb=buffers_mb,
        work_mem_mb=work_mem_mb,
        cpus=given.cpus,
        workers=given.workers,
        workload=given.workload,
        storage=given.storage,
        pg_major=PAIR_PG_MAJOR if server is Server.PLAIN else given.citus_pg_major,
    )
    settings = tuple(
        Setting(
            line.name, str(line.value), line.group, line.formula, line.inputs, line.source, needs_restart(line.name)
        )
        for line in lines(facts)
    )
    return NodeTuning(math.floor(memory_mb + 0.5), shm_mb(facts), settings)


def fits_memory(given: TuningInput) -> bool:
    """Return whether every wanted service fits."""
    return _fixed_limits_fit(given) and all(clients_of(given, servers) for servers in groups(given.shares))


def shortage(given: TuningInput) -> tuple[str, str]:
    """Return what is missing and, found by trying, what would fit."""
    needed_mb = budget.smallest(lambda total_mb: fits_memory(replace(given, total_mb=total_mb)), given.total_mb)
    message = (
        f"{requested(given, 'needs', 'need')} {needed_mb:,} MB of memory; "
        f"{given.total_mb:,} MB were {'given' if given.memory_given else 'found'}."
    )
    more = f"--memory={needed_mb}" if given.memory_given else f"{needed_mb:,} MB for the Docker engine"
    smaller = _smaller_wishes(given)
    # If the need is far beyond any machine, say what fits on this one.
    ways = smaller if smaller and needed_mb > 16 * given.total_mb else [*smaller, more]
    return message, f"What would fit: {', or '.join(ways)}."


def requested(given: TuningInput, singular: str, plural: str) -> str:
    """Return the requested services as a subject, with the form of the verb that fits."""
    single = len(given.parts) == 1
    names = ("The service " if single else "The services ") + ", ".join(_named(part) for part in given.parts)
    verb = singular if single else plural
    if not any(part.servers for part in given.parts):
        return f"{names} {verb}"
    nodes = ["a coordinator"] if given.number_of(Server.COORDINATOR) else []
    nodes += [count(given.workers, "worker")] if given.workers else []
    citus = f" ({' and '.join(nodes)})" if nodes else ""
    connections = count(given.connections or budget.CLIENTS_LEAST, "connection")
    return f"{names}{citus} with {connections} {verb}"


def _named(part: Part) -> str:
    return f"{part.component} ({part.count} {part.unit})" if part.count > 1 and part.unit else part.component.value


def _smaller_wishes(given: TuningInput) -> list[str]:
    """Return the flags of smaller clusters that fit into the same memory."""
    ways = []
    connections = _fewer_connections(given)
    if connections:
        ways.append(f"--connections={connections}")
    ways += [f"{part.count_option}={count}" for part in given.parts if (count := _fewer(given, part))]
    for fewer in _fewer_parts(given.parts):
        if fewer and len(fewer) < len(given.parts) and fits_memory(replace(given, parts=fewer)):
            ways.append(f"--services={','.join(part.component for part in fewer)}")
            break
    if given.workers > 1:
        workers = budget.smallest(lambda w: not fits_memory(_with_workers(given, w + 1)), 0)
        if workers:
            ways.append(f"--workers={workers}")
    return ways


def _fewer_parts(parts: Sequence[Part]) -> Sequence[tuple[Part, ...]]:
    """Return smaller choices, the largest first: without the largest companion, without all of them, Citus alone."""
    companions = [part for part in parts if part.companion and part.fixed_mb]
    largest = max(companions, key=lambda part: part.fixed_mb, default=None)
    citus = tuple(part for part in parts if not part.companion)
    return (
        tuple(part for part in parts if part is not largest),
        citus,
        tuple(part for part in citus if part.servers),
    )


def _with_workers(given: TuningInput, workers: int) -> TuningInput:
    return replace(
        given,
        parts=tuple(
            replace(part, servers={**part.servers, Server.WORKER: workers}) if Server.WORKER in part.servers else part
            for part in given.parts
        ),
    )


def _fewer_connections(given: TuningInput) -> int | None:
    """Return the largest number of connections that fits; None if none was requested, or none fits."""
    wanted = given.connections
    if not wanted:
        return None
    fewer = budget.smallest(lambda c: not fits_memory(replace(given, connections=c + 1)), budget.CLIENTS_LEAST - 1)
    return fewer if fewer >= budget.CLIENTS_LEAST else None
