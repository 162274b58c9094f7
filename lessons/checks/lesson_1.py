"""Checks of lesson 1, capacity."""

import json
import os
import re
import resource
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


WORK_MS = 30
"""How long a request takes in the checks. It is longer than the plan's 10 ms, so that the wait decides, and not a
machine that is busy with other things: one at a time gives at most 33 requests/s, 50 threads up to 1,600."""


@check("E1-01", expected="open files, processors and memory of this machine")
def limits(lab: Lab) -> Seen:
    """limits.py shows what one machine has."""
    out = lab.run("limits.py")
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = rf"open files\D+{open_files}\b[^\n]*\nprocessors\s+{os.cpu_count()}\nmemory\s+\d+\.\d GB\nload.*"
    return Seen(re.match(wanted, out) is not None, " ".join(out.split()))


@check("E1-04", expected="1,000,000 active, 23.15 uploads/s, 231.5 reads/s, 4 TB/day, 1.46 PB/year, SSD: yes")
def estimation(lab: Lab) -> Seen:
    """estimate.py computes the example of the photo service."""
    out = lab.run("estimate.py")
    wanted = (
        "1,000,000 a day",
        "2,000,000 a day, 23.15 a second",
        "231.5 a second",
        "4 TB a day, 1.46 PB a year",
        "? yes",
    )
    return Seen(all(text in out for text in wanted), "; ".join(out.splitlines()))


@check("E1-05", expected="threads serve more than 4 times as many requests/s")
def threads_beside_one_thread(lab: Lab) -> Seen:
    """With 50 clients and the same work, threaded_server.py serves many times what server.py does."""
    single, threaded = (
        load(lab, script, "-n", requests, "-c", 50, options=("--work-ms", WORK_MS))["requests_per_second"]
        for script, requests in (("server.py", 60), ("threaded_server.py", 400))
    )
    return Seen(threaded > 4 * single, f"{threaded:.0f} and {single:.0f} requests/s, {threaded / single:.1f} times")


@check("E1-06", expected="8 rows; server.py at most 50 requests/s, threaded_server.py with 50 clients above 3 times")
def exercise(lab: Lab) -> Seen:
    """compare_servers.py measures both servers at 1, 10, 50 and 100 clients."""
    out = lab.run("compare_servers.py", "-n", 30, "--work-ms", 20)
    rows = re.findall(r"^(\w+\.py) +(\d+) +([\d.]+) +([\d.]+)$", out, re.MULTILINE)
    rates = {(script, int(clients)): float(rate) for script, clients, rate, _ in rows}
    single = max(rate for (script, _), rate in rates.items() if script == "server.py")
    times = rates["threaded_server.py", 50] / rates["server.py", 50]
    # One request after the other, each 20 ms: no machine is too fast for this bound, and a busy one only slower.
    passed = len(rows) == len(rates) == 8 and single <= 51 and times > 3
    return Seen(passed, f"{len(rows)} rows; server.py {single:.0f} at most, with 50 clients {times:.1f} times")
