"""The admin API under load: latency at a constant rate, throughput, its processor time and memory, and a crowd.

``GET /api/v1/nodes/active`` runs in turns with the same query by psycopg, and with a route that does nothing.
At a constant rate, a latency begins when the request is due. The lower bound is the query by psycopg over the same
number of connections. In the second part, every connection sends its next request at once, and the lower bound is the
empty route: the same process serves it, behind the same middleware, but it queries no server. Clients run in their own
process on the same processors, so the last table shows what each of them used. For lists that the API keeps, the
processor time of its process counts, which other work on the processors hardly changes. At last, 500 clients send one
request after another for a minute. The whole takes about six minutes.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import CrowdTarget, HttpTarget, Job, Outcome, SqlTarget, measure
from bench.measure import (
    CLUSTER,
    SETUP,
    ProcessorUse,
    connect,
    docker_answers,
    free_base_port,
    median,
    percentile,
    print_table,
    processor_s,
    progress,
    remove_cluster,
    resident_mb,
    run,
)
from citus_cluster.runtime.postgres import ConnectionInfo

_NAME = "citus-bench-api"
_WORKERS = 3
_CONNECTIONS = 50
_RATE = 200
_ROUNDS = 5
_RATE_S = 10
_CLOSED_S = 5
_WARMUP_S = 1.0
_PATH = "/api/v1/nodes/active"
_EMPTY_PATH = "/api/v1/empty"
_QUERY = b"SELECT node_name, node_port FROM citus_get_active_worker_nodes() ORDER BY 1, 2"
_KEPT_PATHS = ("/api/v1/tables", "/api/v1/shards?limit=100")
_TABLES = 20
_KEPT_GOAL = 2000
_CROWD = 500
_CROWD_PATHS = (_PATH, "/health", "/health/ready", *_KEPT_PATHS)

# The container's own command, with an additional route of the kind that nodes/active is.
_EMPTY_ROUTE = f"""services:
  admin-api:
    command:
      - python
      - -c
      - |
        from fastapi import Request, Response
        from admin_api import __main__, app
        from admin_api.responses import VisibleJSONResponse
        from admin_api.routing import DirectRoute
        make = app.create_app
        async def empty(request: Request) -> Response:
            return VisibleJSONResponse([])
        def create_app():
            made = make()
            made.router.add_api_route("{_EMPTY_PATH}", empty, response_model=None, route_class_override=DirectRoute)
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
    nodes: Sequence[str]
    """The containers of the coordinator and the workers."""


@dataclass(frozen=True)
class _Round:
    """One load, and what used the processors meanwhile; ``seconds`` is its length with the warm-up."""

    outcome: Outcome
    use: ProcessorUse
    seconds: float


@dataclass(frozen=True)
class _Cost:
    """Requests to a path: the load, and the processor seconds of the API meanwhile."""

    outcome: Outcome
    cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        return len(self.outcome.latencies_ms) / self.cpu_s


def bench_api() -> None:
    if not docker_answers():
        print("\nAdmin API: skipped, because no Docker engine answers")
        return
    with running_api(_NAME, services="citus,admin-api", override=_EMPTY_ROUTE) as api:
        progress(f"creating {_TABLES} tables")
        with connect(api.coordinator) as connection:
            for number in range(_TABLES):
                connection.execute(f"CREATE TABLE kept_{number} (id bigint)".encode())
                connection.execute("SELECT create_distributed_table(%s, 'id')", [f"kept_{number}"])
        route, empty, *kept = (HttpTarget(api.port, path, api.token) for path in (_PATH, _EMPTY_PATH, *_KEPT_PATHS))
        query = SqlTarget(api.coordinator, _QUERY)
        progress("first requests to each path")
        for target in (route, empty, *kept):
            _closed(api, target)
        resident = [resident_mb(api.container)]
        paced, closed, costs = [], [], []
        for number in range(1, _ROUNDS + 1):
            progress(f"round {number} of {_ROUNDS}: {_RATE} requests a second")
            paced.append((_paced(api, query), _paced(api, route)))
            progress(f"round {number} of {_ROUNDS}: one request after another")
            closed.append((_closed(api, empty), _closed(api, route)))
            costs.append([_cost(api, target) for target in (empty, *kept)])
        resident.append(resident_mb(api.container))
        progress(f"{_CROWD} clients for {_crowd_s():g} s")
        crowd = _crowd(api)
        resident.append(resident_mb(api.container))
        progress("removing the cluster")
    _print_latencies([pair[0].outcome for pair in paced], [pair[1].outcome for pair in paced])
    _print_throughput([pair[0].outcome for pair in closed], [pair[1].outcome for pair in closed])
    _print_costs(costs)
    _print_crowd(crowd)
    print_table(
        "Resident memory of the API, MB (goal: flat)",
        ("after the first requests to each path", "after all rounds", f"after the {_CROWD} clients"),
        [[f"{value:.1f}" for value in resident]],
    )
    _print_use(
        api,
        {
            f"the query by psycopg, {_RATE} a second": [pair[0] for pair in paced],
            f"GET {_PATH}, {_RATE} a second": [pair[1] for pair in paced],
            "an empty route, one after another": [pair[0] for pair in closed],
            f"GET {_PATH}, one after another": [pair[1] for pair in closed],
        },
    )


