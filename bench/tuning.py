"""The generated settings against the stock image: same containers, memory, processors and registration, in turns.

Both clusters are generated; the stock one has the image's own defaults except for ``wal_level``. Only one of them runs
at a time. pgbench runs in the coordinator's container, over its socket. To test single settings, two configurations of
one generated cluster take turns instead (see ``_Setup``).
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from bench.measure import CLUSTER, SETUP, connect_node, free_base_port, median, print_table, remove_cluster, run

_WORKERS = 3
_MEMORY = "8g"
_CLIENTS = 8
_BRANCHES = 200
_COORDINATOR = "citus-coordinator"
_COPY_FILE = "/tmp/events.csv"

_READ = rf"""\set bid random(1, {_BRANCHES})
\set aid random(1, :per_branch)
SELECT abalance FROM accounts WHERE bid = :bid AND aid = :aid;
"""
_WRITE = rf"""\set bid random(1, {_BRANCHES})
\set aid random(1, :per_branch)
\set delta random(-5000, 5000)
UPDATE accounts SET abalance = abalance + :delta WHERE bid = :bid AND aid = :aid;
"""
# The transactions of TPC-B, each on the shards of one branch.
_MIXED = rf"""\set bid random(1, {_BRANCHES})
\set aid random(1, :per_branch)
\set tid random(1, 10)
\set delta random(-5000, 5000)
BEGIN;
UPDATE accounts SET abalance = abalance + :delta WHERE bid = :bid AND aid = :aid;
SELECT abalance FROM accounts WHERE bid = :bid AND aid = :aid;
UPDATE tellers SET tbalance = tbalance + :delta WHERE bid = :bid AND tid = :tid;
UPDATE branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO history (bid, tid, aid, delta, mtime) VALUES (:bid, :tid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""
_TABLES = (
    "CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88))",
    "CREATE TABLE tellers (bid int, tid int, tbalance int, filler char(84), PRIMARY KEY (bid, tid))",
    "CREATE TABLE accounts (bid int, aid int, abalance int, filler char(84), PRIMARY KEY (bid, aid))",
    "CREATE TABLE history (bid int, tid int, aid int, delta int, mtime timestamp, filler char(22))",
    "CREATE TABLE events (person bigint, number bigint, kind int, amount numeric, at timestamptz, note text,"
    " PRIMARY KEY (person, number))",
    "CREATE TABLE copied (LIKE events INCLUDING ALL)",
    *(
        f"SELECT create_distributed_table('{table}', 'bid', colocate_with => '{first}')"
        for table, first in (
            ("branches", "none"), ("tellers", "branches"), ("accounts", "branches"), ("history", "branches")
        )
    ),
    "SELECT create_distributed_table('events', 'person', colocate_with => 'none')",
    "SELECT create_distributed_table('copied', 'person', colocate_with => 'events')",
)  # fmt: skip
_EVENTS = (
    "SELECT n * 7919 % 100003, n, n % 50, (n % 1000) / 8.0, timestamptz '2026-01-01' + n * interval '1 s',"
    " md5(n::text) || md5((n + 1)::text) FROM generate_series(1::bigint, {rows}) AS n"
)
_AGGREGATES = (
    "SELECT kind, count(*), sum(amount), avg(amount), max(at) FROM events GROUP BY kind",
    "SELECT at::date, count(*), count(DISTINCT kind), sum(amount) FROM events GROUP BY 1 ORDER BY 1",
    "SELECT aid % 100, count(*), sum(abalance), max(filler) FROM accounts GROUP BY 1",
)


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


@dataclass(frozen=True)
class _Setup:
    """The parameters of the measurement; each field can be set in the environment, for short runs and single settings.

    ``settings`` ("name=value name=value", BENCH_SETTINGS) compares the generated cluster with itself plus these
    settings on every node. ``lock`` (BENCH_LOCK) is a file that is locked during each single run, if other
    measurements use the machine too. ``keep`` (BENCH_DIR) keeps the clusters in that folder for the next run.
    ``disk`` ("/dev/sda 30mb 750", BENCH_DISK) limits the writes of each node there, in bytes and writes per second.
    """

    rounds: int = field(default_factory=lambda: _number("BENCH_ROUNDS", 3))
    run_s: int = field(default_factory=lambda: _number("BENCH_RUN_S", 20))
    mixed_s: int = field(default_factory=lambda: _number("BENCH_MIXED_S", 300))
    mixed_rounds: int = field(default_factory=lambda: _number("BENCH_MIXED_ROUNDS", 1))
    events: int = field(default_factory=lambda: _number("BENCH_EVENTS", 2_000_000))
    accounts: int = field(default_factory=lambda: _number("BENCH_ACCOUNTS", 5_000_000))
    workloads: Sequence[str] = field(default_factory=lambda: os.environ.get("BENCH_WORKLOADS", "").split())
    settings: str = field(default_factory=lambda: os.environ.get("BENCH_SETTINGS", ""))
    lock: str = field(default_factory=lambda: os.environ.get("BENCH_LOCK", ""))
    keep: str = field(default_factory=lambda: os.environ.get("BENCH_DIR", ""))
    disk: str = field(default_factory=lambda: os.environ.get("BENCH_DISK", ""))


@dataclass(frozen=True)
class _Side:
    """One of the two sides that take turns: a cluster on ports from ``port`` on, with ``changes`` by ALTER SYSTEM."""

    label: str
    root: Path
    name: str
    port: int
    changes: Mapping[str, str]

    def connect(self, node: int = 0) -> psycopg.Connection[Any]:
        """Connect to the coordinator (0) or a worker."""
        return connect_node(self.root, self.port + node)

    def everywhere(self, *statements: str) -> None:
        """Run statements on every node."""
        for node in range(_WORKERS + 1):
            with self.connect(node) as conn:
                for statement in statements:
                    conn.execute(statement)

    def compose(self, *arguments: str) -> None:
        run(["docker", "compose", *arguments], cwd=self.root)

    def start(self) -> None:
        """Start the cluster with its changes, and fill the caches."""
        self.compose("start")
        self._wait()
        if self.changes:
            self.everywhere(*(f"ALTER SYSTEM SET {name} = {_quoted(value)}" for name, value in self.changes.items()))
            self.compose("restart")
            self._wait()
        with self.connect() as conn:
            for query in _AGGREGATES:
                conn.execute(query)

    def stop(self) -> None:
        """Stop the cluster, and revert its changes."""
        self.everywhere(*(f"ALTER SYSTEM RESET {name}" for name in self.changes))
        self.compose("stop")

    def pgbench(self, script: str, per_branch: int, seconds: int, *options: str) -> float:
        """Run a script. Returns the transactions per second."""
        command = ["docker", "exec", "-i", f"{self.name}-coordinator", "pgbench", "-n", "-f", "-", "-U", "postgres"]
        load = ["-c", str(_CLIENTS), "-j", "2", "-T", str(seconds), "-D", f"per_branch={per_branch}"]
        done = subprocess.run([*command, *load, *options, "postgres"], input=script, capture_output=True, text=True)
        if done.returncode or "number of failed transactions: 0 " not in done.stdout:
            sys.exit(f"pgbench failed:\n{done.stdout}{done.stderr}")
        return next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))

    def checkpoints(self) -> int:
        """The number of checkpoints that the workers have begun since their statistics were reset."""
        total = 0
        for node in range(1, _WORKERS + 1):
            with self.connect(node) as conn:
                (count,) = conn.execute("SELECT num_timed + num_requested FROM pg_stat_checkpointer").fetchone() or (0,)
                total += count
        return total

    def wal_mb(self) -> float:
        """The WAL that the workers have written, in MB."""
        total = 0.0
        for node in range(1, _WORKERS + 1):
            with self.connect(node) as conn:
                (size,) = conn.execute("SELECT (pg_current_wal_lsn() - '0/0') / 1048576").fetchone() or (0,)
                total += float(size)
        return total

    def cpu_s(self) -> float:
        """The processor seconds that the containers have used, including pgbench."""
        total = 0.0
        for node in ("coordinator", *(f"worker{number}" for number in range(1, _WORKERS + 1))):
            read = "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || cat /sys/fs/cgroup/cpu.stat"
            command = ["docker", "exec", f"{self.name}-{node}", "sh", "-c", read]
            words = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
            total += int(words[0]) / 1e9 if len(words) == 1 else int(words[words.index("usage_usec") + 1]) / 1e6
        return total

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        for node in range(_WORKERS + 1):
            while True:
                with contextlib.suppress(psycopg.OperationalError), self.connect(node):
                    break
                if time.monotonic() > deadline:
                    sys.exit(f"node {node} of {self.name} did not start")
                time.sleep(0.2)


