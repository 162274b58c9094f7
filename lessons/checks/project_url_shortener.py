"""Checks of project 1, the URL shortener."""

import contextlib
import http.client
import json
import random
import socket
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg

from lessons.check import Lab, RunningServer, Seen, check, wait_for

_CLIENTS = 8


@dataclass(frozen=True)
class Answer:
    """An answer of the service."""

    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def running(
    lab: Lab, data: str, *options: object, redis: bool | str = False, limit: int = 0, database_url: str = ""
) -> Iterator[RunningServer]:
    """Run the service on a folder, with SQLite unless options say otherwise; ``redis`` may be a URL of its own."""
    more = ("--redis", redis) if isinstance(redis, str) else () if redis else ("--no-redis",)
    variables: dict[str, Any] = {"DATABASE_URL": database_url} if database_url else {}
    package = "lessons.projects.url_shortener"
    with lab.server("-m", package, "--data", data, "--limit", limit, *more, *options, **variables) as server:
        yield server


def ask(port: int, path: str, body: Any = None, method: str = "", **headers: str) -> Answer:
    """Send one request on a connection of its own; redirects are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        text = None if body is None else json.dumps(body)
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, text, sent)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode())
    finally:
        connection.close()


def create(port: int, url: str = "https://example.com/page") -> str:
    """Shorten an address. Returns its code."""
    answer = ask(port, "/shorten", {"url": url})
    assert answer.status == 201, f"{answer.status}: {answer.body}"
    code: str = answer.document["code"]
    return code


def clicks_of(port: int, code: str) -> int:
    return int(ask(port, f"/stats/{code}").document["clicks"])


@check("E8-04", expected="201, a code of 7 characters, then 302 to the address; 404 for an unknown code")
def create_and_follow(lab: Lab) -> Seen:
    """POST /shorten and POST / make links that GET follows."""
    with tempfile.TemporaryDirectory() as data, running(lab, data) as server:
        first = ask(server.port, "/shorten", {"url": "https://example.com/1"})
        second = ask(server.port, "/", {"url": "https://example.com/2"})
        codes = [one.document["short_url"].rpartition("/")[2] for one in (first, second)]
        followed = [ask(server.port, f"/{code}") for code in codes]
        unknown = ask(server.port, "/0000000")
    places = [one.headers["Location"] for one in followed]
    statuses = [one.status for one in (first, second, *followed, unknown)]
    return Seen(
        statuses == [201, 201, 302, 302, 404]
        and places == ["https://example.com/1", "https://example.com/2"]
        and [len(code) for code in codes] == [7, 7]
        and unknown.body == "Not found",
        f"{statuses}, codes {' '.join(codes)}, {unknown.body}",
    )


@check("E8-06", expected="urls 2, clicks 1")
def stats_count(lab: Lab) -> Seen:
    """GET /stats counts two links and one redirect."""
    with tempfile.TemporaryDirectory() as data, running(lab, data) as server:
        code = create(server.port)
        create(server.port)
        ask(server.port, f"/{code}")
        wait_for(lambda: ask(server.port, "/stats").document["clicks"], "the click to be stored")
        seen = ask(server.port, "/stats").document
    return Seen((seen["urls"], seen["clicks"]) == (2, 1), f"urls {seen['urls']}, clicks {seen['clicks']}")


@check("G-16", expected="3 clicks in minutes, hours and days; 2 referrers; 2 countries")
def buckets_sum(lab: Lab) -> Seen:
    """GET /stats/{code} shows three clicks over time, by referrer and by country."""
    with tempfile.TemporaryDirectory() as data, running(lab, data, "--trusted-proxies", "127.0.0.1") as server:
        code = create(server.port)
        for referrer, ip in (
            ("https://a.example/x", "53.1.1.1"),
            ("https://a.example/y", "53.1.1.1"),
            ("", "133.1.1.1"),
        ):
            ask(server.port, f"/{code}", Referer=referrer, X_Forwarded_For=ip)
        wait_for(lambda: clicks_of(server.port, code) == 3, "three clicks")
        found = {name: ask(server.port, f"/stats/{code}?bucket={name}").document for name in ("minute", "hour", "day")}
    sums = {name: sum(one["clicks"] for one in document["buckets"]) for name, document in found.items()}
    referrers = {one["host"]: one["clicks"] for one in found["hour"]["referrers"]}
    countries = {one["country"]: one["clicks"] for one in found["hour"]["countries"]}
    return Seen(
        set(sums.values()) == {3} and referrers == {"a.example": 2, "direct": 1} and countries == {"DE": 2, "JP": 1},
        f"{sums}, {referrers}, {countries}",
    )


def _eleven(port: int) -> tuple[list[int], Answer]:
    """Create eleven links, each time with another forged address of the client."""
    answers = [
        ask(port, "/shorten", {"url": f"https://example.com/{number}"}, X_Forwarded_For=f"192.0.2.{number}")
        for number in range(11)
    ]
    return [one.status for one in answers], answers[-1]


def _limited(statuses: list[int], last: Answer) -> Seen:
    wait_s = last.headers["Retry-After"]
    passed = statuses == [201] * 10 + [429] and 0 < int(wait_s or 0) <= 60
    return Seen(passed, f"{dict(Counter(statuses))}, Retry-After {wait_s}")


@check("G-16", expected="10 x 201, then 429 with Retry-After of at most 60", needs=("redis",))
def eleventh_creation(lab: Lab) -> Seen:
    """The eleventh link of a client within 60 s is refused, also with a forged X-Forwarded-For."""
    with tempfile.TemporaryDirectory() as data, running(lab, data, redis=True, limit=10) as server:
        return _limited(*_eleven(server.port))


@check("G-16", expected="10 x 201, then 429 with Retry-After of at most 60")
def eleventh_creation_without_redis(lab: Lab) -> Seen:
    """Without Redis, the process counts creations itself."""
    with tempfile.TemporaryDirectory() as data, running(lab, data, limit=10) as server:
        return _limited(*_eleven(server.port))


@check(
    "E8-03", expected="between 3500 and 3600 s, after the creation and after a redirect that missed", needs=("redis",)
)
def cache_for_an_hour(lab: Lab) -> Seen:
    """Redis keeps the address of a code for an hour; a redirect that misses fills the cache."""
    with tempfile.TemporaryDirectory() as data, running(lab, data, redis=True) as server:
        code = create(server.port)
        (key,) = lab.redis.keys(f"url_shortener:*:url:{code}")
        created = lab.redis.ttl(key)
        lab.redis.delete(key)
        ask(server.port, f"/{code}")
        filled = lab.redis.ttl(key)
    return Seen(3500 <= created <= 3600 and 3500 <= filled <= 3600, f"{created} s and {filled} s")


@check("G-16", expected="2 clicks in the last 5 minutes", needs=("redis",))
def live_counters(lab: Lab) -> Seen:
    """Redis counts the clicks of the last minutes, while the database cannot store any."""
    with tempfile.TemporaryDirectory() as data, running(lab, data, redis=True) as server:
        code = create(server.port)
        with locked(data):
            for _ in range(2):
                ask(server.port, f"/{code}")
            wait_for(lambda: ask(server.port, "/stats").document["clicks_last_5_minutes"] == 2, "the counters")
            seen = ask(server.port, f"/stats/{code}").document
    return Seen(
        (seen["clicks_last_5_minutes"], seen["clicks"]) == (2, 0),
        f"{seen['clicks_last_5_minutes']} in Redis, {seen['clicks']} in the database",
    )


@contextlib.contextmanager
def locked(data: str) -> Iterator[None]:
    """Let nobody write to the SQLite file, so that clicks wait in the queue."""
    with contextlib.closing(sqlite3.connect(Path(data) / "url_shortener.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute("BEGIN IMMEDIATE")
        yield


@dataclass
class Load:
    """Clients that follow a link as fast as they can. Each click has a referrer of its own, to find it again."""

    sent: set[str] = field(default_factory=set)
    answered: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def until_stored(self, port: int, code: str, stored: Callable[[], list[str]]) -> None:
        """Send some clicks and wait until all are stored, so that a part of the queue's file is done with."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            for _ in range(20):
                self._click(connection, code)
        wait_for(lambda: self.answered <= set(stored()), "all clicks to be stored")

    def until_killed(self, server: RunningServer, code: str, clicks: int) -> None:
        """Send until ``clicks`` more were answered, kill the server in the middle of it, and let the clients see it."""
        goal = len(self.answered) + clicks
        with ThreadPoolExecutor(_CLIENTS) as pool:
            clients = [pool.submit(self._client, server.port, code) for _ in range(_CLIENTS)]
            wait_for(lambda: len(self.answered) >= goal or any(one.done() for one in clients), f"{goal} answers")
            server.kill()
            for one in clients:
                one.result()

    def _client(self, port: int, code: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            while True:
                self._click(connection, code)
        except (OSError, http.client.HTTPException):
            return  # the server is killed
        finally:
            connection.close()

    def _click(self, connection: http.client.HTTPConnection, code: str) -> None:
        referrer = f"https://client.example/{random.getrandbits(64):016x}"
        with self._lock:
            self.sent.add(referrer)
        connection.request("GET", f"/{code}", headers={"Referer": referrer})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 302, f"a redirect was answered with {answer.status}"
        with self._lock:
            self.answered.add(referrer)


def _nothing_lost(load: Load, stored: Callable[[], list[str]], unstored: int) -> Seen:
    """Compare what was answered with what is stored, once the new process has stored what the killed ones left."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: load.answered <= set(stored()), "the clicks", 30)
    found = stored()
    lost = load.answered - set(found)
    unknown = set(found) - load.sent
    text = (
        f"{len(load.answered)} answered, {len(lost)} lost, {len(found) - len(set(found))} stored twice; "
        f"{unstored} were only in the queue when the process was killed"
    )
    return Seen(not lost and len(found) == len(set(found)) and not unknown and unstored > 0, text)


@check("G-16", expected="0 lost, 0 stored twice, some in the queue at the kill")
def killed_under_load(lab: Lab) -> Seen:
    """kill -9 under load, three times: every click whose redirect was answered is stored once (SQLite)."""
    load = Load()
    with tempfile.TemporaryDirectory() as data:

        def stored() -> list[str]:
            with contextlib.closing(sqlite3.connect(Path(data) / "url_shortener.db", timeout=10)) as connection:
                return [row[0] for row in connection.execute("SELECT referrer FROM clicks")]

        with running(lab, data) as server:
            code = create(server.port)
            load.until_killed(server, code, random.randrange(200, 400))
        with running(lab, data) as server:
            load.until_killed(server, code, random.randrange(200, 400))
        with running(lab, data) as server:
            # Wait until the queue of the killed processes is stored, then let a new one fill, and kill.
            load.until_stored(server.port, code, stored)
            with locked(data):
                load.until_killed(server, code, 300)
                unstored = len(load.answered - set(stored()))
        with running(lab, data):
            return _nothing_lost(load, stored, unstored)


@check("G-16", expected="0 lost, 0 stored twice, some in the queue at the kill", needs=("redis", "postgresql"))
def killed_under_load_postgresql(lab: Lab) -> Seen:
    """kill -9 under load: every click whose redirect was answered is stored once (PostgreSQL and Redis)."""
    load = Load()
    options = ("--database", "postgresql")
    with tempfile.TemporaryDirectory() as data, psycopg.connect(lab.database_url, autocommit=True) as connection:
        with running(lab, data, *options, redis=True) as server:
            code = create(server.port)

            def stored() -> list[str]:
                rows = connection.execute("SELECT referrer FROM clicks WHERE code = %s", (code,))
                return [row[0] for row in rows]

            load.until_killed(server, code, random.randrange(200, 400))
        try:
            with running(lab, data, *options, redis=True) as server, psycopg.connect(lab.database_url) as other:
                load.until_stored(server.port, code, stored)
                other.execute("LOCK TABLE clicks IN SHARE MODE")  # lets others read, and nobody write
                load.until_killed(server, code, 300)
                unstored = len(load.answered - set(stored()))
            with running(lab, data, *options, redis=True):
                return _nothing_lost(load, stored, unstored)
        finally:
            connection.execute("DELETE FROM clicks WHERE code = %s", (code,))
            connection.execute("DELETE FROM urls WHERE code = %s", (code,))


@contextlib.contextmanager
def _silent_server() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def _works_without_redis(lab: Lab, url: str) -> Seen:
    with tempfile.TemporaryDirectory() as data, running(lab, data, redis=url, limit=10) as server:
        statuses, last = _eleven(server.port)
        code = any_code(data)
        started = time.monotonic()
        followed = [ask(server.port, f"/{code}").status for _ in range(50)]
        took_s = time.monotonic() - started
        wait_for(lambda: clicks_of(server.port, code) == 50, "50 clicks")
        health = ask(server.port, "/health")
    limited = _limited(statuses, last)
    return Seen(
        limited.passed and followed == [302] * 50 and health.status == 200 and took_s < 25,
        f"{limited.text}; 50 redirects, 50 clicks; health {health.status}: Redis {health.document['checks']['redis']}",
    )


def any_code(data: str) -> str:
    """Give the code of a link that exists."""
    with contextlib.closing(sqlite3.connect(Path(data) / "url_shortener.db")) as connection:
        return str(connection.execute("SELECT code FROM urls LIMIT 1").fetchone()[0])


@check("G-16", expected="redirects, clicks and the limit work; health says that Redis is away")
def redis_refuses(lab: Lab) -> Seen:
    """Nothing listens on the port of Redis."""
    with _silent_server() as port:
        free = port
    return _works_without_redis(lab, f"redis://127.0.0.1:{free}/15")


@check("G-16", expected="redirects, clicks and the limit work; health says that Redis is away")
def redis_hangs(lab: Lab) -> Seen:
    """Redis accepts connections and never answers."""
    with _silent_server() as port:
        return _works_without_redis(lab, f"redis://127.0.0.1:{port}/15")


class Wire:
    """A connection of the service to one of its servers, which can be cut, or frozen as by a server that hangs."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "localhost", parts.port or 5432)
        self._running = threading.Event()
        self._running.set()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}")
        assert self.url != url, f"no host and port in {url}"
        self.is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def cut(self) -> None:
        """End all connections; new ones end at once."""
        self.is_cut = True
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut = False

    def close(self) -> None:
        self.cut()
        self.thaw()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._running.wait()
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()


