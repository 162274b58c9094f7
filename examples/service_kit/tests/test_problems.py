"""Errors of the example services."""

from collections.abc import AsyncIterator

import psycopg
import psycopg_pool
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from service_kit import problems
from service_kit.fields import Name
from service_kit.testing import Client


class _Created(BaseModel):
    name: Name


@pytest.fixture
def client() -> Client:
    app = FastAPI()
    problems.install(app)

    @app.post("/things")
    def make(thing: _Created) -> str:
        return thing.name

    @app.get("/lost")
    def lost() -> None:
        raise psycopg.OperationalError("connection refused")

    @app.get("/busy")
    def busy() -> None:
        raise psycopg_pool.PoolTimeout("no connection in 5 s")

    @app.get("/away")
    def away() -> None:
        raise problems.UnavailableError("Redis does not answer.")

    @app.get("/defect")
    def defect() -> None:
        raise KeyError("secret")

    return Client(app)


@pytest.mark.parametrize("path", ["/lost", "/busy", "/away"])
def test_a_server_that_is_away_is_a_503_with_retry_after(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == problems.MEDIA_TYPE


def test_an_unknown_path_is_a_problem(client: Client) -> None:
    answer = client.get("/nowhere")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, problems.MEDIA_TYPE)


def test_a_defect_says_nothing_about_itself(client: Client) -> None:
    answer = client.get("/defect")
    assert answer.status_code == 500
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"name": 1}',
        '{"name": ""}',
        '{"name": "%s"}' % ("x" * 10_000),
        '{"name": "a\\u0000b"}',
        '{"name": "\\ud800"}',
        "{",
        "[]",
    ],
)
def test_an_invalid_field_is_a_422(client: Client, body: str) -> None:
    answer = client.post("/things", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_any_other_text_is_taken(client: Client) -> None:
    for name in ("Grace", "😀", "'; DROP TABLE users; --", "x" * 100):
        assert client.post("/things", json={"name": name}).json() == name


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_a_413(client: Client, chunked: bool) -> None:
    body = b'{"name": "' + b"x" * problems.MAX_BODY_BYTES + b'"}'

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:1000]
        yield body[1000:]

    content = pieces() if chunked else body
    answer = client.post("/things", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, problems.MEDIA_TYPE)
