import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from setup_support import contents, plan, set_up, snapshot

from citus_cluster.errors import LockedError, WriteError
from citus_cluster.model.layout import MANIFEST_FILE
from citus_cluster.model.plan.changes import Action
from citus_cluster.operations.setup.plan import apply_setup
from citus_cluster.runtime.store import files

# Without the admin API, whose many sources take their time.
CITUS_ONLY = {"services": ["citus"]}
GROWN = {"workers": 4, **CITUS_ONLY}


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    root = tmp_path / "cluster"
    set_up(root, CITUS_ONLY)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB, so that a bundle does not fit twice."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root and a system that lets it mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if "staging" in path.name]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        set_up(tmp_path / "a")
        os.umask(0)
        set_up(tmp_path / "b")
    finally:
        os.umask(old)
    for root in (tmp_path / "a", tmp_path / "b"):
        modes = {path: mode for path, (_, _, mode) in snapshot(root).items()}
        private = {path for path, mode in modes.items() if mode == 0o600}
        assert private == {
            ".env",
            "generated/secrets/replicator_password",
            "generated/secrets/admin_api_token",
            "generated/secrets/admin_api_read_token",
        }
        assert {mode for path, mode in modes.items() if path not in private} == {0o644}
        folders = {p.relative_to(root).as_posix(): p.stat().st_mode & 0o777 for p in root.rglob("*") if p.is_dir()}
        assert folders.pop("generated/secrets") == folders.pop("generated/journal") == 0o700
        # For the container's own user; nobody else gets through the folder above.
        assert folders.pop("generated/journal/admin-api") == 0o777
        assert set(folders.values()) == {0o755}


def test_a_full_disk_leaves_the_old_files_intact(small_disk: Path) -> None:
    root = small_disk / "cluster"
    set_up(root, CITUS_ONLY)
    before = snapshot(root)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(b"x" * 1024)
    with pytest.raises(WriteError, match="No space left on device; the existing files are intact") as caught:
        set_up(root, GROWN)
    assert "Free some space" in (caught.value.hint or "")
    assert snapshot(root) == before
    assert leftovers(root) == []
    filler.unlink()
    set_up(root, GROWN)
    assert set_up(root, GROWN).nothing_to_do


def test_a_disk_that_fills_at_any_point(small_disk: Path) -> None:
    """Whatever room is left: the old files intact and one clear error, or all of the new ones."""
    root, filler = small_disk / "cluster", small_disk / "filler"
    set_up(root, CITUS_ONLY)
    before = snapshot(root)
    page = os.statvfs(small_disk).f_frsize
    refused = 0
    while True:
        filler.write_bytes(b"x" * (page * (os.statvfs(small_disk).f_bavail - refused)))
        try:
            set_up(root, GROWN)
            break
        except WriteError as error:
            assert "No space left on device; the existing files are intact" in error.message
        filler.unlink()
        assert snapshot(root) == before
        assert leftovers(root) == []
        refused += 1
    assert refused > 5
    assert set_up(root, GROWN).nothing_to_do