@dataclass(frozen=True)
class _Workload:
    """A workload. ``measure`` returns transactions per second, or seconds if ``seconds`` is true."""

    name: str
    measure: Callable[[_Side, _Setup], float]
    seconds: bool = False
    mixed: bool = False


def bench_tuning() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        print("\nTuning: skipped, because no Docker engine answers")
        return
    setup = _Setup()
    with contextlib.ExitStack() as stack:
        folder = Path(setup.keep) if setup.keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [_side(folder, "tuned", {})]
        if setup.settings:
            changes = dict(pair.split("=", 1) for pair in setup.settings.split())
            sides.append(_Side(f"with {setup.settings}", sides[0].root, sides[0].name, sides[0].port, changes))
        else:
            sides.append(_side(folder, "stock", {}))
        for side in {side.root: side for side in sides}.values():
            if not setup.keep:
                stack.callback(remove_cluster, side.root)
            with _locked(setup.lock):
                _create(side, setup)
        rows = [_measure(sides, workload, setup) for workload in _chosen(setup)]
    labels = [side.label for side in sides]
    print_table(
        f"{labels[0]} against {labels[1]}: {_WORKERS} workers, {_MEMORY}B, {_CLIENTS} clients, {setup.run_s} s each,"
        f" median of {setup.rounds}, mixed {setup.mixed_s} s, median of {setup.mixed_rounds}"
        " (goal: ratio at least 1.0, mixed 1.3)",
        ("workload", *labels, "ratio", "each round", "work for each unit of CPU, ratio"),
        rows,
    )


