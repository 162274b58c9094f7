"""The default stack, all of it at once, as ``make up`` starts it; the tests build on each other."""

import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cluster_support import require_images
from generated_cluster import ROOT, GeneratedCluster
from waiting import eventually

from citus_cluster.model.tuning.budget import Server
from citus_cluster.operations.directory import load

pytestmark = pytest.mark.cluster

COMPANIONS = ["pg14-primary", "pg14-replica", "redis", "cassandra"]
LOAD_S = 20


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, default_image: str) -> Iterator[GeneratedCluster]:
    require_images("postgres:14", "redis:7", "cassandra:5", "python:3.13-slim")
    one = GeneratedCluster(tmp_path_factory.mktemp("stack"), default_image)
    yield one
    one.remove()


def get(stack: GeneratedCluster, path: str) -> tuple[int, Any]:
    """Ask the admin API; status and body."""
    request = urllib.request.Request(f"http://127.0.0.1:{stack.admin_port}{path}")
    request.add_header("Authorization", f"Bearer {stack.secret('admin_api_read_token')}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_make_up_starts_everything_and_citus_waits_for_nobody(stack: GeneratedCluster) -> None:
    options = " ".join([*stack.identity(), "--memory=7840", "--cpus=2", f"--output-dir={stack.root}", "--timeout=600"])
    command = ["make", "-C", str(ROOT), "-o", "venv", "up", f"BIN={Path(sys.executable).parent}", f"ARGS={options}"]
    done = stack.run(*command, timeout_s=900)
    assert done.out.index("registered and verified") < done.out.index("cassandra: ready")
    lines = done.err.splitlines()
    assert lines.index("✓ the cluster is verified") < lines.index("✓ cassandra is ready")
    for service in COMPANIONS:
        assert f"✓ {service} is ready" in lines
    assert not [name for name in stack.secrets() if stack.secret(name) in done.text]


def test_status_and_the_api_see_all_of_it(stack: GeneratedCluster) -> None:
    found = stack.cli("status", "--format=json").json()
    assert found["state"] == "ok", found["problems"]
    assert {one["service"]: one["condition"] for one in found["companions"]} == {
        "pg14": "ok",
        "redis": "ok",
        "cassandra": "ok",
    }
    assert stack.cli("status").text.count("ok") >= 3
    assert get(stack, "/health")[0] == 200

    def all_is_well() -> bool:
        status, services = get(stack, "/api/v1/services")
        assert status == 200
        conditions = {one["service"]: one["condition"] for one in services["companions"]}
        return conditions == {"pg14": "ok", "redis": "ok", "cassandra": "ok"}

    # What the API says of them may be some seconds old, from before Cassandra was ready.
    eventually(all_is_well, "the API sees every companion", timeout_s=30)


@contextmanager
def everything_else_runs(stack: GeneratedCluster) -> Iterator[Callable[[], None]]:
    """Have status and the API asked without a pause; gives what waits until each has answered once more, and well."""
    answers = dict.fromkeys(("status", "pg14 status", "/health", "/api/v1/services", "/api/v1/nodes/active"), 0)
    refused: list[str] = []
    done = threading.Event()

    def ask(what: str) -> None:
        while not done.is_set():
            if what.startswith("/"):
                text = json.dumps(get(stack, what)[1])
            else:
                text = stack.cli(*what.split(), "--format=json", check=False).text
            if any(reason in text for reason in ("connection slots", "too many clients")):
                refused.append(f"{what}: {text}")
            answers[what] += 1

    def once_more() -> None:
        # The next answer to come may be to a question from before.
        wanted = {what: count + 2 for what, count in answers.items()}
        eventually(lambda: all(answers[what] >= count for what, count in wanted.items()), "all answered", timeout_s=120)
        assert not refused

    threads = [threading.Thread(target=ask, args=[what]) for what in answers]
    threads += [threading.Thread(target=ask, args=[what]) for what in answers if what.startswith("/")]
    for thread in threads:
        thread.start()
    try:
        yield once_more
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_clients_find_as_many_connections_as_promised_while_everything_else_runs_and_the_reverse(
    stack: GeneratedCluster,
) -> None:
    tuning = load(stack.root).topology.tuning
    sides = {
        "coordinator": (stack.base_port, stack.database, stack.password, tuning.connections),
        "pg14": (stack.pg14_port, "testdb", stack.secret("pg14_password"), tuning.clients[Server.PLAIN]),
    }

    def connect(side: str, **values: Any) -> psycopg.Connection[tuple[Any, ...]]:
        port, database, _, _ = sides[side]
        return psycopg.connect(
            host="127.0.0.1", port=port, dbname=database, autocommit=True, connect_timeout=30, **values
        )

    def as_client(side: str) -> psycopg.Connection[tuple[Any, ...]]:
        connection = connect(side, user="client", password="of a client")
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return connection

    for side, (_, _, password, promised) in sides.items():
        settings = (stack.root / f"generated/config/{side}/postgresql.conf").read_text()
        assert re.search(rf"C={promised}\b", settings)
        with connect(side, user="postgres", password=password) as administrator:
            administrator.execute("CREATE ROLE client LOGIN PASSWORD 'of a client'")
    with ExitStack() as clients, everything_else_runs(stack) as once_more:
        once_more()
        for side, (_, _, _, promised) in sides.items():
            for _ in range(promised):
                clients.enter_context(as_client(side))
        once_more()
        for side, (_, _, _, promised) in sides.items():
            with pytest.raises(psycopg.OperationalError, match="connection slots"):
                for _ in range(promised):
                    clients.enter_context(as_client(side))
        once_more()
    for side, (_, _, password, _) in sides.items():
        with connect(side, user="postgres", password=password) as administrator:
            administrator.execute("DROP ROLE client")


def test_nothing_is_killed_for_memory_under_pgbench_on_both_sides(stack: GeneratedCluster) -> None:
    """pgbench comes from the image of PostgreSQL 17; both sides are loaded at once, beside Cassandra."""
    require_images("postgres:17")
    before = states(stack)
    sides = {
        "citus": ("citus-coordinator", stack.user, stack.database, stack.password, 20),
        "pg14": ("pg14-primary", "postgres", "testdb", stack.secret("pg14_password"), 20),
    }
    for host, user, database, password, _ in sides.values():
        made = pgbench(stack, password, "-i", "-s", "10", "-q", "-h", host, "-U", user, database)
        output, _ = made.communicate(timeout=300)
        assert made.returncode == 0, output
    for table, column in (("accounts", "aid"), ("branches", "bid"), ("tellers", "tid")):
        stack.sql(f"SELECT create_distributed_table('pgbench_{table}', '{column}')")
    loads = [
        pgbench(
            stack, password, "-n", "-S", "-c", str(clients), "-j", "2", "-T", str(LOAD_S), "-h", host, "-U", user, db
        )
        if side == "citus"
        else pgbench(
            stack, password, "-n", "-c", str(clients), "-j", "2", "-T", str(LOAD_S), "-h", host, "-U", user, db
        )
        for side, (host, user, db, password, clients) in sides.items()
    ]
    outputs = [load.communicate(timeout=300)[0] for load in loads]
    assert [load.returncode for load in loads] == [0, 0], outputs
    assert all("number of failed transactions: 0" in output for output in outputs), outputs
    assert states(stack) == before
    assert stack.cli("status", "--format=json").json()["state"] == "ok"


def pgbench(stack: GeneratedCluster, password: str, *arguments: str) -> subprocess.Popen[str]:
    command = ["docker", "run", "--rm", "--network", f"{stack.name}_default", "-e", "PGPASSWORD"]
    command += ["--entrypoint", "pgbench", "postgres:17", *arguments]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PGPASSWORD": password}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def states(stack: GeneratedCluster) -> dict[str, tuple[str, bool, int]]:
    """State of each container: its start, whether memory ran out in it, and how often it was restarted."""
    names = stack.compose("ps", "--all", "--format", "{{.Name}}").out.split()
    form = "{{.Name}} {{.State.StartedAt}} {{.State.OOMKilled}} {{.RestartCount}}"
    rows = [line.split() for line in stack.docker("inspect", "--format", form, *names).out.splitlines()]
    found = {name: (started, killed == "true", int(count)) for name, started, killed, count in rows}
    assert not [name for name, (_, killed, _) in found.items() if killed]
    return found


def test_a_companion_that_is_down_hides_nothing(stack: GeneratedCluster) -> None:
    stack.docker("stop", stack.container("redis"))
    eventually(lambda: get(stack, "/health")[1]["status"] != "ok", "the API notices", 30)
    status, answer = get(stack, "/health")
    assert status == 200
    assert answer["status"] == "degraded"
    assert "redis" in answer["reason"]
    status, services = get(stack, "/api/v1/services")
    assert status == 200
    assert {one["service"]: one["condition"] for one in services["companions"]}["redis"] == "down"
    assert {one["service"]: one["condition"] for one in services["companions"]}["cassandra"] == "ok"
    seen = stack.cli("status", "--format=json", check=False)
    assert seen.status == 1
    assert seen.json()["state"] == "degraded"
    assert [one["condition"] for one in seen.json()["companions"]] == ["ok", "down", "ok"]
    stack.cli("up")
    assert stack.cli("status", "--format=json").json()["state"] == "ok"


def test_what_is_switched_off_is_stopped_and_keeps_its_data(stack: GeneratedCluster) -> None:
    stack.docker("exec", stack.container("redis"), "sh", "-c", redis_cli("SET kept yes"))
    secrets = {name: stack.secret(name) for name in stack.secrets()}
    stack.setup("--services=citus,admin-api", "--yes", "--up")
    running = set(stack.compose("ps", "--format", "{{.Service}}").out.split())
    assert running == {"citus-coordinator", "citus-worker1", "citus-worker2", "citus-worker3", "admin-api"}
    volumes = stack.docker("volume", "ls", "-q", "--filter", f"name={stack.name}_").out.split()
    assert {f"{stack.name}_{service}-data" for service in COMPANIONS} < set(volumes)
    stack.setup("--services=citus,redis,admin-api", "--yes", "--up")
    kept = stack.docker("exec", stack.container("redis"), "sh", "-c", redis_cli("GET kept"))
    assert kept.out.strip() == "yes"
    assert {name: stack.secret(name) for name in stack.secrets()} == secrets


def redis_cli(command: str) -> str:
    return f'REDISCLI_AUTH="$(cat /run/secrets/redis_password)" redis-cli {command}'


def test_profiles_choose_for_plain_compose(stack: GeneratedCluster) -> None:
    stack.setup("--services=all", "--yes")
    stack.cli("down")
    stack.variables["COMPOSE_PROFILES"] = "redis"
    try:
        stack.compose("up", "-d", "--wait")
        assert stack.compose("ps", "--format", "{{.Service}}").out.split() == ["redis"]
    finally:
        del stack.variables["COMPOSE_PROFILES"]
