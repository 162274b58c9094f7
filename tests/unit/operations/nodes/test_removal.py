"""A worker that is removed leaves cluster.yaml, the files and the manifest, and its number waits for its volume."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from setup_support import a_request, contents, no_engine, plan, set_up

from citus_cluster.cli import program
from citus_cluster.console.plan import print_plan
from citus_cluster.errors import ImmutableError, UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.removal import Departure
from citus_cluster.model.layout import OVERRIDE_FILES
from citus_cluster.model.plan.effects import EffectKind
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.directory import load
from citus_cluster.operations.nodes import removal, unregistration
from citus_cluster.operations.nodes.removal import workers_of
from citus_cluster.operations.setup.plan import SetupPlan, apply_setup, plan_setup
from citus_cluster.runtime.docker.project import Project
from citus_cluster.runtime.store import files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "cluster"
    set_up(root, {"workers": 4, "services": ["citus", "admin-api"]})
    return root


def workers_in(root: Path) -> Any:
    return yaml.safe_load((root / "cluster.yaml").read_text())["workers"]


def leave(root: Path, number: int, workers: Any) -> SetupPlan:
    return set_up(root, {"workers": workers}, removed_workers=frozenset({f"citus-worker{number}"}))


def plan_with_volumes(root: Path, values: dict[str, Any], *numbers: int) -> SetupPlan:
    """Plan with an engine that has the volumes of these workers: the decision needs no more of one."""
    volumes = tuple(f"citus_citus-worker{number}-data" for number in numbers)
    engine = SimpleNamespace(project_volumes=lambda project: volumes if project == "citus" else ())
    return plan_setup(a_request(root, values=values), connect_engine=lambda: engine)  # type: ignore[arg-type, return-value]


def test_a_worker_that_has_left_is_in_no_file_any_more(root: Path) -> None:
    made = leave(root, 4, 3)
    assert [effect.service for effect in made.effects if effect.kind is EffectKind.REMOVE] == ["citus-worker4"]
    assert workers_in(root) == 3
    for path, content in contents(root).items():
        own = path == "generated/manifest.json" or path.startswith("generated/admin-api/")
        assert own or b"citus-worker4" not in content, path
    manifest = files.read_manifest(root)
    assert manifest
    assert manifest.identity["removed"] == {"citus-worker4": "citus-worker4:5432"}
    assert "citus-worker4" not in manifest.identity["addresses"]
    assert plan(root).nothing_to_do
    assert load(root).topology.workers[-1].service == "citus-worker3"


@pytest.mark.parametrize("name", OVERRIDE_FILES)
def test_the_override_file_that_compose_takes_is_read(root: Path, name: str) -> None:
    for later in OVERRIDE_FILES[OVERRIDE_FILES.index(name) :]:  # of which Compose takes the first alone
        (root / later).write_text("services:\n  citus-worker4:\n    environment: {X: y}\n")
    _, notes = removal._plan_files(load(root), "citus-worker4", no_engine)
    assert notes == (f"{name} names citus-worker4. Remove it there too; otherwise Compose refuses the files.",)


def test_one_from_the_middle_leaves_a_gap_and_the_comments(root: Path) -> None:
    before = (root / "cluster.yaml").read_text()
    leave(root, 2, [1, 3, 4])
    text = (root / "cluster.yaml").read_text()
    assert (
        text.splitlines()[: len(before.splitlines())] == before.replace("workers: 4", "workers: [1, 3, 4]").splitlines()
    )
    assert plan(root).nothing_to_do


def test_its_own_settings_leave_with_it(root: Path) -> None:
    with (root / "cluster.yaml").open("a") as file:
        file.write("settings:\n  nodes:\n    citus-worker4: {work_mem: 9MB}\n    citus-worker3: {work_mem: 8MB}\n")
    set_up(root)
    assert (root / "generated/config/citus-worker4").exists()
    values = {"workers": 3, "settings.nodes.citus-worker4": None}
    set_up(root, values, removed_workers=frozenset({"citus-worker4"}))
    assert yaml.safe_load((root / "cluster.yaml").read_text())["settings"]["nodes"] == {
        "citus-worker3": {"work_mem": "8MB"}
    }
    assert not (root / "generated/config/citus-worker4").exists()


def test_nobody_leaves_unless_it_is_known_to_have_left(root: Path) -> None:
    for workers in (3, [1, 2, 3], [1, 2, 4]):
        with pytest.raises(ImmutableError) as caught:
            plan(root, {"workers": workers}, removed_workers=frozenset({"citus-worker1"}))
        assert "citus-cluster nodes remove citus-worker" in str(caught.value.hint)


def test_a_cluster_yaml_that_lacks_it_already_is_taken_by_the_removal_alone(root: Path) -> None:
    text = (root / "cluster.yaml").read_text()
    (root / "cluster.yaml").write_text(text.replace("workers: 4", "workers: 3"))
    with pytest.raises(ImmutableError):
        load(root)
    directory = load(root, may_lack_workers=True)
    assert workers_of(directory)["citus-worker4"] == NodeAddress("citus-worker4")
    leave(root, 4, 3)
    assert load(root).topology.workers[-1].number == 3


def test_a_cluster_yaml_that_lacks_several_says_how_they_leave_and_is_taken_by_each_removal(root: Path) -> None:
    text = (root / "cluster.yaml").read_text()
    (root / "cluster.yaml").write_text(text.replace("workers: 4", "workers: 2"))
    with pytest.raises(ImmutableError) as caught:
        load(root)
    assert "nodes drain citus-worker3 citus-worker4 --wait; " in str(caught.value.hint)
    assert str(caught.value.hint).endswith("nodes remove citus-worker3; citus-cluster nodes remove citus-worker4")
    assert {"citus-worker3", "citus-worker4"} < set(workers_of(load(root, may_lack_workers=True)))


def test_a_coordinator_does_not_leave(tmp_path: Path) -> None:
    root = tmp_path / "near"
    set_up(root, {"services": ["citus"], "advertise": "db1"})
    text = (root / "cluster.yaml").read_text()
    (root / "cluster.yaml").write_text(text.replace("coordinator: true", "coordinator: false"))
    with pytest.raises(ImmutableError, match="citus-coordinator") as caught:
        load(root, may_lack_workers=True)
    assert "must keep its coordinator" in str(caught.value.hint)


def test_a_directory_without_citus_is_not_one_of_workers_alone(root: Path, tmp_path: Path) -> None:
    set_up(root, {"services": ["redis"]})
    with pytest.raises(UsageError, match="Citus is not enabled"):
        load(root).coordinator()
    set_up(tmp_path / "far", {"services": ["citus"], "workers": 1, "coordinator": False, "advertise": "db2"})
    with pytest.raises(UsageError, match="no coordinator"):
        load(tmp_path / "far").coordinator()


def test_a_number_waits_for_its_volume(root: Path) -> None:
    leave(root, 4, 3)
    leave(root, 3, 2)
    assert plan_with_volumes(root, {"workers": 4}, 1, 2, 3, 4).spec.workers == [1, 2, 5, 6]
    assert plan_with_volumes(root, {"workers": 4}, 1, 2, 3).spec.workers == [1, 2, 4, 5]
    assert plan_with_volumes(root, {"workers": 4}, 1, 2).spec.workers == 4
    assert plan(root, {"workers": 4}).spec.workers == [1, 2, 5, 6], "without an engine nobody can tell"
    assert plan_with_volumes(root, {"workers": 2}, 1, 2, 3, 4).nothing_to_do


def test_why_a_number_is_left_out_is_said(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(leave(root, 3, [1, 2, 4]), diffs=False, later=True)
    printed = capsys.readouterr().out
    assert "citus-cluster up" not in printed, "its container is stopped now, and no other restarts"

    def about_three(made: SetupPlan) -> list[str]:
        return [note for note in made.notes if "citus-worker3" in note]

    volume = "citus_citus-worker3-data"
    assert about_three(plan_with_volumes(root, {"workers": 4}, 3)) == [
        f"citus-worker3 stays unused, because it was removed and its volume exists ({volume})."
    ]
    assert "may exist, but no engine can be asked" in about_three(plan(root, {"workers": 4}))[0]
    assert about_three(plan_with_volumes(root, {"workers": 4})) == []
    assert about_three(plan_with_volumes(root, {"ports.citus": 5434}, 3)) == []


def test_one_that_was_removed_does_not_come_back_with_its_data(root: Path) -> None:
    leave(root, 4, 3)
    for numbers in ((1, 2, 3, 4), (4,)):
        with pytest.raises(ImmutableError, match="citus-worker4 was removed") as caught:
            plan_with_volumes(root, {"workers": [1, 2, 3, 4]}, *numbers)
        assert "docker volume rm citus_citus-worker4-data" in str(caught.value.hint)
    with pytest.raises(ImmutableError, match="citus-worker4 was removed"):
        plan(root, {"workers": [1, 2, 3, 4]})


def test_a_number_that_is_used_again_is_no_longer_that_of_one_that_left(root: Path) -> None:
    leave(root, 4, 3)
    made = plan_with_volumes(root, {"workers": 4}, 1, 2, 3)
    apply_setup(made, consent=True, replace_edited=False)
    manifest = files.read_manifest(root)
    assert manifest
    assert "removed" not in manifest.identity
    assert manifest.identity["addresses"]["citus-worker4"] == "citus-worker4:5432"


class Killed(BaseException):
    """Stands for a SIGKILL between two renames."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ends the run at a rename: the number of those that are left to happen is the list's only item."""
    left = [1000]
    rename = Path.replace

    def counted(self: Path, target: Path) -> Path:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", counted)
    yield left


