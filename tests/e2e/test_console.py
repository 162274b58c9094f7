"""The console in a real browser, on a real cluster: every page, changes, accessibility, and what happens in faults."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from chromium import chromium
from generated_cluster import GeneratedCluster
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect
from setup_support import ROOT

pytestmark = pytest.mark.cluster

HOSTILE = "<script>document.title=1</script>"
IMAGES = ROOT / "docs/images"
PAGES = {
    "cluster": "/",
    "tables": "/views/tables-list",
    "shards": "/shards",
    "rebalance": "/rebalance",
    "activity": "/activity",
    "tenants": "/views/activity-tenants",
    "services": "/services",
    "operations": "/operations",
    "operation": "/operations/1",
    "change": "/changes/nodes-set?node=citus-worker2:5432&holds_shards=false",
    "all": "/all",
    "reference": "/docs",
}
"""Every page of the navigation, and one of each other kind, by the name of its picture."""
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def console(default_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """A cluster with data on one of two workers, and a table with a hostile name."""
    one = GeneratedCluster(tmp_path_factory.mktemp("console"), default_image)
    try:
        one.create("--workers=2", "--up")
        one.sql(
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', false)"
            " FROM pg_dist_node WHERE nodename = 'citus-worker2'"
        )
        for table, rows in (("orders", 60000), ("events", 20000)):
            one.sql(f"CREATE TABLE {table} (customer_id bigint, note text, PRIMARY KEY (customer_id))")
            one.sql(f"SELECT create_distributed_table('{table}', 'customer_id', shard_count => 16)")
            one.sql(f"INSERT INTO {table} SELECT i, repeat('x', 200) FROM generate_series(1, {rows}) i")
        one.sql("CREATE TABLE countries (code text PRIMARY KEY)")
        one.sql("SELECT create_reference_table('countries')")
        one.sql(f'CREATE TABLE "{HOSTILE}" (id int PRIMARY KEY)')
        one.sql(f"""SELECT create_distributed_table('"{HOSTILE}"', 'id', shard_count => 4, colocate_with => 'none')""")
        # The first operation, whose page the tests look at too.
        one.cli("api", "nodes/set", "-f", "node=citus-worker2:5432", "-f", "holds_shards=true", "--wait")
        yield one
    finally:
        one.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


def url(console: GeneratedCluster, path: str = "/") -> str:
    return f"http://127.0.0.1:{console.admin_port}{path}"


def log_in(context: BrowserContext, console: GeneratedCluster, token: str = "admin_api_token") -> Page:
    page = context.new_page()
    page.goto(url(console))
    page.get_by_label("Token").fill(console.secret(token))
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("nav")
    return page


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    one = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    yield one
    one.close()


@pytest.fixture
def page(context: BrowserContext, console: GeneratedCluster) -> Page:
    one = log_in(context, console)
    # A violation of the policy, a script that fails, or a file that is missing.
    one.on("console", lambda message: pytest.fail(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: pytest.fail(str(error)))
    return one


def test_every_page_shows_hostile_names_as_text_and_is_small_and_needs_no_other_server(
    page: Page, console: GeneratedCluster
) -> None:
    sizes: dict[str, int] = {}
    page.on("requestfinished", lambda request: sizes.update({request.url: request.sizes()["responseBodySize"]}))
    for path in PAGES.values():
        page.goto(url(console, path), wait_until="networkidle")
        expect(page.locator("h1")).to_have_count(1)
        assert page.title() != "1", path
        assert not page.get_by_role("alert").count(), page.get_by_role("alert").all_inner_texts()
    page.goto(url(console, "/views/tables-list"))
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    page.goto(url(console, "/shards"))
    expect(page.get_by_text(HOSTILE).first).to_be_attached()
    assert sizes and all(one.startswith((url(console, "/"), "data:")) for one in sizes)
    assert 10_000 < sum(size for one, size in sizes.items() if "/static/" in one) < 150_000
    assert max(sizes.values()) < 500_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_fits_a_phone(browser: Browser, console: GeneratedCluster, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme, viewport=WIDE, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url(console))
    found = serious(page) + sideways(page)
    assert page.locator(".command").evaluate("one => one.offsetHeight") < 2 * page.locator("input#token").evaluate(
        "one => one.offsetHeight"
    ), "the command breaks into many lines"
    page = log_in(context, console)
    for path in PAGES.values():
        page.goto(url(console, path))
        found += [f"{path}: {one}" for one in serious(page) + sideways(page)]
    context.close()
    assert found == []


def sideways(page: Page) -> list[str]:
    """Return how wide a page is on a phone, if that is too wide."""
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    return [f"{width} pixels wide"] if width > NARROW["width"] else []


def serious(page: Page) -> list[str]:
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in violations
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


def test_a_change_by_keyboard_alone(browser: Browser, console: GeneratedCluster) -> None:
    context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url(console, "/changes/nodes-set?node=citus-worker1:5432"))
    # The field of the token has the focus.
    page.keyboard.type(console.secret("admin_api_token"))
    page.keyboard.press("Enter")
    page.wait_for_selector("nav")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    press_until(page, "#f-holds_shards")
    page.keyboard.type("no")
    press_until(page, "button[value=plan]")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Plan")).to_be_visible()
    page.evaluate("document.activeElement.blur()")
    press_until(page, "button[value=run]")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/operations/\d+"))
    expect(page.locator("#state")).to_have_text("done")
    assert console.sql("SELECT shouldhaveshards FROM pg_dist_node WHERE nodename = 'citus-worker1'") == [(False,)]
    console.sql("SELECT citus_set_node_property('citus-worker1', 5432, 'shouldhaveshards', true)")
    context.close()


def press_until(page: Page, selector: str) -> None:
    for _ in range(80):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{selector} cannot be reached with the Tab key")


def test_without_scripts_a_change_works_too(browser: Browser, console: GeneratedCluster) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = log_in(context, console)
    for answer in ("no", "yes"):
        page.goto(url(console, "/changes/nodes-set?node=citus-worker1:5432"))
        page.get_by_label("holds shards").select_option(answer)
        page.get_by_role("button", name="Show the plan").click()
        page.get_by_role("button", name="Run this plan").click()
        expect(page.locator("#state")).to_have_text("done")
        expect(page.locator("table.diff tr", has_text="should have shards").locator("ins")).to_have_text(answer)
    assert console.sql("SELECT shouldhaveshards FROM pg_dist_node WHERE nodename = 'citus-worker1'") == [(True,)]
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    context.close()


def test_a_session_ends_with_its_token_and_continues_on_the_same_page(
    browser: Browser, console: GeneratedCluster
) -> None:
    context = browser.new_context()
    for name, reason in (("revoked", "its token is no longer valid"), ("expired", "The token 'expired' expired at")):
        token = console.cli("tokens", "create", name, "--role", "read", "--format", "json").json()["token"]
        page = context.new_page()
        page.goto(url(console, "/activity?idle=true"))
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("#live")
        assert page.locator("a[href^='/changes/']").count() == 0
        if name == "expired":
            expire(console, name)
        else:
            console.cli("tokens", "revoke", name)
        # The page asks again by itself.
        expect(page.get_by_role("alert")).to_contain_text(reason, timeout=10_000)
        page.get_by_label("Token").fill(console.secret("admin_api_token"))
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(url(console, "/activity?idle=true"))
        expect(page.get_by_role("heading", name="Activity")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        page.close()
    context.close()


def expire(console: GeneratedCluster, name: str) -> None:
    """Let a named token expire now: the shortest time that a command gives is a minute."""
    file = console.root / "generated/config/admin-api/named-tokens.json"
    document = json.loads(file.read_text())
    (token,) = [one for one in document["tokens"] if one["name"] == name]
    token["expires_at"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.rename(file)


def test_the_first_page_has_the_figures_of_every_node(page: Page, console: GeneratedCluster) -> None:
    page.goto(url(console))
    rows = page.locator("#nodes tbody tr")
    expect(rows).to_have_count(3)
    for row in rows.all():
        # The figures are read in the background once somebody looks.
        expect(row).to_contain_text("free", timeout=15_000)
        connections = int(str(console.sql("SHOW max_connections")[0][0]))
        expect(row.get_by_role("img", name=re.compile("% of the connections are used"))).to_be_visible()
        expect(row).to_contain_text("answers")
    expect(rows.filter(has_text="coordinator")).to_contain_text(f"of {connections}")
    expect(rows.filter(has_text="citus-worker1")).to_contain_text(re.compile(r"\d+\.\d MB"))
    ((citus, postgres),) = console.sql(
        "SELECT substring(citus_version() FROM 'Citus ([^ ]+)'), substring(version() FROM '[0-9.]+')"
    )
    expect(rows.filter(has_text="citus-worker2")).to_contain_text(f"{citus} / {postgres}")


def test_statistics_are_turned_on_from_the_page_that_lacks_them(page: Page, console: GeneratedCluster) -> None:
    page.goto(url(console, "/activity"))
    page.locator(".catalog li", has_text="by tenant").get_by_role("link", name="Turn on…").click()
    page.get_by_role("button", name="Run this plan").click()
    page.wait_for_url(re.compile(r"/operations/\d+"))
    expect(page.locator("#state")).to_have_text("done")
    assert {console.sql("SHOW citus.stat_tenants_track", node)[0][0] for node in range(3)} == {"all"}
    for _ in range(5):
        console.sql("SELECT note FROM orders WHERE customer_id = 4711")
    page.goto(url(console, "/views/activity-tenants"))
    expect(page.get_by_role("cell", name="4711", exact=True)).to_be_visible()


@contextmanager
def session(console: GeneratedCluster, *statements: str) -> Iterator[threading.Thread]:
    """Run statements in a transaction of a session of its own, which the end of the block rolls back."""
    with console.connect() as connection:

        def work() -> None:
            with suppress(psycopg.errors.QueryCanceled), connection.transaction(force_rollback=True):
                for statement in statements:
                    connection.execute(statement.encode())

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            connection.cancel_safe()
            thread.join(30)


def test_a_session_that_blocks_another_is_cancelled_from_the_tree(
    page: Page, console: GeneratedCluster, pictures: "Pictures"
) -> None:
    update = "UPDATE orders SET note = 'x' WHERE customer_id = 1"
    with session(console, update, "SELECT pg_sleep(300)"):
        page.goto(url(console, "/activity"))
        expect(page.get_by_text("pg_sleep").first).to_be_visible()
        with session(console, update) as waiting:
            tree = page.locator("table.tree tbody tr")
            expect(tree.filter(has_text="↳").filter(has_text="UPDATE orders")).to_be_visible(timeout=10_000)
            pictures.take(page, "activity")
            blocker = tree.filter(has_text="pg_sleep")
            expect(blocker).to_contain_text("blocks 1")
            blocker.get_by_role("link", name="Cancel").click()
            page.get_by_role("button", name="Run this plan").click()
            expect(page.locator("#state")).to_have_text("done")
            waiting.join(10)
            assert not waiting.is_alive()
    page.goto(url(console, "/activity"))
    expect(page.get_by_text("No session waits for a lock.")).to_be_visible()


def test_a_paused_worker_is_shown_within_seconds(page: Page, console: GeneratedCluster) -> None:
    page.goto(url(console))
    row = page.locator("#nodes tr", has_text="citus-worker2")
    expect(row.get_by_text("answers")).to_be_visible()
    console.docker("pause", console.container("citus-worker2"))
    try:
        expect(row.get_by_text("silent")).to_be_visible(timeout=5000)
        expect(page.get_by_role("heading", name="What needs attention")).to_be_visible()
        page.goto(url(console, "/rebalance"))
        expect(page.locator(".attention li", has_text="citus-worker2").first).to_be_visible(timeout=20_000)
        page.goto(url(console))
    finally:
        console.docker("unpause", console.container("citus-worker2"))
    expect(row.get_by_text("answers")).to_be_visible(timeout=30_000)


class Pictures:
    """The pictures of docs/console.md: with --update-screenshots they are taken, else they only must exist."""

    def __init__(self, is_update: bool) -> None:
        self._is_update = is_update
        self._text = (ROOT / "docs/console.md").read_text()

    def take(self, page: Page, name: str) -> None:
        """Take the picture of what a page shows now."""
        picture = IMAGES / f"console-{name}.png"
        assert f"images/{picture.name}" in self._text
        if self._is_update:
            IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=picture, animations="disabled")
        assert picture.is_file() and picture.stat().st_size < 150_000


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> Pictures:
    return Pictures(request.config.getoption("--update-screenshots"))


def test_pictures_of_the_pages(browser: Browser, page: Page, console: GeneratedCluster, pictures: Pictures) -> None:
    page.goto(url(console))
    expect(page.locator("#nodes tbody tr").first).to_contain_text("free", timeout=15_000)
    # The versions may have been read while a test before had paused a node.
    expect(page.locator("#nodes")).not_to_contain_text("? /", timeout=15_000)
    for name in ("cluster", "tables", "shards", "rebalance", "tenants", "operations", "change"):
        page.goto(url(console, PAGES[name]), wait_until="networkidle")
        pictures.take(page, name)
    for name, size, scheme in (("cluster-dark", WIDE, "dark"), ("cluster-phone", NARROW, "light")):
        context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        narrow_or_dark = log_in(context, console)
        expect(narrow_or_dark.get_by_role("columnheader", name="versions")).to_be_attached(timeout=15_000)
        pictures.take(narrow_or_dark, name)
        context.close()
    assert sum(one.stat().st_size for one in IMAGES.glob("*.png")) < 1_500_000


def test_a_rebalance_that_is_blocked_is_stopped_from_its_page(page: Page, console: GeneratedCluster) -> None:
    # A transaction that has written to every shard, and does not end, blocks each move.
    with session(console, "UPDATE orders SET note = 'x'", "SELECT pg_sleep(300)"):
        page.goto(url(console, "/activity"))
        expect(page.get_by_text("pg_sleep").first).to_be_visible()
        page.goto(url(console, "/changes/rebalance-start?mode=auto"))
        page.get_by_role("button", name="Run this plan").click()
        page.wait_for_url(re.compile(r"/operations/\d+"))
        page.goto(url(console, "/rebalance"))
        blocked = page.locator(".attention li", has_text="a move waits for session").first
        expect(blocked).to_be_visible(timeout=45_000)
        expect(blocked.get_by_role("link", name="Terminate…")).to_be_visible()
        page.get_by_role("link", name="Stop…").click()
        page.get_by_role("button", name="Run this plan").click()
        page.wait_for_url(re.compile(r"/operations/\d+"))
        expect(page.locator("#state")).to_have_text("done", timeout=60_000)
    page.goto(url(console, "/rebalance"))
    expect(page.get_by_role("heading", name=re.compile("Job .* cancelled"))).to_be_visible()
    expect(page.get_by_role("link", name="Start…")).to_be_visible(timeout=15_000)


def test_what_a_move_left_behind_is_repaired_from_the_page(page: Page, console: GeneratedCluster) -> None:
    publication = "citus_shard_move_publication_7_8_9"
    with console.connect(1) as worker:
        worker.execute("SET citus.enable_ddl_propagation = off")
        worker.execute(f"CREATE PUBLICATION {publication}".encode())
    page.goto(url(console, "/rebalance"))
    expect(page.get_by_text(publication).first).to_be_visible(timeout=30_000)
    page.get_by_role("link", name="Repair…").first.click()
    page.get_by_role("button", name="Run this plan").click()
    page.wait_for_url(re.compile(r"/operations/\d+"))
    expect(page.locator("#state")).to_have_text("done", timeout=60_000)
    assert console.sql(f"SELECT FROM pg_publication WHERE pubname = '{publication}'", 1) == []


def test_the_page_of_rebalances_does_not_wait_for_the_plan(
    browser: Browser, context: BrowserContext, console: GeneratedCluster
) -> None:
    page, plan = log_in(context, console), re.compile(r"/rebalance\?plan=true$")
    held: list[Route] = []
    page.route(plan, lambda route: held.append(route))
    page.goto(url(console, "/rebalance"))
    place = page.locator("#next")
    expect(place).to_have_attribute("aria-live", "polite")
    expect(place.get_by_text("Reading the plan…")).to_be_visible()
    expect(page.get_by_role("link", name="History")).to_be_visible()
    expect(page.get_by_role("link", name="Read the plan")).to_be_hidden()
    assert serious(page) == []
    next_of(page, held).continue_()
    expect(place.locator("table.bars")).to_be_visible(timeout=30_000)
    expect(place.get_by_text("Reading the plan…")).to_have_count(0)
    page.reload()
    expect(place.get_by_text("Reading the plan…")).to_be_visible()
    next_of(page, held).abort()
    expect(place.get_by_text("The plan could not be read.")).to_be_visible()
    expect(place.get_by_text("Reading the plan…")).to_be_hidden()
    page.unroute(plan)
    place.get_by_role("link", name="Read the plan").click()
    expect(place.locator("table.bars")).to_be_visible(timeout=30_000)
    without_scripts = browser.new_context(java_script_enabled=False)
    page = log_in(without_scripts, console)
    page.goto(url(console, "/rebalance"))
    expect(page.get_by_text("Reading the plan…")).to_be_hidden()
    page.get_by_role("link", name="Read the plan").click()
    expect(page.locator("#next table.bars")).to_be_visible()
    without_scripts.close()


def next_of(page: Page, held: list[Route]) -> Route:
    """Return the request that is held back, once the browser has sent it."""
    while not held:
        page.wait_for_timeout(20)
    return held.pop()


def test_a_rebalance_is_started_and_followed(page: Page, console: GeneratedCluster, pictures: Pictures) -> None:
    page.goto(url(console, "/rebalance"))
    expect(page.get_by_role("heading", name="Plan of the next rebalance")).to_be_visible()
    expect(page.locator("table.bars")).to_be_visible()
    page.get_by_role("link", name="Start…").click()
    page.get_by_role("button", name="Run this plan").click()
    page.wait_for_url(re.compile(r"/operations/\d+"))
    operation = page.url
    page.goto(url(console, "/rebalance"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.goto(operation)
    expect(page.get_by_role("progressbar")).to_be_visible()
    # Events arrive by themselves, and the page ends in the state of the operation.
    expect(page.locator("#state")).to_have_text("done", timeout=120_000)
    expect(page.locator("#event-rows tr").first).to_be_visible()
    moved = page.locator("table.diff tr", has_text="node citus-worker2:5432")
    (placed,) = console.sql(
        "SELECT count(*) FROM pg_dist_placement JOIN pg_dist_node USING (groupid) WHERE nodename = 'citus-worker2'"
    )
    expect(moved.locator("ins")).to_have_text(str(placed[0]))
    assert console.sql(
        "SELECT count(*) > 0 FROM citus_shards WHERE nodename = 'citus-worker2' AND table_name = 'orders'::regclass"
    ) == [(True,)]
    pictures.take(page, "operation")