def test_a_disk_that_takes_no_more_of_a_file(cluster: Path) -> None:
    """The same without a file system of our own: a limit on the size of files, which any user may set."""
    before = snapshot(cluster)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(WriteError, match="File too large; the existing files are intact"):
            set_up(cluster, GROWN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert snapshot(cluster) == before
    assert leftovers(cluster) == []
    set_up(cluster, GROWN)


def test_a_file_of_the_future_counts_as_changed_now_and_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    os.utime(file, (1, 1))
    assert files.dated(file).st_mtime == 1
    tomorrow = time.time() + 86400
    os.utime(file, (tomorrow, tomorrow))
    at = files.dated(file).st_mtime
    assert at <= time.time()
    assert files.dated(file).st_mtime == file.stat().st_mtime == at


def test_a_rename_that_fails_half_way_is_told_and_gone_on_with(cluster: Path) -> None:
    target = cluster / "generated/config/worker/postgresql.conf"
    target.unlink()
    with files.locked(cluster):
        made = plan(cluster, {"workers": 4})
        target.mkdir()
        with pytest.raises(WriteError, match="some files are already new") as caught:
            apply_setup(made, consent=True, replace_edited=False)
        assert str(target) in caught.value.message
    assert leftovers(cluster) == []
    target.rmdir()
    set_up(cluster, {"workers": 4})
    assert set_up(cluster, {"workers": 4}).nothing_to_do


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be") as caught:
        set_up(tmp_path / "file" / "cluster")
    assert "--output-dir" in (caught.value.hint or "")


def test_a_read_only_directory_keeps_what_it_has(cluster: Path) -> None:
    if os.geteuid() != 0:
        before = snapshot(cluster)
        cluster.chmod(0o555)
        try:
            with pytest.raises(WriteError, match="Permission denied"):
                set_up(cluster, {"workers": 4})
        finally:
            cluster.chmod(0o755)
    else:  # root may write anywhere, unless the file system itself says no
        mounted = subprocess.run(["mount", "--bind", cluster, cluster], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("root may write to every directory here, and may not mount one read-only")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", cluster], check=True)
            before = snapshot(cluster)
            with pytest.raises(WriteError, match="Read-only file system"):
                set_up(cluster, {"workers": 4})
            assert snapshot(cluster) == before
        finally:
            subprocess.run(["umount", cluster], check=True)
    assert snapshot(cluster) == before


class _KilledError(BaseException):
    """Stands for the end of the process: nothing of ours runs after it."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let so many renames and removals happen, then end as a killed process does, without any cleaning up."""
    done: list[str] = []
    killed: list[str] = []
    remove_tree = shutil.rmtree

    def counted(real: Any) -> Any:
        def step(path: Path, *args: Any, **more: Any) -> Any:
            if len(done) == steps:
                killed.append(path.name)
                raise _KilledError
            done.append(path.name)
            return real(path, *args, **more)

        return step

    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **more: None if killed else remove_tree(*args, **more))


@pytest.mark.parametrize(
    ("first", "second", "start"),
    [(None, CITUS_ONLY, 0), (CITUS_ONLY, GROWN, 0), ({}, CITUS_ONLY, 7)],
    ids=["fresh", "growing", "removing a service"],
)
def test_a_run_killed_at_any_point_is_finished_by_the_next(
    tmp_path: Path, first: dict[str, Any] | None, second: dict[str, Any], start: int
) -> None:
    goal = set(_outcome(tmp_path / "goal", first, second))
    for steps in range(start, 12):  # after these come the many files of the API's sources, all alike
        root = tmp_path / str(steps)
        if first is not None:
            set_up(root, first)
        with pytest.MonkeyPatch.context() as patch:
            kill_after(patch, steps)
            try:
                set_up(root, second)
                break  # no step was left to be killed at
            except _KilledError:
                pass
        finished = set_up(root, second)
        assert finished.replaced_edits == finished.kept_edits == ()
        assert leftovers(root) == []
        assert set(contents(root)) == goal
        assert set_up(root, second).nothing_to_do
        manifest = json.loads((root / MANIFEST_FILE).read_text())
        assert manifest["identity"]["name"] == "citus"
    assert steps > 5


def _outcome(root: Path, first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, bytes]:
    if first is not None:
        set_up(root, first)
    set_up(root, second)
    return contents(root)


def test_two_killed_runs_in_a_row_are_no_hand_edit(tmp_path: Path) -> None:
    root = tmp_path / "cluster"
    set_up(root, CITUS_ONLY)
    for workers, steps in ((3, 4), (4, 2)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(_KilledError):
            kill_after(patch, steps)
            set_up(root, {"workers": workers})
    assert set_up(root, {"workers": 4, "resources.storage": "hdd"}).replaced_edits == ()
    recorded = files.read_manifest(root)
    assert recorded is not None
    assert {len(digests) for digests in recorded.files.values()} == {1}


def _hold(root: Path, held: Any, release: Any) -> None:
    with files.locked(root):
        held.set()
        release.wait(30)


def test_a_second_run_is_refused_and_a_dead_one_leaves_no_lock(cluster: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(cluster, held, release))
    other.start()
    try:
        assert held.wait(30)
        before = snapshot(cluster)
        with pytest.raises(LockedError, match=f"process {other.pid}"):
            set_up(cluster, {"workers": 4})
        assert snapshot(cluster) == before
    finally:
        other.kill()
        other.join()
    set_up(cluster, {"workers": 4})


def test_two_threads_do_not_both_hold_the_lock(cluster: Path) -> None:
    refused = []

    def attempt() -> None:
        try:
            with files.locked(cluster):
                pass
        except LockedError as error:
            refused.append(error)

    with files.locked(cluster):
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_what_a_killed_run_staged_is_removed(cluster: Path) -> None:
    staged = cluster / ".citus-cluster.staging-99999"
    staged.mkdir()
    (staged / "0-x").write_text("half")
    with files.locked(cluster):
        assert not staged.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {}}', '{"identity": {}, "files": {"a": 1}}'])
def test_a_damaged_manifest_is_told(cluster: Path, text: str) -> None:
    (cluster / MANIFEST_FILE).write_text(text)
    with pytest.raises(WriteError, match=r"manifest\.json is damaged"):
        set_up(cluster)


def test_a_folder_in_the_place_of_a_file(cluster: Path) -> None:
    (cluster / "docker-compose.yml").unlink()
    (cluster / "docker-compose.yml").mkdir()
    with pytest.raises(WriteError, match=r"docker-compose\.yml cannot be read: Is a directory"):
        set_up(cluster)


def test_lost_modes_are_restored(cluster: Path) -> None:
    set_up(cluster, {"services": ["citus", "admin-api"]})
    (cluster / ".env").chmod(0o644)
    (cluster / "generated/secrets/superuser_password").chmod(0o600)
    (cluster / "generated/secrets").chmod(0o755)
    changed = set_up(cluster).all_changes
    assert {(change.path, change.action) for change in changed} == {
        (".env", Action.SET_MODE),
        ("generated/secrets/superuser_password", Action.SET_MODE),
    }
    assert (cluster / ".env").stat().st_mode & 0o777 == 0o600
    assert (cluster / "generated/secrets").stat().st_mode & 0o777 == 0o700


def test_the_lock_is_private(cluster: Path) -> None:
    assert (cluster / files.LOCK_FILE).stat().st_mode & 0o777 == 0o600
