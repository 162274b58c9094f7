"""The API while the coordinator is away: who may call, what errors look like, what /health says."""

import logging
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles
from fastapi import FastAPI

from admin_api.app import create_app
from admin_api.settings import Settings
from citus_cluster.errors import UsageError
from citus_cluster.operations.change import Change
from citus_cluster.operations.registry import CHANGES, VIEWS
from citus_cluster.operations.view import View

API_PATHS = ["/api/v1/nodes/active", "/api/v1/rebalance", "/api/v1/services"]
PROTECTED = [*API_PATHS, "/openapi.json", "/docs", "/redoc", "/nowhere", "/health/", "/health/x", "/metrics"]


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check the one shape of all errors, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["code"]
    assert body["type"] in {"about:blank", f"urn:citus-cluster:problem:{body['code']}"}
    assert None not in body.values()
    return body


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}])
def test_everything_but_health_needs_a_token(away: Api, path: str, headers: dict[str, str]) -> None:
    response = away.client.get(path, headers=headers)
    problem_of(response, 401)
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_an_unknown_token_is_refused_and_not_repeated(away: Api) -> None:
    response = away.client.get("/openapi.json", headers={"Authorization": "Bearer guessed-wrong"})
    problem_of(response, 401)
    assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert "guessed-wrong" not in response.text


def test_the_scheme_is_not_case_sensitive(away: Api) -> None:
    assert away.client.get("/openapi.json", headers={"Authorization": f"bearer {READ_TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/nodes", "/api/v1/rebalance", "/nowhere"])
def test_the_read_token_may_only_get(away: Api, path: str) -> None:
    problem_of(away.client.post(path, headers=away.read, json={"host": "citus-worker1"}), 403)


def test_tokens_are_exchanged_without_a_restart(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> None:
    away = run_api(create_app(files.settings()))
    files.write_tokens("a-new-admin-token", "a-new-read-token")
    problem_of(away.client.get("/openapi.json", headers=away.admin), 401)
    assert away.client.get("/openapi.json", headers={"Authorization": "Bearer a-new-admin-token"}).status_code == 200


def test_without_readable_tokens_nobody_gets_in(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> None:
    away = run_api(create_app(files.settings()))
    files.replace("tokens.json", "{}")
    assert problem_of(away.client.get("/openapi.json", headers=away.admin), 503)["code"] == "configuration"
    (files.folder / "tokens.json").unlink()
    assert problem_of(away.client.get("/openapi.json", headers=away.admin), 503)["code"] == "configuration"


def test_requests_are_told_soon_that_the_coordinator_is_away(away: Api, away_files: ApiFiles) -> None:
    for path in ("/api/v1/nodes/active", "/api/v1/rebalance"):
        began = time.monotonic()
        body = problem_of(away.client.get(path, headers=away.read), 503)
        assert time.monotonic() - began < 3
        assert body["code"] == "unreachable"
        assert "refused" in body["detail"]
        assert body["hint"]
        assert away_files.password_file.read_text() not in str(body)
    problem_of(away.client.post("/api/v1/nodes", headers=away.admin, json={"host": "citus-worker3"}), 503)
    problem_of(away.client.post("/api/v1/rebalance", headers=away.admin), 503)


def test_health_says_what_is_missing_and_no_secret(away: Api, away_files: ApiFiles) -> None:
    response = away.client.get("/health")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body["status"] == "starting"
    assert "refused" in body["reason"]
    assert body["coordinator"]["answers"] is False
    assert body["workers"]["desired"] == 2
    assert [worker["host"] for worker in body["workers"]["pending"]] == ["citus-worker1", "citus-worker2"]
    for secret in (away_files.password_file.read_text(), ADMIN_TOKEN, READ_TOKEN):
        assert secret not in response.text


def test_health_names_a_configuration_that_cannot_be_read(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> None:
    away = run_api(create_app(files.settings()))
    files.replace("cluster.json", '{"cluster": "citus"}')
    response = away.client.get("/health")
    assert response.status_code == 503
    assert "cluster.json" in response.json()["reason"]


def test_health_without_the_reconciler_speaks_of_no_workers(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> None:
    api = run_api(create_app(files.settings(reconciler=False, health_timeout_s=0.2)))
    assert api.client.get("/health").json()["workers"] is None


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"host": "citus-worker1", "port": 0}, ["body", "port"]),
        ({"host": "citus-worker1", "port": 65536}, ["body", "port"]),
        ({"host": "citus-worker1", "port": "5432"}, ["body", "port"]),
        ({"host": "", "port": 5432}, ["body", "host"]),
        ({"host": "my-secret-value here"}, ["body", "host"]),
        ({"host": "citus-worker1", "password": "my-secret-value"}, ["body", "password"]),
        ({}, ["body", "host"]),
        ([], ["body"]),
    ],
)
def test_an_invalid_worker_is_refused_without_repeating_it(away: Api, body: object, location: list[str]) -> None:
    response = away.client.post("/api/v1/nodes", headers=away.admin, json=body)
    problem = problem_of(response, 422)
    assert location in [error["location"] for error in problem["errors"]]
    assert "my-secret-value" not in response.text


@pytest.mark.parametrize("body", [{"mode": "fast"}, {"strategy": ""}, {"drain": True}])
def test_an_invalid_rebalance_is_refused(away: Api, body: dict[str, object]) -> None:
    problem_of(away.client.post("/api/v1/rebalance", headers=away.admin, json=body), 422)


def test_text_that_is_no_json_is_refused(away: Api) -> None:
    headers = away.admin | {"Content-Type": "application/json"}
    problem_of(away.client.post("/api/v1/nodes", headers=headers, content=b"{my-secret-value"), 422)


