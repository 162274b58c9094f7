"""The pages without a browser: who may see them, what protects them, and what they show of hostile names."""

import asyncio
import hashlib
import html
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles
from painting import Painter, Walls
from setup_support import ROOT
from waiting import eventually

from admin_api.app import create_app
from admin_api.pages.assets import assets
from admin_api.pages.cells import seconds
from admin_api.pages.declared import FINISHES_WITHIN_S
from admin_api.pages.html import environment
from admin_api.pages.shards import NodeTotal, draw, total
from admin_api.sessions import COOKIE, CSRF_HEADER, MAX_AGE_S, MAX_IDLE_S, SessionEndedError, Sessions
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.api_tokens import NamedToken, NamedTokens
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.shards import ShardGroupRow
from citus_cluster.model.citus.statistics import Feature, NodeFeature, require
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.token_role import NAMED_TOKENS_FILE, Role
from citus_cluster.operations.activity.changes import ENABLE
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.pair.changes import PROMOTE
from citus_cluster.operations.view import View

HTML = {"Accept": "text/html,application/xhtml+xml"}
NOW = datetime.now(UTC)
HOSTILE = """<script>alert("1")</script>' onload=x"""


@dataclass
class Browser:
    """A client with cookies, which asks for HTML, and sends what a browser sends with a form."""

    client: httpx.Client
    port: int

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=HTML | headers)

    def post(self, path: str, form: dict[str, str], **headers: str) -> httpx.Response:
        return self.client.post(path, data=form, headers=HTML | {"Sec-Fetch-Site": "same-origin"} | headers)

    def log_in(self, token: str, target: str = "/all") -> httpx.Response:
        return self.post("/login", {"token": token, "next": target})

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/all").text)
        assert found
        return found[1]


@pytest.fixture
def painter() -> Painter:
    return Painter()


@pytest.fixture
def browser(files: ApiFiles, run_api: Callable[[Any], Api], painter: Painter) -> Iterator[Browser]:
    data = files.folder / "data"
    data.mkdir()
    settings = files.settings(reconciler=False, connect_timeout_s=0.3, data_folder=data)
    paint = painter.change(shows_once=lambda wanted: wanted.coats == 3)
    changes: list[AnyChange] = [paint, replace(painter.change(asks=True), name="walls-raze"), PROMOTE]
    api = run_api(create_app(settings, changes, [Walls(120).view()]))
    with httpx.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=30, trust_env=False) as client:
        yield Browser(client, api.port)


def keep(files: ApiFiles, *tokens: NamedToken) -> None:
    files.replace(NAMED_TOKENS_FILE, NamedTokens(tokens).to_json())


def named(name: str, role: Role, expires_at: datetime | None = None) -> NamedToken:
    return NamedToken(name, role, hash_token(name), NOW, expires_at)


def test_a_browser_without_a_session_gets_the_form_to_log_in(browser: Browser) -> None:
    for path in ("/", "/operations", "/docs", "/nothing"):
        answer = browser.get(path)
        assert (answer.status_code, "<form" in answer.text) == (401, True), path
        assert answer.headers["content-type"].startswith("text/html")
    assert browser.client.get("/docs").headers["content-type"] == "application/problem+json"


