import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from setup_support import a_request, contents, no_engine, plan, set_up, snapshot

from citus_cluster.errors import (
    CitusClusterError,
    ConsentNeededError,
    DoesNotFitError,
    EditedFileError,
    ImmutableError,
    LeftoverVolumesError,
    SpecError,
    UsageError,
)
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import cassandra
from citus_cluster.model.plan.changes import Action
from citus_cluster.model.plan.effects import EffectKind
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.operations.directory import compare_files, load
from citus_cluster.operations.setup.plan import plan_setup
from citus_cluster.runtime import host
from citus_cluster.runtime.store import secrets

PASSWORD_FILE = secrets.SUPERUSER_PASSWORD


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cluster of three workers, without the admin API, whose many sources take their time."""
    root = tmp_path / "cluster"
    set_up(root, {"workers": 3, "services": ["citus"]})
    return root


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A cluster of three workers with every service."""
    root = tmp_path / "cluster"
    set_up(root, {"workers": 3})
    return root


def spec_in(root: Path) -> dict[str, Any]:
    data: dict[str, Any] = load_yaml((root / "cluster.yaml").read_text(), "cluster.yaml")
    return data


def compose_in(root: Path) -> dict[str, Any]:
    data: dict[str, Any] = load_yaml((root / "docker-compose.yml").read_text(), "docker-compose.yml")
    return data


def refused(root: Path, error: type[CitusClusterError], values: dict[str, Any], **more: Any) -> CitusClusterError:
    """Expect the set-up to be refused, with nothing written."""
    before = snapshot(root) if root.exists() else None
    with pytest.raises(error) as caught:
        plan(root, values, **more)
    assert (snapshot(root) if root.exists() else None) == before
    assert caught.value.message or caught.value.details
    return caught.value


# Running it again


@pytest.mark.parametrize("values", [{}, {"workers": 3}, {"ports.citus": 5434, "name": "citus"}])
def test_a_second_run_touches_nothing(root: Path, values: dict[str, Any]) -> None:
    before = snapshot(root)
    again = set_up(root, values, consent=False)
    assert again.nothing_to_do
    assert not again.needs_consent
    assert snapshot(root) == before


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        set_up(tmp_path / name, {"workers": 3}, password="x")
        for secret in (tmp_path / name / "generated/secrets").iterdir():
            secret.write_text("fixed" if secret.name != "superuser_password" else "x")
        set_up(tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_planning_writes_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path / "new", {"workers": 3})
    assert not made.nothing_to_do
    assert not (tmp_path / "new").exists()


# Growing


def test_growing_keeps_password_and_ports(whole: Path) -> None:
    password = (whole / PASSWORD_FILE).read_bytes()
    ports = {name: service["ports"] for name, service in compose_in(whole)["services"].items()}
    grown = set_up(whole, {"workers": 5})
    assert (whole / PASSWORD_FILE).read_bytes() == password
    services = compose_in(whole)["services"]
    assert {name: services[name]["ports"] for name in ports} == ports
    assert [effect.service for effect in grown.effects if effect.kind is EffectKind.ADD] == [
        "citus-worker4",
        "citus-worker5",
    ]
    assert spec_in(whole)["workers"] == 5


def test_growth_after_a_removal_uses_no_number_again(tmp_path: Path) -> None:
    root = tmp_path / "cluster"
    set_up(root, {"workers": [1, 3, 4]})
    set_up(root, {"workers": 5})
    assert spec_in(root)["workers"] == [1, 3, 4, 5, 6]
    assert set_up(root, {"workers": 5}).nothing_to_do


@pytest.mark.parametrize("workers", [2, 1, 0])
def test_shrinking_is_refused(root: Path, workers: int) -> None:
    error = refused(root, ImmutableError, {"workers": workers})
    assert "citus-worker3" in error.message
    assert "Drain" in (error.hint or "")


def test_growth_without_the_saved_specification_still_knows_the_workers(root: Path) -> None:
    (root / "cluster.yaml").unlink()
    refused(root, ImmutableError, {"workers": 2, "resources.memory_mb": 7840, "resources.cpus": 2})