def test_unknown_paths_and_methods_are_problems_too(away: Api) -> None:
    assert problem_of(away.client.get("/api/v1/nodes/7", headers=away.read), 404)["type"] == "about:blank"
    response = away.client.delete("/api/v1/rebalance", headers=away.admin)
    problem_of(response, 405)
    assert response.headers["allow"]
    problem_of(away.client.post("/health", headers=away.admin), 405)


def test_a_defect_is_logged_once_and_not_shown(
    files: ApiFiles, run_api: Callable[[FastAPI], Api], caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(files.settings(reconciler=False))

    @app.get("/defect")
    async def defect() -> None:
        raise ValueError("an inner detail")

    api = run_api(app)
    response = api.client.get("/defect", headers=api.read)
    assert problem_of(response, 500)["code"] == "internal-error"
    assert "inner detail" not in response.text
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == 1
    assert logged[0].exc_info


def test_the_openapi_document_declares_problems_and_the_token(away: Api) -> None:
    document = away.client.get("/openapi.json", headers=away.read).json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert {"type", "title", "status", "detail"} <= set(document["components"]["schemas"]["Problem"]["properties"])
    operations = {
        (path, method): operation for path, item in document["paths"].items() for method, operation in item.items()
    }
    declared = {(f"/api/v1/{one.path}", "post") for one in CHANGES} | {(f"/api/v1/{one.path}", "get") for one in VIEWS}
    assert set(operations) == declared | {
        ("/api/v1/operations", "get"),
        ("/api/v1/operations/{operation_id}", "get"),
        ("/api/v1/operations/{operation_id}/events", "get"),
        ("/api/v1/operations/{operation_id}/cancel", "post"),
        ("/api/v1/operations/{operation_id}/resume", "post"),
        *((path, "get") for path in ("/health", "/health/live", "/health/ready", "/metrics")),
        ("/api/v1/nodes/active", "get"),
        ("/api/v1/nodes", "post"),
        ("/api/v1/rebalance", "get"),
        ("/api/v1/rebalance", "post"),
        ("/api/v1/services", "get"),
    }
    for (path, _), operation in operations.items():
        if path.startswith("/health"):
            assert "security" not in operation
            continue
        assert operation["security"] == [{"bearer": []}]
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert {"401", "403", "503"} <= set(errors)
        assert all(set(answer["content"]) == {"application/problem+json"} for answer in errors.values())
    assert "HTTPValidationError" not in str(document)


def test_every_success_has_a_named_schema(away: Api) -> None:
    document = away.client.get("/openapi.json", headers=away.read).json()
    named = document["components"]["schemas"]
    seen = set()
    assert document["paths"].pop("/metrics"), "a text, as Prometheus defines it"
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                if status < "300":
                    schema = answer["content"]["application/json"]["schema"]
                    reference = schema.get("items", schema).get("$ref", "none")
                    assert reference.rpartition("/")[2] in named, (method, path, status)
                    assert named[reference.rpartition("/")[2]]["description"], reference
                    seen.add((path, method))
    assert len(seen) == sum(len(item) for item in document["paths"].values())


def test_the_document_describes_the_rows_of_the_active_nodes(away: Api) -> None:
    document = away.client.get("/openapi.json", headers=away.read).json()
    found = document["paths"]["/api/v1/nodes/active"]["get"]
    schema = found["responses"]["200"]["content"]["application/json"]["schema"]
    assert (schema["type"], schema["items"]["$ref"]) == ("array", "#/components/schemas/ActiveNode")
    assert not found.get("parameters")


def test_operation_ids_are_stable_names_and_every_parameter_is_described(away: Api) -> None:
    document = away.client.get("/openapi.json", headers=away.read).json()
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", one) for one in ids), ids
    operations = {
        path: operation
        for path, item in document["paths"].items()
        for operation in item.values()
        if path.startswith("/api/v1/operations")
    }
    every: list[Change[Any] | View[Any]] = [*CHANGES, *VIEWS]
    for one in every:
        item = document["paths"][f"/api/v1/{one.path}"]
        operation = item["post" if isinstance(one, Change) else "get"]
        assert operation["operationId"] == one.name
        operations[one.path] = operation
    for path, operation in operations.items():
        assert all(parameter.get("description") for parameter in operation.get("parameters", ())), path


def test_settings_come_from_the_environment() -> None:
    settings = Settings.from_environ(
        {
            "CITUS_CLUSTER_API_CONFIG_DIR": "/a",
            "CITUS_CLUSTER_API_PASSWORD_FILE": "/b/c",
            "CITUS_CLUSTER_RECONCILER": "off",
        }
    )
    assert (str(settings.config_dir), str(settings.password_file), settings.reconciler) == ("/a", "/b/c", False)
    assert Settings.from_environ({}) == Settings()
    with pytest.raises(UsageError):
        Settings.from_environ({"CITUS_CLUSTER_RECONCILER": "perhaps"})


def test_what_a_server_names_is_escaped_in_every_answer(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> None:
    """curl prints an answer as it is."""
    app = create_app(files.settings())
    name = "\x9b31m\u202e\u2028ä"

    @app.get("/api/v1/name")
    def read_name() -> dict[str, str]:
        return {"name": name}

    @app.get("/api/v1/problem")
    def read_problem() -> None:
        raise UsageError(name)

    api = run_api(app)
    for path, key in (("name", "name"), ("problem", "detail")):
        response = api.client.get(f"/api/v1/{path}", headers=api.read)
        assert response.json()[key] == name
        assert r"\u009b31m\u202e\u2028ä" in response.text
