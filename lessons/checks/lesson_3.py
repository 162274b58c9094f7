"""Checks of lesson 3, load balancing."""

import contextlib
import json
import re
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lessons.check import Lab, RunningServer, Seen, check, stop

PULL_S = 300
"""The first run may pull nginx's image."""


@dataclass(frozen=True)
class Balanced:
    """Three workers behind a load balancer."""

    workers: tuple[RunningServer, ...]
    balancer: RunningServer

    @property
    def ports(self) -> list[str]:
        return [str(worker.port) for worker in self.workers]


@contextlib.contextmanager
def balanced(lab: Lab, script: str, *options: object, slow_ms: float = 0) -> Iterator[Balanced]:
    """Start three workers, of which the first takes ``slow_ms``, and a load balancer in front of them."""
    lab.start_within_s = PULL_S
    with contextlib.ExitStack() as stack:
        works_ms = (slow_ms, 0, 0)
        workers = tuple(
            stack.enter_context(lab.server("worker.py", "{port}", "--work-ms", work_ms)) for work_ms in works_ms
        )
        ports = [worker.port for worker in workers]
        balancer = lab.server(script, "--workers", *ports, *options)
        yield Balanced(workers, stack.enter_context(balancer))


def asked(lab: Lab, url: str, number: int) -> list[str]:
    """Return which worker answered each of several requests."""
    return lab.run("ask.py", url, "-n", number).splitlines()[:number]


