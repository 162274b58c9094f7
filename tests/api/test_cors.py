"""Web pages of other origins: none may call unless its origin is configured, exactly as browsers send it."""

from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest
from api_support import Api, ApiFiles
from fastapi import FastAPI

from admin_api.app import create_app
from citus_cluster.model.api_config import ApiConfig

ORIGIN = "https://console.example.com"
PATH = "/api/v1/services"


def configure(files: ApiFiles, *origins: str) -> None:
    current = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())
    files.write_cluster(replace(current, cors_origins=origins))


@pytest.fixture
def api(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> Api:
    configure(files, ORIGIN, "http://localhost:3000")
    return run_api(create_app(files.settings(reconciler=False, connect_timeout_s=0.1)))


def preflight(api: Api, origin: str, path: str = PATH) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return api.client.options(path, headers=headers)


def cors_of(response: httpx.Response) -> dict[str, str]:
    return {key: value for key, value in response.headers.items() if key.startswith("access-control-")}


def test_a_browser_may_ask_without_a_token_for_a_configured_origin(api: Api) -> None:
    for origin in (ORIGIN, "http://localhost:3000"):
        response = preflight(api, origin)
        assert (response.status_code, response.content) == (204, b"")
        found = cors_of(response)
        assert found["access-control-allow-origin"] == origin
        assert {"GET", "POST", "DELETE"} <= {*found["access-control-allow-methods"].split(", ")}
        allowed = {*found["access-control-allow-headers"].split(", ")}
        assert {"authorization", "content-type", "idempotency-key", "x-request-id", "last-event-id"} <= allowed
        assert "access-control-allow-credentials" not in found
        assert "Origin" in response.headers["vary"]


OTHERS = (
    "https://evil.example.com",
    "http://console.example.com",
    "https://console.example.com:8443",
    "https://console.example.com.evil.com",
    "https://CONSOLE.example.com",
    "null",
    "*",
)


def test_another_origin_gets_no_permission_in_any_answer(api: Api) -> None:
    for origin in OTHERS:
        answers = [
            preflight(api, origin),
            api.client.get(PATH, headers=api.read | {"Origin": origin}),
            api.client.get("/health", headers={"Origin": origin}),
        ]
        assert [cors_of(answer) for answer in answers] == [{}, {}, {}], origin
        assert all("Origin" in answer.headers["vary"] for answer in answers)
        assert answers[0].status_code == 403


def test_a_page_may_read_answers_and_errors(api: Api) -> None:
    answers = {
        200: api.client.get(PATH, headers=api.read | {"Origin": ORIGIN}),
        401: api.client.get(PATH, headers={"Origin": ORIGIN}),
        403: api.client.post("/api/v1/rebalance", headers=api.read | {"Origin": ORIGIN}),
        404: api.client.get("/nowhere", headers=api.read | {"Origin": ORIGIN}),
    }
    for status, response in answers.items():
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == ORIGIN
        shown = response.headers["access-control-expose-headers"].lower()
        assert {"x-request-id", "location", "etag", "retry-after"} <= {*shown.split(", ")}
        assert "access-control-allow-credentials" not in response.headers


def test_a_program_without_an_origin_is_served_as_always(api: Api) -> None:
    response = api.client.get(PATH, headers=api.read)
    assert (response.status_code, cors_of(response)) == (200, {})
    # OPTIONS without a browser's question still needs a token.
    assert api.client.options(PATH, headers={"Origin": ORIGIN}).status_code == 401
    assert api.client.options(PATH, headers=api.read | {"Origin": ORIGIN}).status_code == 204


def test_it_is_off_unless_it_is_configured_and_follows_the_file(api: Api, files: ApiFiles) -> None:
    configure(files)
    assert preflight(api, ORIGIN).status_code == 401
    response = api.client.get(PATH, headers=api.read | {"Origin": ORIGIN})
    assert (response.status_code, cors_of(response), "vary" in response.headers) == (200, {}, False)
    configure(files, "https://other.example.com")
    assert preflight(api, "https://other.example.com").status_code == 204
