"""Checks of lesson 1, capacity."""

import json
import urllib.request
from typing import Any

from lessons.check import Lab, Seen, check


@check("E1-02", expected="status ok, Content-Type application/json, right Content-Length")
def server_answers(lab: Lab) -> Seen:
    """server.py answers with the status and the time as JSON."""
    with lab.server("server.py") as server, urllib.request.urlopen(server.url, timeout=10) as answer:
        body = answer.read()
        document = json.loads(body)
        kind, length = answer.headers["Content-Type"], answer.headers["Content-Length"]
    passed = document["status"] == "ok" and document["timestamp"] > 0 and kind == "application/json"
    return Seen(
        passed and length == str(len(body)), f"status {document['status']}, {kind}, {length} of {len(body)} bytes"
    )


@check("E1-03", expected="0 of 1000 requests failed")
def server_under_load(lab: Lab) -> Seen:
    """server.py answers 1000 requests of 10 clients."""
    found = load(lab, "server.py", "-n", 1000, "-c", 10)
    rate, mean = found["requests_per_second"], found["latency_ms"]["mean"]
    text = f"{found['failed']} of {found['requests']} failed, {rate:.0f} requests/s, {mean:.1f} ms on average"
    return Seen(found["requests"] == 1000 and found["failed"] == 0, text)


def load(lab: Lab, script: str, *arguments: object, options: tuple[object, ...] = ()) -> dict[str, Any]:
    """Start a server with ``options``, run the load tester on it, and return its report."""
    with lab.server(script, *options) as server:
        command = ["-m", "lessons.projects.load_tester", server.url, "--quiet", "--json", "-", *arguments]
        report: dict[str, Any] = json.loads(lab.run(*map(str, command)))
    return report
