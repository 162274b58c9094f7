"""The parts of project 1: codes, the click queue, countries, and the pages."""

import asyncio
import fcntl
import os
import random
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from lessons.projects.url_shortener import __main__ as program
from lessons.projects.url_shortener import rate_limit, service
from lessons.projects.url_shortener.analytics import Bucket, last_buckets, timestamp
from lessons.projects.url_shortener.app import create_app
from lessons.projects.url_shortener.cache import Cache
from lessons.projects.url_shortener.clicks import Click, ClickLog, decode, encode
from lessons.projects.url_shortener.codes import NUMBER_OF_CODES, is_code, random_code
from lessons.projects.url_shortener.collector import Collector
from lessons.projects.url_shortener.countries import TABLE, BadTableError, read_countries
from lessons.projects.url_shortener.dashboard import bars
from lessons.projects.url_shortener.databases import SqliteStore
from lessons.projects.url_shortener.live import LiveCounters
from lessons.projects.url_shortener.rate_limit import RateLimit, client_of
from lessons.projects.url_shortener.redis_link import RedisLink
from lessons.projects.url_shortener.referrers import host_of
from lessons.projects.url_shortener.service import NoFreeCodeError, Shortener
from lessons.projects.url_shortener.settings import Settings
from lessons.projects.url_shortener.store import ClickRow, Link, StoreAwayError

CODE = "abcDE12"


def click(number: int = 0) -> Click:
    return Click(CODE, 1_700_000_000_000 + number, f"https://a.example/{number}", "127.0.0.1")


def rows(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "urls.db")) as connection:
        return [row[0] for row in connection.execute("SELECT referrer FROM clicks ORDER BY id")]


class Site:
    """A store with one link, a log, and its collector."""

    def __init__(self, folder: Path, store: SqliteStore, *, sync: bool = False) -> None:
        self.folder = folder
        self.queue = folder / "queue"
        self.store = store
        self.log = ClickLog(self.queue, sync=sync)
        self.collector = self.another()

    def another(self) -> Collector:
        """The collector of a process that starts after this one."""
        return Collector(self.log, self.queue, self.store, read_countries())

    def shortener(self, new_code: Callable[[], str]) -> Shortener:
        return Shortener(
            self.store,
            Cache(None),
            self.log,
            LiveCounters(None),
            RateLimit(None, 0, 1),
            None,
            self.collector,
            new_code,
        )

    def seen(self) -> list[str]:
        return rows(self.folder)


