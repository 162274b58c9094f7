"""GET /metrics and the simple health checks, without a coordinator: who may read, what is shown, what is bounded."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import virtual_time
from api_support import Api, ApiFiles
from fastapi import FastAPI
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from waiting import eventually

from admin_api.app import create_app
from admin_api.sampler import Part, Sampler
from citus_cluster.errors import UnreachableError
from citus_cluster.model.api_config import TOKENS_FILE, ApiTokens, hash_token
from citus_cluster.model.companion_status import CompanionStatus
from citus_cluster.runtime.postgres import Connection

Run = Callable[[FastAPI], Api]


@pytest.fixture
def api(files: ApiFiles, run_api: Run) -> Api:
    return run_api(create_app(files.settings(connect_timeout_s=0.3, sample_interval_s=0.2)))


def samples(api: Api) -> Iterator[Sample]:
    response = api.client.get("/metrics", headers=api.read)
    assert response.status_code == 200, response.text
    for family in text_string_to_metric_families(response.text):
        yield from family.samples


def value(api: Api, name: str, **labels: str) -> float | None:
    found = [one.value for one in samples(api) if one.name == name and labels.items() <= one.labels.items()]
    return sum(found) if found else None


def test_both_tokens_may_read_it_and_nobody_else(api: Api) -> None:
    assert [api.client.get("/metrics", headers=who).status_code for who in (api.admin, api.read, {})] == [200, 200, 401]


def test_the_token_of_a_service_reads_and_changes_nothing(files: ApiFiles, api: Api) -> None:
    tokens = ApiTokens(admin=hash_token("a"), read=hash_token("b"), services={"prometheus": hash_token("its own")})
    files.replace(TOKENS_FILE, tokens.to_json())
    own = {"Authorization": "Bearer its own"}
    assert api.client.get("/metrics", headers=own).status_code == 200
    assert api.client.post("/api/v1/rebalance", headers=own).status_code == 403
    assert ApiTokens.from_json(tokens.to_json()) == tokens
    assert "services" not in ApiTokens(admin=hash_token("a"), read=hash_token("b")).to_json()


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            "application/openmetrics-text;version=no-number",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("text/plain;version=no-number;escaping=x", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_that_the_client_accepts(api: Api, accept: str, media_type: str) -> None:
    response = api.client.get("/metrics", headers={**api.read, "Accept": accept})
    assert response.headers["content-type"] == media_type
    if "openmetrics" in media_type:
        names = {family.name for family in openmetrics.text_string_to_metric_families(response.text)}  # type: ignore[no-untyped-call]
    else:
        names = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"citus_cluster_http_requests", "citus_cluster_coordinator_up"} <= names


def test_names_follow_the_conventions(api: Api) -> None:
    """https://prometheus.io/docs/practices/naming/: our prefix, base units, and a help text for each."""
    text = api.client.get("/metrics", headers=api.read).text
    ours = [one for one in text_string_to_metric_families(text) if not one.name.startswith(("process_", "python_"))]
    for family in ours:
        assert family.name.startswith("citus_cluster_"), family.name
        assert family.documentation, family.name
        assert not any(unit in family.name for unit in ("_ms", "_mb", "_kb", "_percent", "_minutes")), family.name
    assert {"process_resident_memory_bytes", "process_start_time_seconds"} <= {one.name for one in samples(api)}


def test_a_coordinator_that_is_away_is_told_within_a_bounded_time(api: Api) -> None:
    began = time.monotonic()
    assert value(api, "citus_cluster_coordinator_up") == 0
    # The limit for waiting is 2.5 s; a busy machine takes its own time, but not that of a driver that waits forever.
    assert time.monotonic() - began < 20
    assert value(api, "citus_cluster_sample_age_seconds", part="nodes") is None
    assert (value(api, "citus_cluster_sample_failures_total", part="nodes") or 0) >= 1
    assert value(api, "citus_cluster_worker_registered", node="citus-worker1:5432") == 0
    assert value(api, "citus_cluster_wanted_workers", state="pending") == 2
    assert value(api, "citus_cluster_build_info") == 1


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    for path in ("/health/live", "/nowhere", "/nowhere/else?x=1", "/%F0%9F%92%A5"):
        api.client.get(path, headers=api.read)
    api.client.request("PROPFIND", "/health/live", headers=api.read)
    api.client.head("/health/live")
    api.client.get("/api/v1/nodes/active")
    api.client.delete("/api/v1/nodes", headers=api.admin)
    found = {
        (one.labels["route"], one.labels["method"], one.labels["status"]): one.value
        for one in samples(api)
        if one.name == "citus_cluster_http_requests_total"
    }
    assert found[("/health/live", "GET", "200")] == 1
    assert found[("/health/live", "HEAD", "200")] == 1
    assert found[("/health/live", "other", "405")] == 1
    assert found[("none", "GET", "404")] == 3
    # It is refused before it is routed.
    assert found[("none", "GET", "401")] == 1
    assert found[("/api/v1/nodes", "DELETE", "405")] == 1
    assert value(api, "citus_cluster_http_request_duration_seconds_count", route="/health/live", method="GET") == 1
    assert value(api, "citus_cluster_http_requests_in_flight") == 1


def test_live_and_ready_are_open_and_mean_what_they_say(api: Api) -> None:
    live = api.client.get("/health/live")
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert live.headers["cache-control"] == "no-store"
    ready = api.client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.headers["retry-after"] == "5"
    body = ready.json()
    assert body["ready"] is False
    assert "Cannot connect" in body["reason"]
    assert "pä'ss" not in ready.text


def test_many_anonymous_clients_take_nothing_from_those_who_are_logged_in(api: Api) -> None:
    """Each of them asks for all that is open, while the coordinator is away, which is the slowest answer."""
    with ThreadPoolExecutor(max_workers=40) as pool:
        asked = [
            pool.submit(api.client.get, path)
            for _ in range(70)
            for path in ("/health", "/health/live", "/health/ready")
        ]
        logged_in = [api.client.get("/api/v1/nodes/active", headers=api.read).json()["code"] for _ in range(5)]
        statuses = {one.result().status_code for one in asked}
    assert statuses == {200, 503}
    # What is wrong is the coordinator, not a queue that is full (code "busy").
    assert set(logged_in) == {"unreachable"}


class Dialled:
    """Counts the attempts to connect, which all fail."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> Connection:
        self.count += 1
        raise UnreachableError("nobody is there")


async def no_companions() -> Sequence[CompanionStatus]:
    return ()


def test_the_figures_are_read_only_while_somebody_asks(files: ApiFiles, caplog: pytest.LogCaptureFixture) -> None:
    """In time that jumps: the loop pauses two minutes after the last question, and begins again at the next."""

    async def body() -> None:
        dialled = Dialled()
        one = Sampler(files.settings(), dialled, no_companions)
        for _ in range(10):
            await one.latest()
        assert dialled.count == 1
        await asyncio.sleep(3600)
        asked_for_120_s = dialled.count
        assert 11 <= asked_for_120_s <= 14
        found = await one.latest()
        assert dialled.count == asked_for_120_s + 1
        assert found.coordinator_answers is False
        assert found.failures[Part.NODES] == dialled.count
        await one.close()

    virtual_time.run(body())
    # The reason is logged once, not at each attempt.
    assert sum("nobody is there" in record.message for record in caplog.records) == 1


def test_a_bug_in_reading_does_not_end_the_loop(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: Sampler) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Sampler, "_round", fail)
    before = value(api, "citus_cluster_sample_rounds_total") or 0
    eventually(lambda: (value(api, "citus_cluster_sample_rounds_total") or 0) >= before + 2)