@contextlib.contextmanager
def running_api(name: str, *, services: str, override: str = "", memory: str | None = None) -> Iterator[RunningApi]:
    """Create and start a cluster with this name, and remove it at the end; ``override`` is a Compose file's text."""
    with tempfile.TemporaryDirectory() as folder:
        progress(f"starting a cluster of {_WORKERS} workers")
        root = Path(folder)
        port = free_base_port()
        admin_port = port + _WORKERS + 1
        flags = ("--port", "--admin-port", "--pg14-port", "--redis-port", "--cassandra-port")
        taken = (port, admin_port, *range(admin_port + 1, admin_port + 7, 2))
        ports = [f"{flag}={one}" for flag, one in zip(flags, taken, strict=True)]
        options = [f"--workers={_WORKERS}", f"--name={name}", f"--services={services}", f"--output-dir={root}"]
        run([*SETUP, *options, *ports, *([f"--memory={memory}"] if memory else [])])
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
                nodes=[f"{name}-coordinator", *(f"{name}-worker{number}" for number in range(1, _WORKERS + 1))],
            )
        finally:
            remove_cluster(root)


def _paced(api: RunningApi, target: HttpTarget | SqlTarget) -> _Round:
    return _watched(api, Job(target, _CONNECTIONS, _RATE_S, _RATE, warmup_s=_WARMUP_S))


def _closed(api: RunningApi, target: HttpTarget) -> _Round:
    return _watched(api, Job(target, _CONNECTIONS, _CLOSED_S, warmup_s=_WARMUP_S))


def _watched(api: RunningApi, job: Job) -> _Round:
    containers = (api.container, *api.nodes)
    before = ProcessorUse.now(containers)
    outcome = measure(job)
    return _Round(outcome, ProcessorUse.now(containers).since(before), job.warmup_s + job.seconds)


def _cost(api: RunningApi, target: HttpTarget) -> _Cost:
    before = processor_s(api.container)
    outcome = measure(Job(target, _CONNECTIONS, _CLOSED_S, warmup_s=0))
    return _Cost(outcome, processor_s(api.container) - before)


def _crowd(api: RunningApi) -> Outcome:
    return measure(Job(CrowdTarget(api.port, _CROWD_PATHS, api.token), _CROWD, _crowd_s(), warmup_s=0))


def _crowd_s() -> float:
    return float(os.environ.get("BENCH_CROWD_S", "60"))


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
        f"{_RATE_S} s in turns (goal: p50 at most 1 ms above the floor, p99 below 10 ms)",
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
        f"{_CLOSED_S} s in turns (goal: at least 0.7)",
        ("what", "requests/s", "ratio", "client's processor ms a request"),
        rows,
    )


def _print_costs(costs: Sequence[Sequence[_Cost]]) -> None:
    per_path = list(zip(*costs, strict=True))
    base = median([cost.per_cpu_s for cost in per_path[0]])
    rows = []
    for name, found in zip(("an empty route (floor)", *_KEPT_PATHS), per_path, strict=True):
        rate = median([cost.per_cpu_s for cost in found])
        size = f"{median([cost.outcome.body_bytes for cost in found]) / 1000:.1f}"
        rows.append((name, size, f"{rate:,.0f}", f"{rate / base:.2f}", f"{1000 / rate:.2f}"))
    print_table(
        f"Lists that the API keeps, {_TABLES} tables of 32 shards, {_CONNECTIONS} connections, median of {_ROUNDS} "
        f"rounds of {_CLOSED_S} s (goal: at least {_KEPT_GOAL:,} a second on one processor)",
        ("what", "kB", "requests for each second of the API's processor time", "ratio", "ms of it a request"),
        rows,
    )


def _print_crowd(crowd: Outcome) -> None:
    other = {status: count for status, count in crowd.statuses.items() if not 200 <= status < 300 and status != 429}
    print_table(
        f"{_CROWD} clients that send one request after another for {crowd.wall_s:.0f} s to {len(_CROWD_PATHS)} paths "
        "(goal: no answer other than 2xx and 429)",
        ("requests", "requests/s", "answers by status", "others", "p50 ms", "p99 ms", "worst ms"),
        [
            (
                f"{len(crowd.latencies_ms):,}",
                f"{crowd.rate:,.0f}",
                ", ".join(f"{status}: {count:,}" for status, count in sorted(crowd.statuses.items())),
                sum(other.values()),
                *(f"{percentile(crowd.latencies_ms, part):.0f}" for part in (0.5, 0.99, 1)),
            )
        ],
    )


def _print_use(api: RunningApi, loads: Mapping[str, Sequence[_Round]]) -> None:
    """Print which part of one processor everybody used; 100 times the number of processors is the most."""

    def percent(rounds: Sequence[_Round], used_s: Callable[[_Round], float]) -> str:
        return f"{median([100 * used_s(one) / one.seconds for one in rounds]):.0f}"

    def client_s(one: _Round) -> float:
        return one.outcome.client_cpu_s * one.seconds / one.outcome.wall_s

    def rest_s(one: _Round) -> float:
        return (one.use.machine_s or 0) - sum(one.use.containers.values()) - client_s(one)

    coordinator, *workers = api.nodes
    rows = [
        (
            name,
            percent(rounds, client_s),
            percent(rounds, lambda one: one.use.containers[api.container]),
            percent(rounds, lambda one: one.use.containers[coordinator]),
            percent(rounds, lambda one: sum(one.use.containers[worker] for worker in workers)),
            percent(rounds, rest_s) if all(one.use.machine_s is not None for one in rounds) else "-",
        )
        for name, rounds in loads.items()
    ]
    print_table(
        f"Use of the {os.cpu_count()} processors, % of one, median of {_ROUNDS} rounds",
        ("load", "client", "API", "coordinator", "workers", "the rest: Docker's proxy and logs, the client's start"),
        rows,
    )


def _percentile(outcomes: Sequence[Outcome], part: float) -> float:
    return median([percentile(outcome.latencies_ms, part) for outcome in outcomes])


def _client_ms(outcomes: Sequence[Outcome]) -> float:
    return median([1000 * outcome.client_cpu_s / len(outcome.latencies_ms) for outcome in outcomes])