def test_an_unknown_page_is_a_page_for_a_browser_and_a_problem_for_a_program(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    answer = browser.get("/nothing")
    assert (answer.status_code, "<nav" in answer.text) == (404, True)
    assert browser.client.get("/nothing").json()["detail"] == "The API has no such path."


def test_the_cookie_is_a_session_and_not_the_token(browser: Browser) -> None:
    answer = browser.log_in(ADMIN_TOKEN, "/views/walls-list")
    assert (answer.status_code, answer.headers["location"]) == (303, "/views/walls-list")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/;" in cookie and "Secure" not in cookie
    assert ADMIN_TOKEN not in cookie
    assert browser.get("/all").status_code == 200
    assert browser.client.get("/api/v1/walls").status_code == 200


def test_behind_a_proxy_that_ends_tls_the_cookie_is_for_https_only(browser: Browser) -> None:
    host = f"127.0.0.1:{browser.port}"
    answer = browser.client.post("/login", data={"token": ADMIN_TOKEN}, headers={"Origin": f"https://{host}"})
    assert answer.status_code == 303
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", ""])
def test_the_log_in_goes_to_no_other_site(browser: Browser, target: str) -> None:
    assert browser.log_in(ADMIN_TOKEN, target).headers["location"] == "/"


@pytest.mark.parametrize("token", ["wrong", "", "x" * 5000, "tökén"])
def test_a_wrong_token_is_refused_on_the_form(browser: Browser, token: str) -> None:
    answer = browser.log_in(token)
    assert (answer.status_code, 'role="alert"' in answer.text) == (401, True)
    assert "set-cookie" not in answer.headers
    assert not token or token not in answer.text or len(token) < 6


def test_a_session_ends_when_its_token_is_revoked(browser: Browser, files: ApiFiles) -> None:
    keep(files, named("someone", Role.READ))
    browser.log_in("someone")
    assert browser.get("/all").status_code == 200
    keep(files)
    # Each tab is told why.
    for _ in range(2):
        answer = browser.get("/all")
        assert answer.status_code == 401
        assert "its token is no longer valid" in answer.text


def test_an_expired_token_is_shown_as_such(browser: Browser, files: ApiFiles) -> None:
    keep(files, named("someone", Role.READ))
    browser.log_in("someone")
    keep(files, named("someone", Role.READ, NOW - timedelta(minutes=1)))
    for _ in range(2):
        answer = browser.get("/all")
        assert answer.status_code == 401
        assert "The token &#39;someone&#39; expired at" in answer.text
    assert "expired at" in browser.log_in("someone").text


def test_logging_out_ends_the_session_on_the_server(browser: Browser) -> None:
    browser.log_in(READ_TOKEN)
    cookie = browser.client.cookies[COOKIE]
    assert browser.post("/logout", {}).status_code == 403
    assert browser.post("/logout", {"csrf": browser.csrf()}).status_code == 303
    assert COOKIE not in browser.client.cookies
    assert browser.get("/all", Cookie=f"{COOKIE}={cookie}").status_code == 401


def test_a_session_ends_by_age_and_without_use() -> None:
    now = 0.0

    async def identify(token: str, client: str | None) -> Any:
        assert token == "the-token"

    async def scenario() -> None:
        nonlocal now
        sessions = Sessions(identify, lambda: now)
        value, _ = await sessions.begin("the-token", None)
        assert "the-token" not in repr(vars(sessions)) and value not in repr(vars(sessions))
        now = MAX_IDLE_S - 1
        await sessions.identify(value, None)
        now += MAX_IDLE_S + 1
        with pytest.raises(SessionEndedError):
            await sessions.identify(value, None)
        value, _ = await sessions.begin("the-token", None)
        with pytest.raises(SessionEndedError):
            while now < 2 * MAX_IDLE_S + MAX_AGE_S + 10:
                now += MAX_IDLE_S - 1
                await sessions.identify(value, None)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_no_other_site_can_send_a_form(browser: Browser, painter: Painter, headers: dict[str, str]) -> None:
    browser.log_in(ADMIN_TOKEN)
    form = {"csrf": browser.csrf(), "wall": "north", "do": "run"}
    assert browser.post("/changes/walls-paint", form, **headers).status_code == 403
    assert browser.post("/login", {"token": ADMIN_TOKEN}, **headers).status_code == 403
    assert painter.painted == []


def test_a_change_needs_the_secret_of_the_form(browser: Browser, painter: Painter) -> None:
    browser.log_in(ADMIN_TOKEN)
    for csrf in ({}, {"csrf": ""}, {"csrf": "wrong"}, {"csrf": "ü"}):
        assert browser.post("/changes/walls-paint", {"wall": "north", "do": "run", **csrf}).status_code == 403
        assert browser.post("/changes/walls-paint", {"wall": "north", "do": "plan", **csrf}).status_code == 403
    wall = {"wall": "north"}
    assert browser.client.post("/api/v1/walls/paint", json=wall).status_code == 403
    assert browser.client.post("/api/v1/walls/paint", json=wall, headers={CSRF_HEADER: "wrong"}).status_code == 403
    assert painter.painted == []
    assert (
        browser.client.post("/api/v1/walls/paint", json=wall, headers={CSRF_HEADER: browser.csrf()}).status_code == 201
    )


def test_a_token_that_may_only_read_sees_no_change_and_gets_403(browser: Browser, painter: Painter) -> None:
    browser.log_in(READ_TOKEN)
    for path in ("/all", "/views/walls-list"):
        assert "/changes/" not in browser.get(path).text
    assert browser.get("/changes/walls-paint").status_code == 403
    form = {"csrf": browser.csrf(), "wall": "north", "do": "run"}
    assert browser.post("/changes/walls-paint", form).status_code == 403
    assert painter.painted == []


def test_every_page_forbids_scripts_and_styles_of_others(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    for path in ("/all", "/docs", "/operations", "/views/walls-list", "/changes/walls-paint", "/login", "/views/none"):
        answer = browser.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=|javascript:", answer.text), path
        for link in re.findall(r'(?:src|href)="([^"]*)"', answer.text):
            assert link.startswith(("/", "#")), link


def test_static_files_are_kept_for_good_and_small(browser: Browser) -> None:
    total = 0
    for name, asset in assets().items():
        answer = browser.client.get(asset.url)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert asset.digest == hashlib.sha256(answer.content).hexdigest()[:16]
        assert browser.client.get(asset.url.replace(asset.digest, "0" * 16)).status_code == 404
        total += len(answer.content) * (not name.endswith(".txt"))
    assert total < 150_000
    for path in ("/static/x/../app.py", "/static/0/..%2f..%2fapp.py", "/static/"):
        assert browser.client.get(path).status_code in {401, 404}


def test_the_libraries_are_unmodified() -> None:
    folder = ROOT / "admin_api/pages/static/vendor"
    versions = (folder / "VERSIONS.txt").read_text()
    for path in folder.iterdir():
        if path.suffix in {".js", ".css"}:
            assert hashlib.sha256(path.read_bytes()).hexdigest() in versions, path.name
            assert (folder / f"{path.name.partition('.')[0]}.LICENSE.txt").is_file()


def test_a_page_that_shows_a_secret_waits_for_it(browser: Browser, painter: Painter) -> None:
    browser.log_in(ADMIN_TOKEN)
    form = {"csrf": browser.csrf(), "wall": "slow", "coats": "3", "key": "k1", "do": "run"}
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(browser.post, "/changes/walls-paint", form)
        eventually(painter.started.is_set, "the start of the operation")
        time.sleep(FINISHES_WITHIN_S + 0.3)
        assert not waiting.done()
        painter.release()
        assert waiting.result().status_code == 303
    assert painter.painted == ["slow"]


def test_a_change_shows_its_plan_first_and_then_becomes_an_operation(browser: Browser, painter: Painter) -> None:
    browser.log_in(ADMIN_TOKEN)
    assert "Run this plan" not in browser.get("/changes/walls-paint").text
    form = {"csrf": browser.csrf(), "wall": "north", "coats": "2", "key": "k1"}
    planned = browser.post("/changes/walls-paint", form | {"do": "plan"})
    assert planned.status_code == 200
    assert "Paint north." in planned.text and "Run this plan" in planned.text
    assert "citus-cluster walls paint north --coats 2" in planned.text
    assert painter.painted == []
    answer = browser.post("/changes/walls-paint", form | {"do": "run"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/operations/1")
    # The same form, sent twice.
    assert browser.post("/changes/walls-paint", form | {"do": "run"}).headers["location"] == "/operations/1"
    assert painter.painted == ["north"]
    page = browser.get("/operations/1").text
    assert "north is painted" in page and ">done<" in page and "citus-cluster walls paint north --coats 2" in page
    assert "/operations/1" in browser.get("/operations").text
    assert "Paint north." in browser.get("/changes/walls-paint?wall=north").text


def test_a_blocked_change_names_what_mends_it_and_cannot_run(browser: Browser, painter: Painter) -> None:
    browser.log_in(ADMIN_TOKEN)
    form = {"csrf": browser.csrf(), "wall": "wet"}
    page = browser.post("/changes/walls-paint", form).text
    assert "the wall is wet" in page and "DRY WALL;" in page and "Run this plan" not in page
    assert browser.post("/changes/walls-paint", form | {"do": "run"}).status_code == 409
    assert painter.painted == []


def test_what_does_not_fit_stays_in_the_form(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    csrf = browser.csrf()
    answer = browser.post("/changes/walls-paint", {"csrf": csrf, "wall": HOSTILE, "coats": "9"})
    assert answer.status_code == 422
    assert "coats" in answer.text and "<script>alert" not in answer.text and "&lt;script&gt;" in answer.text
    assert browser.post("/changes/walls-paint", {"csrf": csrf, "wall": "missing"}).status_code == 404
    assert browser.post("/changes/none", {"csrf": csrf}).status_code == 404
    assert browser.post("/operations/99/cancel", {"csrf": csrf}).status_code == 404
    assert browser.get("/operations/x").status_code == 422
    assert browser.get("/views/walls-list?limit=1000").status_code == 422


def test_what_is_hard_to_undo_needs_a_tick(browser: Browser, painter: Painter) -> None:
    browser.log_in(ADMIN_TOKEN)
    form = {"csrf": browser.csrf(), "wall": "east"}
    assert "hard to undo" in browser.post("/changes/walls-raze", form).text
    assert browser.post("/changes/walls-raze", form | {"do": "run"}).status_code == 422
    assert painter.painted == []
    assert browser.post("/changes/walls-raze", form | {"do": "run", "agreed": "yes"}).status_code == 303


def test_a_running_operation_is_cancelled_and_resumed_from_its_page(browser: Browser, painter: Painter) -> None:
    browser.log_in(ADMIN_TOKEN)
    csrf = browser.csrf()
    browser.post("/changes/walls-paint", {"csrf": csrf, "wall": "slow", "do": "run"})
    page = browser.get("/operations/1").text
    assert ">Cancel<" in page and 'data-events="/api/v1/operations/1/events' in page
    other = browser.post("/changes/walls-paint", {"csrf": csrf, "wall": "slow", "do": "run"})
    assert other.status_code == 409 and "/operations/1" in other.text
    assert browser.post("/operations/1/cancel", {"csrf": csrf}).status_code == 303
    page = browser.get("/operations/1").text
    assert ">cancelled<" in page and ">Resume<" in page
    assert browser.post("/operations/1/resume", {"csrf": csrf}).status_code == 303
    painter.release()


def test_a_list_is_filtered_sorted_and_paged_by_the_parameters_of_the_api(browser: Browser) -> None:
    browser.log_in(ADMIN_TOKEN)
    page = browser.get("/views/walls-list?sort=-size_bytes&limit=5").text
    assert "wall000119" in page and "wall000001" not in page and "11.6 kB" in page
    following = re.search(r'href="([^"]*cursor=[^"]*)"', page)
    assert following
    assert "wall000114" in browser.get(following[1].replace("&amp;", "&")).text
    assert 'aria-sort="descending"' in page
    assert "120 in all" in page


def test_names_from_servers_are_escaped_everywhere(files: ApiFiles, run_api: Callable[[Any], Api]) -> None:
    @dataclass(frozen=True)
    class Thing:
        wall: str
        state: str
        query: str
        tags: tuple[str, ...]

    async def read(*_: object) -> Sequence[Thing]:
        return [Thing(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,))]

    painter = Painter()
    # Its module's globals hold the names of its types.
    view: Any = View("walls-things", "List things.", "walls/things", "walls things", Thing, read, key="wall")
    api = run_api(create_app(files.settings(reconciler=False), [painter.change()], [view]))
    for path in ("/views/walls-things", f"/changes/walls-paint?wall={HOSTILE}"):
        answer = api.client.get(path, headers=api.admin | HTML)
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text and "&lt;script&gt;" in answer.text
        assert "' onload" not in answer.text


def test_statistics_that_are_off_are_offered(files: ApiFiles, run_api: Callable[[Any], Api]) -> None:
    @dataclass(frozen=True)
    class Thing:
        wall: str

    def view(name: str, libraries: tuple[str, ...]) -> Any:
        async def read(*_: object) -> Sequence[Thing]:
            has = NodeFeature(NodeAddress("w1"), False, libraries, None, {"pg_stat_statements.track": "none"})
            require(Feature.STATEMENTS, has)
            return []

        return View(name, "List things.", f"walls/{name}", f"walls {name}", Thing, read, key="wall")

    views = [view("walls-loaded", ("pg_stat_statements",)), view("walls-unloaded", ("citus",))]
    api = run_api(create_app(files.settings(reconciler=False), [ENABLE], views))
    page = api.client.get("/views/walls-loaded", headers=api.admin | HTML).text
    assert "pg_stat_statements.track = top" in page
    assert 'href="/changes/activity-enable?feature=statements&amp;every_node=true"' in page
    page = api.client.get("/views/walls-loaded", headers=api.read | HTML).text
    assert "/changes/" not in page and "citus-cluster activity enable statements --every-node" in page
    # A library is loaded only at the start of a server, which the API cannot restart.
    page = api.client.get("/views/walls-unloaded", headers=api.admin | HTML).text
    assert "activity-enable?" not in page and "shared_preload_libraries: citus,pg_stat_statements" in page


def test_the_reference_shows_every_method_with_an_example(browser: Browser) -> None:
    browser.log_in(READ_TOKEN)
    page = browser.get("/docs").text
    document = browser.client.get("/openapi.json").json()
    for path in document["paths"]:
        assert path in page
    assert "http://127.0.0.1" in page and "curl -X POST" in page and "<script>" not in page
    shown = re.findall(r'Example of an answer.*?</summary><pre tabindex="0"><code>(.*?)</code></pre>', page, re.DOTALL)
    assert {"live": True} in [json.loads(html.unescape(one)) for one in shown]


def test_the_package_holds_the_templates() -> None:
    names = {path.name for path in Path(ROOT / "admin_api/pages/templates").iterdir()}
    assert {"base.html", "login.html", "operation.html"} <= names


def test_ten_thousand_shards_are_a_small_page() -> None:
    rows = [
        ShardGroupRow(
            cell=f"{number}@{number % 4}",
            group_id=number,
            colocation_id=number // 2500,
            kind=TableKind.DISTRIBUTED,
            node=f"citus-worker{number % 4 + 1}:5432",
            tables=(f"table_{number // 2500}", HOSTILE),
            shards=2,
            bytes=number * 1000 if number % 7 else None,
            skew=1.0,
            min_value=None,
            max_value=None,
        )
        for number in range(10_000)
    ]
    blocks = draw(rows)
    assert [block.groups for block in blocks] == [2500] * 4
    cells = [path.count("M") for block in blocks for column in block.columns for path in column.paths.values()]
    assert sum(cells) == 10_000
    text = (
        environment()
        .get_template("shards.html")
        .render(
            blocks=blocks,
            totals=(),
            most=0,
            skew=None,
            as_of=NOW,
            fields=(),
            values={},
            found=None,
            error=None,
            shades=range(8),
            width=144,
            largest=10_000_000,
            identity=None,
            may_change=False,
            csrf="",
            has_session=False,
            places=(),
            path="/shards",
            cluster_name="citus",
        )
    )
    assert len(text.encode()) < 500_000
    assert "<script>alert" not in text


def test_few_groups_are_links_with_their_figures() -> None:
    row = ShardGroupRow("1@a", 1, 1, TableKind.DISTRIBUTED, "a", (HOSTILE,), 2, 500, 1.0, None, None)
    (block,) = draw([row, replace(row, cell="2@a", group_id=2, bytes=1000)])
    first, second = block.columns[0].cells
    assert (first.shade, second.shade) == ("c4", "c7")
    assert "500 bytes" in first.title and first.url == "/views/shards-list?group_id=1"


def test_an_empty_worker_counts_for_the_skew_and_the_coordinator_does_not() -> None:
    shard = ShardGroupRow("1@a", 1, 1, TableKind.DISTRIBUTED, "a", ("orders",), 1, 500, 1.0, None, None)
    local = replace(shard, cell="2@c", group_id=2, colocation_id=None, kind=TableKind.CITUS_LOCAL, node="c", bytes=900)
    totals, skew = total([shard, local], {"a", "b"})
    assert totals == (NodeTotal("a", 500, 1), NodeTotal("b", 0, 0), NodeTotal("c", 900, 1))
    assert skew == 2
    blocks = draw([shard, local], {"a", "b"})
    assert [block.title for block in blocks] == ["Single shards and reference tables", "Citus-local tables"]
    assert [column.node for column in blocks[0].columns] == ["a", "b", "c"]
    assert total([], {"a"})[1] is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.44, "0.4 s"), (12, "12 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (3600, "1 h")]
)
def test_durations_for_people(value: float, text: str) -> None:
    assert seconds(value) == text


def test_the_first_page_is_shown_without_a_coordinator(browser: Browser) -> None:
    browser.log_in(READ_TOKEN)
    answer = browser.get("/")
    assert answer.status_code == 200
    assert "needs attention" in answer.text and "What needs attention" in answer.text
    assert browser.get("/services").status_code == 200


def test_the_services_offer_the_plans_of_the_pair_to_those_who_may_change(browser: Browser) -> None:
    for token, is_offered in ((ADMIN_TOKEN, True), (READ_TOKEN, False)):
        browser.log_in(token)
        assert ("/changes/pg14-promote" in browser.get("/services").text) is is_offered