# What cannot change


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("name", "shop", "name: citus → shop"),
        ("user", "bob", "user: postgres → bob"),
        ("database", "app", "database: postgres → app"),
        ("images.citus", "citusdata/citus:14.0.1", "PostgreSQL major: 17 → 18"),
        ("advertise", "db1", "address of citus-coordinator: citus-coordinator:5432 → db1:5434"),
    ],
)
def test_immutable_values_are_refused_with_the_way_to_change_them(root: Path, path: str, value: str, told: str) -> None:
    error = refused(root, ImmutableError, {path: value})
    assert told in error.details
    assert error.hint


def test_immutable_values_are_refused_also_in_cluster_yaml(root: Path) -> None:
    text = (root / "cluster.yaml").read_text()
    (root / "cluster.yaml").write_text(text.replace("name: citus", "name: shop").replace("user: postgres", "user: bob"))
    assert len(refused(root, ImmutableError, {}).details) == 2


@pytest.mark.parametrize(
    ("old", "new"), [("name: citus", "name: shop"), ("user: postgres", "user: admin"), ("workers: 3", "workers: 2")]
)
def test_no_command_takes_a_cluster_yaml_that_became_another_clusters(root: Path, old: str, new: str) -> None:
    spec = root / "cluster.yaml"
    assert load(root).topology.name == "citus"
    spec.write_text(spec.read_text().replace(f"\n{old}\n", f"\n{new}\n"))
    with pytest.raises(ImmutableError):
        load(root)


def test_another_password_is_refused(root: Path) -> None:
    refused(root, ImmutableError, {}, password="another")


def test_a_plain_set_up_warns_of_nothing(tmp_path: Path) -> None:
    """A warning that comes without a reason teaches people to read over all of them."""
    assert plan(tmp_path, {"resources.memory_mb": 15_900, "resources.cpus": 2}).warnings == ()
    assert set_up(tmp_path).warnings == ()
    for values in ({}, {"workers": 4}, {"settings.worker": {"work_mem": "5MB"}}):
        again = plan(tmp_path, values)
        assert again.warnings == (), values
        assert not again.upgrades_citus


@pytest.mark.parametrize(
    ("settings", "services"),
    [
        ({"settings.worker": {"work_mem": "5MB"}}, {"citus-worker1", "citus-worker2", "citus-worker3"}),
        ({"settings.coordinator": {"work_mem": "5MB"}}, {"citus-coordinator"}),
        ({"settings.nodes.citus-worker2": {"work_mem": "5MB"}}, {"citus-worker2"}),
        ({"settings.pg14": {"work_mem": "5MB"}}, {"pg14-primary", "pg14-replica"}),
    ],
)
def test_a_plan_says_which_services_read_a_setting_that_changes(
    tmp_path: Path, settings: dict[str, Any], services: set[str]
) -> None:
    set_up(tmp_path, {"workers": 3})
    effects = {effect.service: effect.reasons for effect in plan(tmp_path, settings).effects}
    assert set(effects) == services
    for service, reasons in effects.items():
        (reason,) = [reason for reason in reasons if reason.startswith("work_mem")]
        assert reason.endswith("→ 5MB"), service


def test_a_plan_says_that_redis_restarts_for_other_users(tmp_path: Path) -> None:
    """Compose does not see that file: `up` restarts Redis."""
    set_up(tmp_path, {"services": ["citus", "pg14", "redis"]})
    made = plan(tmp_path, {"services": ["citus", "pg14", "redis", "example-sharding"]})
    effects = {effect.service: effect for effect in made.effects}
    assert set(effects) == {"redis", "example-sharding"}
    assert effects["redis"].kind is EffectKind.RECREATE
    assert effects["redis"].reasons == ("its password, or what its user may do, has changed",)


def test_a_new_version_of_citus_on_the_same_postgresql_is_taken(root: Path) -> None:
    assert not plan(root).upgrades_citus
    made = set_up(root, {"images.citus": "citusdata/citus:13.2.2"})
    assert made.upgrades_citus
    assert any("ALTER EXTENSION citus UPDATE" in warning for warning in made.warnings)
    kinds = {effect.kind for effect in made.effects if effect.service != "admin-api"}
    assert kinds == {EffectKind.RECREATE}


