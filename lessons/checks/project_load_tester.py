"""Checks of project 3, the load tester; they use the server of lesson 1."""

import json
import tempfile
from pathlib import Path

from lessons.catalogue import unit
from lessons.check import Lab, Seen, check

SERVER = unit("1").lab("server").path
MODULE = "lessons.projects.load_tester"


@check("G-18", expected="1000 requests, 0 failed; p50 <= p95 <= p99 <= max")
def reports_as_json(lab: Lab) -> Seen:
    """loadtest -n 1000 -c 10 --json FILE writes throughput, percentiles and errors."""
    with lab.server(str(SERVER)) as server, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.json"
        text = lab.run("-m", MODULE, server.url, "-n", 1000, "-c", 10, "--quiet", "--json", file)
        found = json.loads(file.read_text())
    latency = found["latency_ms"]
    ascending = 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    rates = found["requests_per_second"] > 0 and found["bytes_per_second"] > 0
    passed = found["requests"] == 1000 and found["failed"] == 0 and ascending and rates and "p99" in text
    figures = ", ".join(f"{name} {latency[name]:.1f} ms" for name in ("p50", "p95", "p99", "max"))
    return Seen(passed, f"{found['requests']} requests, {found['failed']} failed; {figures}")


@check("G-18", expected="at twice the rate that it can serve: since due more than 3 times since sent, p50")
def corrects_for_coordinated_omission(lab: Lab) -> Seen:
    """In the open loop, a latency begins when the request is due, so that waiting for a slow server counts."""
    # One request takes at least 10 ms, so at most 100 a second; due are 200 a second, for 1 s.
    with lab.server(str(SERVER), "--work-ms", 10) as server:
        arguments = [server.url, "-c", 1, "-d", 1, "--rate", 200, "--quiet", "--json", "-"]
        found = json.loads(lab.run("-m", MODULE, *arguments))
    due, sent = found["latency_ms"]["p50"], found["uncorrected_latency_ms"]["p50"]
    return Seen(due > 3 * sent, f"p50 since due {due:.0f} ms, since sent {sent:.0f} ms")
