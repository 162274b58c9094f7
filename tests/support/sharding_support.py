"""The sharding example on a real server: its processes, its commands, and a ledger of what clients were told."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis
from consistent_hashing.settings import read_settings
from consistent_hashing.topology import Topology
from generated_cluster import ROOT, GeneratedCluster
from waiting import eventually

from bench.measure import free_base_port

EXAMPLE = ROOT / "examples" / "consistent_hashing"
# One process for all steps imports once; each step has a child of its own, which is killed. A number is not a step, but
# the seconds after which the child is killed, if it still runs.
KILLED_AT = """
import asyncio, os, signal, sys, time
from consistent_hashing.migration import Migration
from consistent_hashing.settings import read_settings
from consistent_hashing.shards import Shards

async def run(command, shard, step):
    def reached(at):
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = read_settings()
    migration = Migration(Shards(settings.server, settings.first.shards), reached=reached)
    await {"add-shard": migration.add, "remove-shard": migration.remove}[command](shard)

command, shard, *steps = sys.argv[1:]
for step in steps:
    if not (child := os.fork()):
        asyncio.run(run(command, shard, step))
        os._exit(0)
    at_random = step[0].isdigit()
    if at_random:
        time.sleep(float(step))
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL and not (at_random and status == 0):
        sys.exit(f"{step} was never reached: the process ended with {status}")
"""
STEPS = (
    *("made", "decided", "told", "locked", "read", "copied", "copy committed", "deleted", "delete committed"),
    *("moved", "finish decided"),
)


@dataclass
class Service:
    """One process of the example."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path
    # A client for each request would take longer than the request.
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(timeout=10, limits=httpx.Limits(keepalive_expiry=1))
    )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.client.request(method, self.url + path, **options)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)


@dataclass
class Site:
    """A cluster on which processes of the example run; their logs go to ``folder``."""

    cluster: GeneratedCluster
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    version: int = 1000
    """Of the topology of the test that runs."""

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "CLUSTER_DIR": str(self.cluster.root), "LOG_LEVEL": "DEBUG", **self.variables, **more}

    def command(self, *arguments: str, status: int = 0, variables: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "consistent_hashing", *arguments],
            env=self.environment(**(variables or {})),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def killed_at(self, steps: Sequence[str], *command: str) -> None:
        """Run a migration that is killed when it reaches a step, once for each step.

        A step may also be a number of seconds, after which it is killed wherever it is.
        """
        run = [sys.executable, "-c", KILLED_AT, *command, *steps]
        done = subprocess.run(run, env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"

    @contextmanager
    def services(self, number: int = 1, **variables: str) -> Iterator[list[Service]]:
        """Start processes of the example."""
        running: list[Service] = []
        try:
            running += [self.start(variables=variables) for _ in range(number)]
            for one in running:
                self.until_ready(one)
            yield running
        finally:
            for one in running:
                one.client.close()
                one.process.send_signal(signal.SIGTERM)
            for one in running:
                assert one.process.wait(20) in {0, -signal.SIGTERM, -signal.SIGKILL}, one.log[-3000:]

    def start(self, port: int | None = None, variables: Mapping[str, str] | None = None) -> Service:
        port = port or free_base_port(1)
        log_file = self.folder / f"service-{port}.log"
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "main:app", f"--port={port}"],
                cwd=EXAMPLE,
                env=self.environment(**(variables or {})),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return Service(process, f"http://127.0.0.1:{port}", log_file)

    @staticmethod
    def until_ready(service: Service) -> None:
        def ready() -> bool:
            assert service.process.poll() is None, service.log
            return service.get("/health").status_code == 200

        eventually(ready, timeout_s=30, ignoring=httpx.TransportError)

    def connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the superuser."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.cluster.pg14_port,
            user="postgres",
            password=self.cluster.secret("pg14_password"),
            dbname=database,
            autocommit=True,
        )

    def empty(self, shards: Sequence[str], topology: Topology) -> None:
        """Remove what a test has left in the shards, and make those that are missing.

        The topology gets a version that no process has seen, so that services that run follow it.
        """
        self.version += 1000
        with self.connect("testdb") as connection:
            found = dict(
                connection.execute(
                    "SELECT datname, datallowconn FROM pg_database WHERE datname LIKE 'shard%'"
                ).fetchall()
            )
            for left in [name for name, open_ in found.items() if name not in shards or not open_]:
                connection.execute(f'DROP DATABASE "{left}" WITH (FORCE)'.encode())
                del found[left]
        if not set(shards) <= set(found) or not all(self._is_usable(shard, topology) for shard in shards):
            for shard in shards:
                self.sql("testdb", f"DROP DATABASE IF EXISTS {shard} WITH (FORCE)")
            self.command("create")
        for shard in shards:
            with self.connect(shard) as connection, connection.transaction():
                connection.execute("TRUNCATE users")
                connection.execute("UPDATE topology SET version = %s, plan = %s", [self.version, topology.dump()])

    def empty_cache(self) -> None:
        """Forget the users that the services of earlier tests have cached."""
        settings = read_settings(self.environment()).redis
        if settings is not None:
            password = self.cluster.secret("redis_password")
            with redis.Redis(settings.address.host, settings.address.port, password=password) as cache:
                cache.flushdb()

    def _is_usable(self, shard: str, topology: Topology) -> bool:
        try:
            stored = self.sql(shard, "SELECT plan ->> 'shard_by' FROM topology")
        except psycopg.errors.UndefinedTable:
            return False
        return stored == [(topology.shard_by,)]

    def sql(self, database: str, statement: str) -> list[tuple[Any, ...]]:
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def copies(self, shards: Sequence[str]) -> dict[int, list[str]]:
        """Give where each user is."""
        found: dict[int, list[str]] = {}
        for shard in shards:
            for (user_id,) in self.sql(shard, "SELECT user_id FROM users"):
                found.setdefault(user_id, []).append(shard)
        return found


