"""The same workload on the ring and on Citus, while each gets a node more: ``python citus_compare.py --help``.

Both are driven from this process through psycopg, so that what differs is where the sharding is done. The ring's
shards must exist and must not have ``--shard`` yet. On Citus, the table is made anew.
"""

import argparse
import ast
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString, Protocol

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from service_kit.cluster import Cluster
from service_kit.unavailable import UnavailableError

from consistent_hashing.migration import Migration
from consistent_hashing.scatter import Scatter
from consistent_hashing.settings import read_settings
from consistent_hashing.shards import Shards
from consistent_hashing.users import User, UserStore

REGIONS = ("US", "EU", "APAC")
RING_MODULES = ("ring", "topology", "shards", "moving", "migration", "scatter", "schema", "bounded", "users")


class Users(Protocol):
    """What both can do."""

    async def create(self, user: User) -> None: ...

    async def find(self, user_id: int) -> User | None: ...

    async def count_region(self, region: str) -> int: ...

    async def grow(self) -> "Growth": ...


@dataclass(frozen=True)
class Growth:
    """How many users moved to another node, of how many; seconds that it took."""

    moved: int
    of: int
    seconds: float


class RingUsers:
    """The users of this example."""

    def __init__(self, shards: Shards, shard: str) -> None:
        self._shards = shards
        self._shard = shard
        self._store = UserStore(shards, Scatter())

    async def create(self, user: User) -> None:
        await self._store.create(user)

    async def find(self, user_id: int) -> User | None:
        return await self._store.find(user_id)

    async def count_region(self, region: str) -> int:
        return len((await self._store.in_region(region, 0, 1000)).items)

    async def grow(self) -> Growth:
        # A migration is a process of its own, which knows the topology by itself.
        shards = Shards(self._shards.server, (await self._shards.topology()).shards)
        started = time.perf_counter()
        try:
            moved = await Migration(shards).add(self._shard)
        finally:
            await shards.close()
        return Growth(moved.moved, moved.looked_at, time.perf_counter() - started)


class CitusUsers:
    """The same in Citus."""

    def __init__(self, pool: AsyncConnectionPool, grow: str) -> None:
        self._pool = pool
        self._grow = grow

    async def make(self) -> None:
        async with self._pool.connection() as connection:
            await connection.execute("DROP TABLE IF EXISTS sharding_users")
            await connection.execute(
                "CREATE TABLE sharding_users (user_id bigint PRIMARY KEY, name varchar(100) NOT NULL,"
                " region varchar(50) NOT NULL, email varchar(100) NOT NULL)"
            )
            await connection.execute("CREATE INDEX ON sharding_users (region)")
            await connection.execute("SELECT create_distributed_table('sharding_users', 'user_id')")

    async def create(self, user: User) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(
                "INSERT INTO sharding_users VALUES (%s, %s, %s, %s)",
                [user.user_id, user.name, user.region, user.email],
            )

    async def find(self, user_id: int) -> User | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT user_id, name, region, email FROM sharding_users WHERE user_id = %s", [user_id]
            )
            row = await cursor.fetchone()
        return None if row is None else User(*row)

    async def count_region(self, region: str) -> int:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT user_id, name, region, email FROM sharding_users WHERE region = %s ORDER BY user_id LIMIT 1000",
                [region],
            )
            return len(await cursor.fetchall())

    async def _rows(self, query: LiteralString) -> list[tuple[str, str]]:
        async with self._pool.connection() as connection:
            return await (await connection.execute(query)).fetchall()

    async def grow(self) -> Growth:
        if not self._grow:
            return Growth(0, 0, 0.0)
        where: LiteralString = (
            "SELECT shardid::text, nodename || ':' || nodeport FROM citus_shards"
            " WHERE table_name = 'sharding_users'::regclass"
        )
        before = dict(await self._rows(where))
        started = time.perf_counter()
        process = await asyncio.create_subprocess_shell(self._grow)
        if await process.wait():
            sys.exit(f"The command of --grow failed: {self._grow}")
        seconds = time.perf_counter() - started
        after = dict(await self._rows(where))
        counts = await self._rows(
            "SELECT shardid::text, result FROM run_command_on_shards('sharding_users', 'SELECT count(*) FROM %s')"
        )
        moved = sum(int(rows) for shard, rows in counts if before.get(shard) != after.get(shard))
        return Growth(moved, sum(int(rows) for _, rows in counts), seconds)


@dataclass
class Seen:
    """Latencies in ms of each kind of request, and the requests that failed."""

    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    failed: int = 0
    wrong: int = 0

    def percentile(self, kind: str, part: float) -> str:
        ordered = sorted(self.latencies_ms.get(kind, []))
        return f"{ordered[min(len(ordered) - 1, int(part * len(ordered)))]:.1f}" if ordered else "-"

    @property
    def slowest_ms(self) -> float:
        return max((max(found) for found in self.latencies_ms.values() if found), default=0.0)


