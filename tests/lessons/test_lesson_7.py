"""Lesson 7: what the checks do not show."""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lessons.catalogue import unit
from lessons.check import Lab, free_port
from lessons.cluster import Servers

LESSON = unit("7")


@pytest.fixture
def lab() -> Lab:
    return Lab(LESSON, Servers({**os.environ}))


@pytest.mark.parametrize(
    ("count", "p50", "p95", "p99"), [(1, 0, 0, 0), (2, 1, 1, 1), (100, 50, 95, 99), (1000, 500, 950, 990)]
)
def test_percentiles_are_the_values_at_the_plan_s_indexes(count: int, p50: int, p95: int, p99: int) -> None:
    """E7-03: index n // 2, int(.95 n), int(.99 n)."""
    percentile = LESSON.lab("metrics").load().percentile
    values = [float(one) for one in range(count)]
    assert [percentile(values, part) for part in (0.5, 0.95, 0.99)] == [p50, p95, p99]


class Slow(dict[str, int]):
    """Gives another thread its turn between reading and storing, as a busy machine does now and then."""

    def __missing__(self, key: str) -> int:
        return 0

    def __getitem__(self, key: str) -> int:
        value = super().__getitem__(key) if key in self else 0
        threading.Event().wait(0.001)
        return value


def test_threads_lose_no_counts() -> None:
    metrics = LESSON.lab("metrics").load().Metrics()
    metrics.counters = Slow()
    threads = [threading.Thread(target=lambda: [metrics.increment("all") for _ in range(10)]) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.counters["all"] == 100


def test_a_reader_that_ends_early_is_no_error() -> None:
    command = f"{sys.executable} {LESSON.lab('structured_log').path} --requests 100 --speed 1000 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_an_exception_ends_its_span(capsys: pytest.CaptureFixture[str]) -> None:
    tracing = LESSON.lab("tracing").load()
    with pytest.raises(KeyError), tracing.span("a", "fails"):
        raise KeyError
    with tracing.span("b", "next"):
        pass
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["service"], second["parent_id"]) == ("a", None)
    assert first["trace_id"] != second["trace_id"]


def health(url: str) -> tuple[int, dict[str, dict[str, dict[str, str]]]]:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, json.load(answer)


def test_a_redis_that_accepts_and_is_silent_is_unhealthy_in_time(lab: Lab, tmp_path: Path) -> None:
    """Such a server is worse than one that refuses: without a time-out, the health check would hang."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/15"
        with lab.server("healthcheck.py", TMPDIR=str(tmp_path), REDIS_URL=url) as server:
            status, document = health(server.url)
    assert status == 503
    assert "Timeout" in document["checks"]["redis"]["error"]


@pytest.mark.parametrize("url", ["nonsense", "redis://:geheim@127.0.0.1:1/15"])
def test_a_wrong_url_is_unhealthy_and_its_password_stays_secret(lab: Lab, tmp_path: Path, url: str) -> None:
    with lab.server("healthcheck.py", TMPDIR=str(tmp_path), REDIS_URL=url) as server:
        status, document = health(server.url)
    assert (status, document["checks"]["database"]["status"]) == (503, "healthy")
    assert "geheim" not in str(document)


def test_a_database_that_cannot_be_read_is_unhealthy(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "health.db").write_text("This is no database. " * 100)
    with lab.server("healthcheck.py", TMPDIR=str(tmp_path), REDIS_URL=f"redis://127.0.0.1:{free_port()}") as server:
        _, document = health(server.url)
    assert document["checks"]["database"] == {"status": "unhealthy", "error": "file is not a database"}


def test_a_port_in_use_is_told(lab: Lab) -> None:
    with lab.server("healthcheck.py") as first:
        out = lab.run("healthcheck.py", "--port", first.port, status=1)
    assert out == f"Cannot listen on port {first.port}: Address already in use. Choose another one: --port 8090\n"


def test_a_speed_of_zero_is_told(lab: Lab) -> None:
    assert "error: --speed must be more than 0" in lab.run("structured_log.py", "--speed=0", status=2)
