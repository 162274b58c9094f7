"""The dashboard for Grafana: Grafana understands all of it, and it shows only what GET /metrics has."""

import enum
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import dashboard_support
import pytest
import yaml
from api_support import Api, ApiFiles, serve
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel
from prometheus_client.parser import text_string_to_metric_families
from setup_support import ROOT

from admin_api.app import create_app
from admin_api.sampler import Part, Sample, Sampler
from citus_cluster.model.citus.figures import (
    Catalog,
    CatalogNode,
    NodeAnswers,
    NodeFigures,
    RebalanceFigures,
    ShardLoad,
    TenantUse,
)
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.disks import Disk

DOCUMENT = json.loads(dashboard_support.FILE.read_text(encoding="utf-8"))
WORKER = NodeAddress("citus-worker1")
EVERYTHING = Sample(
    coordinator_answers=True,
    catalog=Catalog(
        (CatalogNode(RegisteredNode(1, 1, WORKER, True, "primary", True), True),), 0, {"distributed": 1}, 60.0
    ),
    answers=NodeAnswers(
        {
            WORKER: NodeFigures(
                external_connections=1,
                internal_connections=1,
                max_connections=100,
                client_limit=90,
                prepared_transactions=0,
                oldest_prepared_s=0,
                slots={},
                slot_lag_bytes=0,
                disk=Disk(str(WORKER), 100, 50),
                tenants=(TenantUse(1, "a tenant", 1, 1, 0.5),),
            )
        }
    ),
    loads={WORKER: ShardLoad(1, 8192)},
    rebalance=RebalanceFigures(
        RebalanceStatus(
            JobState.RUNNING, 1, tasks={"running": 1}, shards_total=2, bytes_done=1, bytes_total=2, time_left_s=3.0
        )
    ),
    companions=(CompanionStatus(ComponentName.PG14, Condition.OK, None, {"lag": {"bytes": 1, "seconds": 1.0}}),),
    read_at=dict.fromkeys(Part, 0.0),
)
"""Figures with a value of each kind, so that every metric has a time series."""


@pytest.fixture
def exposed(files: ApiFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, set[str]]]:
    """The labels of each time series that GET /metrics shows, and of those that the recording rules make of them."""

    async def latest(_self: Sampler) -> Sample:
        return EVERYTHING

    monkeypatch.setattr(Sampler, "latest", latest)
    with serve(create_app(files.settings())) as api:
        yield {**series(api), **recorded()}


def series(api: Api) -> dict[str, set[str]]:
    api.client.get("/health/live")  # A request is counted when it ends, so one ends before.
    text = api.client.get("/metrics", headers=api.read).text
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return {one.name: {*one.labels, "job", "instance"} for one in samples}


def recorded() -> dict[str, set[str]]:
    rules = yaml.safe_load((ROOT / "config/monitoring/recording.yml").read_text())["groups"][0]["rules"]
    labels = re.compile(r"by \(([^)]*)\)")
    default = "instance, job, node"
    return {
        rule["record"]: set((labels.search(rule["expr"]) or [default, default])[1].split(", ")) - {"le"}
        for rule in rules
    }


def test_every_query_names_what_is_exposed(exposed: Mapping[str, set[str]]) -> None:
    known = {**exposed, "ALERTS": {"alertname", "alertstate"}}
    assert len(list(dashboard_support.queries("api"))) > 30
    for title, expression, legend in dashboard_support.queries("api"):
        found = re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression)
        assert found, title
        for name, matchers in found:
            assert name in known, f"{title}: {name}"
            assert set(re.findall(r"(\w+)=", matchers)) <= known[name], f"{title}: {name}"
        labels = {label for name, _ in found for label in known[name]}
        assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, f"{title}: {legend}"


