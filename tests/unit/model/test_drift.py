"""Differences between the cluster and its files."""

from dataclasses import replace

import pytest

from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode, Registry
from citus_cluster.model.citus.state import Drift, DriftSeverity, Observed, ServerReport, drift
from citus_cluster.model.tuning.parameters import UnusedSetting

HOME, FIRST, SECOND = NodeAddress("citus-coordinator"), NodeAddress("citus-worker1"), NodeAddress("citus-worker2")
OWN = RegisteredNode(1, 0, HOME, True, "primary", False)
ONE = RegisteredNode(2, 1, FIRST, True, "primary", True)
TWO = RegisteredNode(3, 2, SECOND, True, "primary", True)
REPORT = ServerReport("17.6", "13.2.2", ExtensionVersions("13.2-1", "13.2-1"))


def seen(*nodes: RegisteredNode, recorded: frozenset[NodeAddress] = frozenset()) -> Observed:
    return Observed(Registry(nodes, recorded), reports={node.node_id: REPORT for node in nodes})


def found(observed: Observed, *workers: NodeAddress, coordinator: NodeAddress | None = HOME) -> dict[str, Drift]:
    rows = drift(observed, coordinator, workers)
    assert len({row.item for row in rows}) == len(rows), "the key is unique"
    return {row.item: row for row in rows}


def test_a_cluster_that_is_as_its_files_say_has_no_difference() -> None:
    assert drift(seen(OWN, ONE, TWO), HOME, [FIRST, SECOND]) == ()
    assert drift(seen(OWN, ONE, TWO), None, None) == ()


def test_workers_are_missing_removed_unknown_or_at_another_port() -> None:
    missing = found(seen(OWN, ONE), FIRST, SECOND)["missing citus-worker2:5432"]
    assert missing.severity is DriftSeverity.ERROR
    assert missing.fix == "citus-cluster nodes add --host citus-worker2 --port 5432"
    removed = found(seen(OWN, ONE, recorded=frozenset({SECOND})), FIRST, SECOND)["removed citus-worker2:5432"]
    assert removed.fix == "citus-cluster nodes remove citus-worker2"
    unknown = found(seen(OWN, ONE, TWO), FIRST)
    assert unknown["unknown citus-worker2:5432"].severity is DriftSeverity.WARNING
    elsewhere = replace(TWO, address=NodeAddress("10.0.0.5", 5435))
    assert found(seen(OWN, ONE, elsewhere), FIRST)["unknown 10.0.0.5:5435"].severity is DriftSeverity.INFO
    moved = found(seen(OWN, ONE, elsewhere), FIRST, NodeAddress("10.0.0.5", 5436))
    assert list(moved) == ["port 10.0.0.5:5436"]
    assert moved["port 10.0.0.5:5436"].fix == "citus-cluster nodes move 10.0.0.5:5435 10.0.0.5 --port 5436"


@pytest.mark.parametrize(
    ("nodes", "fix"),
    [
        (
            (replace(OWN, address=NodeAddress("localhost")),),
            "SELECT citus_set_coordinator_host('citus-coordinator', 5432);",
        ),
        (
            (replace(OWN, address=NodeAddress("db1")), ONE),
            "citus-cluster nodes move db1:5432 citus-coordinator --port 5432",
        ),
        ((ONE,), "SELECT citus_set_coordinator_host('citus-coordinator', 5432);"),
    ],
)
def test_the_coordinator_has_another_address(nodes: tuple[RegisteredNode, ...], fix: str) -> None:
    workers = [node.address for node in nodes if not node.is_coordinator]
    assert found(seen(*nodes), *workers)["coordinator"].fix == fix


def test_nodes_are_inactive_silent_unsynced_or_in_maintenance() -> None:
    inactive = found(seen(OWN, replace(ONE, is_active=False)), FIRST)
    assert inactive["inactive citus-worker1:5432"].fix == "citus-cluster nodes activate citus-worker1"
    resting = replace(ONE, is_active=False, in_maintenance=True)
    assert list(found(seen(OWN, resting), FIRST)) == ["maintenance citus-worker1:5432"]
    observed = replace(seen(OWN, ONE), silent={2: "it hangs"}, unsynced=frozenset({2}))
    rows = found(observed, FIRST)
    assert rows["silent citus-worker1:5432"].message == "it hangs"
    assert "citus_activate_node('citus-worker1', 5432)" in str(rows["unsynced citus-worker1:5432"].fix)


def test_versions_and_settings_differ() -> None:
    other = ServerReport("18.1", "14.0.1", ExtensionVersions("13.2-1", "14.0-1"))
    rows = found(replace(seen(OWN, ONE), reports={1: REPORT, 2: other}), FIRST)
    assert {item.split()[0]: row.severity for item, row in rows.items()} == {
        "extension": DriftSeverity.WARNING,
        "citus": DriftSeverity.ERROR,
        "postgres": DriftSeverity.ERROR,
    }
    minor = replace(REPORT, postgres_version="17.5")
    (row,) = found(replace(seen(OWN, ONE), reports={1: REPORT, 2: minor}), FIRST).values()
    assert row.severity is DriftSeverity.WARNING
    waits = UnusedSetting("postgresql.conf", 3, "shared_buffers", "1GB", None, "128MB", needs_restart=True)
    wrong = UnusedSetting("postgresql.conf", 4, "work_mem", "many", "invalid value", "4MB", needs_restart=False)
    rows = found(replace(seen(OWN), reports={1: replace(REPORT, unused=(waits, wrong))}))
    assert rows["setting citus-coordinator:5432 shared_buffers"].fix == "docker compose restart citus-coordinator"
    assert rows["setting citus-coordinator:5432 work_mem"].severity is DriftSeverity.ERROR
