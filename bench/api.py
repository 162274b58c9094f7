"""``GET /api/v1/nodes/active`` against the same query by psycopg, and against a route that does nothing, in turns.

At a constant rate, a latency begins when the request is due. The lower bound is the query by psycopg over the same
number of connections. In the second part, every connection sends its next request at once, and the lower bound is the
empty route: the same process serves it, behind the same middleware, but it queries no server. Clients run in their own
process on the same processors.
"""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import HttpTarget, Job, Outcome, SqlTarget, measure
from bench.measure import CLUSTER, SETUP, free_base_port, median, percentile, print_table, remove_cluster, run
from citus_cluster.runtime.postgres import ConnectionInfo

_NAME = "citus-bench-api"
_WORKERS = 3
_CONNECTIONS = 50
_RATE = 200
_ROUNDS = 5
_RATE_S = 12
_CLOSED_S = 6
_PATH = "/api/v1/nodes/active"
_EMPTY_PATH = "/api/v1/empty"
_QUERY = b"SELECT node_name, node_port FROM citus_get_active_worker_nodes() ORDER BY 1, 2"

# The container's own command, with an additional route.
_EMPTY_ROUTE = f"""services:
  admin-api:
    command:
      - python
      - -c
      - |
        from admin_api import __main__, app
        make = app.create_app
        async def empty() -> list[str]:
            return []
        def create_app():
            made = make()
            made.add_api_route("{_EMPTY_PATH}", empty)
            return made
        app.create_app = create_app
        __main__.main()
"""


@dataclass(frozen=True)
class RunningApi:
    """The admin API of a running cluster."""

    container: str
    port: int
    token: str = field(repr=False)
    coordinator: ConnectionInfo


def bench_api() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "version"], capture_output=True).returncode:
        print("\nAdmin API: skipped, because no Docker engine answers")
        return
    with running_api(_NAME, services="citus,admin-api", override=_EMPTY_ROUTE) as api:
        route = HttpTarget(api.port, _PATH, api.token)
        empty = HttpTarget(api.port, _EMPTY_PATH, api.token)
        query = SqlTarget(api.coordinator, _QUERY)
        paced = [(_paced(query), _paced(route)) for _ in range(_ROUNDS)]
        closed = [(_closed(empty), _closed(route)) for _ in range(_ROUNDS)]
    _print_latencies([pair[0] for pair in paced], [pair[1] for pair in paced])
    _print_throughput([pair[0] for pair in closed], [pair[1] for pair in closed])


@contextlib.contextmanager
def running_api(name: str, *, services: str, override: str = "") -> Iterator[RunningApi]:
    """Create and start a cluster with this name, and remove it at the end; ``override`` is a Compose file's text."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        port = free_base_port()
        admin_port = port + _WORKERS + 1
        flags = ("--port", "--admin-port", "--pg14-port", "--redis-port", "--cassandra-port")
        taken = (port, admin_port, *range(admin_port + 1, admin_port + 7, 2))
        ports = [f"{flag}={one}" for flag, one in zip(flags, taken, strict=True)]
        options = [f"--workers={_WORKERS}", f"--name={name}", f"--services={services}", f"--output-dir={root}"]
        run([*SETUP, *options, *ports])
        secrets = root / "generated/secrets"
        try:
            run([*CLUSTER, "up", f"--dir={root}"])
            if override:
                (root / "override.yml").write_text(override)
                files = ["-f", "docker-compose.yml", "-f", "override.yml"]
                run(["docker", "compose", *files, "up", "-d", "--wait", "admin-api"], cwd=root)
            yield RunningApi(
                container=f"{name}-admin-api",
                port=admin_port,
                token=(secrets / "admin_api_read_token").read_text().strip(),
                coordinator=ConnectionInfo(
                    "127.0.0.1", port, "postgres", "postgres", (secrets / "superuser_password").read_text()
                ),
            )
        finally:
            remove_cluster(root)


def _paced(target: HttpTarget | SqlTarget) -> Outcome:
    return measure(Job(target, _CONNECTIONS, _RATE_S, _RATE))


def _closed(target: HttpTarget) -> Outcome:
    return measure(Job(target, _CONNECTIONS, _CLOSED_S))


def _print_latencies(floor: Sequence[Outcome], ours: Sequence[Outcome]) -> None:
    base = _percentile(floor, 0.5)
    rows = [
        (
            name,
            *(f"{_percentile(outcomes, part):.2f}" for part in (0.5, 0.99)),
            f"{_percentile(outcomes, 0.5) - base:+.2f}" if outcomes is ours else "",
            f"{max(outcome.latencies_ms[-1] for outcome in outcomes):.1f}",
            f"{_client_ms(outcomes):.2f}",
        )
        for name, outcomes in (("the query by psycopg (floor)", floor), (f"GET {_PATH}", ours))
    ]
    print_table(
        f"Admin API, {_RATE} requests a second over {_CONNECTIONS} connections, median of {_ROUNDS} rounds of "
        f"{_RATE_S} s in turns (goal: p50 at most 2 ms above the floor, p99 below 15 ms)",
        ("what", "p50 ms", "p99 ms", "p50 above the floor, ms", "worst ms", "client's processor ms a request"),
        rows,
    )


def _print_throughput(empty: Sequence[Outcome], ours: Sequence[Outcome]) -> None:
    base = median([outcome.rate for outcome in empty])
    rows = []
    for name, outcomes in (("an empty route", empty), (f"GET {_PATH}", ours)):
        rate = median([outcome.rate for outcome in outcomes])
        rows.append((name, f"{rate:,.0f}", f"{rate / base:.2f}", f"{_client_ms(outcomes):.2f}"))
    print_table(
        f"Admin API, {_CONNECTIONS} connections that send one request after another, median of {_ROUNDS} rounds of "
        f"{_CLOSED_S} s in turns (goal: at least 0.5)",
        ("what", "requests/s", "ratio", "client's processor ms a request"),
        rows,
    )


def _percentile(outcomes: Sequence[Outcome], part: float) -> float:
    return median([percentile(outcome.latencies_ms, part) for outcome in outcomes])


def _client_ms(outcomes: Sequence[Outcome]) -> float:
    return median([1000 * outcome.client_cpu_s / len(outcome.latencies_ms) for outcome in outcomes])