def _side(folder: Path, label: str, changes: Mapping[str, str]) -> _Side:
    root = folder / label
    port_file = root / "bench-port"
    if not port_file.exists():
        root.mkdir(parents=True)
        port_file.write_text(str(free_base_port(_WORKERS + 1)))
    return _Side(label, root, f"citus-bench-{label}", int(port_file.read_text()), changes)


def _create(side: _Side, setup: _Setup) -> None:
    """Create a cluster with its data, and stop it; an existing one is only stopped."""
    if (side.root / "docker-compose.yml").exists():
        side.compose("stop")
        return
    options = [f"--workers={_WORKERS}", f"--memory={_MEMORY}", "--services=citus", f"--name={side.name}"]
    run([*SETUP, *options, f"--port={side.port}", f"--output-dir={side.root}"])
    if override := _override(side, setup):
        (side.root / "docker-compose.override.yml").write_text(json.dumps(override))
    run([*CLUSTER, "up", f"--dir={side.root}"])
    with side.connect() as conn:
        for statement in _TABLES:
            conn.execute(statement)
        conn.execute(f"INSERT INTO branches SELECT n, 0 FROM generate_series(1, {_BRANCHES}) AS n")
        conn.execute(
            f"INSERT INTO tellers SELECT b, t, 0 FROM generate_series(1, {_BRANCHES}) b, generate_series(1, 10) t"
        )
        conn.execute(
            "INSERT INTO accounts SELECT b, a, 0, md5(a::text)"
            f" FROM generate_series(1, {_BRANCHES}) b, generate_series(1, {setup.accounts // _BRANCHES}) a"
        )
        conn.execute(f"COPY ({_EVENTS.format(rows=setup.events)}) TO '{_COPY_FILE}'")
        conn.execute(f"COPY events FROM '{_COPY_FILE}'")
        conn.execute("VACUUM ANALYZE")
    side.stop()


def _override(side: _Side, setup: _Setup) -> dict[str, Any]:
    """Return the override file: the image's own settings for the stock side, and the limits of the disk for both.

    The stock side needs ``wal_level``, because shards move by logical replication.
    """
    service: dict[str, Any] = {}
    if side.label == "stock":
        service["command"] = ["postgres", "-c", "wal_level=logical"]
        service["environment"] = {"POSTGRES_INITDB_ARGS": ""}
    if setup.disk:
        path, rate, count = setup.disk.split()
        service["blkio_config"] = {
            "device_write_bps": [{"path": path, "rate": rate}],
            "device_write_iops": [{"path": path, "rate": int(count)}],
        }
    nodes = (_COORDINATOR, *(f"citus-worker{number}" for number in range(1, _WORKERS + 1)))
    return {"services": dict.fromkeys(nodes, service)} if service else {}