def test_without_the_coordinator_the_cluster_loses_nobody(root: Path) -> None:
    with pytest.raises(CitusClusterError):
        plan(root, {"coordinator": False, "advertise": "db1", "services": ["citus"]})


# Consent


def test_changing_an_existing_cluster_needs_consent(root: Path) -> None:
    before = snapshot(root)
    with pytest.raises(ConsentNeededError, match="nothing was written") as caught:
        set_up(root, {"workers": 4}, consent=False)
    assert caught.value.exit_status == 4
    assert snapshot(root) == before


def test_a_first_run_needs_none(tmp_path: Path) -> None:
    made = set_up(tmp_path / "cluster", consent=False)
    assert not made.needs_consent
    assert (tmp_path / "cluster/docker-compose.yml").exists()


# Hand edits


def test_an_edit_that_need_not_change_is_left(root: Path) -> None:
    hba = root / "generated/config/worker/pg_hba.conf"
    hba.write_text("# mine\n")
    again = set_up(root, consent=False)
    assert again.nothing_to_do
    assert again.kept_edits == ("generated/config/worker/pg_hba.conf",)
    grown = set_up(root, {"workers": 4})
    assert grown.kept_edits == ("generated/config/worker/pg_hba.conf",)
    assert hba.read_text() == "# mine\n"
    assert set_up(root, {"workers": 5}).kept_edits == ("generated/config/worker/pg_hba.conf",)


def test_an_edit_that_is_left_has_no_effect_on_a_container(whole: Path) -> None:
    edited = whole / "generated/config/worker/postgresql.conf"
    edited.write_text(edited.read_text() + "work_mem = 1MB\nwal_level = minimal\n")
    made = plan(whole, {"ports.admin_api": 8001})
    assert made.kept_edits == ("generated/config/worker/postgresql.conf",)
    assert [(effect.service, effect.kind) for effect in made.effects] == [("admin-api", EffectKind.RECREATE)]


def test_an_edit_in_the_way_stops_the_run(root: Path) -> None:
    compose = root / "docker-compose.yml"
    compose.write_text(compose.read_text() + "# mine\n")
    before = snapshot(root)
    with pytest.raises(EditedFileError) as caught:
        set_up(root, {"workers": 4})
    assert caught.value.details == ("docker-compose.yml",)
    assert snapshot(root) == before


def test_force_replaces_edits_and_keeps_them_beside(root: Path) -> None:
    hba = root / "generated/config/worker/pg_hba.conf"
    ours = hba.read_text()
    hba.write_text("# mine\n")
    compose = root / "docker-compose.yml"
    compose.write_text("not: [yaml")
    made = set_up(root, {"workers": 4}, replace_edited=True)
    assert set(made.replaced_edits) == {"docker-compose.yml", "generated/config/worker/pg_hba.conf"}
    assert hba.read_text() == ours
    assert hba.with_name("pg_hba.conf.bak").read_text() == "# mine\n"
    assert (root / "docker-compose.yml.bak").read_text() == "not: [yaml"
    assert "citus-worker4" in compose_in(root)["services"]
    assert set_up(root).nothing_to_do


def test_a_deleted_file_comes_back(root: Path) -> None:
    (root / "generated/config/worker/pg_hba.conf").unlink()
    made = set_up(root)
    assert [(change.path, change.action) for change in made.all_changes] == [
        ("generated/config/worker/pg_hba.conf", Action.CREATE)
    ]


@pytest.mark.parametrize("name", ["docker-compose.yml", ".env"])
def test_a_foreign_file_in_a_fresh_directory_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("services: {}\n")
    with pytest.raises(EditedFileError) as caught:
        set_up(tmp_path)
    assert caught.value.details == (name,)
    assert set(contents(tmp_path)) == {name}