async def until(happens: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not happens():  # noqa: ASYNC110 - the database sets no event
            await asyncio.sleep(0.001)


def on_site(tmp_path: Path, work: Callable[[Site], Any], *, sync: bool = False) -> None:
    async def run() -> None:
        store = await SqliteStore.open(tmp_path / "urls.db")
        await store.add(Link(CODE, "https://example.com/", 0))
        try:
            await work(Site(tmp_path, store, sync=sync))
        finally:
            await store.close()

    asyncio.run(run())


def test_a_code_has_seven_of_62_characters() -> None:
    """E8-01."""
    assert NUMBER_OF_CODES == 62**7 > 3.5e12
    codes = {random_code() for _ in range(1000)}
    assert len(codes) == 1000
    assert all(is_code(code) for code in codes)


@pytest.mark.parametrize("text", ["", "abcdef", "abcdefgh", "abc def", "abcdéfg", "../../x", "abcdef\n", "٣٣٣٣٣٣٣"])
def test_other_texts_are_no_codes(text: str) -> None:
    assert not is_code(text)


def test_a_taken_code_is_never_given_to_a_second_address(tmp_path: Path) -> None:
    """G-16, H-7: the plan's code silently led to the first address."""

    async def work(site: Site) -> None:
        codes = iter([CODE, CODE, "fresh00"])
        link = await site.shortener(lambda: next(codes)).shorten("https://other.example/")
        assert link.code == "fresh00"
        first, second = await site.store.find(CODE), await site.store.find("fresh00")
        assert first and second
        assert (first.original_url, second.original_url) == ("https://example.com/", "https://other.example/")

    on_site(tmp_path, work)


def test_addresses_that_are_shortened_at_once_get_codes_of_their_own(tmp_path: Path) -> None:
    """G-16: 20 codes exist besides the one that is taken, and 20 clients draw from all 21."""

    async def work(site: Site) -> None:
        left = random.Random(1)
        few = [f"code{number:03}" for number in range(20)] + [CODE]
        one = site.shortener(lambda: left.choice(few))

        async def insist(number: int) -> Link:
            while True:
                try:
                    return await one.shorten(f"https://example.com/{number}")
                except NoFreeCodeError:
                    continue

        links = await asyncio.gather(*(insist(number) for number in range(20)))
        assert len({link.code for link in links}) == 20
        for link in links:
            assert await site.store.find(link.code) == link

    on_site(tmp_path, work)


def test_a_broken_source_of_codes_ends_with_an_error(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        with pytest.raises(NoFreeCodeError):
            await site.shortener(lambda: CODE).shorten("https://other.example/")

    on_site(tmp_path, work)


@pytest.mark.parametrize("referrer", ["", "https://a.example/", '"\n\r\\,', "é", "a\0b", "x" * 9000])
def test_a_click_is_one_line(referrer: str) -> None:
    one = Click(CODE, 5, referrer, "::1")
    line = encode(one)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == Click(CODE, 5, referrer[:500].replace("\0", ""), "::1")


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[1,2]", b'["a",1,"b"', b"\0" * 40, b'["a","1","b","c"]', b'["a",1,2,"c"]', b"\xff"]
)
def test_a_damaged_line_is_no_click(line: bytes) -> None:
    assert decode(line) is None


def test_clicks_are_collected_once_whoever_collects(tmp_path: Path) -> None:
    """G-16: a process that starts again knows what is stored."""

    async def work(site: Site) -> None:
        for number in range(3):
            await site.log.append(click(number))
        await site.collector.collect_own()
        await site.collector.collect_own()
        await site.another().collect_own()
        await site.log.append(click(3))
        await site.another().collect_own()
        assert site.seen() == [click(number).referrer for number in range(4)]

    on_site(tmp_path, work)


def test_a_commit_whose_answer_is_lost_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G-16: the collector sees an error although the database has committed."""

    async def work(site: Site) -> None:
        record = site.store.record
        failures = iter([False, True])

        async def lose(*values: Any) -> int:
            stored = await record(*values)
            if next(failures, False):
                raise StoreAwayError("the connection was lost")
            return stored

        monkeypatch.setattr(site.store, "record", lose)
        await site.log.append(click(0))
        task = asyncio.create_task(site.collector.run(0.001))
        await until(site.seen)
        for number in (1, 2):
            await site.log.append(click(number))
            await until(lambda: len(site.seen()) > number)  # noqa: B023
        task.cancel()
        assert site.seen() == [click(number).referrer for number in range(3)]

    on_site(tmp_path, work)


def test_two_collectors_of_one_place_store_once(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        row = ClickRow(CODE, 1, "", "direct", "", "unknown")
        assert await site.store.record("x", 0, 10, [row]) == 1
        with pytest.raises(StoreAwayError, match="another process"):
            await site.store.record("x", 0, 10, [row])
        assert await site.store.position("x") == 10
        assert len(site.seen()) == 1

    on_site(tmp_path, work)


def test_a_line_that_is_not_whole_waits(tmp_path: Path) -> None:
    """The process may be writing it, or was killed before it answered."""

    async def work(site: Site) -> None:
        line = encode(click(1))
        await site.log.append(click(0))
        with site.log.path.open("ab") as file:
            file.write(line[:-5])
        await site.collector.collect_own()
        assert site.seen() == [click(0).referrer]
        with site.log.path.open("ab") as file:
            file.write(line[-5:])
        await site.collector.collect_own()
        assert site.seen() == [click(0).referrer, click(1).referrer]

    on_site(tmp_path, work)


def test_a_damaged_line_does_not_stop_the_queue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does a click on a link that the database does not have."""

    async def work(site: Site) -> None:
        with site.log.path.open("ab") as file:
            file.write(b"\0\0\0\n" + encode(Click("nothere", 1, "", "")) + encode(click(1)))
        await site.collector.collect_own()
        assert site.seen() == [click(1).referrer]

    on_site(tmp_path, work)
    assert "Skipped 1 damaged lines" in caplog.text
    assert "Skipped 1 clicks on links" in caplog.text


def test_a_full_disk_is_counted_and_damages_no_other_click(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk takes half of a line, then nothing, then everything."""

    async def work(site: Site) -> None:
        real, room = os.write, iter([10, 0])
        one = site.shortener(random_code)
        await one.click(CODE, "first", "")

        def write(fd: int, data: bytes) -> int:
            return real(fd, data[:left]) if (left := next(room, None)) is not None else real(fd, data)

        monkeypatch.setattr(os, "write", write)
        for referrer in ("lost", "lost", "last"):
            await one.click(CODE, referrer, "")
        assert one.lost_clicks == 2
        await site.collector.collect_own()
        assert site.seen() == ["first", "last"]

    on_site(tmp_path, work)
    assert "Clicks are lost" in caplog.text


def test_a_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        living = ClickLog(site.queue)
        await living.append(click(0))
        await site.collector.collect_orphans()
        assert (site.seen(), living.path.exists()) == ([], True)
        living.close()
        await site.collector.collect_orphans()
        assert (site.seen(), living.path.exists()) == ([click(0).referrer], False)
        assert await site.store.position(living.path.name) == 0

    on_site(tmp_path, work)


def test_a_new_file_that_a_collector_deletes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is empty and not locked for a moment. A collector that deletes it then must not take a click with it."""
    lock = fcntl.flock
    deleted: list[Path] = []

    def late_lock(fd: int, operation: int) -> None:
        if not deleted:
            deleted.extend(tmp_path.iterdir())
            deleted[0].unlink()
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late_lock)
    log = ClickLog(tmp_path)
    assert log.path.exists()
    assert log.path not in deleted
    log.close()


def test_rotation_keeps_all_clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessons.projects.url_shortener.collector._SEGMENT_BYTES", 500)
    monkeypatch.setattr("lessons.projects.url_shortener.collector._ORPHANS_EVERY_S", 0.0)

    async def work(site: Site) -> None:
        task = asyncio.create_task(site.collector.run(0.001))
        for number in range(300):
            await site.log.append(click(number))
            await asyncio.sleep(0)
        await until(lambda: len(site.seen()) == 300)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await site.collector.collect_orphans()
        assert sorted(site.seen()) == sorted(click(number).referrer for number in range(300))
        assert len(list(site.queue.iterdir())) == 1

    on_site(tmp_path, work, sync=True)


def test_with_sync_a_click_is_on_the_disk_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G-16: many clicks share one sync, which begins after they are written."""
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        size = os.fstat(fd).st_size
        real(fd)
        time.sleep(0.01)
        synced.append(size)

    async def work(site: Site) -> None:
        monkeypatch.setattr(os, "fsync", fsync)

        async def append(number: int) -> None:
            await asyncio.sleep(number / 1000)
            before = site.log.size_bytes
            await site.log.append(click(number))
            assert max(synced, default=0) > before

        await asyncio.gather(*(append(number) for number in range(100)))
        assert 2 <= len(synced) < 60

    on_site(tmp_path, work, sync=True)


@pytest.mark.parametrize(
    ("ip", "country"),
    [
        ("53.0.0.0", "DE"),
        ("53.255.255.255", "DE"),
        ("54.0.0.0", "unknown"),
        ("52.255.255.255", "unknown"),
        ("133.5.5.5", "JP"),
        ("193.0.7.255", "NL"),
        ("193.0.8.0", "unknown"),
        ("127.0.0.1", "local"),
        ("::1", "local"),
        ("::2", "unknown"),
        ("::ffff:53.1.1.1", "DE"),
        ("fd00::1", "local"),
        ("2001:db8::1", "example 1"),
        ("0.0.0.0", "unknown"),
        ("255.255.255.255", "unknown"),
        ("", "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_countries(ip: str, country: str) -> None:
    """G-16."""
    assert read_countries().of(ip) == country


def test_every_range_of_the_table_says_where_it_is_from() -> None:
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    assert all(len(line.split(",")) == 3 and line.split(",")[2] for line in lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network,country\n10.0.0.0/8,a\n10.1.0.0/16,b\n", "overlap"),
        ("network,country\n10.0.0.1/8,a\n", "host bits"),
        ("net,country\n10.0.0.0/8,a\n", "needs the columns"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadTableError, match=message):
        read_countries(tmp_path / "t.csv")
    with pytest.raises(BadTableError, match="No such file"):
        read_countries(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    ("referrer", "host"),
    [
        ("", "direct"),
        ("https://News.example:8080/a?b", "news.example"),
        ("http://[::1]/x", "::1"),
        ("http://[::1/x", "invalid"),
        ("javascript:alert(1)", "invalid"),
        ("nonsense", "invalid"),
        ("http://", "invalid"),
    ],
)
def test_referrers_are_counted_by_host(referrer: str, host: str) -> None:
    """G-16."""
    assert host_of(referrer) == host


@pytest.mark.parametrize(
    ("ip", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("", "unknown"),
    ],
)
def test_a_limit_counts_networks_of_customers(ip: str, client: str) -> None:
    assert client_of(ip) == client


class SlowRedis(RedisLink):
    """Answers when it is told to; every code leads to its own name, except a missing one."""

    def __init__(self) -> None:
        super().__init__("redis://localhost:1/0", "")
        self.asked: list[list[str]] = []
        self.answers = asyncio.Event()
        self.client = SimpleNamespace(mget=self.mget)  # type: ignore[assignment]
        self.failure: Exception | None = None

    async def mget(self, keys: list[str]) -> list[str | None]:
        self.asked.append(keys)
        await self.answers.wait()
        if self.failure:
            raise self.failure
        return [None if key == "url:missing" else key for key in keys]


def test_look_ups_that_come_together_are_one_question() -> None:
    """Of 500 clients at once, each would otherwise wait for a connection to Redis, until Redis seems to be away."""

    async def run() -> None:
        redis = SlowRedis()
        cache = Cache(redis)
        first = asyncio.create_task(cache.get("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = [asyncio.create_task(cache.get(code)) for code in ("b", "c", "missing", "b") * 100]
        await asyncio.sleep(0)
        others[0].cancel()
        redis.answers.set()
        assert await first == "url:a"
        assert [await one for one in others[1:4]] == ["url:c", None, "url:b"]
        assert others[0].cancelled()
        assert redis.asked == [["url:a"], ["url:b", "url:c", "url:missing"]]

    asyncio.run(run())


def test_only_one_redirect_waits_for_a_redis_that_hangs() -> None:
    async def run() -> None:
        redis = SlowRedis()
        redis.away = "it did not answer before"
        cache = Cache(redis)
        first = asyncio.create_task(cache.get("a"))
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await asyncio.gather(*(cache.get("b") for _ in range(100))) == [None] * 100
        assert not first.done()
        redis.answers.set()
        assert await first == "url:a"
        assert await cache.get("b") == "url:b"

    asyncio.run(run())


def test_a_failed_look_up_is_a_miss_for_all_who_wait() -> None:
    async def run() -> None:
        redis = SlowRedis()
        redis.failure = ConnectionResetError()
        redis.answers.set()
        cache = Cache(redis)
        assert await asyncio.gather(*(cache.get(code) for code in "abc")) == [None] * 3
        assert await cache.get("d") is None
        assert len(redis.asked) == 1, "the second is not even tried"

    asyncio.run(run())


def test_the_limit_of_a_process_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    """G-16: a refused creation is not counted, and other clients are not concerned."""
    now = [0.0]
    monkeypatch.setattr(rate_limit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    limit = RateLimit(None, 10, 60)

    def take(at_s: float, ip: str = "192.0.2.1") -> int:
        now[0] = at_s
        return asyncio.run(limit.take(ip))

    assert [take(second) for second in range(10)] == [0] * 10
    assert [take(10), take(59.5), take(59.5, "192.0.2.2")] == [50, 1, 0]
    assert [take(60), take(60), take(61)] == [0, 1, 0]
    take(500)
    assert len(limit._here) == 1


def test_buckets_end_now_and_include_empty_ones() -> None:
    """G-16."""
    now = 1_700_000_000_000
    index = now // Bucket.HOUR.length_ms
    found = last_buckets({index: 3, index - 1: 1, index - 1000: 9}, Bucket.HOUR, now)
    assert len(found) == 48
    assert [clicks for _, clicks in found[-3:]] == [0, 1, 3]
    assert timestamp(found[-1][0]) == "2023-11-14T22:00:00Z"


def test_the_highest_bar_fills_the_chart() -> None:
    found = bars([(0, 0), (60_000, 5), (120_000, 10)])
    assert [bar.height for bar in found] == [0, 80, 160]
    assert all(bar.y + bar.height == 160 for bar in found)
    assert [bar.height for bar in bars([(0, 0)])] == [0]


def on_http(tmp_path: Path, work: Callable[[FastAPI, httpx.AsyncClient], Awaitable[None]], **more: Any) -> None:
    settings = Settings(str(tmp_path), "https://sho.rt", limit=0, **{"collect_every_s": 0.01, **more})

    async def run() -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="https://sho.rt") as client,
        ):
            await work(app, client)

    asyncio.run(run())


async def code_of(client: httpx.AsyncClient) -> str:
    return str((await client.post("/shorten", json={"url": "https://example.com/page"})).json()["code"])


def test_a_check_of_a_link_is_no_click(tmp_path: Path) -> None:
    async def work(_: FastAPI, client: httpx.AsyncClient) -> None:
        code = await code_of(client)
        assert (await client.head(f"/{code}")).status_code == 302
        assert (await client.get(f"/{code}")).status_code == 302
        async with asyncio.timeout(20):
            while not (clicks := (await client.get("/stats")).json()["clicks"]):
                pass
        assert clicks == 1

    on_http(tmp_path, work)


def test_a_redirect_is_not_kept_by_the_browser(tmp_path: Path) -> None:
    async def work(_: FastAPI, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/{await code_of(client)}")
        assert (answer.headers["Location"], answer.headers["Cache-Control"]) == ("https://example.com/page", "no-store")

    on_http(tmp_path, work)


def test_what_does_not_exist(tmp_path: Path) -> None:
    async def work(_: FastAPI, client: httpx.AsyncClient) -> None:
        for path, status in (("/stats/0000000", 404), ("/dashboard/0000000", 404), ("/a/b/c", 404), ("/0000000", 404)):
            assert (await client.get(path)).status_code == status
        assert (await client.get("/stats/0000000?bucket=year")).status_code == 422

    on_http(tmp_path, work)


def test_a_long_body_is_refused(tmp_path: Path) -> None:
    async def work(_: FastAPI, client: httpx.AsyncClient) -> None:
        assert (await client.post("/shorten", content=b"x" * 100_000)).status_code == 413

    on_http(tmp_path, work)


def test_a_database_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise StoreAwayError("no answer")

    async def work(_: FastAPI, client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(SqliteStore, "_rows", fail)
        monkeypatch.setattr(SqliteStore, "_change", fail)
        for answer in (await client.get("/abcdefg"), await client.post("/", json={"url": "https://a.example/"})):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
            assert "no answer" in answer.json()["detail"]
        health = await client.get("/health")
        assert (health.status_code, health.json()["checks"]["database"]) == (503, "no answer")

    on_http(tmp_path, work)


def test_lost_clicks_make_the_service_unhealthy(tmp_path: Path) -> None:
    async def work(app: FastAPI, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).status_code == 200
        app.state.shortener.lost_clicks = 1
        assert (await client.get("/health")).status_code == 503

    on_http(tmp_path, work)


def test_clicks_are_stored_at_the_end(tmp_path: Path) -> None:
    async def work(_: FastAPI, client: httpx.AsyncClient) -> None:
        await asyncio.sleep(0)  # the collector has looked once, and will again in 1000 s
        code = await code_of(client)
        statuses = Counter([(await client.get(f"/{code}")).status_code for _ in range(5)])
        assert statuses == {302: 5}

    on_http(tmp_path, work, collect_every_s=1000)
    with closing(sqlite3.connect(tmp_path / "url_shortener.db")) as connection:
        assert connection.execute("SELECT count(*) FROM clicks").fetchone() == (5,)


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        (["--redis", "bla://x"], {}, "'bla://x' is not a URL of Redis"),
        (["--port", "{used}"], {}, "Address already in use. End the other program"),
        (["--host", "192.0.2.1"], {}, "Cannot listen on 192.0.2.1:8080: "),
        (["--data", "{file}"], {}, "cannot be used: File exists. Name another folder"),
        (["--database", "postgresql"], {"DATABASE_URL": ""}, "DATABASE_URL is not set."),
        (["--database", "postgresql"], {"DATABASE_URL": "x"}, "PostgreSQL at DATABASE_URL cannot be used"),
        (
            ["--database", "postgresql"],
            {"DATABASE_URL": "postgresql://127.0.0.1:1/x"},
            "Connection refused Is the server running on that host and accepting TCP/IP connections?. Start the server",
        ),
        (["--ip-ranges", "/nonexistent"], {}, "/nonexistent cannot be used"),
    ],
)
def test_what_prevents_the_start_is_one_line(
    options: list[str],
    environment: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    for name, value in {"PORT": "8080", **environment}.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as used:
        filled = [one.format(used=used.getsockname()[1], file=tmp_path / "file") for one in options]
        data = [] if "--data" in options else ["--data", str(tmp_path / "data")]
        monkeypatch.setattr(sys, "argv", ["url_shortener", *data, *filled])
        assert program.main() == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("options", [["--port", "65536"], ["--workers", "0"], ["--limit", "-1"], ["--window-s", "0"]])
def test_wrong_options_are_told(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["url_shortener", *options])
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert f"{options[0]} " in capsys.readouterr().err.rpartition("error: ")[2]


def test_a_file_that_is_no_database_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "url_shortener.db").write_text("junk" * 1000)
    monkeypatch.setattr(sys, "argv", ["url_shortener", "--data", str(tmp_path)])
    assert program.main() == 1
    assert "file is not a database. Name another folder" in capsys.readouterr().err


def test_now_is_in_milliseconds() -> None:
    assert abs(service.now_ms() / 1000 - time.time()) < 5
