"""The sharding example: a look-up on the ring, by bisect and by the linear search, and ``GET /users/{id}`` against the
same SQL through psycopg over as many connections, in turns.

Clients run in a process of their own, on the same processors as the service and the server.
"""

import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from bench.example_service import running_service
from bench.load import HttpTarget, Job, SqlTarget, measure
from bench.measure import (
    ROOT,
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

_NAME = "citus-bench-sharding"
_CONNECTIONS = 10
_SECONDS = 6
_ROUNDS = 5
_USERS = 10_000
_LOOK_UP_GOAL_US = 2.0
_GOAL = 0.5
_EXAMPLES = ROOT / "examples"


def bench_examples_sharding() -> None:
    sys.path.insert(0, str(_EXAMPLES))
    _look_ups()
    if not docker_answers():
        print("\nRequests of the sharding example: left out, since no Docker engine answers")
        return
    port = free_base_port()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            size = ["--memory=7840", "--cpus=2"]
            pair = ["--services=pg14,example-sharding", f"--pg14-port={port}", f"--example-sharding-port={port + 3}"]
            run([*SETUP, *pair, f"--name={_NAME}", f"--output-dir={root}", *size, "--up"])
            # The component itself would take part of the processors.
            run(["docker", "compose", "stop", "example-sharding"], cwd=root)
            _requests(root, port)
        finally:
            remove_cluster(root)


def _look_ups() -> None:
    from consistent_hashing.ring import ConsistentHashing, linear_get_node

    ring = ConsistentHashing([f"shard_{number}" for number in range(1, 5)])
    keys = [str(number) for number in range(1000)]

    def microseconds(look_up: Callable[[str], str], repetitions: int) -> float:
        def run_all() -> None:
            for key in keys:
                look_up(key)

        return min(timeit.repeat(run_all, number=repetitions, repeat=7)) / repetitions / len(keys) * 1e6

    bisect_us = microseconds(ring.get_node, 100)
    linear_us = microseconds(lambda key: linear_get_node(ring.ring, ring._hash(key)), 2)
    rows = [
        ("bisect", f"{bisect_us:.2f}", f"{_LOOK_UP_GOAL_US:g}", "yes" if bisect_us < _LOOK_UP_GOAL_US else "NO"),
        ("linear search", f"{linear_us:.2f}", "", ""),
    ]
    print_table(f"A look-up among {len(ring.ring)} virtual nodes", ("", "µs", "goal below", "met"), rows)


def _requests(root: Path, port: int) -> None:
    from consistent_hashing.users import FIND

    environment = {**os.environ, "CLUSTER_DIR": str(root), "PYTHONPATH": str(_EXAMPLES), "POOL_SIZE": str(_CONNECTIONS)}
    command = [sys.executable, "-m", "consistent_hashing", "create"]
    subprocess.run(command, cwd=_EXAMPLES, env=environment, check=True, capture_output=True)
    password = (root / "generated/secrets/example_sharding_password").read_text()
    server = ConnectionInfo("127.0.0.1", port, "example_sharding", "shard_2", password)
    with connect(server) as connection:
        # User 1 is on shard_2; what else is there makes the table as large as it would be.
        connection.execute(
            "INSERT INTO users SELECT n, 'user ' || n, 'EU', n || '@example.com' FROM generate_series(1, %s) n",
            [_USERS],
        )
        connection.execute("ANALYZE users")
    query = FIND.replace("%s", "1").encode()
    with running_service("consistent_hashing", root, {"POOL_SIZE": str(_CONNECTIONS)}) as service:
        rounds = []
        for _ in range(_ROUNDS):
            floor = measure(Job(SqlTarget(server, query), _CONNECTIONS, _SECONDS))
            rounds.append((floor, measure(Job(HttpTarget(service, "/users/1", ""), _CONNECTIONS, _SECONDS))))
    rows = [
        (name, f"{median([one.rate for one in of]):.0f}", *(
            f"{median([percentile(one.latencies_ms, part) for one in of]):.2f}" for part in (0.5, 0.99)
        ))
        for name, of in (("psycopg", [pair[0] for pair in rounds]), ("GET /users/1", [pair[1] for pair in rounds]))
    ]  # fmt: skip
    ratio = median([http.rate / floor.rate for floor, http in rounds])
    title = f"GET /users/{{id}} over {_CONNECTIONS} connections; {ratio:.2f} of the same SQL (goal {_GOAL})"
    print_table(title, ("", "requests/s", "p50 ms", "p99 ms"), rows)