def test_a_file_that_compose_prefers_is_told(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    assert any("docker compose reads compose.yaml" in warning for warning in set_up(tmp_path).warnings)


def test_a_gitignore_of_any_encoding_is_kept_and_up_looks_past_it(root: Path) -> None:
    ignore = root / ".gitignore"
    ignore.write_bytes(b"caf\xe9/\n" + ignore.read_bytes())
    assert plan(root).nothing_to_do
    directory = load(root)
    made = secrets.prepare(root, given_password=None, wanted=directory.spec.wanted)
    found = compare_files(root, directory.topology, made, directory.manifest.files)
    assert [change.action for change in found if change.path == ".gitignore"] == [Action.NONE]


def test_the_users_gitignore_only_grows(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes(b"/.env\nm\xfcll")
    (tmp_path / ".gitignore").chmod(0o664)
    set_up(tmp_path)
    text = (tmp_path / ".gitignore").read_bytes()
    assert text.startswith(b"/.env\nm\xfcll\ndocker-compose.yml\n")
    assert text.count(b".env") == 1
    assert (tmp_path / ".gitignore").stat().st_mode & 0o777 == 0o664
    (tmp_path / ".gitignore").write_bytes(text + b"more\n")
    assert set_up(tmp_path).nothing_to_do


# cluster.yaml is the user's


def test_a_minimal_cluster_yaml_keeps_its_comments_and_gets_what_was_resolved(tmp_path: Path) -> None:
    text = "# ours\napiVersion: citus-cluster/v1\nworkers: 4  # enough\nresources: {memory_mb: 16000}\n"
    (tmp_path / "cluster.yaml").write_text(text)
    set_up(tmp_path)
    written = (tmp_path / "cluster.yaml").read_text()
    assert written.startswith("# ours\napiVersion: citus-cluster/v1\nworkers: 4  # enough\n")
    data = spec_in(tmp_path)
    assert data["ports"] == {"citus": 5434, "pg14": 5432, "redis": 6379, "cassandra": 9042, "admin_api": 8000}
    assert data["resources"]["memory_mb"] == 16000
    assert data["resources"]["detected"] == ["cpus"]
    assert data["services"] == ["citus", "pg14", "redis", "cassandra", "admin-api"]
    assert set_up(tmp_path).nothing_to_do


def test_a_change_in_cluster_yaml_is_a_change_of_the_cluster(root: Path) -> None:
    text = (root / "cluster.yaml").read_text()
    (root / "cluster.yaml").write_text(text.replace("workers: 3", "workers: 4 # more"))
    made = set_up(root)
    assert "citus-worker4" in compose_in(root)["services"]
    assert made.spec_change.action is Action.NONE
    assert "workers: 4 # more" in (root / "cluster.yaml").read_text()


def test_a_flag_that_is_not_given_never_overrides(tmp_path: Path) -> None:
    given = {
        "workers": 1,
        "ports.citus": 6000,
        "ports.admin_api": 8100,
        "resources.workload": "web",
        "resources.storage": "hdd",
        "bind": "0.0.0.0",
        "resources.connections": 30,
    }
    set_up(tmp_path, given)
    before = spec_in(tmp_path)
    set_up(tmp_path, {"workers": 2})
    assert spec_in(tmp_path) == before | {"workers": 2}


def test_another_specification_is_read_and_never_written(tmp_path: Path) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text("# mine\napiVersion: citus-cluster/v1\nworkers: 1\nresources: {memory_mb: 8000, cpus: 2}\n")
    # Reading it changes when it was last read.
    before = (source.read_bytes(), source.stat().st_mtime_ns, source.stat().st_ino, source.stat().st_mode)
    root = tmp_path / "cluster"
    set_up(root, {"workers": 2}, spec_file=source)
    assert spec_in(root)["workers"] == 2
    assert (root / "cluster.yaml").read_text().startswith("# mine\n")
    assert (source.read_bytes(), source.stat().st_mtime_ns, source.stat().st_ino, source.stat().st_mode) == before
    assert set_up(root).nothing_to_do
    assert set_up(root, {"workers": 2}, spec_file=source).nothing_to_do
    refused(root, ImmutableError, {}, spec_file=source)


def test_what_was_detected_is_kept_also_from_another_specification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text("apiVersion: citus-cluster/v1\n")
    monkeypatch.setattr(host, "memory_mb", lambda: 8000)
    set_up(tmp_path / "cluster", spec_file=source)
    monkeypatch.setattr(host, "memory_mb", lambda: 16000)
    assert set_up(tmp_path / "cluster", spec_file=source).nothing_to_do


def test_detected_values_are_kept_until_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.yaml").write_text("apiVersion: citus-cluster/v1\n")
    monkeypatch.setattr(host, "memory_mb", lambda: 8000)
    monkeypatch.setattr(host, "cpus", lambda: 2)
    set_up(tmp_path)
    assert spec_in(tmp_path)["resources"] | {"detected": ["cpus", "memory_mb"]} == spec_in(tmp_path)["resources"]
    monkeypatch.setattr(host, "memory_mb", lambda: 16000)
    monkeypatch.setattr(host, "cpus", lambda: 8)
    assert set_up(tmp_path).nothing_to_do
    set_up(tmp_path, redetect=frozenset({"memory_mb"}))
    resources = spec_in(tmp_path)["resources"]
    assert (resources["memory_mb"], resources["cpus"]) == (16000, 2)
    set_up(tmp_path, {"resources.memory_mb": 12000})
    resources = spec_in(tmp_path)["resources"]
    assert (resources["memory_mb"], resources["detected"]) == (12000, ["cpus"])


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"\xff", UsageError), (b"- 1\n", SpecError), (b"", SpecError), (b"a: [", SpecError)],
)
def test_a_cluster_yaml_that_cannot_be_read(tmp_path: Path, content: bytes, error: type[CitusClusterError]) -> None:
    (tmp_path / "cluster.yaml").write_bytes(content)
    refused(tmp_path, error, {})


