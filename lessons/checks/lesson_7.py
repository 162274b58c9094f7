"""Checks of lesson 7, observability."""

import json
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from lessons.check import Lab, Seen, check, free_port


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in text.splitlines()]


@check("E7-01", expected="6 lines, 2 request ids of 8 characters, 3 lines each; each request takes 70 ms or more")
def log_lines_are_json(lab: Lab) -> Seen:
    """structured_log.py logs two requests, three lines each, which share an id."""
    lines = _lines(lab.run("structured_log.py"))
    ids = Counter(one["request_id"] for one in lines)
    stamped = all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["timestamp"]) for one in lines)
    by_message = {
        message: [one for one in lines if one["message"] == message]
        for message in ("request started", "database query", "request completed")
    }
    queries, completed = by_message["database query"], by_message["request completed"]
    passed = (
        stamped
        and len(lines) == 6
        and sorted(ids.values()) == [3, 3]
        and all(re.fullmatch("[0-9a-f]{8}", one) for one in ids)
        and [one["path"] for one in by_message["request started"]] == ["/api/users", "/api/orders"]
        and all((one["table"], one["rows"]) == ("users", 42) for one in queries)
        # 70 ms of waiting: never less, and on a busy machine more.
        and all(one["status"] == 200 and one["level"] == "INFO" and one["duration_ms"] >= 70 for one in completed)
    )
    durations = ", ".join(f"{one['duration_ms']:.0f}" for one in completed)
    return Seen(passed, f"{len(lines)} lines, {len(ids)} ids, {durations} ms")


@check("E7-02", expected="json.tool --json-lines: 0; json.tool alone: 1, Extra data")
def json_tool_reads_the_lines(lab: Lab) -> Seen:
    """python3 -m json.tool reads the log with --json-lines, and only with it."""
    log = lab.run("structured_log.py", "--speed", 100)
    tool = [sys.executable, "-m", "json.tool"]
    lines = subprocess.run([*tool, "--json-lines"], input=log, text=True, capture_output=True)
    alone = subprocess.run(tool, input=log, text=True, capture_output=True)
    passed = lines.returncode == 0 and alone.returncode == 1 and "Extra data" in alone.stderr
    return Seen(passed, f"--json-lines: {lines.returncode}; alone: {alone.returncode}, {alone.stderr.strip()[:10]}")


@check(
    "E7-03",
    expected="1000 requests; p50 35, p95 150, p99 230 ms and 20 errors, within 4 standard deviations "
    "(28-41, 122-178, 167-293, 3-37); 47 connections, depth 12",
)
def metrics_are_counted(lab: Lab) -> Seen:
    """metrics.py counts 1,000 requests from ten threads and reports percentiles."""
    # A percentile p of n values, exponential with mean 50, has the standard deviation 50 * sqrt(p / (1 - p) / n).
    # The seed makes the result the same on every run.
    report = json.loads(lab.run("metrics.py", "--seed", 22))
    durations = report["histograms"]["request_duration_ms"]
    counters, gauges = report["counters"], report["gauges"]
    passed = (
        counters["requests_total"] == durations["count"] == 1000
        and 28 <= durations["p50"] <= 41
        and 122 <= durations["p95"] <= 178
        and 167 <= durations["p99"] <= 293
        and 3 <= counters["errors_total"] <= 37
        and (gauges["active_connections"], gauges["queue_depth"]) == (47, 12)
    )
    percentiles = ", ".join(f"{name} {durations[name]:.0f}" for name in ("p50", "p95", "p99"))
    return Seen(passed, f"{counters['requests_total']} requests, {percentiles} ms, {counters['errors_total']} errors")


