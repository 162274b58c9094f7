"""What is made of observed facts: preflight findings, the condition of containers, the state of a cluster."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import a_container

from citus_cluster.errors import ExitStatus
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.overview import NodeOverview, Overview
from citus_cluster.model.citus.rebalance import NO_REBALANCE
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve
from citus_cluster.model.tuning.log_space import LogSpace
from citus_cluster.operations.start.preflight import (
    Severity,
    disk_findings,
    engine_version_findings,
    name_findings,
    project_findings,
    published,
    refusal,
)
from citus_cluster.operations.start.readiness import condition
from citus_cluster.operations.status.report import ServiceStatus, State, advise, differences, overall


def topology(**values: object) -> Topology:
    spec = parse_spec({"apiVersion": "citus-cluster/v1", "services": ["citus"], "workers": 2, **values})
    return resolve(spec, memory_mb=8000, cpus=2, pg_major=17)[0]


@pytest.mark.parametrize(("version", "old"), [("19.03.15", True), ("20.10.24+dfsg1", False), ("28.2.2", False)])
def test_engines_before_20_10_are_refused(version: str, old: bool) -> None:
    assert [finding.id for finding in engine_version_findings(version)] == (["engine-too-old"] if old else [])


def test_a_project_of_another_directory_is_refused_with_its_path(tmp_path: Path) -> None:
    elsewhere, here = str(tmp_path / "elsewhere"), str(tmp_path)
    assert list(project_findings(tmp_path, [a_container(working_dir=here)])) == []
    (finding,) = project_findings(tmp_path, [a_container(working_dir=here), a_container(working_dir=elsewhere)])
    assert (finding.id, finding.severity) == ("other-directory", Severity.ERROR)
    assert elsewhere in finding.message


def test_a_directory_that_was_reached_by_a_link_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list(project_findings(tmp_path / "real", [a_container(working_dir=str(tmp_path / "link"))])) == []


def test_a_name_that_another_project_holds_is_refused() -> None:
    assert list(name_findings("citus", [a_container()])) == []
    (of_project, of_nobody) = name_findings("shop", [a_container(), a_container(project=None)])
    assert of_project.id == "name-taken" and "'citus'" in of_project.message
    assert "docker rm -f citus-worker1" in of_nobody.hint


@pytest.mark.parametrize(
    ("free_mb", "missing_images", "severity"),
    [
        (100_000, 0, None),
        (3 * 4096 + 8192, 0, None),
        (3 * 4096 + 8191, 0, Severity.WARNING),
        (700, 0, Severity.ERROR),
        (1500, 1, Severity.ERROR),
    ],
)
def test_disk_space_is_judged_by_the_logs_settings_and_missing_images(
    free_mb: int, missing_images: int, severity: Severity | None
) -> None:
    logs = [LogSpace(f"citus-worker{number}", 4096, 8192) for number in (1, 2, 3)]
    found = [*disk_findings(free_mb, Path("/var/lib/docker"), 3, logs, missing_images)]
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    if severity is Severity.WARNING:
        assert "20.0 GB together (citus-worker1, citus-worker2, citus-worker3: 4.0 GB each, up to 8.0 GB more" in str(
            found[0]
        )


def test_services_without_a_log_need_no_room_for_one() -> None:
    assert not [*disk_findings(600, Path("/var/lib/docker"), 2, [], 0)]


def test_every_finding_is_told_at_once() -> None:
    findings = [*engine_version_findings("19.03"), *name_findings("shop", [a_container()])]
    error = refusal(findings)
    assert error.exit_status is ExitStatus.PREFLIGHT
    assert len(error.details) == 2
    assert "2 problems" in error.message


def test_ports_are_read_from_the_merged_compose_file() -> None:
    services: dict[str, dict[str, Any]] = {
        "citus-worker1": {"ports": [{"host_ip": "127.0.0.1", "published": "5435", "target": 5432, "protocol": "tcp"}]},
        "mine": {"ports": [{"published": "53", "target": 53, "protocol": "udp"}, {"target": 80}]},
        "none": {},
    }
    assert list(published(services)) == [("citus-worker1", "127.0.0.1", 5435)]


@pytest.mark.parametrize(
    ("facts", "restarts", "words"),
    [
        ({"state": "exited", "exit_code": 1}, 0, "ended with exit status 1"),
        ({"state": "exited", "exit_code": 137, "oom_killed": True}, 0, "exit status 137, out of memory"),
        ({"state": "restarting", "exit_code": 1}, 3, "restarted 3 times, last after exit status 1"),
        ({"state": "running"}, 0, "its health check fails"),
        ({"state": "paused"}, 0, "is paused"),
        ({"state": "created", "error": "no such device"}, 0, "is created: no such device"),
    ],
)
def test_a_containers_condition_is_said_in_words(facts: dict[str, object], restarts: int, words: str) -> None:
    assert words in condition(a_container(**facts), restarts)


def _node(host: str, *, active: bool = True) -> NodeOverview:
    return NodeOverview(NodeAddress(host), "worker", active, True, "17.12", "13.2.2", 0, 0)


def _service(name: str, *, ok: bool = True) -> ServiceStatus:
    return ServiceStatus(name, name, "running" if ok else "exited", "healthy" if ok else None, None)


def test_wanted_and_registered_workers_are_compared() -> None:
    seen = Overview(
        (_node("citus-coordinator"), _node("citus-worker1", active=False), _node("citus-worker7"), _node("10.0.0.9")),
        (),
        NO_REBALANCE,
    )
    missing, extra = differences(topology(), seen)
    assert missing == (NodeAddress("citus-worker1"), NodeAddress("citus-worker2"))
    assert extra == (NodeAddress("citus-worker7"),)
    assert differences(topology(), None) == ((), ())
    resting = replace(_node("citus-worker1", active=False), in_maintenance=True)
    assert NodeAddress("citus-worker1") not in differences(topology(), Overview((resting,), (), NO_REBALANCE))[0]
    assert resting.condition == "in maintenance"


def test_the_state_sums_up_services_and_coordinator() -> None:
    seen = Overview((), (), NO_REBALANCE)
    names = ("citus-coordinator", "citus-worker1", "citus-worker2")
    well = [_service(name) for name in names]
    ill = [*well[:2], _service("citus-worker2", ok=False)]
    assert overall(topology(), well, seen, has_problems=False) is State.OK
    assert overall(topology(), well, seen, has_problems=True) is State.DEGRADED
    assert overall(topology(), ill, seen, has_problems=False) is State.DEGRADED
    assert overall(topology(), ill, None, has_problems=True) is State.DOWN


def test_there_is_something_to_do_about_what_does_not_run_or_answer() -> None:
    silent = replace(_node("citus-worker1"), reason="timeout")
    far = replace(_node("10.0.0.9"), reason="timeout")
    seen = Overview((_node("citus-coordinator"), silent, far), (), NO_REBALANCE)
    paused = ServiceStatus("citus-worker2", "shop-worker2", "paused", "healthy", None)
    assert list(advise(topology(), [_service("citus-coordinator"), _service("citus-worker1")], None)) == []
    assert list(advise(topology(), [_service("citus-worker1", ok=False), paused], None)) == [
        "Resume the paused containers: docker unpause shop-worker2",
        "Start the stopped services: citus-cluster up",
    ]
    assert list(advise(topology(), [_service("citus-worker1")], seen)) == [
        "See why citus-worker1:5432 does not answer: docker compose logs citus-worker1",
        "10.0.0.9:5432 does not belong to this directory. See its log: docker compose logs, on 10.0.0.9. "
        "If it is paused: docker compose unpause, on 10.0.0.9.",
    ]


def test_without_a_coordinator_the_workers_decide() -> None:
    host = topology(coordinator=False, advertise="10.0.0.12")
    up, down = [_service("citus-worker1"), _service("citus-worker2")], [_service("citus-worker1", ok=False)]
    assert overall(host, up, None, has_problems=False) is State.OK
    assert overall(host, down, None, has_problems=True) is State.DOWN