@check(
    "G-16",
    expected="302 302 503 / 302 302 / 302 201, healthy; every click stored once",
    needs=("redis", "postgresql"),
)
def servers_fail_in_turn(lab: Lab) -> Seen:
    """PostgreSQL hangs, then Redis fails too, and both come back."""
    with (
        tempfile.TemporaryDirectory() as data,
        contextlib.closing(Wire(lab.database_url)) as database,
        contextlib.closing(Wire(lab.redis_url)) as cache,
        running(lab, data, "--database", "postgresql", redis=cache.url, database_url=database.url) as server,
        psycopg.connect(lab.database_url, autocommit=True) as connection,
    ):
        code = create(server.port)
        path = f"/{code}"
        try:
            database.freeze()
            seen = [ask(server.port, path).status for _ in range(2)]
            refused = ask(server.port, "/shorten", {"url": "https://example.com/"})
            seen.append(refused.status)
            retry_after_s = refused.headers["Retry-After"]
            database.thaw()
            cache.cut()
            # The database may need a moment for what it was asked meanwhile.
            wait_for(lambda: ask(server.port, path).status == 302, "a redirect without Redis")
            seen += [ask(server.port, path).status for _ in range(2)]
            cache.mend()
            wait_for(lambda: ask(server.port, "/health").document["checks"]["redis"] == "ok", "Redis")
            seen.append(ask(server.port, path).status)
            wait_for(lambda: clicks_of(server.port, code) >= 6, "the clicks")
            created = ask(server.port, "/shorten", {"url": "https://example.com/"})
            seen.append(created.status)
            health = ask(server.port, "/health")
            clicks = clicks_of(server.port, code)
        finally:
            database.thaw()
            codes = [code, created.document["code"]] if "created" in locals() else [code]
            connection.execute("DELETE FROM clicks WHERE code = ANY(%s)", (codes,))
            connection.execute("DELETE FROM urls WHERE code = ANY(%s)", (codes,))
    passed = seen == [302, 302, 503, 302, 302, 302, 201] and clicks == 6 and health.status == 200 and retry_after_s
    return Seen(
        bool(passed), f"{' '.join(map(str, seen))}, {health.document['status']}, {clicks} of 6 clicks, {retry_after_s}"
    )


