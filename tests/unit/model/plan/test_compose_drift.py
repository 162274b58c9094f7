"""What a user may add to docker-compose.yml, and what sets an older or damaged file apart from the wanted one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from setup_support import plan, set_up

from citus_cluster.errors import EditedFileError
from citus_cluster.model.plan.changes import digest
from citus_cluster.model.plan.compose_drift import drift
from citus_cluster.operations.directory import load
from citus_cluster.operations.start.preflight import Severity, service_findings, stale_findings

LABELS = {"io.citus-cluster.cluster": "citus"}
WANTED = {
    "name": "citus",
    "services": {
        "a": {
            "image": "a:1",
            "ports": ["127.0.0.1:1:1"],
            "labels": LABELS,
            "volumes": [{"source": "x", "target": "y"}],
        },
        "b": {"image": "b:1"},
    },
    "volumes": {"a-data": None},
}


def changed(**values: Any) -> dict[str, Any]:
    return {**WANTED, "services": {**WANTED["services"], **values}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "found",
    [
        WANTED,
        changed(mine={"image": "mine:1"}),
        changed(b={"image": "b:1", "environment": {"A": "1"}, "labels": {"x": "y"}}),
        changed(a={**WANTED["services"]["a"], "ports": ["2:2", "127.0.0.1:1:1"]}),  # type: ignore[index]
        {**WANTED, "networks": {"mine": {}}, "volumes": {"a-data": {"labels": {"x": "y"}}, "mine": None}},
    ],
)
def test_additions_are_the_users_own(found: dict[str, Any]) -> None:
    assert drift(WANTED, found) == ()


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({**WANTED, "services": {"a": WANTED["services"]["a"]}}, "services.b is missing"),  # type: ignore[index]
        (changed(b={"image": "b:0"}), "services.b.image is b:0 instead of b:1"),
        (changed(b={"build": "."}), "services.b.image is missing"),
        (changed(a={**WANTED["services"]["a"], "ports": []}), "services.a.ports does not have 127.0.0.1:1:1"),  # type: ignore[index]
        (changed(c={"image": "c:1", "labels": LABELS}), "services.c is not in cluster.yaml"),
        ({**WANTED, "volumes": {}}, "volumes.a-data is missing"),
    ],
)
def test_what_is_lacking_or_changed_is_named(found: dict[str, Any], line: str) -> None:
    assert drift(WANTED, found) == (line,)


@pytest.mark.parametrize("found", [None, [], "text", {}])
def test_another_document_is_no_compose_file(found: object) -> None:
    assert drift(WANTED, found)


def test_a_restored_older_file_is_a_conflict_also_for_the_set_up(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 2})
    path = tmp_path / "docker-compose.yml"
    older = path.read_bytes()
    set_up(tmp_path, {"workers": 3})
    path.write_bytes(older)
    with pytest.raises(EditedFileError) as caught:
        set_up(tmp_path)
    assert caught.value.details == ("docker-compose.yml",)
    assert "--force" in str(caught.value.hint)
    set_up(tmp_path, replace_edited=True)
    assert "citus-worker3" in yaml.safe_load(path.read_text())["services"]
    path.write_text(path.read_text() + "\nx-mine: {}\n")
    assert plan(tmp_path).kept_edits == ("docker-compose.yml",)


def test_files_that_lack_a_wanted_service_forbid_the_start() -> None:
    (finding,) = service_findings(["citus-coordinator", "citus-worker1"], {"citus-coordinator": {}})
    assert finding.id == "service-missing" and "citus-worker1" in finding.message
    assert not [*service_findings(["citus-coordinator"], {"citus-coordinator": {}, "mine": {}})]


@pytest.mark.parametrize(
    ("upgraded", "lost_service", "severity"),
    [(True, False, Severity.WARNING), (True, True, Severity.ERROR), (False, False, Severity.ERROR)],
)
def test_an_edited_file_of_an_earlier_version_starts_unless_its_services_differ(
    tmp_path: Path, upgraded: bool, lost_service: bool, severity: Severity
) -> None:
    """The templates of an earlier version had no ``logging``, and the user added to the file that they gave."""
    set_up(tmp_path, {"workers": 2})
    path = tmp_path / "docker-compose.yml"
    document = yaml.safe_load(path.read_text())
    for service in document["services"].values():
        del service["logging"]
    earlier = yaml.safe_dump(document, sort_keys=False)
    document["services"]["mine"] = {"image": "mine:1"}
    if lost_service:
        del document["services"]["citus-worker2"]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    directory = load(tmp_path)
    if upgraded:
        recorded = {**directory.manifest.files, path.name: (digest(earlier.encode()),)}
        directory = replace(directory, manifest=replace(directory.manifest, files=recorded))
    (finding,) = stale_findings(directory)
    assert finding.severity is severity
    assert "logging is missing" in finding.message and "setup_citus_cluster.py --force --dry-run" in finding.hint
