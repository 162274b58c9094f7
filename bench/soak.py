"""Memory of the admin API's container while ten clients poll it, for an hour.

It runs only if it is named: ``python -m bench soak``. BENCH_SOAK_MINUTES sets another duration. All services run, so
that the API keeps its connections to each. Every second, each client polls the data of a dashboard. Resident memory is
that of the server process; charged memory is what Docker counts against the container's limit, without page cache that
can be freed.
"""

import asyncio
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.api import RunningApi, running_api
from bench.load import HttpConnection
from bench.measure import print_table

_NAME = "citus-bench-soak"
_SERVICES = "citus,admin-api,pg14,redis,cassandra"
_CLIENTS = 10
_PERIOD_S = 1
_PATHS = ("/api/v1/nodes/active", "/api/v1/services", "/health", "/api/v1/rebalance")
_SAMPLE_S = 30
_EDGE_S = 300
_UNITS = {"B": 1 / 2**20, "KiB": 1 / 2**10, "MiB": 1, "GiB": 2**10}


@dataclass(frozen=True)
class _Sample:
    """Memory in MiB at a time in seconds after the start."""

    at_s: float
    resident_mb: float
    charged_mb: float


@dataclass
class _Count:
    answered: int = 0
    failed: int = 0


def bench_soak() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    minutes = float(os.environ.get("BENCH_SOAK_MINUTES", "60"))
    with running_api(_NAME, services=_SERVICES) as api:
        samples, count = asyncio.run(_soak(api, 60 * minutes))
    title = (
        f"Memory over {minutes:g} minutes of polling at {_CLIENTS} clients, MiB: {count.answered:,} answers, "
        f"{count.failed:,} failures (goal: flat)"
    )
    columns = ("memory", "first 5 min", "last 5 min", "most", "MiB an hour, from minute 5 on")
    print_table(
        title,
        columns,
        [
            _row("resident", [(sample.at_s, sample.resident_mb) for sample in samples]),
            _row("charged to the container", [(sample.at_s, sample.charged_mb) for sample in samples]),
        ],
    )


def _row(name: str, series: Sequence[tuple[float, float]]) -> Sequence[object]:
    length_s = series[-1][0]
    first = [value for at_s, value in series if at_s <= _EDGE_S]
    last = [value for at_s, value in series if at_s >= length_s - _EDGE_S]
    later = [(at_s / 3600, value) for at_s, value in series if at_s >= _EDGE_S]
    # The slope of a line through the samples by least squares.
    slope = f"{statistics.linear_regression(*zip(*later, strict=True)).slope:+.2f}" if len(later) > 2 else "-"
    means = (f"{statistics.mean(values):.1f}" for values in (first, last))
    return (name, *means, f"{max(value for _, value in series):.1f}", slope)


async def _soak(api: RunningApi, seconds: float) -> tuple[Sequence[_Sample], _Count]:
    count = _Count()
    samples: list[_Sample] = []
    started = time.monotonic()
    clients = [
        asyncio.create_task(_poll(api, count, after_s=number * _PERIOD_S / _CLIENTS)) for number in range(_CLIENTS)
    ]
    for number in itertools.count():
        at_s = time.monotonic() - started
        resident_mb, charged_mb = await asyncio.to_thread(_memory, api.container)
        samples.append(_Sample(at_s, resident_mb, charged_mb))
        print(
            f"{at_s:6.0f} s: resident {resident_mb:.1f}, charged {charged_mb:.1f} MiB; {count.answered:,} answers, "
            f"{count.failed:,} failures",
            flush=True,
        )
        if at_s >= seconds:
            break
        await asyncio.sleep(max(0, started + (number + 1) * _SAMPLE_S - time.monotonic()))
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return samples, count


async def _poll(api: RunningApi, count: _Count, *, after_s: float) -> None:
    connection: HttpConnection | None = None
    due = time.monotonic() + after_s
    while True:
        await asyncio.sleep(max(0, due - time.monotonic()))
        due += _PERIOD_S
        for path in _PATHS:
            try:
                connection = connection or await HttpConnection.open(api.port, api.token)
                await connection.get(path)
                count.answered += 1
            except OSError as error:
                print(error, file=sys.stderr, flush=True)
                count.failed += 1
                if connection:
                    connection.close()
                connection = None


def _memory(container: str) -> tuple[float, float]:
    """Return the resident memory of the container's largest process, and the container's charged memory, in MiB."""
    top = ["docker", "top", container, "-eo", "pid,rss"]
    processes = subprocess.run(top, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    stats = ["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container]
    usage = subprocess.run(stats, capture_output=True, text=True, check=True).stdout.partition("/")[0].strip()
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", usage).groups()  # type: ignore[union-attr]
    return max(int(line.split()[1]) for line in processes) / 1024, float(number) * _UNITS[unit]