@pytest.mark.parametrize("point", range(8))
def test_a_removal_that_was_killed_anywhere_is_finished_by_the_next(root: Path, kill_at: list[int], point: int) -> None:
    kill_at[0] = point
    with pytest.raises(Killed):
        leave(root, 4, 3)
    kill_at[0] = 1000
    assert load(root, may_lack_workers=True)
    if point:
        load(root)  # from the first rename on every command goes on
    leave(root, 4, 3)
    assert plan(root).nothing_to_do
    assert workers_in(root) == 3
    assert load(root).topology.workers[-1].number == 3
    assert not list(root.glob(".citus-cluster.staging-*"))


def test_the_last_worker_leaves_the_coordinator_alone(tmp_path: Path) -> None:
    root = tmp_path / "cluster"
    set_up(root, {"workers": 1, "services": ["citus"]})
    leave(root, 1, 0)
    assert workers_in(root) == 0
    assert plan_setup(a_request(root), connect_engine=no_engine).nothing_to_do


def test_variables_of_other_commands_agree_to_no_removal_and_contradict_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cluster"
    set_up(root, {"services": ["citus"], "ports.citus": 1})  # nobody listens there
    monkeypatch.setenv("CITUS_CLUSTER_YES", "1")
    monkeypatch.setenv("CITUS_CLUSTER_WAIT", "1")
    for given, told in ((["--undo"], "Cannot connect"), (["--undo", "--wait"], "--undo cannot be combined")):
        monkeypatch.setattr("sys.argv", ["citus-cluster", "nodes", "drain", "citus-worker4", *given, f"--dir={root}"])
        with pytest.raises(SystemExit):
            program.main()
        assert told in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["citus-cluster", "nodes", "remove", "--help"])
    with pytest.raises(SystemExit):
        program.main()
    assert "CITUS_CLUSTER_REMOVE_YES" in capsys.readouterr().out


