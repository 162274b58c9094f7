"""Views over HTTP: pages, filters, caches and entity tags."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from api_support import Api, ApiFiles
from painting import Walls
from waiting import eventually

from admin_api.app import create_app

WALLS = "/api/v1/walls"


@pytest.fixture
def open_house(files: ApiFiles, run_api: Callable[[Any], Api]) -> Callable[..., Callable[[str], httpx.Response]]:
    def run(walls: Walls, **more: Any) -> Callable[[str], httpx.Response]:
        api = run_api(create_app(files.settings(reconciler=False), [], [walls.view(**more)]))
        return lambda query: api.client.get(f"{WALLS}{query}", headers=api.read)

    return run


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["name"] for row in response.json()["items"]]


def test_pages_filters_order_and_fields(open_house: Callable[..., Any]) -> None:
    get = open_house(Walls(5))
    first = get("?limit=2&sort=-size_bytes").json()
    assert [row["name"] for row in first["items"]] == ["wall000004", "wall000003"]
    assert first["total"] == 5
    second = get(f"?limit=2&sort=-size_bytes&cursor={first['next_cursor']}")
    assert names(second) == ["wall000002", "wall000001"]
    assert names(get("?is_wet=true")) == ["wall000001", "wall000003"]
    assert names(get("?size_bytes.min=100&size_bytes.max=200")) == ["wall000001", "wall000002"]
    assert names(get("?name=wall000000&name=wall000004")) == ["wall000000", "wall000004"]
    assert names(get("?q=0004")) == ["wall000004"]
    assert get("?fields=size_bytes&limit=1").json()["items"] == [{"size_bytes": 0}]


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=1001",
        "?limit=x",
        "?limit=²",
        "?limit=1&limit=2",
        "?sort=colour",
        "?fields=colour",
        "?colour=red",
        "?size_bytes=many",
        "?name.min=a",
        "?cursor=x",
        "?cursor=a&cursor=b",
        "?house=muchtoolong",
        "?house=a&house=b",
        f"?q={'x' * 2000}",
        "?q=%00%ff",
    ],
)
def test_what_does_not_fit_is_a_problem_and_not_an_error_of_ours(open_house: Callable[..., Any], query: str) -> None:
    get = open_house(Walls())
    answer = get(query)
    if query != "?q=%00%ff":
        assert answer.status_code == 422, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "usage"
    assert answer.status_code in {200, 422}


def test_an_absent_thing_is_404(open_house: Callable[..., Any]) -> None:
    answer = open_house(Walls())("?house=missing")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_a_cached_view_is_read_once_and_says_how_old_it_is(open_house: Callable[..., Any]) -> None:
    walls = Walls()
    get = open_house(walls, max_age_s=60)
    first, second = get(""), get("?limit=1")
    assert walls.reads == 1
    assert first.headers["age"] == "0"
    assert int(second.headers["age"]) >= 0
    assert first.json()["as_of"] == second.json()["as_of"]
    get("?house=theirs")
    assert walls.reads == 2


def test_following_pages_are_cut_from_an_answer_that_is_too_old_for_a_first_page(
    open_house: Callable[..., Any],
) -> None:
    walls = Walls(3)
    get = open_house(walls, max_age_s=0.01)
    first = get("?limit=1").json()
    time.sleep(0.05)
    second = get(f"?limit=1&cursor={first['next_cursor']}")
    assert (walls.reads, names(second), second.json()["as_of"]) == (1, ["wall000001"], first["as_of"])
    assert get("?limit=1").json()["as_of"] > first["as_of"]
    assert walls.reads == 2


def test_a_view_that_is_not_cached_is_read_for_each_request(open_house: Callable[..., Any]) -> None:
    walls = Walls()
    get = open_house(walls)
    get("")
    assert "age" not in get("").headers
    assert walls.reads == 2


def test_an_answer_that_did_not_change_is_not_sent_again(files: ApiFiles, run_api: Callable[[Any], Api]) -> None:
    walls = Walls()
    api = run_api(create_app(files.settings(reconciler=False), [], [walls.view()]))
    first = api.client.get(WALLS, headers=api.read)
    again = api.client.get(WALLS, headers=api.read | {"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    walls.count += 1
    assert api.client.get(WALLS, headers=api.read | {"If-None-Match": first.headers["etag"]}).status_code == 200


def test_requests_that_come_during_a_read_share_the_next_one(files: ApiFiles, run_api: Callable[[Any], Api]) -> None:
    walls = Walls()
    loops: list[asyncio.AbstractEventLoop] = []
    plain = walls.read

    async def read(cluster: Any, wanted: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        if walls.held is None:
            walls.held = asyncio.Event()
        return await plain(cluster, wanted)

    walls.read = read  # type: ignore[method-assign]
    api = run_api(create_app(files.settings(reconciler=False), [], [walls.view()]))
    answers: list[int] = []

    def get() -> None:
        answers.append(httpx.get(f"http://127.0.0.1:{api.port}{WALLS}", headers=api.read, timeout=30).status_code)

    threads = [threading.Thread(target=get) for _ in range(10)]
    threads[0].start()
    eventually(lambda: walls.reads == 1, "the first read")
    for thread in threads[1:]:
        thread.start()
    # The others have arrived once this request, which needs nothing that they wait for, is answered.
    for _ in range(20):
        api.client.get("/openapi.json", headers=api.read)
    assert walls.held is not None
    loops[0].call_soon_threadsafe(walls.held.set)
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 10
    assert walls.reads <= 4