@check("E3-01", expected="each of 3 workers answers with its port and the time")
def workers(lab: Lab) -> Seen:
    """worker.py PORT answers with its own port."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(lab.server("worker.py", "{port}")) for _ in range(3)]
        answers = [json.load(urllib.request.urlopen(server.url, timeout=10)) for server in servers]
    right = [answer["worker"] == server.port for answer, server in zip(answers, servers, strict=True)]
    return Seen(all(right) and all(answer["time"] > 0 for answer in answers), f"{sum(right)} of 3 answer so")


@check("E3-02", expected="syntax is ok; /health: 200 ok text/plain", needs=("docker",))
def configuration(lab: Lab) -> Seen:
    """nginx accepts lb-nginx.conf, and answers /health itself."""
    tested = lab.run("nginx_lb.py", "--test", timeout_s=PULL_S)
    text = (Path(tempfile.gettempdir()) / "lb-nginx.conf").read_text()
    parts = ("worker_connections 128;", "upstream backend", ":8083 fail_timeout=10s;", "X-Real-IP $remote_addr")
    with lab.server("nginx_lb.py") as server, urllib.request.urlopen(f"{server.url}/health", timeout=10) as answer:
        body, kind = answer.read().decode(), answer.headers["Content-Type"]
    passed = "syntax is ok" in tested and all(part in text for part in parts) and (body, kind) == ("ok", "text/plain")
    return Seen(passed, f"{tested.splitlines()[0].partition(': ')[2]}; /health: {body} {kind}")


@check("E3-03", expected="each of 3 workers 3 times, in rounds", needs=("docker",))
def round_robin(lab: Lab) -> Seen:
    """nginx gives 9 requests to the workers in turn."""
    with balanced(lab, "nginx_lb.py") as one:
        answers = asked(lab, one.balancer.url, 9)
        ports = one.ports
    named = [f"worker {ports.index(answer) + 1}" if answer in ports else answer for answer in answers]
    return Seen(named[:3] * 3 == named and len(set(named)) == 3, ", ".join(named))


@check("E3-04", expected="user:100 server-2, user:200 server-3, user:300 server-2, user:100 server-2")
def same_key_same_server(lab: Lab) -> Seen:
    """The ring gives a key the same server each time."""
    lines = re.findall(r"^(user:\d+) -> (server-\d)$", lab.run("consistent_hash.py"), re.MULTILINE)
    wanted = [("user:100", "server-2"), ("user:200", "server-3"), ("user:300", "server-2"), ("user:100", "server-2")]
    return Seen(lines == wanted, ", ".join(f"{key} {server}" for key, server in lines))


@check("E3-05", expected="about a third (28 to 40 %) of 1000 keys move, all of them from server-2")
def removal(lab: Lab) -> Seen:
    """When server-2 leaves, only its keys move."""
    out = lab.run("consistent_hash.py")
    found = re.search(r"moved: (\d+) of 1000 .*\nof these, not from server-2: (\d+)", out)
    assert found, out
    moved, others = int(found[1]), int(found[2])
    return Seen(280 <= moved <= 400 and others == 0, f"{moved} of 1000 move, {others} of them from another server")


@check("E3-06", expected="6 requests answered by the other two, no error", needs=("docker",))
def worker_fails(lab: Lab) -> Seen:
    """After kill -9 of a worker, nginx gives its requests to the others."""
    with balanced(lab, "nginx_lb.py") as one:
        one.workers[1].kill()
        answers = asked(lab, one.balancer.url, 6)
        first, _, third = one.ports
    errors = sum(not answer.isdigit() for answer in answers)
    return Seen(set(answers) == {first, third}, f"{len(set(answers))} workers answer 6 requests, {errors} errors")


@check("E3-07", expected="round robin: each 3 of 9; after kill -9 of one, the others and no error")
def balancer_in_python(lab: Lab) -> Seen:
    """balancer.py gives requests in turn, and leaves out a worker that failed."""
    with balanced(lab, "balancer.py") as one:
        before = asked(lab, one.balancer.url, 9)
        one.workers[1].kill()
        after = asked(lab, one.balancer.url, 6)
        first, second, third = one.ports
    passed = [before.count(port) for port in (first, second, third)] == [3, 3, 3] and set(after) == {first, third}
    return Seen(passed, f"{[before.count(port) for port in (first, second, third)]}, then {len(set(after))} workers")


@check("E3-07", expected="the slow worker gets fewer than each of the others (round robin: 10 of 30 each)")
def least_connections(lab: Lab) -> Seen:
    """With least connections, a slow worker gets fewer requests than the others."""
    with balanced(lab, "balancer.py", "--method", "least-connections", slow_ms=1000) as one:
        with contextlib.ExitStack() as stack:
            clients = [lab.start("ask.py", one.balancer.url, "-n", 10) for _ in range(3)]
            for client in clients:
                stack.callback(stop, client)
            lines = [line for client in clients for line in client.communicate(timeout=60)[0].splitlines()[:10]]
        counts = [lines.count(port) for port in one.ports]
    return Seen(sum(counts) == 30 and counts[0] < min(counts[1:]), f"of 30 requests: {counts}, the slow one first")


@check(
    "E3-08", expected="upstream … Connection refused in the log; at most 1 of 1000 requests failed", needs=("docker",)
)
def kill_under_load(lab: Lab) -> Seen:
    """A worker is killed while 20 clients load nginx, and the error log tells of it."""
    # A second after the failure, nginx tries the worker again. By then nobody listens on its port.
    with balanced(lab, "nginx_lb.py", "--rest-s", 1) as one, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "r.json"
        # The open loop lasts 3 s on every machine, so the kill after 1 s is in its middle.
        command = [
            "lessons.projects.load_tester",
            one.balancer.url,
            "-c",
            20,
            "--rate",
            334,
            "-n",
            1000,
            "--json",
            file,
        ]
        testing = lab.start("-m", *command)
        try:
            assert testing.stdout
            testing.stdout.readline()  # progress, after a second
            one.workers[1].kill()
            out = testing.communicate(timeout=60)[0]
        finally:
            stop(testing)
        assert file.exists(), out
        found, log = json.loads(file.read_text()), one.balancer.log()
    refused = len(re.findall(r"Connection refused\) while connecting to upstream", log))
    # An answer that had begun when its worker was killed cannot come from another one.
    passed = refused > 0 and found["requests"] == 1000 and found["failed"] <= 1
    return Seen(passed, f"{refused} lines Connection refused; {found['failed']} of {found['requests']} requests failed")
