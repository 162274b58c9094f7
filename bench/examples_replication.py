"""``GET /users`` of the read/write split example against its SQL by psycopg, at the same concurrency, in turns.

With and without the cache, and with the log of the documents (five lines for each request) and without it. One process
serves; the clients run in a process of their own on the same processors.
"""

import contextlib
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.example_service import running_service
from bench.load import HttpTarget, Job, Outcome, SqlTarget, measure
from bench.measure import (
    SETUP,
    connect,
    docker_answers,
    free_base_port,
    median,
    percentile,
    print_table,
    remove_cluster,
    run,
)
from citus_cluster.runtime.postgres import ConnectionInfo

_PROJECT = "citus-bench-replication"
_ROLE = "example_replication"
_CONNECTIONS = 16
_ROUNDS = 3
_SECONDS = 5
_ROWS = (100, 1000)
_QUIET = {"LOG_LEVEL": "ERROR"}


@dataclass(frozen=True)
class _Pair:
    root: Path
    port: int
    redis_port: int

    def server(self, port: int) -> ConnectionInfo:
        password = (self.root / f"generated/secrets/{_ROLE}_password").read_text()
        return ConnectionInfo("127.0.0.1", port, _ROLE, "testdb", password)


def bench_examples_replication() -> None:
    if not docker_answers():
        print("\nRead/write split example: left out, since no Docker engine answers")
        return
    with _running_pair() as pair:
        ways = {
            "no cache": {"REDIS": "off", **_QUIET},
            "cache": {**_QUIET},
            "no cache, log of the documents": {"REDIS": "off"},
            "cache, log of the documents": {},
            "cache, tokens not asked for, limit counted": {**_QUIET, "RATE_LIMIT": "999999999"},
        }
        with contextlib.ExitStack() as stack:
            common = {"LOG_FILE": str(pair.root / "app.log"), "RATE_LIMIT": "0"}
            ports = {
                way: stack.enter_context(running_service("read_write_split", pair.root, {**common, **variables}))
                for way, variables in ways.items()
            }
            for rows in _ROWS:
                _fill(pair, rows, writer=ports["cache"])
                _measure(pair, ports, rows)


def _measure(pair: _Pair, ports: dict[str, int], rows: int) -> None:
    # What the service sends; it reads at most 1000 rows.
    floor = SqlTarget(pair.server(pair.port + 1), b"SELECT id, name FROM users WHERE id > 0 ORDER BY id LIMIT 1000")
    targets: dict[str, HttpTarget | SqlTarget] = {"the SQL by psycopg, on the replica (floor)": floor}
    targets |= {f"GET /users, {way}": HttpTarget(port, "/users", "") for way, port in ports.items()}
    seen: dict[str, list[Outcome]] = {way: [] for way in targets}
    for _ in range(_ROUNDS):
        for way, target in targets.items():
            seen[way].append(measure(Job(target, _CONNECTIONS, _SECONDS)))
    base = median([one.rate for one in next(iter(seen.values()))])
    table = []
    for way, outcomes in seen.items():
        rate = median([one.rate for one in outcomes])
        p50, p99 = (median([percentile(one.latencies_ms, part) for one in outcomes]) for part in (0.5, 0.99))
        client_ms = median([1000 * one.client_cpu_s / len(one.latencies_ms) for one in outcomes])
        table.append((way, f"{rate:,.0f}", f"{rate / base:.2f}", f"{p50:.1f}", f"{p99:.1f}", f"{client_ms:.2f}"))
    print_table(
        f"Read/write split: lists of {rows} users, {_CONNECTIONS} connections that send one request after another, "
        f"median of {_ROUNDS} rounds of {_SECONDS} s in turns",
        ("what", "requests/s", "ratio", "p50 ms", "p99 ms", "client's processor ms a request"),
        table,
    )


@contextlib.contextmanager
def _running_pair() -> Iterator[_Pair]:
    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder), free_base_port()
        pair = _Pair(root, port, port + 2)
        ports = [f"--pg14-port={port}", f"--redis-port={pair.redis_port}", f"--example-replication-port={port + 3}"]
        size = ["--memory=7840", "--cpus=2"]
        services = "--services=pg14,redis,example-replication"
        run([*SETUP, services, f"--name={_PROJECT}", *ports, *size, f"--output-dir={root}", "--up"])
        try:
            # The component itself would take part of the processors.
            run(["docker", "compose", "stop", "example-replication"], cwd=root)
            yield pair
        finally:
            remove_cluster(root)


def _fill(pair: _Pair, rows: int, writer: int) -> None:
    with connect(pair.server(pair.port)) as connection:
        connection.execute("TRUNCATE users RESTART IDENTITY")
        connection.execute("INSERT INTO users (name) SELECT md5(n::text) FROM generate_series(1, %s) n", [rows - 1])
    # The last through the service, which makes the cache forget what it has.
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{writer}/users", b'{"name": "last"}', headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
