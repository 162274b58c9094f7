"""``GET /users/{id}`` of the users example against the same query by psycopg, over as many connections, in turns.

One process serves; the clients run in a process of their own, on the same processors as the service and the servers.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.example_service import running_service
from bench.load import HttpTarget, Job, Outcome, SqlTarget, measure
from bench.measure import (
    SETUP,
    connect,
    docker_answers,
    free_base_port,
    median,
    percentile,
    print_table,
    remove_cluster,
    run,
)
from citus_cluster.runtime.postgres import ConnectionInfo

_NAME = "citus-bench-users"
_CONNECTIONS = 10
_SECONDS = 6
_ROUNDS = 5
_USERS = 10_000
_GOAL = 0.5
_QUERY = b"SELECT user_id, name, email, created_at FROM users WHERE user_id = 1"


@dataclass(frozen=True)
class _Cluster:
    root: Path
    coordinator: ConnectionInfo


def bench_examples_users() -> None:
    if not docker_answers():
        print("\nUsers example: left out, since no Docker engine answers")
        return
    with _running_cluster() as cluster, running_service("citus_users", cluster.root) as port:
        http = HttpTarget(port, "/users/1", "")
        # The first request makes the table.
        measure(Job(http, 1, 1))
        _fill(cluster.coordinator)
        targets: dict[str, HttpTarget | SqlTarget] = {
            "psycopg (floor)": SqlTarget(cluster.coordinator, _QUERY),
            "GET /users/1": http,
        }
        seen: dict[str, list[Outcome]] = {name: [] for name in targets}
        for _ in range(_ROUNDS):
            for name, target in targets.items():
                seen[name].append(measure(Job(target, _CONNECTIONS, _SECONDS)))
    floor, served = seen.values()
    ratio = median([one.rate / base.rate for base, one in zip(floor, served, strict=True)])
    rows = [
        (name, f"{median([one.rate for one in of]):.0f}", *(
            f"{median([percentile(one.latencies_ms, part) for one in of]):.2f}" for part in (0.5, 0.99)
        ))
        for name, of in seen.items()
    ]  # fmt: skip
    title = f"GET /users/{{id}} over {_CONNECTIONS} connections; {ratio:.2f} of the same SQL (goal {_GOAL})"
    print_table(title, ("", "requests/s", "p50 ms", "p99 ms"), rows)


@contextlib.contextmanager
def _running_cluster() -> Iterator[_Cluster]:
    with tempfile.TemporaryDirectory() as folder:
        root, port = Path(folder), free_base_port()
        options = [
            "--services=citus,example-users",
            "--workers=2",
            f"--port={port}",
            f"--example-users-port={port + 3}",
        ]
        size = ["--memory=7840", "--cpus=2"]
        try:
            run([*SETUP, *options, f"--name={_NAME}", f"--output-dir={root}", *size, "--up"])
            # The component itself would take part of the processors.
            run(["docker", "compose", "stop", "example-users"], cwd=root)
            password = (root / "generated/secrets/roles/example_users_password").read_text()
            yield _Cluster(root, ConnectionInfo("127.0.0.1", port, "example_users", "postgres", password))
        finally:
            remove_cluster(root)


def _fill(server: ConnectionInfo) -> None:
    """Make the table as large as it would be."""
    with connect(server) as connection:
        connection.execute(
            "INSERT INTO users (name, email) SELECT 'user ' || n, n || '@example.com' FROM generate_series(3, %s) AS n",
            [_USERS],
        )
        connection.execute("ANALYZE users")
