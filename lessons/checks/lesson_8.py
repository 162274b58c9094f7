"""Checks of lesson 8, design."""

import contextlib
import hashlib
import http.client
import json
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

from lessons.catalogue import ROOT, Script
from lessons.check import Lab, Seen, check

EXAMPLE = "https://example.com"
WIKIPEDIA = "https://en.wikipedia.org/wiki/Systems_design"
QUESTIONS = {"Scale": 4, "Data": 4, "Caching": 3, "Async": 3, "Consistency": 3, "Observability": 3}


def ask(port: int, path: str, body: Any = None, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    """Send one request; redirects are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(
            "GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers=headers
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


class Shortener:
    """url_shortener.py, running on a database file of its own."""

    def __init__(self, port: int, folder: str) -> None:
        self.port = port
        self._file = Path(folder) / "url_shortener.db"

    def shorten(self, url: str, path: str = "/shorten") -> str:
        status, _, body = ask(self.port, path, {"url": url})
        assert status == 201, f"{status}: {body}"
        return str(json.loads(body)["short_url"])

    def code(self, url: str) -> str:
        return self.shorten(url).rpartition("/")[2]

    def follow(self, code: str, **headers: str) -> tuple[int, str | None]:
        status, found, _ = ask(self.port, f"/{code}", **headers)
        return status, found["Location"]

    def stats(self) -> Any:
        return json.loads(ask(self.port, "/stats")[2])

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self._file)) as connection:
            return connection.execute(statement).fetchall()


@contextlib.contextmanager
def shortener(lab: Lab) -> Iterator[Shortener]:
    with tempfile.TemporaryDirectory() as folder, lab.server("url_shortener.py", TMPDIR=folder) as server:
        yield Shortener(server.port, folder)


def script(lab: Lab, name: str) -> ModuleType:
    return Script(lab.folder / name).load()


@check("E8-01", expected="10 writes/s, 20.7 GB, 16.5 million of 100 million links collide with 7 digits of MD5")
def estimate(lab: Lab) -> Seen:
    """100 million links, 1000 redirects a second, 100 reads for each write."""
    module = script(lab, "shortener_estimate.py")
    found = module.estimate(100_000_000, 1000, 100)
    taken = module.urls_with_a_taken_code(100_000_000, 16**7)
    passed = found.writes_per_s == 10 and round(found.storage_gb, 1) == 20.7 and round(taken / 1e6, 1) == 16.5
    text = f"{found.writes_per_s:.0f} writes/s, {found.storage_gb:.1f} GB, {taken / 1e6:.1f} million"
    return Seen(passed and "20.7 GB" in lab.run("shortener_estimate.py"), text)


@check(
    "E8-02",
    expected="urls(code, original_url, created_at), clicks(id, code, clicked_at, referrer, ip)",
    needs=("redis",),
)
def shortener_columns(lab: Lab) -> Seen:
    """The tables of url_shortener.py have every column of the plan, and each click fills them."""
    with shortener(lab) as one:
        code = one.code(EXAMPLE)
        one.follow(code, Referer="https://a.example/")
        one.stats()
        tables = {
            table: [name for _, name, *_ in one.sql(f"PRAGMA table_info({table})")] for table in ("urls", "clicks")
        }
        (key,) = one.sql("SELECT pk FROM pragma_table_info('urls') WHERE name = 'code'")
        (click,) = one.sql("SELECT code, referrer, ip, clicked_at IS NOT NULL FROM clicks")
    passed = (
        tables
        == {"urls": ["code", "original_url", "created_at"], "clicks": ["id", "code", "clicked_at", "referrer", "ip"]}
        and key == (1,)
        and click == (code, "https://a.example/", "127.0.0.1", 1)
    )
    return Seen(passed, ", ".join(f"{table}({', '.join(names)})" for table, names in tables.items()))


@check("E8-03", expected="between 3500 and 3600 s", needs=("redis",))
def shortener_ttl(lab: Lab) -> Seen:
    """Redis keeps an address for an hour; a redirect that misses fills the cache."""
    with shortener(lab) as one:
        url = f"{EXAMPLE}/{uuid4()}"
        code = one.code(url)
        key = f"url:{code}"
        created = lab.redis.ttl(key)
        lab.redis.delete(key)
        answer = one.follow(code)
        filled = lab.redis.ttl(key)
    return Seen(
        answer == (302, url) and all(3500 <= ttl <= 3600 for ttl in (created, filled)), f"{created} s and {filled} s"
    )


@check("E8-04", expected="201, codes c984d06 and 5a62509, also by POST /", needs=("redis",))
def golden_codes(lab: Lab) -> Seen:
    """Two addresses have the codes that the plan gives them; the same address has the same code."""
    with shortener(lab) as one:
        links = [one.shorten(EXAMPLE), one.shorten(WIKIPEDIA, "/"), one.shorten(EXAMPLE)]
        wanted = [f"http://localhost:{one.port}/{code}" for code in ("c984d06", "5a62509", "c984d06")]
    return Seen(links == wanted, " ".join(link.rpartition("/")[2] for link in links))


def _same_code() -> tuple[str, str]:
    """Find two addresses whose MD5 begins alike: with 16^7 codes, among some 20,000."""
    seen: dict[str, str] = {}
    for number in range(1_000_000):
        url = f"{EXAMPLE}/{number}"
        code = hashlib.md5(url.encode()).hexdigest()[:7]
        if code in seen:
            return seen[code], url
        seen[code] = url
    raise AssertionError("no two addresses with the same code were found")


@check("E8-04", expected="two codes, and each leads to its own address", needs=("redis",))
def collision(lab: Lab) -> Seen:
    """Two addresses whose MD5 begins with the same 7 digits get different codes."""
    first, second = _same_code()
    with shortener(lab) as one:
        codes = [one.code(first), one.code(second)]
        again = [one.code(first), one.code(second)]
        places = [one.follow(code) for code in codes]
    passed = len(set(codes)) == 2 and again == codes and places == [(302, first), (302, second)]
    return Seen(passed, f"{first} {codes[0]}, {second} {codes[1]}")


@check("E8-05", expected="302 to the address with and without the cache; 404 Not found", needs=("redis",))
def resolve(lab: Lab) -> Seen:
    """A code is looked up in the cache, then in the database."""
    with shortener(lab) as one:
        url = f"{EXAMPLE}/{uuid4()}"
        code = one.code(url)
        cached = one.follow(code)
        lab.redis.delete(f"url:{code}")
        stored = one.follow(code)
        lab.redis.set(f"url:{code}", f"{EXAMPLE}/cache", ex=60)
        preferred = one.follow(code)
        lab.redis.delete(f"url:{code}")
        unknown = ask(one.port, "/0000000")
        clicks = one.stats()["clicks"]
    return Seen(
        cached == stored == (302, url)
        and preferred == (302, f"{EXAMPLE}/cache")
        and (unknown[0], unknown[2]) == (404, "Not found")
        and clicks == 3,
        f"{cached[0]}, {stored[0]}, {unknown[0]} {unknown[2]}, {clicks} clicks",
    )


@check("E8-06", expected="urls 2, clicks 1", needs=("redis",))
def shortener_stats(lab: Lab) -> Seen:
    """Two links, one redirect."""
    with shortener(lab) as one:
        one.code(WIKIPEDIA)
        one.follow(one.code(EXAMPLE))
        stats = one.stats()
    return Seen(stats == {"urls": 2, "clicks": 1}, f"urls {stats['urls']}, clicks {stats['clicks']}")


@check("E8-05", expected="400 for each", needs=("redis",))
def shortener_bad_input(lab: Lab) -> Seen:
    """Only http and https addresses, without line breaks, are shortened."""
    bad = ("javascript:alert(1)", "ftp://example.com", "https://a\r\nSet-Cookie: x", "https://é", "https://", None, 5)
    with shortener(lab) as one:
        statuses = [ask(one.port, "/shorten", {"url": url})[0] for url in bad]
        bodies: tuple[object, ...] = ("x", [], {"u": 1})
        statuses += [ask(one.port, "/shorten", body)[0] for body in bodies]
    return Seen(set(statuses) == {400}, " ".join(map(str, statuses)))


@check(
    "E8-07",
    expected="10 of 12 at once; one after 60 s; refused ones do not count; others are not concerned",
    needs=("redis",),
)
def sliding_window(lab: Lab) -> Seen:
    """The window slides: a clock of the check's own decides when it is."""
    module = script(lab, "rate_limiter.py")
    now = [1000.0]
    window = module.SlidingWindow(lab.redis, clock=lambda: now[0])
    client, other = f"check-{uuid4()}", f"check-{uuid4()}"
    try:
        at_once = [window.take(client) for _ in range(10)]  # of one moment: none of them merge
        refused = [window.take(client) for _ in range(2)]
        stored = lab.redis.zcard(f"ratelimit:{client}")
        expiry = lab.redis.ttl(f"ratelimit:{client}")
        free = window.take(other)
        now[0] += 59.5
        late = window.take(client)
        now[0] += 0.5
        after = window.take(client)
    finally:
        lab.redis.delete(f"ratelimit:{client}", f"ratelimit:{other}")
    passed = (
        at_once == [(used, 0) for used in range(1, 11)]
        and refused == [(10, 60)] * 2
        and stored == 10
        and 50 < expiry <= 60
        and free == (1, 0)
        and late == (10, 1)
        and after == (1, 0)
    )
    return Seen(
        passed, f"{at_once[-1]}, {refused}, {stored} stored, other {free}, after 59.5 s {late}, after 60 s {after}"
    )


def _limited(lab: Lab) -> list[tuple[int, http.client.HTTPMessage, str]]:
    key = "ratelimit:127.0.0.1"
    lab.redis.delete(key)
    try:
        with lab.server("rate_limiter.py") as server:
            return [ask(server.port, "/") for _ in range(12)]
    finally:
        lab.redis.delete(key)


@check(
    "E8-08",
    expected="200 with message and requests_used; 429 Rate limit exceeded, Retry-After 60, remaining 0",
    needs=("redis",),
)
def limit_headers(lab: Lab) -> Seen:
    """What an allowed and a refused request are told."""
    answers = _limited(lab)
    first, last = json.loads(answers[0][2]), answers[-1]
    remaining = [headers["X-RateLimit-Remaining"] for _, headers, _ in answers]
    passed = (
        set(first) == {"message", "requests_used"}
        and first["requests_used"] == 1
        and remaining == [*map(str, range(9, -1, -1)), "0", "0"]
        and (last[0], last[2]) == (429, "Rate limit exceeded")
        # The oldest request may be some seconds old on a busy machine.
        and 30 <= int(last[1]["Retry-After"]) <= 60
    )
    return Seen(passed, f"{first}; {last[0]} {last[2]}, Retry-After {last[1]['Retry-After']}")


@check("E8-09", expected="10 x 200, then 2 x 429", needs=("redis",))
def twelve_requests(lab: Lab) -> Seen:
    """Twelve quick requests: the last two are refused."""
    statuses = [status for status, _, _ in _limited(lab)]
    return Seen(statuses == [200] * 10 + [429] * 2, f"{dict(Counter(statuses))}")


def _section(text: str, title: str) -> str:
    """Give the text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {title}\n(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {title!r}"
    return found[2]


@check("E8-10", expected="Scale 4, Data 4, Caching 3, Async 3, Consistency 3, Observability 3")
def checklist(lab: Lab) -> Seen:
    """The decision checklist has 20 questions, and the course's page leads to it."""
    text = _section((lab.folder / "README.md").read_text(encoding="utf-8"), "The decision checklist")
    groups = re.findall(r"^\*\*(\w+)\*\*\n\n((?:\d+\. .*\n(?:   .*\n)*)+)", text, re.MULTILINE)
    found = {name: len(re.findall(r"^\d+\. [^?]*\?", questions, re.MULTILINE)) for name, questions in groups}
    page = (ROOT / "docs/lessons.md").read_text(encoding="utf-8")
    linked = "(../lessons/08-design/README.md#the-decision-checklist)" in page
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    return Seen(found == QUESTIONS and linked, text if linked else f"{text}; docs/lessons.md has no link to it")


@check("E8-11", expected="code generation, cache TTL, analytics, consistency, each with its choices")
def trade_offs(lab: Lab) -> Seen:
    """The four trade-offs of the shortener are discussed."""
    text = _section((lab.folder / "README.md").read_text(encoding="utf-8"), "Trade-offs").lower()
    words = {
        "code generation": ("hash", "counter", "random"),
        "cache ttl": ("1 hour", "1 minute", "none"),
        "analytics": ("synchronous", "asynchronous", "batch"),
        "consistency": ("single", "replicas"),
    }
    missing = [word for topic, choices in words.items() for word in (topic, *choices) if word not in text]
    return Seen(not missing, f"missing: {', '.join(missing) or 'none'}")


@check("E8-12", expected="estimate, API, data model, cache, queue, consistency, instrument; remove the rest")
def process(lab: Lab) -> Seen:
    """The process of design has its seven steps, and its rule."""
    text = _section((lab.folder / "README.md").read_text(encoding="utf-8"), "The idea")
    steps = re.findall(r"^\d\. \*\*(.*?)\*\*", text, re.MULTILINE)
    wanted = ["Estimate", "API", "Data model", "Cache", "Queue", "Consistency", "Instrument"]
    return Seen(steps == wanted and "cannot explain" in text, ", ".join(steps))


@check("E8-13", expected="all 20 questions answered")
def worked_exercise(lab: Lab) -> Seen:
    """The worked exercise answers every question of the checklist."""
    text = _section((lab.folder / "README.md").read_text(encoding="utf-8"), "Exercise")
    found = re.findall(r"^\| (\d+) \| .{10,} \|$", text, re.MULTILINE)
    return Seen(found == [str(number) for number in range(1, 21)], f"{len(found)} answers")


@check("E8-14", expected="8 rows, each with its key concepts; the last is the design process")
def topics(lab: Lab) -> Seen:
    """The course's page has the table of topics."""
    text = _section((ROOT / "docs/lessons.md").read_text(encoding="utf-8"), "Topics")
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+, [^|]+) \| (\d) \|$", text, re.MULTILINE)
    passed = [number for _, _, number in rows] == list("12345678") and rows[-1][0] == "design process"
    return Seen(passed, ", ".join(topic for topic, _, _ in rows))
