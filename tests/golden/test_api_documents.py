"""What the admin API says of itself and of what goes wrong; ``pytest --update-golden`` writes the files anew."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from api_support import Api, ApiFiles, serve
from painting import Painter, Walls

from admin_api.app import create_app
from admin_api.examples import json_answers
from citus_cluster import __version__
from citus_cluster.model.api_config import ApiConfig, hash_token
from citus_cluster.model.api_tokens import NamedToken, NamedTokens
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.token_role import NAMED_TOKENS_FILE, Role

EXPECTED = Path(__file__).parent / "expected" / "api"
JSON = {"Content-Type": "application/json"}


def compare(name: str, data: object, request: pytest.FixtureRequest) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    if request.config.getoption("--update-golden"):
        EXPECTED.mkdir(parents=True, exist_ok=True)
        (EXPECTED / name).write_text(text, encoding="utf-8")
    assert text == (EXPECTED / name).read_text(encoding="utf-8")


def problem(response: httpx.Response) -> dict[str, Any]:
    """All that a caller gets of a problem, but for what every answer has, or what is new in each."""
    assert len(response.headers["traceparent"]) == 55
    kept = {
        key: value
        for key, value in response.headers.items()
        if key not in {"date", "content-length", "transfer-encoding", "traceparent"}
    }
    return {"status": response.status_code, "headers": kept, "body": response.json() if response.content else None}


def test_the_openapi_document_is_as_expected(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # One change and one view stand for all declared ones, whose names and types are declared in one place.
    app = create_app(ApiFiles(tmp_path).settings(), [Painter().change()], [Walls().view()])
    document = app.openapi()
    assert document["info"].pop("version") == __version__
    # Their file is compared with the answers of a real cluster.
    assert document["components"].pop("examples")
    for _, _, content in json_answers(document):
        content.pop("example", None)
        content.pop("examples", None)
    compare("openapi.json", document, request)


@pytest.fixture
def api(tmp_path: Path) -> Any:
    address = NodeAddress("citus-coordinator")
    config = ApiConfig("citus", "postgres", "postgres", address, address)
    files = ApiFiles.write(tmp_path, config, password="of the superuser")
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    ended = NamedToken("ended", Role.READ, hash_token("ended"), noon, noon + timedelta(days=1))
    files.replace(NAMED_TOKENS_FILE, NamedTokens((ended,)).to_json())
    app = create_app(files.settings(reconciler=False))

    @app.get("/api/v1/defect")
    async def defect() -> None:
        raise ZeroDivisionError

    @app.get("/api/v1/lost")
    async def lost() -> None:
        raise psycopg.OperationalError("the connection is lost")

    @app.get("/api/v1/late")
    async def late() -> None:
        raise TimeoutError

    with serve(app) as api:
        yield api


def test_the_problems_are_as_expected(api: Api, request: pytest.FixtureRequest) -> None:
    def ask(method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        sent = {"X-Request-ID": "a-request"} | (api.admin if headers is None else headers)
        return api.client.request(method, path, headers=sent, **more)

    nodes, rebalance = "/api/v1/nodes", "/api/v1/rebalance"
    answers = {
        "no token": ask("GET", rebalance, {}),
        "unknown token": ask("GET", rebalance, {"Authorization": "Bearer guessed"}),
        "expired token": ask("GET", rebalance, {"Authorization": "Bearer ended"}),
        "read token": ask("POST", rebalance, api.read),
        "no such path": ask("GET", "/api/v1/nowhere"),
        "no such method": ask("DELETE", rebalance),
        "options": ask("OPTIONS", rebalance),
        "no JSON by its type": ask("POST", nodes, content=b"host=a"),
        "no JSON": ask("POST", nodes, api.admin | JSON, content=b"{"),
        "no UTF-8": ask("POST", nodes, api.admin | JSON, content=b'{"host": "\xff"}'),
        "nested": ask("POST", nodes, api.admin | JSON, content=b"[" * 50_000),
        "too large": ask("POST", nodes, api.admin | JSON, content=b" " * (64 * 1024 + 1)),
        "several members": ask("POST", nodes, json={"host": "a b", "port": 0, "more": 1}),
        "defect": ask("GET", "/api/v1/defect"),
        "lost": ask("GET", "/api/v1/lost"),
        "late": ask("GET", "/api/v1/late"),
    }
    compare("problems.json", {name: problem(answer) for name, answer in answers.items()}, request)