def test_a_value_from_the_file_is_told_as_such_and_one_from_a_flag_by_the_flag(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text("apiVersion: citus-cluster/v1\nname: BAD\n")
    error = refused(tmp_path, SpecError, {"user": "pg_x", "services": ["nope"]})
    assert sorted(line.split(":")[0] for line in error.details) == ["--services", "--user", "cluster.yaml"]
    fresh = refused(tmp_path / "fresh", SpecError, {"user": "pg_x"})
    assert fresh.message == "The given specification has a problem; nothing was written."


# What is refused


def test_settings_that_break_citus_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(
        "apiVersion: citus-cluster/v1\nsettings: {worker: {wal_level: replica, wrok_mem: 8MB}}\n"
    )
    error = refused(tmp_path, SpecError, {})
    assert [line.split(":")[0] for line in error.details] == ["settings.worker.wal_level", "settings.worker.wrok_mem"]


def test_given_memory_that_is_too_small_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path / "cluster", DoesNotFitError, {"resources.memory_mb": 1024, "resources.cpus": 2})
    assert "--memory" in (error.hint or "")


def test_a_ring_that_does_not_fit_is_refused_even_where_memory_was_detected(tmp_path: Path) -> None:
    values = {"services": ["cassandra"], "cassandra.nodes": 30, "resources.memory_mb": 8000}
    error = refused(tmp_path / "cluster", DoesNotFitError, values)
    assert "cassandra (30 nodes)" in error.message
    assert "--cassandra-nodes=5" in (error.hint or "")


def test_a_smaller_ring_is_refused(tmp_path: Path) -> None:
    set_up(tmp_path, {"services": ["cassandra"], "cassandra.nodes": 3})
    error = refused(tmp_path, ImmutableError, {"cassandra.nodes": 1})
    assert "cassandra2, cassandra3" in error.message
    assert "docker compose exec cassandra3 nodetool decommission" in (error.hint or "")
    assert set_up(tmp_path, {"services": ["redis"]}).effects  # switched off, the ring stays whole
    assert set_up(tmp_path, {"services": ["cassandra"], "cassandra.nodes": 3}).effects


def test_an_older_image_of_a_companion_is_refused(tmp_path: Path) -> None:
    set_up(tmp_path, {"services": ["redis"], "images.redis": "redis:8.0"})
    assert set_up(tmp_path, {"images.redis": "redis:8"}).all_changes
    assert "redis: redis:8 → redis:7" in str(refused(tmp_path, ImmutableError, {"images.redis": "redis:7"}).details)


def test_an_unknown_image_is_asked_for_its_major(tmp_path: Path) -> None:
    error = refused(tmp_path / "cluster", UsageError, {"images.citus": "mine:1"})
    assert "--pg-major" in (error.hint or "")
    set_up(tmp_path / "cluster", {"images.citus": "mine:1", "images.pg_major": 18})
    assert compose_in(tmp_path / "cluster")["services"]["citus-worker1"]["volumes"][0] == (
        "citus-worker1-data:/var/lib/postgresql"
    )


