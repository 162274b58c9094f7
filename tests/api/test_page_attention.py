"""What the first page of the console says needs attention, from the figures that monitoring collects."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from setup_support import ROOT

from admin_api.pages import attention
from admin_api.pages.actions import action_of
from admin_api.pages.attention import Attention
from admin_api.pages.cells import is_command
from citus_cluster.model.citus.diagnosis import Cause, DiagnosisRow
from citus_cluster.model.citus.figures import CROWDED_PART, KEPT_WAL_BYTES, OLD_PREPARED_S, NodeFigures
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.state import Drift, DriftSeverity
from citus_cluster.model.disks import Disk
from citus_cluster.operations.registry import CHANGES

WORKER = NodeAddress("citus-worker1")
WELL = NodeFigures(5, 5, 100, None, 0, 0.0, {}, 0, Disk("citus-worker1", 100, 90))


@pytest.mark.parametrize(
    ("figures", "message", "url"),
    [
        (replace(WELL, internal_connections=80), "85 of 100 connections", "/activity?idle=true"),
        (replace(WELL, client_limit=5), "5 of 5 client connections", "/activity?idle=true"),
        (replace(WELL, oldest_prepared_s=OLD_PREPARED_S + 1), "10 min 1 s old", None),
        (replace(WELL, slot_lag_bytes=11 * 1024**3), "keeps 11.0 GB of WAL", "/views/consistency-orphans"),
        (replace(WELL, lag_bytes=11 * 1024**3), "has not replayed 11.0 GB", None),
    ],
)
def test_figures_beyond_a_limit_need_attention_and_name_what_helps(
    figures: NodeFigures, message: str, url: str | None
) -> None:
    (found,) = attention.of_figures({WORKER: figures})
    assert message in found.message and found.url == url
    assert found.command and is_command(found.command)


def test_figures_within_the_limits_need_none() -> None:
    nearly = replace(
        WELL,
        internal_connections=79,
        client_limit=6,
        oldest_prepared_s=OLD_PREPARED_S,
        slot_lag_bytes=int(KEPT_WAL_BYTES),
        lag_bytes=int(KEPT_WAL_BYTES),
    )
    assert attention.of_figures({WORKER: nearly}) == []


def test_a_disk_that_fills_up_needs_attention_once_for_all_its_nodes() -> None:
    disks = [Disk("a", 100, 10), Disk("b", 100, 10), Disk("c", 1000, 20), Disk("d", 100, 60)]
    found = attention.of_disks(disks)
    assert [(one.tone, "a, b" in one.message, "c" in one.message) for one in found] == [
        ("bad", False, True),
        ("careful", True, True),
    ]


def test_the_limits_are_those_of_the_alerts() -> None:
    rules = (ROOT / "config/monitoring/alerts.yml").read_text()
    limits = dict(re.findall(r"alert: (\w+)\n\s+expr: .*> ([0-9.e]+)\n", rules))
    assert float(limits["CitusConnectionsNearLimit"]) == CROWDED_PART
    assert float(limits["CitusOldPreparedTransaction"]) == OLD_PREPARED_S
    assert float(limits["CitusSlotLag"]) == KEPT_WAL_BYTES


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("citus-cluster rebalance start", True),
        ("docker compose unpause citus-worker1", True),
        ("ALTER TABLE t REPLICA IDENTITY FULL;", True),
        ("Free some space on this disk, or add a worker on another one.", False),
    ],
)
def test_only_commands_and_statements_are_offered_to_copy(text: str, is_one: bool) -> None:
    assert is_command(text) == is_one


def test_what_stops_queries_comes_first_and_nothing_twice() -> None:
    found = [
        Attention("careful", "a"),
        Attention("bad", "b", "first"),
        Attention("careful", "c"),
        Attention("bad", "b"),
    ]
    assert attention.in_order(found) == [found[1], found[0], found[2]]


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("citus-cluster nodes activate citus-worker1:5432", "/changes/nodes-activate?node=citus-worker1%3A5432"),
        ("citus-cluster activity terminate 10000004610", "/changes/activity-terminate?global_pid=10000004610"),
        ("citus-cluster rebalance repair", "/changes/rebalance-repair"),
        ("citus-cluster rebalance repair --dry-run", None),
        ("citus-cluster nodes activate", None),
        ("citus-cluster nodes activate --help", None),
        ("citus-cluster status", None),
        ("SELECT pg_terminate_backend(1);", None),
        ("an apostrophe's text", None),
        (None, None),
    ],
)
def test_a_command_that_is_a_change_is_a_button_too(command: str | None, url: str | None) -> None:
    changes = {one.name: one for one in CHANGES}
    found = action_of(changes, command)
    assert (found.url if found else None) == url
    assert action_of({}, command) is None


def test_a_silent_node_is_shown_once_whichever_views_found_it() -> None:
    node = SimpleNamespace(
        node="citus-worker1:5432", host="citus-worker1", port=5432, answers=False, reason="citus-worker1:5432 is away."
    )
    (found,) = attention.of_nodes([node])
    assert found.message.startswith("citus-worker1:5432 is away. If it is paused: docker compose unpause citus-worker1")
    drift = [
        Drift(name, DriftSeverity.ERROR, name, f"{name} is away.")
        for name in ("citus-worker1:5432", "citus-worker2:5432")
    ]
    causes = [DiagnosisRow(one.item, Cause.SILENT_NODE, one.message, None, node=one.node) for one in drift]
    blocked = DiagnosisRow("blocker", Cause.BLOCKED, "a move waits", None, node="citus-worker1:5432")
    assert [one.message for one in attention.of_drift(drift, {"citus-worker1:5432"})] == ["citus-worker2:5432 is away."]
    assert [one.message for one in attention.of_diagnosis([*causes, blocked], {"citus-worker1:5432"})] == [
        "citus-worker2:5432 is away.",
        "a move waits",
    ]
