"""Growth as a set-up plans it: what runs stays as it is, and the plan says what is new and what restarts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from setup_support import attempt, plan, set_up

from citus_cluster.errors import DoesNotFitError
from citus_cluster.model.plan.effects import EffectKind
from citus_cluster.operations.setup import plan as setup_plan


def kinds(made: Any) -> dict[str, EffectKind]:
    return {effect.service: effect.kind for effect in made.effects}


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster of a version that kept no shares."""
    with monkeypatch.context() as patch:
        patch.setattr(setup_plan, "shared_spec", lambda spec, *args: spec)
        set_up(tmp_path, {"workers": 3})
    assert "shared" not in (tmp_path / "cluster.yaml").read_text()
    return tmp_path


def test_a_plan_of_growth_says_what_is_new_and_that_nothing_restarts(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 3})
    grown = plan(tmp_path, {"workers": 5})
    assert kinds(grown) == {"citus-worker4": EffectKind.ADD, "citus-worker5": EffectKind.ADD}
    assert grown.effects[0].reasons == ("mem_limit 1815m", "shared_buffers 453MB", "max_connections 130")
    assert grown.restarts == ()
    assert grown.as_dict()["restarts"] == []
    shown = attempt(tmp_path, "--workers=5", "--dry-run")
    assert "add       citus-worker4, citus-worker5: mem_limit 1815m" in shown.stdout
    assert "restart   none" in shown.stdout
    shown = attempt(tmp_path, "--workers=6", "--dry-run")
    assert shown.returncode == 2
    assert "--retune" in shown.stderr


def test_sharing_anew_is_asked_for_and_names_what_restarts(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 3})
    anew = plan(tmp_path, {"workers": 6}, retune=True)
    assert set(anew.restarts) == {
        *("citus-coordinator", "citus-worker1", "citus-worker2", "citus-worker3"),
        *("pg14-primary", "pg14-replica"),
    }
    assert plan(tmp_path, retune=True).nothing_to_do
    shown = attempt(tmp_path, "--workers=6", "--retune", "--dry-run")
    assert "restart   citus-worker1, citus-worker2, citus-worker3: mem_limit 1815m" in shown.stdout
    assert "restart   none" not in shown.stdout


def test_a_worker_that_left_frees_its_share_and_nothing_restarts(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 5})
    removed = plan(tmp_path, {"workers": [1, 3, 4, 5]}, removed_workers=frozenset({"citus-worker2"}))
    assert kinds(removed) == {"citus-worker2": EffectKind.REMOVE}


def test_a_worker_that_cluster_yaml_names_is_new_too(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 3})
    file = tmp_path / "cluster.yaml"
    file.write_text(file.read_text().replace("workers: 3\n", "workers: 9 # many\n", 1))
    with pytest.raises(DoesNotFitError, match="6 new workers need 1,815 MB"):
        plan(tmp_path)


def test_an_earlier_version_is_taken_over_as_it_is(earlier: Path) -> None:
    made = plan(earlier)
    assert made.effects == ()
    assert [change.path for change in made.all_changes] == ["cluster.yaml"]
    with pytest.raises(DoesNotFitError, match="0 MB are left"):
        plan(earlier, {"workers": 4})
    set_up(earlier)
    assert plan(earlier).nothing_to_do
    assert plan(earlier, {"services": ["citus", "redis", "admin-api"], "workers": 4}).restarts == ("admin-api",)
    assert "citus-worker1" in plan(earlier, {"workers": 4}, retune=True).restarts
    kept = yaml.safe_load((earlier / "cluster.yaml").read_text())["resources"]["shared"]
    assert kept == {
        "memory_mb": 15900,
        "workers": 3,
        "clients": 84,
        "servers": {"coordinator": 2542, "worker": 2542, "plain": 1271},
    }


def test_an_earlier_version_whose_wishes_have_changed_since_is_shared_anew(earlier: Path) -> None:
    file = earlier / "cluster.yaml"
    data = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(data | {"services": ["citus", "admin-api"]}))
    made = plan(earlier)
    assert made.spec.resources.shared
    assert made.spec.resources.shared.workers == 5


def test_another_specification_without_shares_keeps_those_of_the_directory(tmp_path: Path) -> None:
    root, other = tmp_path / "cluster", tmp_path / "other.yaml"
    root.mkdir()
    set_up(root, {"workers": 3})
    data = yaml.safe_load((root / "cluster.yaml").read_text())
    del data["resources"]["shared"]
    other.write_text(yaml.safe_dump(data | {"workers": 4}))
    assert kinds(plan(root, spec_file=other)) == {"citus-worker4": EffectKind.ADD}


def test_comments_beside_the_shares_stay(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 3})
    file = tmp_path / "cluster.yaml"
    file.write_text(file.read_text().replace("    workers: 5\n", "    workers: 5 # ours\n", 1))
    set_up(tmp_path, {"workers": 4})
    assert "    workers: 5 # ours\n" in file.read_text()
    assert plan(tmp_path).nothing_to_do
