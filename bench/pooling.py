"""500 clients that stay connected and run one router query per second each, directly on the coordinator and through
PgBouncer: how many can connect, how long a query takes, and the processor time and memory of both servers."""

import asyncio
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from bench.measure import (
    CLUSTER,
    SETUP,
    connect_node,
    docker_answers,
    free_base_port,
    median,
    percentile,
    print_table,
    remove_cluster,
    run,
)
from citus_cluster.runtime.postgres import ConnectionInfo

_CLIENTS = 500
_SECONDS = 20
_WARMUP_S = 5
_CONNECTING = 20
"""The number of clients that log in at the same time."""
_ROWS = 10_000
_NAME = "citus-bench"


@dataclass
class Seen:
    """The results of the clients: why some could not connect, latencies in ms since a query was due, and failures."""

    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    login_s: float = 0.0
    memory: dict[str, str] = field(default_factory=dict)


def bench_pooling() -> None:
    if not docker_answers():
        print("\nPooling: skipped, because no Docker engine answers")
        return
    port = free_base_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ports = [f"--port={port}", f"--pgbouncer-port={port + 14}"]
        size = ["--memory=7840", "--cpus=2", "--workers=3"]
        try:
            wanted = ["--services=citus,pgbouncer", f"--name={_NAME}", *ports, *size]
            run([*SETUP, *wanted, f"--output-dir={root}", "--up"])
            run([*CLUSTER, "roles", "create", "bench"], cwd=root)
            with connect_node(root, port) as conn:
                conn.execute("CREATE TABLE items (id int PRIMARY KEY, note text)")
                conn.execute("SELECT create_distributed_table('items', 'id')")
                conn.execute(f"INSERT INTO items SELECT n, n::text FROM generate_series(1, {_ROWS}) n".encode())
            password = (root / "generated/secrets/roles/bench_password").read_text()
            direct = ConnectionInfo("127.0.0.1", port, "bench", "postgres", password)
            containers = (f"{_NAME}-coordinator", f"{_NAME}-pgbouncer")
            seen = {
                "direct": asyncio.run(_load(direct, containers)),
                "through PgBouncer": asyncio.run(_load(replace(direct, port=port + 14), containers)),
            }
        finally:
            remove_cluster(root)
    _report(seen)


def _report(seen: dict[str, Seen]) -> None:
    rows = []
    for way, one in seen.items():
        ordered = sorted(one.latencies_ms)
        rows.append(
            (
                way,
                _CLIENTS - sum(one.refused.values()),
                f"{one.login_s:.1f}",
                f"{len(ordered) / _SECONDS:.0f}",
                f"{median(ordered):.1f}" if ordered else "-",
                f"{percentile(ordered, 0.99):.1f}" if ordered else "-",
                sum(one.failed.values()),
                *one.memory.values(),
            )
        )
    columns = ("", "accepted", "logins, s", "queries/s", "p50 ms", "p99 ms", "failed", "coordinator", "PgBouncer")
    print_table(f"{_CLIENTS} clients, each with one router query a second for {_SECONDS} s", columns, rows)
    for way, one in seen.items():
        for reason, number in (one.refused + one.failed).most_common(3):
            print(f"  {way}: {number} times {reason}")


async def _load(server: ConnectionInfo, containers: tuple[str, str]) -> Seen:
    seen = Seen()
    started = time.perf_counter()
    places = asyncio.Semaphore(_CONNECTING)
    opened = await asyncio.gather(*(_open(server, places, seen) for _ in range(_CLIENTS)))
    seen.login_s = time.perf_counter() - started
    clients = [one for one in opened if one is not None]
    begin = time.perf_counter() + 1
    measuring = asyncio.gather(*(_client(conn, number, begin, seen) for number, conn in enumerate(clients)))
    await asyncio.sleep(_WARMUP_S + _SECONDS / 2)
    seen.memory = {name: await asyncio.to_thread(_memory, name) for name in containers}
    await measuring
    await asyncio.gather(*(conn.close() for conn in clients))
    return seen


async def _open(
    server: ConnectionInfo, places: asyncio.Semaphore, seen: Seen
) -> psycopg.AsyncConnection[tuple[object, ...]] | None:
    async with places:
        try:
            return await psycopg.AsyncConnection.connect(
                host=server.host,
                port=server.port,
                user=server.user,
                password=server.password,
                dbname=server.database,
                autocommit=True,
                connect_timeout=60,
            )
        except psycopg.OperationalError as error:
            seen.refused[str(error).splitlines()[0].rpartition("FATAL:")[2].strip()] += 1
            return None


async def _client(conn: psycopg.AsyncConnection[tuple[object, ...]], number: int, begin: float, seen: Seen) -> None:
    """Send a query each second, every client at its own offset; a late answer does not delay the next query."""
    for second in range(_WARMUP_S + _SECONDS):
        due = begin + second + number / _CLIENTS
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        try:
            await conn.execute("SELECT note FROM items WHERE id = %s", [(number * 17 + second) % _ROWS + 1])
        except psycopg.Error as error:
            seen.failed[str(error).splitlines()[0]] += 1
            return
        if second >= _WARMUP_S:
            seen.latencies_ms.append((time.perf_counter() - due) * 1000)


def _memory(container: str) -> str:
    command = ["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("/")[0].strip()