class Workload:
    """Clients that create, read, and now and then ask for a region."""

    def __init__(self, users: Users, clients: int) -> None:
        self._users = users
        self._clients = clients
        self._next_id = 0
        self._created: list[int] = []

    async def fill(self, number: int) -> None:
        """Create users, as fast as the clients can."""

        async def client(own: Sequence[int]) -> None:
            for _ in own:
                await self._create()

        each = range(number // self._clients)
        await asyncio.gather(*(client(each) for _ in range(self._clients)))

    async def _create(self) -> None:
        self._next_id += 1
        user_id = self._next_id
        await self._users.create(User(user_id, f"user {user_id}", REGIONS[user_id % 3], f"{user_id}@example.com"))
        self._created.append(user_id)

    async def until(self, done: Awaitable[object]) -> Seen:
        """Run the clients until ``done`` is."""
        seen = Seen()
        ending = asyncio.ensure_future(done)
        await asyncio.gather(ending, *(self._client(seen, ending, number) for number in range(self._clients)))
        return seen

    async def _client(self, seen: Seen, ending: "asyncio.Future[object]", number: int) -> None:
        chance = random.Random(number)  # noqa: S311  no secret
        while not ending.done():
            kind = chance.choices(["create", "read", "region"], [20, 78, 2])[0]
            started = time.perf_counter()
            try:
                if kind == "create":
                    await self._create()
                elif kind == "read":
                    user_id = chance.choice(self._created)
                    found = await self._users.find(user_id)
                    seen.wrong += found is None or found.user_id != user_id
                else:
                    await self._users.count_region(chance.choice(REGIONS))
            except (psycopg.Error, UnavailableError):
                seen.failed += 1
            seen.latencies_ms.setdefault(kind, []).append((time.perf_counter() - started) * 1000)


def code_lines(source: str) -> int:
    """Count the lines with code: not the empty ones, comments and docstrings."""
    tree = ast.parse(source)
    without: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            without |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(at not in without and line.strip()[:1] not in {"", "#"} for at, line in lines)


def lines_of_ring() -> int:
    folder = Path(__file__).parent
    return sum(code_lines((folder / f"{name}.py").read_text(encoding="utf-8")) for name in RING_MODULES)


def lines_of_citus() -> int:
    source = Path(__file__).read_text(encoding="utf-8")
    node = next(one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == "CitusUsers")
    methods = [one for one in node.body if getattr(one, "name", "") not in {"grow", "_rows"}]
    return sum(code_lines(ast.unparse(one)) for one in methods)


async def measure(users: Users, given: argparse.Namespace) -> tuple[Seen, Seen, Growth]:
    workload = Workload(users, given.clients)
    await workload.fill(given.users)
    alone = await workload.until(asyncio.sleep(given.seconds))
    grown: list[Growth] = []

    async def grow() -> None:
        grown.append(await users.grow())

    return alone, await workload.until(grow()), grown[0]


async def main() -> None:
    given = _arguments()
    settings = read_settings()
    cluster = Cluster()
    shards = Shards(settings.server, settings.first.shards, pool_size=given.clients)
    address = cluster.address("CITUS_COORDINATOR", "CITUS_COORDINATOR_PORT")
    conninfo = make_conninfo(
        host=address.host,
        port=address.port,
        user=given.citus_user,
        password=cluster.secret(f"{given.citus_user}_password"),
        dbname=cluster.value("CITUS_DATABASE", "POSTGRES_DB"),
    )
    rows: list[tuple[str, Callable[[Seen, Seen, Growth], str]]] = [
        *((f"{kind}, p50 ms", _alone(kind, 0.5)) for kind in ("create", "read", "region")),
        *((f"{kind}, p99 ms", _alone(kind, 0.99)) for kind in ("create", "read", "region")),
        ("a node more: users that move", lambda _, __, growth: f"{growth.moved} of {growth.of}, {_share(growth)}"),
        ("a node more: seconds", lambda _, __, growth: f"{growth.seconds:.1f}"),
        ("a node more: p99 ms of creates and reads meanwhile", _meanwhile),
        ("a node more: slowest request, ms", lambda _, growing, __: f"{growing.slowest_ms:.0f}"),
        ("a node more: failed requests", lambda _, growing, __: f"{growing.failed} of {_number(growing)}"),
        ("reads of a user that gave none", lambda alone, growing, __: f"{alone.wrong + growing.wrong}"),
    ]
    try:
        ring = await measure(RingUsers(shards, given.shard), given)
    finally:
        with suppress(psycopg.Error):
            await shards.close()
    async with AsyncConnectionPool(
        conninfo, min_size=given.clients, max_size=given.clients, kwargs={"autocommit": True}, open=False
    ) as pool:
        citus_users = CitusUsers(pool, given.grow)
        await citus_users.make()
        citus = await measure(citus_users, given)
    print("| | ring | Citus |\n| --- | --- | --- |")
    print(f"| lines of Python that shard | {lines_of_ring()} | {lines_of_citus()} |")
    for name, cell in rows:
        print(f"| {name} | {cell(*ring)} | {cell(*citus)} |")


def _alone(kind: str, part: float) -> Callable[[Seen, Seen, Growth], str]:
    return lambda alone, _, __: alone.percentile(kind, part)


def _meanwhile(_: Seen, growing: Seen, __: Growth) -> str:
    return f"{growing.percentile('create', 0.99)} and {growing.percentile('read', 0.99)}"


def _share(growth: Growth) -> str:
    return f"{growth.moved / growth.of:.1%}" if growth.of else "-"


def _number(seen: Seen) -> int:
    return sum(map(len, seen.latencies_ms.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the ring with Citus.")
    parser.add_argument("--users", type=int, default=20_000, help="users to begin with (default: 20000)")
    parser.add_argument("--clients", type=int, default=10, help="requests at the same time (default: 10)")
    parser.add_argument("--seconds", type=float, default=20, help="how long to measure before growing (default: 20)")
    parser.add_argument("--shard", default="shard_4", help="the shard that the ring gets (default: shard_4)")
    parser.add_argument("--citus-user", default="example_users", help="a role that may create tables there")
    parser.add_argument("--grow", default="", metavar="COMMAND", help="what adds a worker to Citus and rebalances")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
