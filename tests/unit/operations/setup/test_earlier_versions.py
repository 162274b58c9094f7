"""Directories of earlier versions: the newest one plans their take-over, and writes it, without an engine."""

from pathlib import Path

import pytest
import yaml
from earlier_versions import Place, kept_versions, unpack
from setup_support import attempt, contents, plan, set_up

PLACE = Place(name="shop", image="citusdata/citus:13.2.0", base_port=25434)


@pytest.fixture(params=kept_versions(), ids=lambda archive: archive.name.removesuffix(".tar.xz"))
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    unpack(request.param, tmp_path, PLACE)
    return tmp_path


def test_versions_are_kept() -> None:
    assert kept_versions()


def test_nothing_is_refused_and_nothing_taken_for_an_edit(root: Path) -> None:
    made = plan(root)
    assert made.previous is not None
    assert dict(made.identity) | dict(made.previous.identity) == made.identity
    assert (made.kept_edits, made.replaced_edits, made.secret_changes) == ((), (), ())
    assert made.spec.name == PLACE.name
    assert made.spec.ports.citus == PLACE.base_port
    assert {effect.service for effect in made.effects} <= set(made.topology.service_names)


def test_what_is_the_users_stays(root: Path) -> None:
    before = contents(root)
    set_up(root)
    after = contents(root)
    secrets = {path for path in before if path.startswith("generated/secrets/")}
    assert secrets == {path for path in after if path.startswith("generated/secrets/")}
    for path in (*secrets, "docker-compose.override.yml"):
        assert after[path] == before[path]
    assert not [path for path in after if ".bak" in path]
    assert plan(root).nothing_to_do


def test_the_specification_keeps_its_values_and_comments(root: Path) -> None:
    before = (root / "cluster.yaml").read_text()
    set_up(root)
    after = (root / "cluster.yaml").read_text()
    values = yaml.safe_load(after)
    assert values["resources"].pop("shared")
    assert {key: values.get(key) for key in yaml.safe_load(before)} == yaml.safe_load(before)
    assert {line for line in before.splitlines() if "#" in line} <= set(after.splitlines())


def test_the_context_of_the_apis_image_is_replaced_as_one(root: Path) -> None:
    """The first versions copied every source file there."""
    folder = "generated/admin-api/"
    earlier = [path for path in contents(root) if path.startswith(folder)]
    assert len(earlier) > 3
    shown = attempt(root, "--dry-run")
    assert shown.returncode == 4, "files would change"
    assert [line.split()[:2] for line in shown.stdout.splitlines() if folder in line] == [["update", folder]]
    set_up(root)
    left = [path.removeprefix(folder) for path in contents(root) if path.startswith(folder)]
    assert sorted(Path(path).suffix for path in left) == ["", ".txt", ".whl"]
    assert [path.name for path in (root / folder).iterdir() if path.is_dir()] == []
