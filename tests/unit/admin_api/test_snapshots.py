"""What views have read is kept in bounded memory, whatever readers ask for."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from admin_api.snapshots import KEPT_BYTES, KEPT_OF_A_VIEW, Bodies, Snapshot, Snapshots
from citus_cluster.model.listing import ListQuery
from citus_cluster.model.parameters import parameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import View


@dataclass(frozen=True)
class Row:
    number: int
    text: str


@parameters
class Which:
    node: str = ""


def view_of(reads: list[str]) -> "View[Which]":
    async def read(cluster: Cluster, wanted: Which) -> Sequence[Row]:
        reads.append(wanted.node)
        return [Row(number, "x" * 2000) for number in range(1000)]

    return View("rows", "List rows.", "rows", "rows", Row, read, Which, key="number", max_age_s=60)


def snapshots() -> Snapshots:
    return Snapshots(lambda: cast("Cluster", None))


def test_many_different_queries_keep_a_limited_number_of_bytes() -> None:
    async def body() -> Snapshot:
        return await snapshots().get(view_of([]), Which())

    snapshot = asyncio.run(body())
    sizes = [len(snapshot.body(ListQuery(limit=1000, q="x" * length))[0]) for length in range(1, 21)]
    assert sum(sizes) > 2 * KEPT_BYTES
    assert snapshot.bodies.size_bytes <= KEPT_BYTES
    assert snapshot.body(ListQuery(limit=1000, q="x" * 20)) is snapshot.body(ListQuery(limit=1000, q="x" * 20))


def test_an_answer_that_is_larger_than_the_limit_is_served_and_not_kept() -> None:
    bodies = Bodies(max_bytes=10)
    assert bodies.get("small", lambda: (b"12345", "a")) == (b"12345", "a")
    assert bodies.get("large", lambda: (b"x" * 11, "b")) == (b"x" * 11, "b")
    assert bodies.size_bytes == 0


def test_answers_with_many_different_parameters_are_not_all_kept() -> None:
    reads: list[str] = []

    async def body() -> None:
        kept, view = snapshots(), view_of(reads)
        names = [f"node{number}" for number in range(KEPT_OF_A_VIEW + 1)]
        for name in (*names, names[-1], names[0]):
            await kept.get(view, Which(name))

    asyncio.run(body())
    assert reads == [*(f"node{number}" for number in range(KEPT_OF_A_VIEW + 1)), "node0"]


def test_bodies_of_different_answers_are_told_apart() -> None:
    async def body() -> list[bytes]:
        kept, numbers = snapshots(), iter((1, 2))

        async def read(cluster: Cluster, wanted: Which) -> Sequence[Row]:
            return [Row(next(numbers), "")]

        view = View("rows", "List rows.", "rows", "rows", Row, read, Which, key="number", max_age_s=0)
        return [(await kept.get(view, Which())).body(ListQuery())[0] for _ in range(2)]

    first, second = asyncio.run(body())
    assert b'"number":1' in first
    assert b'"number":2' in second