ABSENT = None
_IN_FLIGHT_S = 1
"""A statement that a killed process has sent may still take effect."""
State = tuple[str, str, str] | None


@dataclass
class Ledger:
    """Clients that write and read through several processes, and know what they were told.

    A client owns its users, so it knows what each read must give. A request without an answer leaves two possible
    states, until a read says which.
    """

    urls: list[str]
    users: int = 400
    clients: int = 6
    seed: int = 1
    states: dict[int, set[State]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    acknowledged: int = 0
    unanswered: int = 0
    slowest_s: float = 0.0
    _done: bool = False

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=10, limits=httpx.Limits(max_connections=50)) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(self.clients)))

    def stop(self) -> None:
        self._done = True

    async def _client(self, http: httpx.AsyncClient, number: int) -> None:
        chance = random.Random(self.seed * 1000 + number)
        own = range(100_000 + number * self.users, 100_000 + (number + 1) * self.users)
        while not self._done:
            await self._one(http, chance, chance.choice(own))

    async def _one(self, http: httpx.AsyncClient, chance: random.Random, user_id: int) -> None:
        states = self.states.setdefault(user_id, {ABSENT})
        url = f"{chance.choice(self.urls)}/users/"
        values = (f"n{chance.randrange(10**9)}", chance.choice(["US", "EU", "APAC"]), f"{user_id}@example.com")
        body = dict(zip(("name", "region", "email"), values, strict=True))
        action = chance.choice(["read", "read", "write", "write", "write", "delete"])
        started = asyncio.get_running_loop().time()
        try:
            if action == "read":
                answer = await http.get(f"{url}{user_id}")
                self._read(user_id, states, answer)
            elif action == "delete":
                answer = await http.delete(f"{url}{user_id}")
                self._written(user_id, states, answer, {ABSENT}, {204: bool, 404: lambda one: one is ABSENT})
            elif ABSENT in states:
                answer = await http.post(url, json={"user_id": user_id, **body})
                self._written(user_id, states, answer, {values}, {200: lambda one: one is ABSENT, 500: bool})
            else:
                answer = await http.put(f"{url}{user_id}", json=body)
                self._written(user_id, states, answer, {values}, {200: bool, 404: lambda one: one is ABSENT})
        except httpx.TransportError:
            self.unanswered += 1
            if action == "delete":
                states.add(ABSENT)
            elif action == "write":
                states.add(values)
            await asyncio.sleep(_IN_FLIGHT_S)
        self.slowest_s = max(self.slowest_s, asyncio.get_running_loop().time() - started)

    def _read(self, user_id: int, states: set[State], answer: httpx.Response) -> None:
        if answer.status_code == 503:
            self.unanswered += 1
            return
        given = answer.json()
        state = ABSENT if answer.status_code == 404 else (given["name"], given["region"], given["email"])
        if answer.status_code not in {200, 404} or state not in states:
            self.wrong.append(f"read {user_id}: {answer.status_code} {answer.text}, but it may be {states}")
        states.clear()
        states.add(state)
        self.acknowledged += 1

    def _written(
        self, user_id: int, states: set[State], answer: httpx.Response, new: set[State], allowed: dict[int, Any]
    ) -> None:
        """``allowed`` has, for each status, which earlier states it can follow."""
        if answer.status_code == 503:
            self.unanswered += 1
            states |= new
            return
        fits = allowed.get(answer.status_code)
        if fits is None or not any(map(fits, states)):
            self.wrong.append(f"{answer.request.method} {user_id}: {answer.status_code} {answer.text} from {states}")
        if answer.status_code in {200, 204}:
            states.clear()
            states |= new
        elif fits is not None:
            kept = {one for one in states if fits(one)}
            states.clear()
            states |= kept
        self.acknowledged += 1

    def assert_kept(self, site: Site, shards: Sequence[str], owner: Any) -> None:
        """Every user is in the state that its client knows, once, and on the shard that owns it."""
        assert not self.wrong, self.wrong[:10]
        rows: dict[int, list[tuple[str, State]]] = {}
        for shard in shards:
            for user_id, *values in site.sql(shard, "SELECT user_id, name, region, email FROM users"):
                rows.setdefault(user_id, []).append((shard, (values[0], values[1], values[2])))
        for user_id, states in self.states.items():
            found = rows.get(user_id, [])
            assert len(found) <= 1, f"{user_id} is doubled: {found}"
            assert (found[0][1] if found else ABSENT) in states, f"{user_id} is {found}, but may be {states}"
        for user_id, found in rows.items():
            assert [shard for shard, _ in found] == [owner(str(user_id))], f"{user_id} is in {found}"