def test_every_metric_of_the_cluster_is_shown_or_known_to_be_left_out(exposed: Mapping[str, set[str]]) -> None:
    """So a new metric gets a panel, or a line here."""
    rules = (ROOT / "config/monitoring/recording.yml").read_text()
    shown = " ".join(expression for _, expression, _ in dashboard_support.queries("api")) + rules
    missing = {name for name in exposed if name.startswith("citus_cluster_") and name not in shown}
    assert missing == {
        "citus_cluster_build_info",
        "citus_cluster_http_request_duration_seconds_count",
        "citus_cluster_http_request_duration_seconds_created",
        "citus_cluster_http_request_duration_seconds_sum",
        "citus_cluster_http_requests_created",
        "citus_cluster_node_active",
        "citus_cluster_nodes",
        "citus_cluster_sample_rounds_total",
        "citus_cluster_worker_registered",
    }


def test_panels_have_numbers_of_their_own_and_places_of_their_own() -> None:
    numbers = [panel["id"] for panel in DOCUMENT["panels"]]
    assert len(numbers) == len(set(numbers))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DOCUMENT["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    tops = [panel["gridPos"]["y"] for panel in DOCUMENT["panels"]]
    assert all(before <= after for before, after in pairwise(tops))


def test_the_data_source_is_chosen_at_the_import() -> None:
    (asked,) = DOCUMENT["__inputs"]
    assert (asked["name"], asked["type"], asked["pluginId"]) == ("DS_PROMETHEUS", "datasource", "prometheus")
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps({**DOCUMENT, "uid": ""}))
    assert set(sources) == {"", "${DS_PROMETHEUS}"}


def test_grafana_understands_all_of_it() -> None:
    """By the types that Grafana generates from its own schema: nothing is unknown to them, and nothing of another type.

    What begins with two underscores is for the import, and is not part of the dashboard itself.
    """
    register_default_plugins()
    own = {key: value for key, value in DOCUMENT.items() if not key.startswith("__")}
    read = Dashboard.from_json(json.loads(json.dumps(own)))
    written = json.loads(json.dumps(read, cls=JSONEncoder))
    assert list(lost(own, written)) == []
    assert list(mistyped(read, Dashboard)) == []


def test_the_types_find_what_is_wrong() -> None:
    register_default_plugins()
    changed = json.loads(json.dumps(DOCUMENT["panels"][1])) | {"titel": "A title", "id": "7"}
    changed["options"]["textMode"] = 3
    read = Panel.from_json(changed)
    assert list(lost(changed, json.loads(json.dumps(read, cls=JSONEncoder)))) == ["/titel"]
    assert list(mistyped(read, Panel)) == ["/id_val", "/options/text_mode"]


def lost(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Name what is missing or different in ``theirs``, which may have more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{path}/{place}")
    elif ours != theirs:
        yield path


def mistyped(value: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Name the values that are not of the declared type."""
    origin = typing.get_origin(wanted)
    if isinstance(value, dict) and isinstance(wanted, type) and hasattr(wanted, "from_json"):
        # Grafana's types leave some parts unread.
        read = wanted.from_json(value)
        yield from lost(value, json.loads(json.dumps(read, cls=JSONEncoder)), path)
        value = read
    if wanted in {Any, object} or (isinstance(wanted, type) and wanted.__name__ == "Dataquery"):
        wanted = type(value)
    if origin in {typing.Union, types.UnionType}:
        found = [list(mistyped(value, one, path)) for one in typing.get_args(wanted)]
        yield from min(found, key=len)
    elif origin is list:
        if not isinstance(value, list):
            yield path
        else:
            for place, one in enumerate(value):
                yield from mistyped(one, typing.get_args(wanted)[0], f"{path}/{place}")
    elif origin is dict:
        if not isinstance(value, dict):
            yield path
        else:
            for key, one in value.items():
                yield from mistyped(one, typing.get_args(wanted)[1], f"{path}/{key}")
    elif origin is typing.Literal:
        if value not in typing.get_args(wanted):
            yield path
    elif wanted is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield path
    elif issubclass(wanted, enum.Enum):
        if value not in [one.value for one in wanted]:
            yield path
    elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        yield path
    elif wanted.__module__.startswith("grafana_foundation_sdk"):
        for name, type_ in typing.get_type_hints(wanted).items():
            yield from mistyped(getattr(value, name), type_, f"{path}/{name}")
