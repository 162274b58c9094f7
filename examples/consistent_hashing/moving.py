"""Move rows to the shard that the next ring chooses, while clients read and write. No two-phase commit is needed.

While a migration runs, a row that is to move never changes where it is: whoever wants to write it moves it first, and
then writes it where it belongs. New rows go there at once. So a row that is still in the old shard is current, and a
row that has left it never returns; readers look at the old shard and then at the new one.

A move is: lock the user in the new shard, lock the row in the old one, copy, commit the copy, delete, commit. After a
kill at any point, the row is in the old shard (perhaps with an equal copy in the new one) or in the new one alone,
and moving it again ends the same. The lock in the new shard is taken before the row is looked at: a copy that a
killed process has already sent can still arrive, and then arrives while its lock is held, so nobody has moved, changed
or deleted the user meanwhile.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from psycopg.rows import DictRow

from consistent_hashing.schema import PRIMARY_KEY
from consistent_hashing.shards import Connection, Shards
from consistent_hashing.topology import Route, Topology

BATCH_ROWS = 100
"""Rows that are moved together. A client that writes one of them waits for all."""

Reached = Callable[[str], None]
"""Is told how far a move is, so that a test can kill it there."""


def _nothing(_: str) -> None:
    pass


@dataclass
class Moved:
    """What a migration has done so far, in rows."""

    looked_at: int = 0
    moved: int = 0
    arrived: dict[str, int] = field(default_factory=dict)


async def move_users(
    shards: Shards, topology: Topology, route: Route, user_ids: Iterable[int], reached: Reached = _nothing
) -> int:
    """Move those of these users that are in ``route.owner`` and belong to ``route.target``; give their number.

    Raises StaleTopologyError, and has then moved nothing.
    """
    assert route.target is not None  # noqa: S101
    ids = sorted(set(user_ids))
    async with contextlib.AsyncExitStack() as old_side:
        async with shards.fenced(route.target, topology.version) as new:
            await new.execute(
                "SELECT pg_advisory_xact_lock(user_id) FROM (SELECT unnest(%s::bigint[]) AS user_id ORDER BY 1) AS ids",
                [ids],
            )
            reached("locked")
            old = await old_side.enter_async_context(shards.fenced(route.owner, topology.version))
            cursor = await old.execute(
                "SELECT user_id, name, region, email FROM users WHERE user_id = ANY(%s) ORDER BY user_id FOR UPDATE",
                [ids],
            )
            rows = [row for row in await cursor.fetchall() if _route_of(topology, row) == route]
            reached("read")
            await _copy(new, topology, rows)
            reached("copied")
        reached("copy committed")
        await old.execute(
            "DELETE FROM users USING unnest(%s::bigint[], %s::text[]) AS gone (user_id, region)"
            " WHERE users.user_id = gone.user_id AND users.region = gone.region",
            [[row["user_id"] for row in rows], [row["region"] for row in rows]],
        )
        reached("deleted")
    reached("delete committed")
    return len(rows)


def _route_of(topology: Topology, row: DictRow) -> Route:
    return topology.route(topology.key(row["user_id"], row["region"]))


async def _copy(new: Connection, topology: Topology, rows: Sequence[DictRow]) -> None:
    if not rows:
        return
    columns = [[row[name] for row in rows] for name in ("user_id", "name", "region", "email")]
    await new.execute(
        "INSERT INTO users (user_id, name, region, email)"  # noqa: S608  literals
        " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[])"
        f" ON CONFLICT ({PRIMARY_KEY[topology.shard_by]}) DO UPDATE"
        " SET name = excluded.name, region = excluded.region, email = excluded.email",
        columns,
    )
