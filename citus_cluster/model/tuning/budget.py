"""How one machine's memory is shared among services, and how many clients one server can serve with its share.

Figures are MB (1,048,576 bytes). "Judgement" marks a margin that has no source.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from citus_cluster.model.component_name import ComponentName

USABLE_PART = 0.9
"""Part of the machine's memory that services get, and part of a container's that its server plans with (judgement)."""

WORK_MEM_STOCK_MB = 4
"""PostgreSQL's own default for work_mem, which a query should have."""
WORK_MEM_LEAST_MB = 1
CLIENTS_ENOUGH = 20
"""Below this number of clients, work_mem is reduced first, down to WORK_MEM_LEAST_MB (judgement)."""
CLIENTS_LEAST = 5

LEAST_SHARED_BUFFERS_MB = 128
AUTOVACUUM_WORKERS = 3
LOCKS_PER_TRANSACTION = 256
LOCK_BYTES = 270
PREPARED_PER_CONNECTION = 2
TASK_EXECUTORS = 4
MOVES_PER_NODE = 1
TABLE_OWNERS = 1
SPARE_PROCESSES = 3
OWN_SESSIONS = 12
"""Sessions of this tool on a Citus node at once (A): 4 of the admin API, 1 of its reconciler, 1 of its sampler, 3 of
``status``, 1 of a command that waits (a rebalance, a drain), and 2 health checks. Citus counts them among the
clients."""
PAIR_SESSIONS = 7
"""The same on a PostgreSQL 14 server: the admin API, 2 health checks, ``status``, ``lag --watch``, ``up``, 1 spare."""
ROOM = 2
"""Number of further workers for which memory and connections are planned, if that leaves enough (judgement)."""
WORK_MEM_WITH_ROOM_MB = 2
"""The least work_mem of a query if such room is planned (judgement)."""
CLIENTS_WITH_ROOM = 0.5
"""The least part of the clients that remains if such room is planned (judgement)."""
SUPERUSER_RESERVED = 3
"""PostgreSQL's own default of superuser_reserved_connections, which no other role gets."""
_MB = 1024 * 1024


class Server(StrEnum):
    """A kind of PostgreSQL server; a plain one is without Citus."""

    COORDINATOR = "coordinator"
    WORKER = "worker"
    PLAIN = "plain"


CITUS_SERVERS = (Server.COORDINATOR, Server.WORKER)
_WEIGHT = {Server.COORDINATOR: 2, Server.WORKER: 2, Server.PLAIN: 1}
# Measured on Citus 13.2: about 6 MB for a backend of the coordinator, 2 MB for one of a worker; counted with a margin.
BACKEND_MB = {Server.COORDINATOR: 8, Server.WORKER: 4, Server.PLAIN: 4}


@dataclass(frozen=True)
class Part:
    """The memory that a component takes: ``count`` containers of ``fixed_mb`` each, or PostgreSQL servers.

    The servers share what the fixed limits of all components leave. ``count_option``: the option of the set-up that
    sets the count. ``unit``: what is counted. ``companion``: see :class:`Component`.
    """

    component: ComponentName
    fixed_mb: int = 0
    count: int = 1
    count_option: str = ""
    unit: str = ""
    servers: Mapping[Server, int] = field(default_factory=dict)
    companion: bool = True

    @property
    def total_fixed_mb(self) -> int:
        return self.fixed_mb * self.count


def share(total_mb: int, parts: Sequence[Part]) -> Mapping[Server, float]:
    """Share ``total_mb``: fixed limits first, the rest by weight. Return the limit of each kind of server in MB.

    It is 0 if the fixed limits leave nothing.
    """
    counts = {server: sum(part.servers.get(server, 0) for part in parts) for server in Server}
    return by_weight(max(0.0, usable_mb(total_mb, parts)) / max(weight(counts), 1), counts)


def by_weight(unit_mb: float, counts: Mapping[Server, int]) -> Mapping[Server, float]:
    """Return the limit in MB of each kind of server that exists, at ``unit_mb`` for a weight of 1."""
    return {server: unit_mb * _WEIGHT[server] for server, count in counts.items() if count}


@dataclass(frozen=True)
class Shares:
    """How memory was shared; later runs keep it, because a server gets another share only by a restart.

    ``servers``: the MB of each kind of server. ``nodes``: those of single workers that got less than the others.
    ``workers`` and ``clients`` of the coordinator: the numbers that connections are planned for (0: not decided).
    ``holds_shards``: the coordinator was planned without workers.
    """

    workers: int
    clients: int
    servers: Mapping[Server, float]
    nodes: Mapping[str, float] = field(default_factory=dict)
    holds_shards: bool = False


def usable_mb(total_mb: int, parts: Sequence[Part]) -> float:
    """Return what all PostgreSQL servers share: the usable part without the fixed limits. May be negative."""
    return USABLE_PART * total_mb - sum(part.total_fixed_mb for part in parts)


def weight(counts: Mapping[Server, int]) -> int:
    """Return the total weight of these numbers of servers."""
    return sum(_WEIGHT[server] * count for server, count in counts.items())