@check("E7-04", expected="one trace_id; database, user-service, api-gateway; durations of 20, 25, 35 ms or more")
def spans_form_a_trace(lab: Lab) -> Seen:
    """tracing.py prints three spans of one trace, the child first, each with its parent's id."""
    database, service, gateway = _lines(lab.run("tracing.py"))
    spans = [database, service, gateway]
    ids = [one[name] for one in spans for name in ("trace_id", "span_id")]
    passed = (
        [one["service"] for one in spans] == ["database", "user-service", "api-gateway"]
        and len({one["trace_id"] for one in spans}) == 1
        and len({one["span_id"] for one in spans}) == 3
        and all(re.fullmatch("[0-9a-f]{8}", one) for one in ids)
        and [one["parent_id"] for one in spans] == [service["span_id"], gateway["span_id"], None]
        and [one["attributes"] for one in spans] == [{"rows": 1}, {"cache_hit": False}, {"status_code": 200}]
        and all(one["duration_ms"] >= least for one, least in zip(spans, (20, 25, 35), strict=True))
    )
    return Seen(passed, ", ".join(f"{one['service']} {one['duration_ms']:.0f} ms" for one in spans))


def _health(lab: Lab, **environment: str) -> tuple[int, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        lab.server("healthcheck.py", port=None, TMPDIR=folder, **environment) as server,
    ):
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, json.load(answer)


@check("E7-05", expected="200 healthy; both checks with a latency_ms that was measured", needs=("redis",))
def health_is_good(lab: Lab) -> Seen:
    """healthcheck.py answers 200 while Redis and the database answer."""
    status, document = _health(lab)
    redis, database = document["checks"]["redis"], document["checks"]["database"]
    passed = (
        (status, document["status"], redis["status"], database["status"]) == (200, *["healthy"] * 3)
        and redis["latency_ms"] > 0
        and database["latency_ms"] > 0
    )
    return Seen(passed, f"{status} {document['status']}, redis {redis.get('latency_ms')} ms")


@check("E7-05", expected="503 unhealthy; redis unhealthy with its error, database healthy")
def health_is_bad_without_redis(lab: Lab) -> Seen:
    """healthcheck.py answers 503 while Redis is away, and says which part it is."""
    status, document = _health(lab, REDIS_URL=f"redis://127.0.0.1:{free_port()}/15")
    redis, database = document["checks"]["redis"], document["checks"]["database"]
    passed = (status, document["status"], redis["status"], database["status"]) == (
        *(503, "unhealthy", "unhealthy"),
        "healthy",
    ) and bool(redis["error"])
    return Seen(passed, f"{status} {document['status']}, redis {redis['status']}, database {database['status']}")


@check("E7-06", expected="SLI, SLO, error budget; logs, metrics, traces")
def objectives_are_explained(lab: Lab) -> Seen:
    """The page explains service level indicators and objectives, error budgets, and the three pillars."""
    return lab.page_names("SLI", "SLO", "error budget", "three pillars", "logs", "metrics", "traces")


@check("E7-07", expected="errors, request ids and average duration as counted in Python", needs=("jq",))
def jq_answers_the_exercise(lab: Lab) -> Seen:
    """The commands of the exercise give the errors, the request ids and the average duration of a log file."""
    text = lab.run("structured_log.py", "--requests", 200, "--failure-rate", 0.2, "--speed", 100)
    lines = _lines(text)
    page = (lab.folder / "README.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "requests.log"
        log.write_text(text, encoding="utf-8")
        commands = [line.partition("#")[0] for line in page.splitlines() if line.startswith("jq ")]
        answers = [
            subprocess.run(
                one.replace("/tmp/requests.log", str(log)), shell=True, text=True, capture_output=True, check=True
            ).stdout.split("\n")
            for one in commands
        ]
    errors = [one for one in lines if one["level"] == "ERROR"]
    durations = [one["duration_ms"] for one in lines if "duration_ms" in one]
    average = sum(durations) / len(durations)
    shown_errors, ids, shown_average = answers
    passed = (
        0 < len(errors) == len(shown_errors) - 1
        and int(ids[0]) == 200
        and abs(float(shown_average[0]) - average) < 1e-6
    )
    return Seen(passed, f"{len(errors)} errors, {ids[0]} ids, {float(shown_average[0]):.2f} ms on average")
