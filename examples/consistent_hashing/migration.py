"""Add a shard, empty one, or give a failed one up: changes of the topology that any kill leaves resumable.

A change is decided on one shard, by counting the version up from the one that it began with, and then told to the
others. Running the same command again continues: the topology says what is under way.
"""

import asyncio
import logging
from collections.abc import Callable

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from consistent_hashing.moving import BATCH_ROWS, Moved, Reached, move_users
from consistent_hashing.schema import databases, maintain, make_shard
from consistent_hashing.server import Server
from consistent_hashing.shards import Shards, StaleTopologyError
from consistent_hashing.topology import Route, Topology, TopologyError

logger = logging.getLogger(__name__)
Progress = Callable[[Moved], None]
_PAGE_ROWS = 1000


def _nothing(_: object) -> None:
    pass


class Migration:
    """Runs changes of the topology, one after the other."""

    def __init__(self, shards: Shards, *, reached: Reached = _nothing, progress: Progress = _nothing) -> None:
        self._shards = shards
        self._reached = reached
        self._progress = progress

    @property
    def _server(self) -> Server:
        return self._shards.server

    async def add(self, name: str, weight: float = 1.0) -> Moved:
        """Make a shard, and move to it what the ring with it assigns to it. Raises TopologyError."""
        topology = await self._shards.refresh(None)
        while topology.becoming is None and name not in topology.nodes:
            wanted = topology.adding(name, weight)
            await make_shard(self._server, name, topology.shard_by)
            self._reached("made")
            if name not in topology.lost and await self._has_users(name):
                # They are no foreign ones if another run of this command has moved them there meanwhile.
                newer = await self._shards.refresh(topology)
                if newer.version == topology.version:
                    raise TopologyError(
                        f"The database {name} has users, and is not in the ring. They would mix with those that are "
                        f"moved. Empty its table users, or choose another name."
                    )
                topology = newer
            else:
                topology = await self._decide(wanted, topology)
        if name not in (topology.becoming or topology.nodes):
            topology.adding(name, weight)  # says what is under way
        return await self._finish(topology)

    async def remove(self, name: str) -> Moved:
        """Move every row of a shard to the others, and take it out of the ring. Raises TopologyError."""
        topology = await self._shards.refresh(None)
        while topology.becoming is None and name in topology.nodes:
            topology = await self._decide(topology.removing(name), topology)
        if name in (topology.becoming or topology.nodes):
            topology.removing(name)
        moved = await self._finish(topology)
        if name in await self._databases():
            # It is asked by processes that were away, and by those that know no other.
            await self._shards.publish(name, await self._shards.topology())
        return moved

    async def _has_users(self, name: str) -> bool:
        async with self._shards.connection(name) as connection:
            return await (await connection.execute("SELECT 1 FROM users LIMIT 1")).fetchone() is not None

    async def _decide(self, wanted: Topology, now: Topology, on: str | None = None) -> Topology:
        """Make ``wanted`` follow ``now``; give the newer topology if another run was faster."""
        if await self._shards.decide(wanted, on or now.decided_on):
            self._reached("decided")
            return wanted
        newer = await self._shards.refresh(now)
        if newer.version == now.version:
            raise TopologyError("Another change was faster. See python -m consistent_hashing status, and try again.")
        return newer

    async def _finish(self, topology: Topology) -> Moved:
        moved = Moved()
        await self._tell(topology)
        while topology.becoming is not None:
            try:
                for source in topology.waves[0]:
                    await self._empty(topology, source, moved)
            except StaleTopologyError:
                # Another run of the same command has ended the migration.
                stale, topology = topology, await self._shards.refresh(topology)
                if stale is topology:
                    await asyncio.sleep(0.1)
                continue
            self._reached("moved")
            finished = topology.finished()
            await self._shards.decide(finished, topology.decided_on)
            self._reached("finish decided")
            topology = await self._shards.refresh(topology)
            await self._tell(topology)
        return moved

    async def _tell(self, topology: Topology) -> None:
        """Hand the topology to every shard: from here on, no process works with the one before."""
        for shard in topology.shards:
            await self._shards.publish(shard, topology)
            self._reached("told")

    async def _empty(self, topology: Topology, source: str, moved: Moved) -> None:
        """Move what belongs elsewhere. Nothing arrives meanwhile, so that one pass finds all."""
        after: tuple[int, str] = (-1, "")
        while True:
            async with self._shards.fenced(source, topology.version) as connection:
                cursor = await connection.execute(
                    "SELECT user_id, region FROM users WHERE (user_id, region) > (%s, %s)"
                    " ORDER BY user_id, region LIMIT %s",
                    [*after, _PAGE_ROWS],
                )
                page = await cursor.fetchall()
            if not page:
                return
            after = page[-1]["user_id"], page[-1]["region"]
            leaving: dict[Route, list[int]] = {}
            for row in page:
                route = topology.route(topology.key(row["user_id"], row["region"]))
                if route.target is not None:
                    leaving.setdefault(route, []).append(row["user_id"])
            for route, ids in leaving.items():
                for first in range(0, len(ids), BATCH_ROWS):
                    batch = ids[first : first + BATCH_ROWS]
                    moved.moved += await move_users(self._shards, topology, route, batch, self._reached)
            moved.looked_at += len(page)
            self._progress(moved)

    async def _databases(self) -> set[str]:
        async with maintain(self._server) as connection:
            return await databases(connection)

    async def take_out(self, name: str) -> Topology:
        """Give a failed shard up: its keys belong to the others, its rows wait in a database that nobody can open.

        The database is renamed first: a process that has slept since, and still knows the topology with the shard,
        must not find it. Raises TopologyError.
        """
        topology = await self._shards.refresh(None)
        while name not in topology.lost:
            wanted = topology.without(name)
            async with maintain(self._server) as connection:
                if name in await databases(connection):
                    await _set_connections(connection, name, allowed=False)
                    await _rename(connection, name, _kept(name))
            self._reached("fenced")
            topology = await self._decide(wanted, topology, wanted.decided_on)
        await self._tell(topology)
        return topology

    async def bring_back(self, name: str) -> Moved:
        """Take a shard that was given up into the ring again, with its rows and those written elsewhere since.

        Where a user is in both, the one that was written since stays. Raises TopologyError.
        """
        topology = await self._shards.refresh(None)
        if name not in {**topology.lost, **(topology.becoming or topology.nodes)}:
            raise TopologyError(f"{name} was not taken out.")
        async with maintain(self._server) as connection:
            if _kept(name) in await databases(connection):
                await _set_connections(connection, _kept(name), allowed=True)
                # Before it has its name, it must know that it is not in the ring.
                inside = await psycopg.AsyncConnection.connect(self._server.conninfo(_kept(name)), autocommit=True)
                async with inside:
                    await inside.execute(
                        "UPDATE topology SET version = %s, plan = %s", [topology.version, topology.dump()]
                    )
                await _set_connections(connection, _kept(name), allowed=False)
                await _rename(connection, _kept(name), name)
            if name in await databases(connection):
                await _set_connections(connection, name, allowed=True)
        return await self.add(name, topology.lost.get(name, 1.0))


def _kept(name: str) -> str:
    return f"{name}_taken_out"


_Connection = psycopg.AsyncConnection[TupleRow]


async def _rename(connection: _Connection, name: str, other: str) -> None:
    for attempt in range(50):
        try:
            await connection.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(other))
            )
            return
        except psycopg.errors.ObjectInUse:
            if attempt == 49:
                raise
            await asyncio.sleep(0.1)  # sessions that were told to end still do


async def _set_connections(connection: _Connection, name: str, *, allowed: bool) -> None:
    await connection.execute(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.Literal(allowed))
    )
    if not allowed:
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