class _Active(HTMLParser):
    """Finds what a browser would run, or load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.active: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "link", "iframe", "object", "embed", "base", "form"):
            self.active.append(tag)
        for name, value in attrs:
            scheme = (value or "").strip().partition(":")[0].lower()
            if name.startswith("on") or name == "src" or (name == "href" and scheme in ("javascript", "data")):
                self.active.append(f"{tag} {name}={value}")


def page_text(html: str) -> str:
    """Give what a page shows, with addresses decoded."""
    return unquote(unescape(html))


@check("G-16", expected="nothing active in the pages, a policy without scripts")
def stored_script(lab: Lab) -> Seen:
    """Scripts in an address and in a referrer are shown as text."""
    attack = "<script>alert(1)</script>"
    with tempfile.TemporaryDirectory() as data, running(lab, data) as server:
        code = create(server.port, f'https://example.com/{attack}?q="\'{attack}#"><img src=x onerror=alert(1)>')
        for referrer in (
            attack,
            f"https://{attack}/",
            f'https://x"><img src=x>{attack}',
            f"https://a.example/{attack}",
        ):
            ask(server.port, f"/{code}", Referer=referrer)
        wait_for(lambda: clicks_of(server.port, code) == 4, "four clicks")
        pages = [ask(server.port, path) for path in ("/", f"/dashboard/{code}")]
    found = _Active()
    for page in pages:
        found.feed(page.body)
    shown = all(attack in page_text(page.body) for page in pages)
    policies = [page.headers["Content-Security-Policy"] for page in pages]
    return Seen(
        not found.active and shown and all("default-src 'none'" in one and "script-src" not in one for one in policies),
        f"active: {found.active or 'nothing'}; {'shown as text' if shown else 'NOT shown'}; "
        f"{policies[0].partition(';')[0]}",
    )


@check("G-16", expected="each is refused with 422")
def only_http(lab: Lab) -> Seen:
    """Only http and https addresses are shortened, and none of the service itself."""
    with tempfile.TemporaryDirectory() as data, running(lab, data) as server:
        bad = (
            "javascript:alert(1)",
            "data:text/html,<script>alert(1)</script>",
            "file:///etc/passwd",
            "ftp://example.com/",
            "//example.com",
            "example.com",
            "https://",
            "https://user:password@example.com/",
            f"http://localhost:{server.port}/0000000",
            "https://example.com/" + "a" * 3000,
            "",
            7,
            None,
        )
        statuses = {str(url)[:30]: ask(server.port, "/shorten", {"url": url}).status for url in bad}
        statuses["not JSON"] = ask(server.port, "/shorten", "url").status
    wrong = {url: status for url, status in statuses.items() if status != 422}
    return Seen(not wrong, f"{len(statuses)} refused" if not wrong else f"{wrong}")


@check("E8-02", expected="every column of the plan")
def columns(lab: Lab) -> Seen:
    """The tables have the columns of the plan, and referrer and ip, which its code lacks."""
    with tempfile.TemporaryDirectory() as data, running(lab, data) as server:
        create(server.port)
        with contextlib.closing(sqlite3.connect(Path(data) / "url_shortener.db")) as connection:
            found = {
                table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                for table in ("urls", "clicks")
            }
    wanted = {
        "urls": {"code", "original_url", "created_at"},
        "clicks": {"id", "code", "clicked_at", "referrer", "ip"},
    }
    missing = {table: names - found[table] for table, names in wanted.items() if names - found[table]}
    return Seen(not missing, f"missing: {missing or 'none'}")
