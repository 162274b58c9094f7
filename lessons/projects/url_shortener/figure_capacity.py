"""Measure redirects per second at rising rates with the load tester, and draw where the service saturates."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from matplotlib.figure import Figure
from psycopg.sql import SQL, Identifier

from lessons import figures
from lessons.check import free_port, stop, wait_for

RATES = (250, 500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 8000)
REQUIRED_PER_S = 1000
CLIENTS = 64
KEPT_UP = 0.95
"""A rate is held if this share of it is answered. Above the last one that is held, only one more is measured."""


@dataclass(frozen=True)
class Point:
    """What came of one rate. Latencies count from when a request was due."""

    rate: int
    answered_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    waiting_click_bytes: int


def setups() -> dict[str, list[str]]:
    """The ways to run the service for which the servers are known."""
    found = {"SQLite": ["--no-redis"], "SQLite, answers after fsync": ["--no-redis", "--sync"]}
    if "REDIS_URL" in os.environ:
        found["SQLite, cache in Redis"] = []
        if "DATABASE_URL" in os.environ:
            found["PostgreSQL, cache in Redis"] = ["--database", "postgresql"]
    return found


@contextlib.contextmanager
def service(options: list[str]) -> Iterator[str]:
    """Run the service on a folder of its own. Yields its address."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as data:
        command = ["-m", "lessons.projects.url_shortener", "--port", str(port), "--data", data, *options]
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: process.poll() is not None or _answers(base), "the service to answer", 30)
            yield base
        finally:
            stop(process)


def _answers(base: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(ask(f"{base}/health"))
    return False


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
        return json.load(answer)


def load(url: str, *options: object) -> Any:
    """Run the load tester. Returns its report."""
    command = ["-m", "lessons.projects.load_tester", "-q", "--json", "-", *map(str, options), url]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure(options: list[str], duration_s: float) -> list[Point]:
    """Raise the rate until the service does not keep up."""
    points: list[Point] = []
    with service(options) as base:
        code = ask(f"{base}/shorten", {"url": "https://example.com/"})["code"]
        url = f"{base}/{code}"
        load(url, "-n", 500, "-c", 4)  # warm up
        for rate in RATES:
            report = load(url, "--rate", rate, "-c", CLIENTS, "-d", duration_s)
            waiting = ask(f"{base}/health")["checks"]["waiting_click_bytes"]
            latency = report["latency_ms"]
            point = Point(
                rate, report["requests_per_second"], latency["p50"], latency["p99"], report["failed"], waiting
            )
            points.append(point)
            print(
                f"  {rate:>6} {point.answered_per_s:>10.0f} {point.p50_ms:>10.1f} {point.p99_ms:>10.1f}"
                f" {point.failed:>8} {waiting:>14}",
                flush=True,
            )
            if point.answered_per_s < KEPT_UP * rate:
                break
    if "postgresql" in options:
        with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
            for table in ("clicks", "urls"):
                connection.execute(SQL("DELETE FROM {} WHERE code = %s").format(Identifier(table)), (code,))
    return points


def draw(found: dict[str, list[Point]]) -> None:
    drawing = Figure(figsize=(7, 6))
    throughput, latency = drawing.subplots(2, sharex=True)
    highest = max(point.rate for points in found.values() for point in points)
    throughput.plot([0, highest], [0, highest], color="#999999", linestyle=":", label="all answered")
    for colour, (name, points) in zip(figures.COLOURS, found.items(), strict=False):
        rates = [point.rate for point in points]
        throughput.plot(rates, [point.answered_per_s for point in points], color=colour, marker="o", label=name)
        latency.plot(rates, [point.p99_ms for point in points], color=colour, marker="o")
    for axes in (throughput, latency):
        axes.axvline(REQUIRED_PER_S, color="#999999", linewidth=1)
    throughput.text(REQUIRED_PER_S, highest, " required", va="top", color="#666666")
    throughput.set_ylabel("redirects answered per second")
    throughput.legend(loc="lower right")
    latency.set_ylabel("p99 in milliseconds, since due")
    latency.set_yscale("log")
    latency.set_xlabel("redirects requested per second (open loop)")
    throughput.set_xlim(left=0)
    throughput.set_ylim(bottom=0)
    figures.save(drawing, __file__, "capacity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--duration", type=float, default=5, metavar="S", help="for each rate (default: %(default)s s)")
    duration_s = parser.parse_args().duration
    found = {}
    for name, options in setups().items():
        print(
            f"{name}\n  {'rate':>6} {'answered':>10} {'p50, ms':>10} {'p99, ms':>10} {'failed':>8} {'queue, bytes':>14}"
        )
        found[name] = measure(options, duration_s)
    draw(found)


if __name__ == "__main__":
    main()
