"""Long lists over HTTP: 100,000 shards of Citus page by page, and the console's page of 10,000 shards in Chromium.

All shards are real: tables of 1,000 shards each, without rows and indexes, on three workers. The first request of a
list reads the cluster; the others get pages of what was read. While the first one runs, another client asks for the
active nodes, to see how long the API keeps others waiting meanwhile.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

from bench.api import RunningApi, running_api
from bench.load import HttpConnection
from bench.measure import connect, docker_answers, median, percentile, print_table, progress, resident_mb

_NAME = "citus-bench-lists"
_SHARDS = 1000
_PAGE_TABLES = 10
_TABLES = 100
_LIMITS = (100, 1000)
_VISITS = 5
_FRESH_S = 16
"""Longer than the API keeps the list of shards for the first page."""
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@dataclass
class _Walk:
    """One walk through all pages: ms of each, and of requests for the active nodes during the first."""

    limit: int
    pages_ms: list[float] = field(default_factory=list)
    others_ms: list[float] = field(default_factory=list)
    largest_kb: float = 0
    rows: int = 0


@dataclass(frozen=True)
class _Visit:
    """One visit of the console's page: until the browser paints it, and its size."""

    paint_ms: float
    kb: float


def bench_api_lists() -> None:
    if not docker_answers():
        print("\nLong lists: skipped, because no Docker engine answers")
        return
    with running_api(_NAME, services="citus,admin-api", memory="12g") as api:
        _create(api, range(_PAGE_TABLES))
        progress(f"visiting the console's page of {_PAGE_TABLES * _SHARDS:,} shards")
        visits = _visit(api)
        took_s = _create(api, range(_PAGE_TABLES, _TABLES))
        walks = []
        for limit in _LIMITS:
            progress(f"reading {_TABLES * _SHARDS:,} shards, {limit:,} a page")
            walks.append(asyncio.run(_walk(api, limit)))
        resident = resident_mb(api.container)
        progress("removing the cluster")
    print(f"\n{(_TABLES - _PAGE_TABLES) * _SHARDS:,} further shards were created in {took_s:.0f} s.")
    _print_visits(visits)
    _print_walks(walks, resident)


def _create(api: RunningApi, numbers: Sequence[int]) -> float:
    """Create tables; return the seconds that it took."""

    began = time.monotonic()
    with connect(api.coordinator) as connection:
        for number in numbers:
            if number % _PAGE_TABLES == 0:
                progress(
                    f"creating tables {number + 1} to {number + _PAGE_TABLES} of {_TABLES}, {_SHARDS:,} shards each"
                )
            connection.execute(f"CREATE TABLE many_{number} (id bigint)".encode())
            connection.execute(
                "SELECT create_distributed_table(%s, 'id', shard_count => %s, colocate_with => 'none')",
                [f"many_{number}", _SHARDS],
            )
    return time.monotonic() - began


async def _walk(api: RunningApi, limit: int) -> _Walk:
    """Read all pages of the list of shards, and check that every placement is in exactly one."""
    walk = _Walk(limit)
    await asyncio.sleep(_FRESH_S)
    connection, other = [await HttpConnection.open(api.port, api.token) for _ in range(2)]
    seen: set[int] = set()
    cursor: str | None = ""
    asking = asyncio.create_task(_ask_for_nodes(other, walk.others_ms))
    while cursor is not None:
        query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        began = time.perf_counter()
        status, body = await connection.ask(f"/api/v1/shards?{urlencode(query)}")
        walk.pages_ms.append(1000 * (time.perf_counter() - began))
        asking.cancel()
        assert status == 200, body[:500]
        found = json.loads(body)
        seen |= {row["placement_id"] for row in found["items"]}
        walk.rows += len(found["items"])
        walk.largest_kb = max(walk.largest_kb, len(body) / 1000)
        cursor = found["next_cursor"]
    with suppress(asyncio.CancelledError):
        await asking
    connection.close()
    other.close()
    assert len(seen) == walk.rows == found["total"] == _TABLES * _SHARDS, (len(seen), walk.rows, found["total"])
    return walk


async def _ask_for_nodes(connection: HttpConnection, took_ms: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await connection.get("/api/v1/nodes/active")
        took_ms.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(0.01)


def _visit(api: RunningApi) -> list[_Visit]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        print("\nThe console's page: skipped, because no chromium is on PATH")
        return []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{api.port}/")
        page.get_by_label("Token").fill(api.token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("nav")
        visits = [_visit_once(page, api.port) for _ in range(_VISITS + 1)]
        browser.close()
    return visits


def _visit_once(page: Page, port: int) -> _Visit:
    answer = page.goto(f"http://127.0.0.1:{port}/shards")
    assert answer is not None and answer.status == 200
    assert page.locator("svg.cells").count()
    page.wait_for_function(f"{_PAINT} > 0")
    return _Visit(float(page.evaluate(_PAINT)), len(answer.body()) / 1000)


def _print_visits(visits: Sequence[_Visit]) -> None:
    if not visits:
        return
    first, *later = visits
    print_table(
        f"The console's page of {_PAGE_TABLES * _SHARDS:,} shards in Chromium (goal: first paint within 1 s, 500 kB)",
        ("visit", "first paint ms", "kB"),
        [
            ("the first one, which reads the cluster", f"{first.paint_ms:.0f}", f"{first.kb:.0f}"),
            (
                f"later ones, median of {len(later)}",
                f"{median([one.paint_ms for one in later]):.0f}",
                f"{max(one.kb for one in later):.0f}",
            ),
        ],
    )


def _print_walks(walks: Sequence[_Walk], resident: float) -> None:
    parts: tuple[Callable[[_Walk], str], ...] = (
        lambda walk: f"{walk.limit:,}",
        lambda walk: f"{walk.pages_ms[0] / 1000:.2f}",
        lambda walk: f"{len(walk.pages_ms) - 1:,}",
        *(lambda walk, part=part: f"{percentile(sorted(walk.pages_ms[1:]), part):.1f}" for part in (0.5, 0.99, 1)),
        lambda walk: f"{walk.largest_kb:.0f}",
        lambda walk: f"{percentile(sorted(walk.others_ms), 0.5):.1f}",
        lambda walk: f"{max(walk.others_ms):.0f}",
    )
    print_table(
        f"{_TABLES * _SHARDS:,} shards by page (goal: each page within 100 ms); the API then has {resident:.0f} MB",
        (
            "rows of a page", "the first one, which reads the cluster, s", "other pages", "p50 ms", "p99 ms",
            "slowest ms", "largest kB", "nodes/active during the read: p50 ms", "slowest ms",
        ),
        [[part(walk) for part in parts] for walk in walks],
    )  # fmt: skip