def test_a_major_unlike_that_of_a_known_image_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "cluster", SpecError, {"images.citus": "citusdata/citus:13.2.0", "images.pg_major": 16})


# Volumes of an earlier cluster


class EngineWithVolumes:
    """Stands for an engine on which an earlier cluster left its data: the decision needs no more of one."""

    def project_volumes(self, project: str) -> tuple[str, ...]:
        return (f"{project}_citus-worker1-data",) if project == "citus" else ()

    def project_containers(self, project: str) -> tuple[object, ...]:
        return (SimpleNamespace(working_dir=f"/home/me/{project}"),)


def plan_with_volumes(root: Path, values: dict[str, Any] | None = None, **more: Any) -> None:
    sized = {"resources.memory_mb": 7840, "resources.cpus": 2, **(values or {})}
    plan_setup(a_request(root, values=sized, **more), connect_engine=EngineWithVolumes)  # type: ignore[arg-type]


def test_no_new_password_is_made_for_data_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(LeftoverVolumesError) as caught:
        plan_with_volumes(tmp_path / "cluster")
    error = caught.value
    assert error.exit_status == 3
    assert error.details == ("citus_citus-worker1-data",)
    for way in ("--name", "--password-file", "docker volume rm citus_citus-worker1-data"):
        assert way in (error.hint or "")
    assert not (tmp_path / "cluster").exists()


def test_the_ways_out_of_it(tmp_path: Path) -> None:
    plan_with_volumes(tmp_path / "cluster", {"name": "shop"})
    plan_with_volumes(tmp_path / "cluster", password="the old one")
    set_up(tmp_path / "cluster")
    plan_with_volumes(tmp_path / "cluster")


@pytest.mark.parametrize(
    ("service", "volume"), [("pg14", "citus_pg14-primary-data"), ("cassandra", "citus_cassandra-data")]
)
def test_no_new_password_is_made_for_data_of_a_companion(tmp_path: Path, service: str, volume: str) -> None:
    volumes: tuple[str, ...] = ("citus_citus-worker1-data", volume)

    class Engine(EngineWithVolumes):
        def project_volumes(self, project: str) -> tuple[str, ...]:
            return volumes

    root = tmp_path / "cluster"
    values = {"resources.memory_mb": 7840, "resources.cpus": 2, "services": ["citus"]}
    set_up(root, values)
    request = a_request(root, values={"services": ["citus", service, "redis"]})
    with pytest.raises(LeftoverVolumesError) as caught:
        plan_setup(request, connect_engine=Engine)  # type: ignore[arg-type]
    assert caught.value.details == (volume,)
    assert f"restore generated/secrets/{service}_password" in (caught.value.hint or "")
    volumes = ("citus_citus-worker1-data",)
    assert plan_setup(request, connect_engine=Engine).all_changes  # type: ignore[arg-type]


def test_a_companions_lost_password_is_not_made_anew_while_nobody_can_tell(tmp_path: Path) -> None:
    set_up(tmp_path, {"services": ["cassandra"]})
    (tmp_path / cassandra.PASSWORD.path).unlink()
    error = refused(tmp_path, LeftoverVolumesError, {})
    assert "cassandra_password of this cluster is missing" in error.message


def test_a_lost_password_is_not_made_anew_while_nobody_can_tell_whether_there_are_data(root: Path) -> None:
    (root / PASSWORD_FILE).unlink()
    error = refused(root, LeftoverVolumesError, {})
    assert error.exit_status == 3
    assert "start the engine" in (error.hint or "")
    plan(root, password="the old one")


def test_without_an_engine_nothing_can_be_left_over(tmp_path: Path) -> None:
    made = plan_setup(
        a_request(tmp_path, values={"resources.memory_mb": 7840, "resources.cpus": 2}), connect_engine=no_engine
    )
    assert any("No engine is there" in note for note in made.notes)


# Nodes, services and hosts