class CountingEngine:
    """An engine with the containers and volumes of four workers, that counts how often it is opened."""

    def __init__(self, root: Path) -> None:
        self.opened = 0
        self.looked = 0
        self.done: list[str] = []
        container = {"name": "citus-worker4", "service": "citus-worker4", "ours": True, "state": "running"}
        self.containers: tuple[Any, ...] = (SimpleNamespace(**container, working_dir=str(root)),)

    def connect(self) -> Any:
        self.opened += 1
        return self

    def project_containers(self, project: str) -> Any:
        self.looked += 1
        return self.containers

    def project_volumes(self, project: str) -> tuple[str, ...]:
        return (f"{project}_citus-worker4-data",)

    def stop(self, container: Any, timeout_s: float) -> None:
        self.done.append(f"stop {container.name}")

    def remove(self, container: Any) -> None:
        self.done.append(f"remove {container.name}")


def a_departure(worker: NodeAddress) -> Departure:
    """A worker that the coordinator has never heard of, and that is recorded as one of ours."""
    return Departure(
        name=worker.host,
        address=worker,
        node=None,
        recorded=True,
        coordinator=None,
        silence=None,
        identifier=None,
        held=(),
        shard_targets=(),
        standbys=(),
        others_unreachable=(),
    )


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NodeAddress, bool]]:
    """Let the coordinator agree to every removal; gives the names that it was told are free."""
    found: list[tuple[NodeAddress, bool]] = []

    async def look(conn: object, name: str, worker: NodeAddress) -> Departure:
        return a_departure(worker)

    async def deregister(conn: object, departure: Departure, emit: object, *, force: bool) -> None: ...

    async def release(conn: object, worker: NodeAddress, *, is_gone: bool) -> None:
        found.append((worker, is_gone))

    monkeypatch.setattr(unregistration, "look", look)
    monkeypatch.setattr(unregistration, "deregister", deregister)
    monkeypatch.setattr(unregistration, "release", release)
    return found


def test_a_removal_opens_the_engine_once(
    root: Path, released: list[tuple[NodeAddress, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CountingEngine(root)
    monkeypatch.setattr("citus_cluster.runtime.docker.engine.Engine.connect", engine.connect)
    worker = NodeAddress("citus-worker4")
    conn: Any = None

    async def whole() -> removal.RemovalPlan:
        made = await removal.plan_removal(
            conn, load(root), "citus-worker4", worker, force=False, project=Project("citus", connect=engine.connect)
        )
        await removal.remove(conn, made, ignore)
        return made

    made = asyncio.run(whole())
    assert (made.container, made.volume) == (engine.containers[0], "citus_citus-worker4-data")
    assert engine.done == ["stop citus-worker4", "remove citus-worker4"]
    assert released == [(worker, True)]
    assert workers_in(root) == 3
    assert (engine.opened, engine.looked) == (1, 1)


def test_a_removal_without_an_engine_says_how_the_container_goes(
    root: Path, released: list[tuple[NodeAddress, bool]]
) -> None:
    worker = NodeAddress("citus-worker4")
    conn: Any = None

    async def whole() -> removal.RemovalPlan:
        project = Project("citus", connect=no_engine)
        made = await removal.plan_removal(conn, load(root), "citus-worker4", worker, force=False, project=project)
        await removal.remove(conn, made, ignore)
        return made

    made = asyncio.run(whole())
    assert made.notes[-1].endswith("Run where its container runs: docker rm -f citus-worker4")
    assert released == [(worker, False)]
