"""The exercise: both servers at 1, 10, 50 and 100 clients, with the same work for each request.

It starts server.py and threaded_server.py, and measures them with the load tester of project 3.
"""

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SERVERS = ("server.py", "threaded_server.py")
CLIENTS = (1, 10, 50, 100)


def measure(script: str, clients: int, requests: int, work_ms: float) -> tuple[float, float]:
    """Return requests per second, and the mean latency in ms."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(HERE / script), "--port", port, "--work-ms", str(work_ms)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout
        if not server.stdout.readline():  # it prints a line once it listens
            sys.exit(f"{script} did not start.")
        tester = [sys.executable, "-m", "lessons.projects.load_tester", f"http://127.0.0.1:{port}", "--quiet"]
        tester += ["-c", str(clients), "-n", str(max(requests, clients)), "--timeout", "60", "--json", "-"]
        done = subprocess.run(tester, stdout=subprocess.PIPE)
        if done.returncode:
            sys.exit("The load tester failed. Run this lab as: python -m lessons 1 compare_servers")
        found = json.loads(done.stdout)
        return found["requests_per_second"], found["latency_ms"]["mean"]
    finally:
        server.kill()
        server.communicate()


def measure_all(requests: int, work_ms: float) -> Iterator[tuple[str, int, float, float]]:
    for script in SERVERS:
        for clients in CLIENTS:
            yield script, clients, *measure(script, clients, requests, work_ms)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "-n", "--requests", type=int, default=400, help="for each row, at least 1 per client (default: 400)"
    )
    parser.add_argument("--work-ms", type=float, default=10, help="how long each request takes (default: 10)")
    options = parser.parse_args()
    started = time.monotonic()
    print(f"{'server':<20}{'clients':>8}{'requests/s':>12}{'mean latency, ms':>18}")
    for script, clients, rate, mean_ms in measure_all(options.requests, options.work_ms):
        print(f"{script:<20}{clients:>8}{rate:>12.1f}{mean_ms:>18.1f}", flush=True)
    print(f"{time.monotonic() - started:.0f} s")