def test_a_node_with_settings_of_its_own_has_a_folder_of_its_own(root: Path) -> None:
    with (root / "cluster.yaml").open("a") as file:
        file.write("settings:\n  nodes:\n    citus-worker2: {work_mem: 9MB}\n")
    made = set_up(root)
    assert "work_mem = 9MB" in (root / "generated/config/citus-worker2/postgresql.conf").read_text()
    assert "work_mem = 9MB" not in (root / "generated/config/worker/postgresql.conf").read_text()
    assert [effect.service for effect in made.effects if effect.service != "admin-api"] == ["citus-worker2"]
    text = (root / "cluster.yaml").read_text()
    (root / "cluster.yaml").write_text(text.partition("settings:\n")[0])
    set_up(root)
    assert not (root / "generated/config/citus-worker2").exists()


def test_a_service_that_is_left_out_takes_its_files_along(whole: Path) -> None:
    tokens = [(whole / f"generated/secrets/admin_api_{name}").read_text() for name in ("token", "read_token")]
    made = set_up(whole, {"services": ["citus"]})
    assert "admin-api" not in compose_in(whole)["services"]
    assert not (whole / "generated/admin-api").exists()
    assert not (whole / "generated/config/admin-api").exists()
    companions = ["pg14-primary", "pg14-replica", "redis", "cassandra"]
    removed = [effect.service for effect in made.effects if effect.kind is EffectKind.REMOVE]
    assert removed == [*companions, "admin-api"]
    assert not (whole / "generated/config/pg14").exists()
    set_up(whole, {"services": [*ComponentName]})
    assert set(companions) < set(compose_in(whole)["services"])
    assert tokens == [(whole / f"generated/secrets/admin_api_{name}").read_text() for name in ("token", "read_token")]


def test_a_workers_only_host_asks_for_the_coordinators_password(tmp_path: Path) -> None:
    values = {"coordinator": False, "advertise": "db2", "workers": 2}
    warned = set_up(tmp_path / "a", values).warnings
    assert any("--password-file" in warning for warning in warned)
    given = set_up(tmp_path / "b", values, password="the coordinator's")
    assert not any("--password-file" in warning for warning in given.warnings)
    assert set(compose_in(tmp_path / "b")["services"]) == {"citus-worker1", "citus-worker2"}
    assert set_up(tmp_path / "b").nothing_to_do


def test_the_plan_as_data_is_json_in_stable_order_without_secrets(whole: Path) -> None:
    made = plan(whole, {"workers": 4}, password=(whole / PASSWORD_FILE).read_text())
    text = json.dumps(made.as_dict())
    assert text == json.dumps(plan(whole, {"workers": 4}).as_dict())
    for name in ("superuser_password", "admin_api_token", "admin_api_read_token"):
        assert (whole / f"generated/secrets/{name}").read_text() not in text
    assert made.as_dict()["would_change"] is True
    assert [one["service"] for one in made.as_dict()["services"] if one["kind"] == "add"] == ["citus-worker4"]


def test_no_secret_is_written_elsewhere(whole: Path) -> None:
    found = contents(whole)
    for path in [path for path in found if path.startswith("generated/secrets/")]:
        secret = found[path]
        assert [other for other, content in found.items() if secret in content] == [path]


def test_a_pair_that_gives_way_to_citus_says_where_it_is_now(tmp_path: Path) -> None:
    moved = set_up(tmp_path / "moved", {"workers": 1, "services": ["citus", "pg14"], "ports.citus": 5432})
    (note,) = [note for note in moved.notes if "PostgreSQL 14 pair" in note]
    assert "ports 5430 and 5431 instead of 5432 and 5433" in note
    assert "--port=5432" in note and "--pg14-port" in note
    assert not any("pair" in note for note in plan(tmp_path / "moved", {"workers": 2}).notes)
    for ports in ({}, {"ports.citus": 5432, "ports.pg14": 6000}):
        made = plan(tmp_path / "usual", {"workers": 1, "services": ["citus", "pg14"], **ports})
        assert not any("pair" in note for note in made.notes)
    # Saved since, the pair stays where it is, and Citus cannot move there unless the pair moves too.
    error = refused(tmp_path / "moved", SpecError, {"ports.citus": 5430})
    assert "citus-coordinator and pg14-primary would both get port 5430" in error.details[0]
    assert "--pg14-port" in error.details[0]
