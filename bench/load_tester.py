"""The load tester of the course beside Apache's ab and wrk, on the same servers in the same run.

On a server that takes 10 ms for each request, all must give the same figures. On nginx, which answers at once, the
tester's own limit shows: requests per second on one core.
"""

import contextlib
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ROOT, docker_answers, free_base_port, median, print_table
from citus_cluster.runtime.ports import answers

_RUNS = 5
_CLIENTS = 20
_SECONDS = 3
_NGINX_IMAGE = "nginx:1.28"
_NGINX = """\
worker_processes 1;
events {}
http { access_log off; keepalive_requests 1000000; server { listen 8080; location / { return 200 'ok'; } } }
"""
_WAITING = """\
import asyncio, sys
async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: keep-alive\\r\\n\\r\\nok")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    await (await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=512)).serve_forever()
asyncio.run(main())
"""


@dataclass(frozen=True)
class _Figures:
    per_second: float
    p50_ms: float
    p99_ms: float


def bench_load_tester() -> None:
    tools: dict[str, Callable[[str], _Figures]] = {"loadtest": _loadtest, "ab": _ab, "wrk": _wrk}
    missing = [name for name in ("ab", "wrk") if shutil.which(name) is None]
    if len(missing) == 2:
        print("\nLoad tester: skipped, because neither ab nor wrk is installed (apt-get install apache2-utils wrk)")
        return
    for name in missing:
        del tools[name]
    port = free_base_port(1)
    with _waiting_server(port):
        _compare(f"A server that takes 10 ms, {_CLIENTS} clients", port, tools)
    if not docker_answers():
        print("\nLoad tester on nginx: skipped, because no Docker engine answers")
        return
    with _nginx(port):
        _compare(f"nginx, which answers at once, {_CLIENTS} clients", port, tools)


def _compare(title: str, port: int, tools: Mapping[str, Callable[[str], _Figures]]) -> None:
    """Run the tools in turn, so that what else this machine does meets all of them."""
    url = f"http://127.0.0.1:{port}/"
    runs: dict[str, list[_Figures]] = {name: [] for name in tools}
    for _ in range(_RUNS):
        for name, measure in tools.items():
            runs[name].append(measure(url))
    medians = {
        name: _Figures(
            *(median(values) for values in zip(*((f.per_second, f.p50_ms, f.p99_ms) for f in found), strict=True))
        )
        for name, found in runs.items()
    }
    own = medians["loadtest"]
    rows = [
        (
            name,
            f"{found.per_second:.0f}",
            f"{found.p50_ms:.2f}",
            f"{found.p99_ms:.2f}",
            f"{own.per_second / found.per_second:.2f}",
            f"{own.p50_ms / found.p50_ms:.2f}",
            f"{own.p99_ms / found.p99_ms:.2f}",
        )
        for name, found in medians.items()
    ]
    columns = ("tool", "requests/s", "p50, ms", "p99, ms", "loadtest / tool: requests/s", "p50", "p99")
    print_table(f"Load tester: {title}, median of {_RUNS} runs of {_SECONDS} s", columns, rows)


def _loadtest(url: str) -> _Figures:
    command = [sys.executable, "-m", "lessons.projects.load_tester", url, "-c", str(_CLIENTS), "-d", str(_SECONDS)]
    found = json.loads(_output([*command, "--quiet", "--json", "-"]))
    assert found["failed"] == 0, found
    return _Figures(found["requests_per_second"], found["latency_ms"]["p50"], found["latency_ms"]["p99"])


def _ab(url: str) -> _Figures:
    with tempfile.NamedTemporaryFile("r") as file:
        # -t sets -n to 50,000, so -n follows it.
        command = ["ab", "-q", "-k", "-t", str(_SECONDS), "-n", "10000000", "-c", str(_CLIENTS), "-e", file.name, url]
        out = _output(command)
        served = {row[0]: row[1] for row in csv.reader(file)}
    assert re.search(r"Failed requests: +0\b", out), out
    found = re.search(r"Requests per second: +([\d.]+)", out)
    assert found, out
    return _Figures(float(found[1]), float(served["50"]), float(served["99"]))


def _wrk(url: str) -> _Figures:
    out = _output(["wrk", "-t1", f"-c{_CLIENTS}", f"-d{_SECONDS}s", "--latency", url])
    found = re.search(r"Requests/sec: +([\d.]+)", out)
    assert found and "Socket errors" not in out, out
    return _Figures(float(found[1]), _wrk_ms(out, "50"), _wrk_ms(out, "99"))


def _wrk_ms(out: str, percent: str) -> float:
    found = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s)$", out, re.MULTILINE)
    assert found, out
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def _waiting_server(port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", _WAITING, str(port)])
    try:
        _wait_for(port)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _nginx(port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "nginx.conf").write_text(_NGINX)
        Path(folder).chmod(0o755)
        mount = f"{folder}:/bench:ro"
        command = ["docker", "run", "-d", "-p", f"127.0.0.1:{port}:8080", "-v", mount, "--entrypoint", "nginx"]
        container = _output([*command, _NGINX_IMAGE, "-g", "daemon off;", "-c", "/bench/nginx.conf"]).strip()
        try:
            _wait_for(port)
            yield
        finally:
            subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=True)


def _wait_for(port: int) -> None:
    for _ in range(100):
        if answers("127.0.0.1", port, b"GET / HTTP/1.0\r\n\r\n", timeout_s=2):
            return
        time.sleep(0.1)
    sys.exit(f"the server on port {port} did not start")