def _chosen(setup: _Setup) -> list[_Workload]:
    def script(text: str, *options: str) -> Callable[[_Side, _Setup], float]:
        return lambda side, given: side.pgbench(text, given.accounts // _BRANCHES, given.run_s, *options)

    known = [
        _Workload("reads", script(_READ)),
        _Workload("reads-prepared", script(_READ, "-M", "prepared")),
        _Workload("writes", script(_WRITE)),
        _Workload("copy", _copy, seconds=True),
        _Workload("aggregates", _aggregates, seconds=True),
        _Workload("mixed", _mixed, mixed=True),
    ]
    names = [workload.name for workload in known]
    if unknown := set(setup.workloads) - set(names):
        sys.exit(f"unknown workloads: {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    return [workload for workload in known if not setup.workloads or workload.name in setup.workloads]


def _measure(sides: Sequence[_Side], workload: _Workload, setup: _Setup) -> Sequence[object]:
    """Measure one workload on both sides in turns; the side that begins changes with each round."""
    found: dict[str, list[float]] = {side.label: [] for side in sides}
    used: dict[str, list[float]] = {side.label: [] for side in sides}
    for number in range(setup.mixed_rounds if workload.mixed else setup.rounds):
        for side in sides if number % 2 else reversed(sides):
            with _locked(setup.lock):
                side.start()
                side.everywhere("CHECKPOINT")
                before = side.cpu_s()
                value = workload.measure(side, setup)
                cpu_s = side.cpu_s() - before
                side.stop()
            done = 1 if workload.seconds else value * (setup.mixed_s if workload.mixed else setup.run_s)
            found[side.label].append(value)
            used[side.label].append(1000 * cpu_s / done)
            print(f"{workload.name} {side.label}: {value:,.2f}, {1000 * cpu_s / done:,.3f} ms CPU", flush=True)
    mine, theirs = (found[side.label] for side in sides)
    pairs = [_ratio(workload, a, b) for a, b in zip(mine, theirs, strict=True)]
    a, b = median(mine), median(theirs)
    unit, digits = ("s", 2) if workload.seconds else ("tps", 0)
    cpu = [median(used[side.label]) for side in sides]
    return (
        workload.name,
        f"{a:,.{digits}f} {unit}",
        f"{b:,.{digits}f} {unit}",
        f"{_ratio(workload, a, b):.2f}",
        " ".join(f"{one:.2f}" for one in pairs),
        f"{cpu[1] / cpu[0]:.2f}",
    )


def _ratio(workload: _Workload, mine: float, theirs: float) -> float:
    """Return how many times as fast the first one is."""
    return theirs / mine if workload.seconds else mine / theirs


def _copy(side: _Side, setup: _Setup) -> float:
    with side.connect() as conn:
        conn.execute("TRUNCATE copied")
        started = time.perf_counter()
        conn.execute(f"COPY copied FROM '{_COPY_FILE}'")
        return time.perf_counter() - started


def _aggregates(side: _Side, setup: _Setup) -> float:
    with side.connect() as conn:
        started = time.perf_counter()
        for query in _AGGREGATES:
            conn.execute(query)
        return time.perf_counter() - started


def _mixed(side: _Side, setup: _Setup) -> float:
    """Run complete transactions for minutes.

    In the middle, every node makes a checkpoint, so that settings that only delay it past the end gain nothing.
    Checkpoints that a side makes on its own are additional.
    """
    begun, wal = side.checkpoints(), side.wal_mb()
    half = threading.Timer(setup.mixed_s / 2, lambda: side.everywhere("CHECKPOINT"))
    half.start()
    try:
        rate = side.pgbench(_MIXED, setup.accounts // _BRANCHES, setup.mixed_s, "-P", "30")
    finally:
        half.cancel()
    print(f"  {side.checkpoints() - begun} checkpoints on {_WORKERS} workers, {side.wal_mb() - wal:,.0f} MB of WAL")
    return rate


def _quoted(value: str) -> str:
    """Quote a value; a value with commas is a list (shared_preload_libraries)."""
    return ", ".join("'" + part.replace("'", "''") + "'" for part in value.split(","))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock that other measurements on this machine use too."""
    if not path:
        yield
        return
    with Path(path).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