@dataclass(frozen=True)
class Load:
    """What one server must serve at the same time.

    ``clients`` is the number of clients of the whole cluster (C), ``queries`` how many of this server's
    connections work at the same time (Q), ``processes`` its background processes without spare ones.
    ``workers`` is the number of workers that its connections are planned for (N). ``holds_shards`` is true for a
    coordinator that was planned without workers.

    ``own_slots`` are the connections that get no memory for work: clients can take the slots of this tool's sessions
    while there are none, and the sessions then need others. They are idle or need little (2 MB each were measured),
    which the margin of the other connections covers.
    """

    server: Server
    clients: int
    max_connections: int
    queries: int
    processes: int
    holds_shards: bool = False
    own_slots: int = 0
    workers: int = 0

    @property
    def backends(self) -> int:
        """Connections that get memory for work."""
        return self.max_connections - self.own_slots

    @property
    def max_worker_processes(self) -> int:
        return max(16, self.processes + SPARE_PROCESSES)

    @property
    def max_prepared_transactions(self) -> int:
        return PREPARED_PER_CONNECTION * self.max_connections


def load_of(server: Server, *, clients: int, workers: int, cpus: int, holds_shards: bool | None = None) -> Load:
    """Return the load of a server in a cluster with this number of clients and workers.

    ``holds_shards``: whether the coordinator is planned to hold the shards; by default if there is no worker.
    """
    backends = clients + 10 + 4 * workers + 10
    processes = max(16, cpus + logical_replication_workers() + 1 + 1 + 1 + TASK_EXECUTORS)
    if server is Server.PLAIN:
        connections = clients + 2 * PAIR_SESSIONS
        return Load(server, clients, connections, clients, processes, own_slots=connections - (clients + 10))
    if holds_shards is None:
        holds_shards = not workers
    if server is Server.COORDINATOR and not holds_shards:
        connections = clients + 2 * OWN_SESSIONS + 4 * workers + SUPERUSER_RESERVED
        own_slots = connections - backends
        return Load(server, clients, connections, clients, processes, own_slots=own_slots, workers=workers)
    # Each shard task uses its own connection, so on a server with shards all connections may work.
    working = _a_fifth_more(backends)
    own = server is Server.COORDINATOR
    connections = _a_fifth_more(backends + OWN_SESSIONS) if own else working
    slots = connections - working
    return Load(server, clients, connections, working, processes, holds_shards=own, own_slots=slots, workers=workers)


def logical_replication_workers() -> int:
    """Return the number of processes that apply moved shards: one subscription for each owner of tables."""
    return max(8, 4 * MOVES_PER_NODE * TABLE_OWNERS)


def shared_buffers_mb(memory_mb: float) -> float:
    return max(LEAST_SHARED_BUFFERS_MB, memory_mb / 4)


def autovacuum_work_mem_mb(memory_mb: float) -> float:
    return max(64, min(memory_mb / 32, 1024))


def committed_mb(load: Load, memory_mb: float, buffers_mb: float) -> float:
    """Return the memory that is in use before any query gets its work_mem."""
    locks = LOCKS_PER_TRANSACTION * (1 + PREPARED_PER_CONNECTION) * load.backends
    return (
        buffers_mb
        + load.backends * BACKEND_MB[load.server]
        + AUTOVACUUM_WORKERS * autovacuum_work_mem_mb(memory_mb)
        + locks * LOCK_BYTES / _MB
    )


def work_mem_mb(load: Load, memory_mb: float, buffers_mb: float) -> float:
    """Return the memory of one query's sort: pgtune's value, unless the budget leaves less. May be negative."""
    by_pgtune = (memory_mb - buffers_mb) / ((load.queries + load.processes) * 3)
    by_budget = (USABLE_PART * memory_mb - committed_mb(load, memory_mb, buffers_mb)) / load.queries
    return min(by_pgtune, by_budget)


def carries(load: Load, memory_mb: float, least_work_mem_mb: float) -> bool:
    """Return whether a server with this memory can serve the load."""
    return work_mem_mb(load, memory_mb, shared_buffers_mb(memory_mb)) >= least_work_mem_mb


def most_clients(fits: Callable[[int, float], bool], most: int) -> int:
    """Return the largest number of clients up to ``most`` that fits; 0 if fewer than CLIENTS_LEAST do.

    ``fits(clients, work_mem_mb)`` must not become true again once it is false. Queries get the default of 4 MB,
    unless that leaves fewer than CLIENTS_ENOUGH clients: then at least 1 MB.
    """
    clients = largest(most, lambda count: fits(count, WORK_MEM_STOCK_MB))
    if clients < CLIENTS_ENOUGH:
        clients = largest(most, lambda count: fits(count, WORK_MEM_LEAST_MB))
    return clients if clients >= CLIENTS_LEAST else 0


def least_memory_mb(load: Load) -> int:
    """Return the smallest memory that is enough for the load with the smallest sound settings."""

    def enough(memory_mb: int) -> bool:
        return work_mem_mb(load, memory_mb, LEAST_SHARED_BUFFERS_MB) >= WORK_MEM_LEAST_MB

    return smallest(enough, 1)


def smallest(enough: Callable[[int], bool], start: int) -> int:
    """Return the smallest number from ``start`` on for which ``enough`` is true; it must be true for larger ones."""
    step = max(start, 1)
    while not enough(start + step):
        step *= 2
    return start + bisect_left(range(start, start + step), True, key=enough)


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number from 1 to ``most`` that fits; 0 if none does. Smaller ones must fit too."""
    return bisect_left(range(1, most + 1), True, key=lambda count: not fits(count))


def _a_fifth_more(connections: int) -> int:
    """Return 1.2 times the number, rounded up to the next ten, in integers so that no rounding error adds ten."""
    return -(-connections * 12 // 100) * 10
