"""The console in a real browser, on a real cluster: every page, changes, accessibility, and what happens in faults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from chromium import chromium
from generated_cluster import GeneratedCluster
from playwright.sync_api import Browser, BrowserContext, Page, expect
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
    "change": "/changes/nodes-set?node=citus-worker2:5432&holds_shards=false",
    "all": "/all",
    "reference": "/docs",
}
"""Every page of the navigation, by the name of its picture."""
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
        one.sql(
            "SELECT citus_set_node_property(nodename, nodeport, 'shouldhaveshards', true)"
            " FROM pg_dist_node WHERE nodename = 'citus-worker2'"
        )
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


def test_every_page_shows_hostile_names_as_text_and_needs_no_other_server(
    page: Page, console: GeneratedCluster
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in PAGES.values():
        page.goto(url(console, path))
        expect(page.locator("h1")).to_have_count(1)
        assert page.title() != "1", path
        assert not page.get_by_role("alert").count(), page.get_by_role("alert").all_inner_texts()
    page.goto(url(console, "/views/tables-list"))
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    page.goto(url(console, "/shards"))
    expect(page.get_by_text(HOSTILE).first).to_be_attached()
    assert asked and all(one.startswith((url(console, "/"), "data:")) for one in asked)


def test_what_a_browser_loads_is_small(page: Page, console: GeneratedCluster) -> None:
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))
    for path in PAGES.values():
        page.goto(url(console, path), wait_until="networkidle")
    static = {one: size for one, size in sizes.items() if "/static/" in one}
    assert sum(static.values()) < 150_000
    assert max(sizes.values()) < 500_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_finding_of_accessibility(
    browser: Browser, console: GeneratedCluster, scheme: Any
) -> None:
    context = browser.new_context(color_scheme=scheme, viewport=WIDE, bypass_csp=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url(console))
    found = serious(page)
    page = log_in(context, console)
    for path in PAGES.values():
        page.goto(url(console, path))
        found += [f"{path}: {one}" for one in serious(page)]
    context.close()
    assert found == []


def serious(page: Page) -> list[str]:
    violations = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for one in violations
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]


def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, console: GeneratedCluster) -> None:
    context = browser.new_context(viewport=NARROW)  # type: ignore[arg-type]
    page = log_in(context, console)
    wide = {}
    for path in PAGES.values():
        page.goto(url(console, path))
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > NARROW["width"]:
            wide[path] = width
    context.close()
    assert wide == {}


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
    page.goto(url(console, "/changes/nodes-set?node=citus-worker1:5432&holds_shards=true"))
    assert "There is nothing to do." in page.content() or "hold shards" in page.content()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    context.close()


def test_a_revoked_token_ends_the_session(browser: Browser, console: GeneratedCluster) -> None:
    token = console.cli("tokens", "create", "page", "--role", "read", "--format", "json").json()["token"]
    context = browser.new_context()
    page = context.new_page()
    page.goto(url(console))
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("#nodes")
    assert page.locator("a[href^='/changes/']").count() == 0
    console.cli("tokens", "revoke", "page")
    # The page asks again by itself.
    expect(page.get_by_text("its token is no longer valid")).to_be_visible(timeout=10_000)
    context.close()


def test_a_paused_worker_is_shown_within_seconds(page: Page, console: GeneratedCluster) -> None:
    page.goto(url(console))
    row = page.locator("#nodes tr", has_text="citus-worker2")
    expect(row.get_by_text("answers")).to_be_visible()
    console.docker("pause", console.container("citus-worker2"))
    try:
        expect(row.get_by_text("silent")).to_be_visible(timeout=5000)
        expect(page.get_by_role("heading", name="What needs attention")).to_be_visible()
    finally:
        console.docker("unpause", console.container("citus-worker2"))
    expect(row.get_by_text("answers")).to_be_visible(timeout=30_000)


def test_pictures_of_the_pages(page: Page, console: GeneratedCluster, request: pytest.FixtureRequest) -> None:
    """With --update-screenshots, the pictures of docs/console.md."""
    is_update = request.config.getoption("--update-screenshots")
    text = (ROOT / "docs/console.md").read_text()
    for name, path in PAGES.items():
        if f"images/console-{name}.png" not in text:
            continue
        picture = IMAGES / f"console-{name}.png"
        if is_update:
            page.goto(url(console, path), wait_until="networkidle")
            IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=picture, animations="disabled")
        assert picture.is_file() and picture.stat().st_size < 250_000


def test_a_rebalance_is_started_and_followed(page: Page, console: GeneratedCluster, tmp_path: Path) -> None:
    if not page.request.get(url(console, "/changes/rebalance-start")).ok:
        pytest.fail("the API has no change rebalance-start")
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
    # Events arrive by themselves, and the page ends in the state of the operation.
    expect(page.locator("#state")).to_have_text("done", timeout=120_000)
    expect(page.locator("#event-rows tr").first).to_be_visible()
    placed = console.sql(
        "SELECT count(*) FROM citus_shards WHERE nodename = 'citus-worker2' AND table_name = 'orders'::regclass"
    )
    assert placed[0][0] > 0
