"""The formulae: from a server's resources and load to its settings, each with its inputs and its source."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.model.tuning import budget
from citus_cluster.model.tuning.budget import Load, Server


class Workload(StrEnum):
    """What the cluster is for."""

    WEB = "web"
    OLTP = "oltp"
    MIXED = "mixed"
    OLAP = "olap"


class Storage(StrEnum):
    """The kind of disk below the data."""

    SSD = "ssd"
    NVME = "nvme"
    HDD = "hdd"


class Group(StrEnum):
    """Headings of a settings file, in their order there."""

    CONNECTIONS = "Connections"
    MEMORY = "Memory"
    PROCESSES = "Processes and parallel queries"
    WAL = "Write-ahead log"
    REPLICATION = "Replication and rebalance"
    PLANNER = "Planner"
    CITUS = "Citus"
    LOCALE = "Locale"
    LOGGING = "Logging"
    USER = "Further settings of cluster.yaml"


# The sources of formulae; docs/configuration.md has the links.
PGTUNE = "pgtune"
TIMESCALE = "timescaledb-tune"
PATRONI = "Patroni, mpp/citus.py"
STACKGRES = "StackGres"
CITUS_GUC = "Citus docs, api_guc"
CITUS_TUNING = "Citus docs, performance_tuning"
CITUS_MANAGEMENT = "Citus docs, cluster_management"
CITUS_CODE = "Citus source"
PG_DOCS = "PostgreSQL docs"
DOCKER = "Docker official image"
TRIED = "tried on Citus 13.2 and 14.0"
JUDGEMENT = "judgement"
_COUNTED = "tried on Citus 13.2"

DEFAULT_CLIENTS = {Workload.WEB: 200, Workload.OLTP: 300, Workload.MIXED: 100, Workload.OLAP: 40}
"""Clients on the coordinator where memory allows them (pgtune's max_connections)."""
SHARD_COUNT = 32
DIRECT_CLIENTS = 20
"""Clients other than superusers that may connect to a worker itself (judgement)."""

_WAL_GB = {Workload.WEB: (4, 1), Workload.OLTP: (8, 2), Workload.MIXED: (4, 1), Workload.OLAP: (16, 4)}
_IO_CONCURRENCY = {Storage.SSD: 200, Storage.NVME: 1000, Storage.HDD: 2}


@dataclass(frozen=True)
class Setting:
    """One line of a settings file.

    ``value`` is ready for postgresql.conf, but not quoted; ``inputs`` holds the numbers used in ``formula``;
    ``restart``: a change takes effect only at a restart.
    """

    name: str
    value: str
    group: Group
    formula: str
    inputs: str
    source: str
    restart: bool


@dataclass(frozen=True)
class Facts:
    """The inputs of one server's settings. Sizes in MB.

    ``load`` is what it is planned for, and determines what only a restart changes. ``clients`` and ``workers`` are
    the current numbers.
    """

    load: Load
    clients: int
    memory_mb: float
    shared_buffers_mb: float
    work_mem_mb: float
    cpus: int
    workers: int
    workload: Workload
    storage: Storage
    pg_major: int

    @property
    def citus(self) -> bool:
        return self.load.server is not Server.PLAIN

    @property
    def holds_shards(self) -> bool:
        return self.load.server is Server.COORDINATOR and not self.workers

    @property
    def takes_clients(self) -> bool:
        return self.load.server is not Server.WORKER


@dataclass(frozen=True)
class Line:
    """A setting before its context is known; see Setting."""

    name: str
    value: str | int | float
    group: Group
    formula: str
    source: str
    inputs: str = ""


def lines(facts: Facts) -> Iterator[Line]:
    """Every setting of a server, in the order of the file."""
    yield from _connections(facts)
    yield from _memory(facts)
    yield from _processes(facts)
    yield from _wal(facts)
    yield from _replication(facts)
    yield from _planner(facts)
    if facts.citus:
        yield from _citus(facts)
    yield from _locale()
    yield from _logging(facts)


def shm_mb(facts: Facts) -> int:
    """Size of /dev/shm in MB, in which parallel queries exchange rows (judgement)."""
    return max(256, math.ceil(2 * facts.work_mem_mb * facts.cpus))


def pool_reserve(worker_connections: int) -> int:
    """Connections of a worker that the pool leaves for repartition joins, moves and users (H, judgement)."""
    return 8 + max(10, worker_connections // 10)


def _connections(facts: Facts) -> Iterator[Line]:
    group, load = Group.CONNECTIONS, facts.load
    c, n = f"C={load.clients}", f"N={load.workers}"
    yield Line("listen_addresses", "*", group, "every address of the container", PG_DOCS)
    yield Line("unix_socket_directories", "/var/run/postgresql", group, "where the image's scripts expect it", DOCKER)
    match load.server:
        case Server.PLAIN:
            formula = "C + 2 A: the clients, A sessions of this tool, and A slots that only superusers get"
            inputs, source = f"{c}, A={budget.PAIR_SESSIONS}", JUDGEMENT
        case Server.COORDINATOR if not load.holds_shards:
            formula = "C + 2 A + 4 N + 3: A sessions of this tool, A more that clients can take, and superuser slots"
            inputs, source = f"{c}, A={budget.OWN_SESSIONS}, {n}", f"{CITUS_GUC}; 4 N: {JUDGEMENT}"
        case Server.COORDINATOR:
            more = " + 4 N" if load.workers else ""
            formula = f"1.2 (C + A{more} + 20), rounded up to the next 10: this server holds shards too"
            inputs = f"{c}, A={budget.OWN_SESSIONS}" + (f", {n}" if load.workers else "")
            source = JUDGEMENT
        case _:
            formula, inputs, source = "1.2 (C + 10 + 4 N + 10), rounded up to the next 10", f"{c}, {n}", CITUS_GUC
    yield Line("max_connections", load.max_connections, group, formula, source, inputs)
    if load.server is Server.PLAIN:
        formula = "A: status, health checks and a promotion can connect when clients use the rest"
        inputs = f"A={budget.PAIR_SESSIONS}"
        yield Line("superuser_reserved_connections", budget.PAIR_SESSIONS, group, formula, JUDGEMENT, inputs)
    yield Line("password_encryption", "scram-sha-256", group, "pg_hba.conf requires it", PG_DOCS)


def _memory(facts: Facts) -> Iterator[Line]:
    group, ram, load = Group.MEMORY, facts.memory_mb, facts.load
    inputs = f"RAM={round(ram)}MB"
    smallest = facts.shared_buffers_mb != budget.shared_buffers_mb(ram)
    buffers = "128MB, the minimum, because there is little memory" if smallest else "max(128MB, RAM/4)"
    yield Line(
        "shared_buffers", size(int(facts.shared_buffers_mb)), group, buffers, f"{PGTUNE}; {CITUS_TUNING}", inputs
    )
    yield Line("effective_cache_size", size(ram * 3 // 4), group, "3/4 RAM", PGTUNE, inputs)
    yield Line(
        "work_mem",
        size(facts.work_mem_mb),
        group,
        "min((RAM - shared_buffers) / (3 (Q + P)), rest of the budget / Q)",
        f"{PGTUNE}; budget: {JUDGEMENT}",
        f"{inputs}, Q={load.queries}, P={load.processes}",
    )
    part = 8 if facts.workload is Workload.OLAP else 16
    value = size(min(ram // part, 2048))
    yield Line("maintenance_work_mem", value, group, f"min(RAM/{part}, 2GB)", f"{PGTUNE}; cap: {JUDGEMENT}", inputs)
    value = size(int(budget.autovacuum_work_mem_mb(ram)))
    yield Line("autovacuum_work_mem", value, group, "max(64MB, min(RAM/32, 1GB))", f"{PGTUNE}; {JUDGEMENT}", inputs)


def _processes(facts: Facts) -> Iterator[Line]:
    group, load, cpus = Group.PROCESSES, facts.load, f"CPU={facts.cpus}"
    replication_workers = budget.logical_replication_workers()
    formula = "max(16, CPU + L + launcher + maintenance daemon + task monitor + E + 3 spare)"
    inputs = f"{cpus}, L={replication_workers}, E={budget.TASK_EXECUTORS}"
    if not facts.citus:
        formula += ", as on the Citus nodes"
    yield Line("max_worker_processes", load.max_worker_processes, group, formula, f"{TIMESCALE}, parallel.go", inputs)
    yield Line("max_parallel_workers", facts.cpus, group, "CPU", PGTUNE, cpus)
    if facts.takes_clients:
        per_gather, formula, source = min(-(-facts.cpus // 2), 4), "min(CPU/2 rounded up, 4)", PGTUNE
    else:
        per_gather, formula, source = (
            min(2, facts.cpus),
            "min(2, CPU): Citus runs shards in parallel already",
            JUDGEMENT,
        )
    yield Line("max_parallel_workers_per_gather", per_gather, group, formula, source, cpus)


def _wal(facts: Facts) -> Iterator[Line]:
    group = Group.WAL
    largest, least = _WAL_GB[facts.workload]
    workload = f"workload={facts.workload.value}"
    level = "logical" if facts.citus else "replica"
    reason = "shards move by logical replication" if facts.citus else "a standby needs it"
    yield Line("wal_level", level, group, reason, PATRONI if facts.citus else PG_DOCS)
    yield Line(
        "max_wal_size", f"{largest}GB", group, "by workload: web 4, oltp 8, mixed 4, olap 16 GB", PGTUNE, workload
    )
    yield Line("min_wal_size", f"{least}GB", group, "by workload: web 1, oltp 2, mixed 1, olap 4 GB", PGTUNE, workload)
    yield Line(
        "checkpoint_timeout", "15min", group, "fewer full-page writes in the WAL", f"{STACKGRES}; {CITUS_TUNING}"
    )
    yield Line("checkpoint_completion_target", 0.9, group, "spreads the writes", f"{STACKGRES}; {CITUS_TUNING}")
    buffers = min(0.03 * facts.shared_buffers_mb, 16)
    inputs = f"shared_buffers={size(int(facts.shared_buffers_mb))}"
    yield Line("wal_buffers", size(buffers), group, "min(3% of shared_buffers, 16MB)", PGTUNE, inputs)
    compression = "lz4" if facts.pg_major >= 15 else "on"
    formula = "lz4 from PostgreSQL 15 on, otherwise on"
    yield Line("wal_compression", compression, group, formula, PGTUNE, f"PostgreSQL {facts.pg_major}")


def _replication(facts: Facts) -> Iterator[Line]:
    group, load = Group.REPLICATION, facts.load
    inputs = f"M={budget.MOVES_PER_NODE}, O={budget.TABLE_OWNERS}"
    largest, _ = _WAL_GB[facts.workload]
    if facts.citus:
        moves = 4 * budget.MOVES_PER_NODE * budget.TABLE_OWNERS
        slots = max(20, moves + 4)
        workers = budget.logical_replication_workers()
        formula = "L = max(8, 4 M O)"
        yield Line(
            "max_logical_replication_workers", workers, group, formula, f"{PG_DOCS}; factor: {JUDGEMENT}", inputs
        )
        yield Line("max_replication_slots", slots, group, "S = max(20, 4 M O + 4)", f"{PG_DOCS}; {STACKGRES}", inputs)
        yield Line("max_wal_senders", slots + 2, group, "S + 2", PG_DOCS, f"S={slots}")
        if facts.pg_major >= 18:
            formula = "S: PostgreSQL 18 no longer counts the origins of subscriptions as slots"
            yield Line("max_active_replication_origins", slots, group, formula, PG_DOCS, f"S={slots}")
        formula = "2 max_wal_size: a move that hangs cannot fill the disk; a slower one must be started again"
        yield Line("max_slot_wal_keep_size", f"{2 * largest}GB", group, formula, JUDGEMENT, f"max_wal_size={largest}GB")
    else:
        yield Line("max_replication_slots", 10, group, "one standby, and spare slots", PG_DOCS)
        yield Line("max_wal_senders", 10, group, "one standby, a base backup, and spare processes", PG_DOCS)
        yield Line("wal_keep_size", "64MB", group, "the standby's slot keeps any more that it needs", PG_DOCS)
        formula = "2 max_wal_size: a standby that is down cannot fill the disk"
        inputs = f"max_wal_size={largest}GB"
        yield Line("max_slot_wal_keep_size", f"{2 * largest}GB", group, formula, JUDGEMENT, inputs)
        yield Line("wal_log_hints", "on", group, "pg_rewind needs it", PG_DOCS)
        yield Line("hot_standby", "on", group, "the replica serves reads", PG_DOCS)
        formula = "the replica reconnects to a restarted primary after 1 s, not 5 s"
        yield Line("wal_retrieve_retry_interval", "1s", group, formula, JUDGEMENT)
    inputs = f"max_connections={load.max_connections}"
    source = f"{CITUS_CODE}, transaction_management.c" if facts.citus else JUDGEMENT
    formula = "2 max_connections" + (": two-phase commit" if facts.citus else ", as on the Citus nodes")
    yield Line("max_prepared_transactions", load.max_prepared_transactions, group, formula, source, inputs)
    formula = "a query locks many shards" if facts.citus else "as on the Citus nodes"
    yield Line("max_locks_per_transaction", budget.LOCKS_PER_TRANSACTION, group, formula, f"{TIMESCALE}; {JUDGEMENT}")


def _planner(facts: Facts) -> Iterator[Line]:
    group, olap = Group.PLANNER, facts.workload is Workload.OLAP
    storage, workload = f"storage={facts.storage.value}", f"workload={facts.workload.value}"
    page_cost = 4 if facts.storage is Storage.HDD else 1.1
    yield Line("random_page_cost", page_cost, group, "ssd and nvme 1.1, hdd 4", PGTUNE, storage)
    concurrency = _IO_CONCURRENCY[facts.storage]
    yield Line("effective_io_concurrency", concurrency, group, "hdd 2, ssd 200, nvme 1000", PGTUNE, storage)
    target = 500 if olap else 100
    yield Line("default_statistics_target", target, group, "olap 500, otherwise 100", PGTUNE, workload)
    yield Line("jit", "on" if olap else "off", group, "on for olap only", PGTUNE, workload)


def _citus(facts: Facts) -> Iterator[Line]:
    group = Group.CITUS
    yield Line("shared_preload_libraries", "citus,pg_stat_statements", group, "citus first", PATRONI)
    # With 8 clients, counting on the coordinator and the workers took 6 % more processor time for each single-row read
    # by a prepared statement, and 3 % more for each single-row update. The library stays loaded, so a reload is enough.
    formula = "off until you turn it on; counting takes 3 to 6 % of the processor time of single-row statements"
    yield Line("pg_stat_statements.track", "none", group, formula, _COUNTED)
    yield Line("compute_query_id", "off", group, "only pg_stat_statements needs it", _COUNTED)
    yield from _pools(facts)
    if facts.takes_clients:
        oltp = facts.workload is Workload.OLTP
        workload = f"workload={facts.workload.value}"
        pool, formula = _executor_pool(facts)
        inputs = f"{workload}, CPU={facts.cpus}, W={facts.workers}"
        yield Line(
            "citus.max_adaptive_executor_pool_size",
            pool,
            group,
            formula,
            f"{CITUS_TUNING}; tried on Citus 14.0",
            inputs,
        )
        interval = "100ms" if oltp else "10ms"
        yield Line(
            "citus.executor_slow_start_interval", interval, group, "oltp 100ms, otherwise 10ms", CITUS_TUNING, workload
        )
        # The load of one worker if each of a query's shard tasks gets a connection (cluster_management).
        most = max(facts.workers, 1) * _worker_connections(facts) // SHARD_COUNT
        formula = "for less than 100 GB of data; W worker_connections / shard_count queries can use all shards at once"
        yield Line("citus.shard_count", SHARD_COUNT, group, formula, CITUS_MANAGEMENT, f"{most} here")
        formula = "a rebalance starts within this time; with Citus' 5s, every start is noticeably slow"
        yield Line("citus.background_task_queue_interval", "1s", group, formula, f"{CITUS_GUC}; {TRIED}")
    yield Line("citus.max_cached_conns_per_worker", 1, group, "kept for each session after a transaction", CITUS_TUNING)
    per_node, executors = budget.MOVES_PER_NODE, budget.TASK_EXECUTORS
    yield Line(
        "citus.max_background_task_executors_per_node",
        per_node,
        group,
        "M, simultaneous moves for each node",
        CITUS_GUC,
    )
    yield Line("citus.max_background_task_executors", executors, group, "E; part of max_worker_processes", CITUS_GUC)
    formula = "encrypted; CREATE EXTENSION creates a certificate on each server"
    yield Line("citus.node_conninfo", "sslmode=require", group, formula, f"{CITUS_CODE}, enable_ssl.c; {TRIED}")


def _executor_pool(facts: Facts) -> tuple[int, str]:
    """Connections that one query opens to each worker.

    The workers share this machine's processors, so more connections than processors only need more memory: 43
    clients that group 2 million rows (32 shards on 3 workers, 2 processors) used 1,842 MB of the coordinator's
    memory with Citus' default of 16, 1,035 MB with 4 and 515 MB with 2, all at 2.4 queries per second. For these
    clients, the container has 1,716 MB, so with 16 the kernel killed the server.
    """
    formula = "oltp 2, otherwise CPU / W, at least 2, at most 16: connections of one query to each worker"
    if facts.workload is Workload.OLTP:
        return 2, formula
    return min(16, max(2, math.ceil(facts.cpus / max(facts.workers, 1)))), formula


def _pools(facts: Facts) -> Iterator[Line]:
    """Limits of client and shard connections.

    The automatic pool size follows from max_client_connections (shared_connection_stats.c), so the
    two are always set together.
    """
    group = Group.CITUS
    worker_connections = _worker_connections(facts)
    reserve = pool_reserve(worker_connections)
    clients = facts.clients + budget.OWN_SESSIONS if facts.takes_clients else DIRECT_CLIENTS
    formula, inputs = "for clients that bypass the coordinator, including this tool's sessions; none is reserved", ""
    if facts.takes_clients:
        formula = "C + A: Citus counts sessions of superusers too, including this tool's"
        inputs = f"C={facts.clients}, A={budget.OWN_SESSIONS}"
    source = f"{CITUS_CODE}, shared_connection_stats.c" if facts.takes_clients else JUDGEMENT
    yield Line("citus.max_client_connections", clients, group, formula, source, inputs)
    own = facts.holds_shards
    pool = worker_connections - reserve
    if own:
        # A coordinator that was planned with workers has few spare connections once they have left: the slots of A.
        pool = max(budget.OWN_SESSIONS, pool - clients)
    formula = "max_connections - C - A - H" if own else "worker_connections - H"
    inputs = f"worker_connections={worker_connections}, H={reserve}"
    if own:
        inputs = f"max_connections={worker_connections}, C={facts.clients}, A={budget.OWN_SESSIONS}, H={reserve}"
    formula += ", H = 8 + max(10, 10%)"
    source = f"{CITUS_TUNING}; H: {JUDGEMENT}"
    yield Line("citus.max_shared_pool_size", pool, group, formula, source, inputs)
    if own:
        formula = "same as max_shared_pool_size: local shards are accessed over connections too"
        yield Line("citus.local_shared_pool_size", pool, group, formula, JUDGEMENT)


def _worker_connections(facts: Facts) -> int:
    """max_connections of a server that holds shards."""
    load = facts.load
    if load.server is Server.WORKER or facts.holds_shards:
        return load.max_connections
    return budget.load_of(Server.WORKER, clients=load.clients, workers=load.workers, cpus=facts.cpus).max_connections


def _locale() -> Iterator[Line]:
    group = Group.LOCALE
    reason = "same as in the image's own file"
    yield Line("timezone", "Etc/UTC", group, reason, DOCKER)
    yield Line("default_text_search_config", "pg_catalog.english", group, reason, DOCKER)


def _logging(facts: Facts) -> Iterator[Line]:
    group = Group.LOGGING
    if not facts.citus:
        yield Line("shared_preload_libraries", "pg_stat_statements", group, "statistics of every statement", PG_DOCS)
    yield Line("log_destination", "stderr", group, "docker logs shows it", PG_DOCS)
    yield Line("logging_collector", "off", group, "docker logs shows it", PG_DOCS)
    yield Line("log_timezone", "Etc/UTC", group, "same as in the image's own file", DOCKER)
    yield Line("log_line_prefix", "%m [%p] %q%u@%d ", group, "time, process; user and database of a session", PG_DOCS)
    yield Line("log_checkpoints", "on", group, "shows checkpoints that occur too often", PG_DOCS)
    yield Line(
        "log_lock_waits", "on", group, "shows sessions that wait for a lock longer than deadlock_timeout", PG_DOCS
    )
    value = size(max(10, facts.work_mem_mb))
    yield Line("log_temp_files", value, group, "max(10MB, work_mem): shows sorts that spill", JUDGEMENT)
    yield Line("log_autovacuum_min_duration", "1min", group, "shows slow vacuums", JUDGEMENT)


def size(size_mb: float) -> str:
    """Write a size in MB for postgresql.conf, in the largest unit in which it is a whole number."""
    kilobytes = int(size_mb * 1024)
    for unit, factor in (("GB", 1024 * 1024), ("MB", 1024)):
        if kilobytes and kilobytes % factor == 0:
            return f"{kilobytes // factor}{unit}"
    return f"{kilobytes}kB"
