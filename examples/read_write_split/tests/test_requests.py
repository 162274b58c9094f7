"""Requests against an application whose database is replaced through ``app.dependency_overrides`` (G-06)."""

import asyncio
import json
import logging
from collections.abc import Iterator

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from read_write_split import dependencies, settings
from read_write_split.activity import ActivityLog
from read_write_split.app import create_app
from read_write_split.database import Reading, RefusedError
from read_write_split.list_cache import ListCache
from read_write_split.logs import JsonFormatter, PlainFormatter
from read_write_split.metrics import Metrics
from read_write_split.positions import Position
from read_write_split.rate_limit import Allowance, RateLimit
from read_write_split.tokens import issue
from service_kit.cluster import Address
from service_kit.testing import Client

KEY = "k" * 32


class FakeDatabase:
    """Users in memory; ``error`` is raised instead of an answer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error: Exception | None = None
        self.asked_for: list[int] = []

    async def create_user(self, name: str) -> tuple[int, str, Position]:
        if self.error:
            raise self.error
        self.names.append(name)
        return len(self.names), name, Position(1, 0x3000000 + len(self.names))

    async def users(self, after: int, limit: int, at_least: int = 0, *, position: bool = False) -> Reading:
        if self.error:
            raise self.error
        self.asked_for.append(at_least)
        rows = [(number, name) for number, name in enumerate(self.names, 1) if number > after]
        return Reading(rows[:limit], standby=True, complete_to=None)


@pytest.fixture
def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def app(database: FakeDatabase) -> FastAPI:
    made = create_app()
    here = Address("127.0.0.1", 1)
    given = settings.Settings(here, here, "testdb", "password")
    overrides = made.dependency_overrides
    overrides[dependencies.get_settings] = lambda: given
    overrides[dependencies.get_database] = lambda: database
    overrides[dependencies.get_cache] = lambda: ListCache(None, 30)
    overrides[dependencies.get_limit] = lambda: RateLimit(None, 10, 60)
    overrides[dependencies.get_activity] = lambda: ActivityLog(None, Metrics())
    return made


@pytest.fixture
def client(app: FastAPI) -> Client:
    return Client(app)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the service logs, as it would write it."""
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(PlainFormatter().format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("fastapi_app")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_user_is_created_and_listed(client: Client) -> None:
    """C-26, C-28: status 200, id and name."""
    created = client.post("/users", json={"name": "Grace"})
    assert (created.status_code, created.json()) == (200, {"id": 1, "name": "Grace"})
    assert created.headers["X-Commit-LSN"] == "0/3000001"
    listed = client.get("/users")
    assert (listed.status_code, listed.json()) == (200, [{"id": 1, "name": "Grace"}])
    assert listed.headers["X-Read-From"] == "replica"


@pytest.mark.parametrize(
    "body", [{}, {"name": None}, {"name": 1}, {"name": ""}, {"name": "x" * 10_000}, {"name": "\0"}]
)
def test_a_body_that_is_not_valid_is_a_422(client: Client, database: FakeDatabase, body: dict[str, object]) -> None:
    """C-30."""
    assert client.post("/users", json=body).status_code == 422
    assert database.names == []


def test_a_large_body_is_a_413(client: Client) -> None:
    assert client.post("/users", json={"name": "x" * 70_000}).status_code == 413


@pytest.mark.parametrize("name", ["😀", "'); DROP TABLE users; --", "a\nb"])
def test_any_other_name_is_stored_as_it_is(client: Client, name: str) -> None:
    assert client.post("/users", json={"name": name}).json() == {"id": 1, "name": name}


@pytest.mark.parametrize(
    "query", ["after=-1", "after=2147483648", "after=x", "limit=0", "limit=1001", "after=1;DROP TABLE users"]
)
def test_a_page_that_is_not_valid_is_a_422(client: Client, query: str) -> None:
    assert client.get(f"/users?{query}").status_code == 422


def test_pages_lead_to_the_next(client: Client, database: FakeDatabase) -> None:
    database.names = ["a", "b", "c"]
    first = client.get("/users?limit=2")
    assert first.headers["Link"] == '</users?after=2&limit=2>; rel="next"'
    second = client.get("/users?after=2&limit=2")
    assert (second.json(), second.headers.get("Link")) == ([{"id": 3, "name": "c"}], None)


def test_an_error_of_the_database_is_a_400(client: Client, database: FakeDatabase, lines: list[str]) -> None:
    """C-27, C-29: the text of the documents, and a line in the log."""
    database.error = RefusedError(psycopg.errors.UndefinedTable('relation "users" does not exist'))
    created, listed = client.post("/users", json={"name": "Grace"}), client.get("/users")
    assert (created.status_code, listed.status_code) == (400, 400)
    assert created.json()["detail"] == 'Insert failed: relation "users" does not exist'
    assert listed.json()["detail"] == 'Query failed: relation "users" does not exist'
    assert [line for line in lines if "[ERROR] fastapi_app: Insert failed: relation" in line]


def test_a_database_that_is_away_is_a_503(client: Client, database: FakeDatabase) -> None:
    database.error = psycopg.OperationalError("connection refused")
    for answer in (client.post("/users", json={"name": "Grace"}), client.get("/users")):
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0


def read(app: FastAPI, *positions: str) -> list[int]:
    """Get the list with these positions that the reader wants to see; the statuses."""
    client = Client(app)
    return [client.request("GET", "/users", headers={"X-Commit-LSN": position}).status_code for position in positions]


def test_a_position_is_passed_on_and_a_wrong_one_is_a_422(app: FastAPI, database: FakeDatabase) -> None:
    assert read(app, "0/3000148", "16/B374D848") == [200, 200]
    assert database.asked_for == [0x3000148, 0x16B374D848]
    assert read(app, "", "x", "1", "0/", "0/123456789", "0/0; DROP TABLE users") == [422] * 6


def test_each_request_has_two_lines(client: Client, lines: list[str]) -> None:
    """C-25, C-33: in this order, in the format of C-24."""
    client.post("/users", json={"name": "Grace"})
    said = [line.partition(" [INFO] fastapi_app: ")[2].partition(" duration=")[0] for line in lines]
    assert said == [
        "Request started: POST /users from 127.0.0.1",
        "Creating user with name: Grace",
        "Inserted user id=1 name=Grace",
        "Request completed: POST /users status=200",
    ]
    assert lines[-1].endswith("s")
    client.get("/users")
    assert "[DEBUG] fastapi_app: Fetching all users" in lines[5]
    assert "[INFO] fastapi_app: Fetched 1 users duration=0." in lines[6]


def test_a_request_that_fails_is_logged_and_the_error_passed_on(
    client: Client, database: FakeDatabase, lines: list[str]
) -> None:
    """C-25."""
    database.error = KeyError("a defect")
    assert client.get("/users").status_code == 500
    (failed,) = (line for line in lines if "[ERROR]" in line)
    assert "Request failed: GET /users duration=" in failed
    assert "error=KeyError('a defect')" in failed
    (trace,) = (line for line in lines if "[DEBUG]" in line and "Traceback" in line)
    assert "a defect" in trace


def test_a_request_that_is_cancelled_is_counted_and_stays_cancelled(
    app: FastAPI, database: FakeDatabase, lines: list[str]
) -> None:
    started = asyncio.Event()

    async def never(*_: object, **__: object) -> Reading:
        started.set()
        await asyncio.sleep(3600)
        raise AssertionError

    database.users = never  # type: ignore[method-assign]

    async def cancel() -> bool:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://example") as client:
            task = asyncio.create_task(client.get("/users"))
            await asyncio.wait_for(started.wait(), 10)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return task.cancelled()

    assert asyncio.run(cancel())
    assert [line for line in lines if "Request failed: GET /users" in line and "error=cancelled" in line]
    assert samples(app)[("http_requests_total", "GET", "/users", "cancelled")] == 1
    assert samples(app)[("http_requests_in_progress",)] == 0


def samples(app: FastAPI) -> dict[tuple[str, ...], float]:
    """The metrics, by name and labels; the parser is that of Prometheus' own client."""
    text = app.state.metrics.text().decode()
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_metrics_have_templates_and_not_what_clients_choose(app: FastAPI, client: Client) -> None:
    """G-09."""
    client.get("/users?after=1")
    for path in ("/a", "/b", "/users/1"):
        client.get(path)
    client.request("BREW", "/users")
    client.post("/users", json={"name": "x" * 70_000})
    found = {
        labels: value
        for (name, *labels_), value in samples(app).items()
        if name == "http_requests_total" and (labels := tuple(labels_))
    }
    assert found == {
        ("GET", "/users", "200"): 1,
        ("GET", "unmatched", "404"): 3,
        ("other", "/users", "405"): 1,
        ("POST", "unmatched", "413"): 1,
    }


def test_a_name_cannot_forge_a_line(client: Client, lines: list[str]) -> None:
    client.post("/users", json={"name": "x\n2026-01-01 [INFO] fastapi_app: forged\x1b[2J\u202e"})
    assert not [line for line in lines if "\n" in line or "\x1b" in line or "\u202e" in line]
    client.get("/users%0Aforged")
    assert "Request started: GET /users\\nforged" in [line.partition("fastapi_app: ")[2] for line in lines][-2]


def test_a_line_of_json_is_an_object_with_the_facts() -> None:
    record = logging.LogRecord("fastapi_app", logging.INFO, "", 0, "Request completed: %s", ("a\n😀",), None)
    record.facts = {"status": 200}
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("INFO", "fastapi_app", "Request completed: a\n😀")
    assert line["status"] == 200
    assert "\n" not in JsonFormatter().format(record)


def with_authentication(app: FastAPI) -> None:
    here = Address("127.0.0.1", 1)
    given = settings.Settings(here, here, "testdb", "password", jwt_key=KEY)
    app.dependency_overrides[dependencies.get_settings] = lambda: given


def test_with_authentication_a_token_is_needed(app: FastAPI, client: Client) -> None:
    """G-04: for both routes, and for no other."""
    with_authentication(app)
    for method, path in (("POST", "/users"), ("GET", "/users")):
        answer = client.request(method, path, json={"name": "Grace"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer realm=")
        token = issue(KEY, "alice", 60)
        headers = {"Authorization": f"Bearer {token}"}
        assert client.request(method, path, json={"name": "Grace"}, headers=headers).status_code == 200
        for wrong in (f"Basic {token}", f"Bearer {token}x", "Bearer", token):
            refused = client.request(method, path, json={"name": "Grace"}, headers={"Authorization": wrong})
            assert refused.status_code == 401
    assert (
        'error="invalid_token"'
        in client.request("GET", "/users", headers={"Authorization": "Bearer x"}).headers["WWW-Authenticate"]
    )
    assert client.get("/openapi.json").status_code == 200


def test_a_refused_request_says_when_to_come_back(app: FastAPI, client: Client, database: FakeDatabase) -> None:
    """G-05; the count itself is tested on a real server."""

    class Empty:
        async def take(self, client: str) -> Allowance:
            return Allowance(0, 42)

    app.dependency_overrides[dependencies.get_limit] = Empty
    answer = client.post("/users", json={"name": "Grace"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "42")
    assert (answer.headers["X-RateLimit-Remaining"], answer.json()["detail"]) == ("0", "Rate limit exceeded")
    assert database.names == []
