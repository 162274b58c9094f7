"""The order in which files reach the disk, so that a power failure at any moment leaves old files or new ones.

Nothing here fails a disk: what is asked of the system is recorded, and held against what a disk promises. A name that
was changed leads to what was made durable before the change, and to nothing else.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from setup_support import plan

from citus_cluster.model.layout import MANIFEST_FILE
from citus_cluster.model.plan.changes import WantedFile
from citus_cluster.operations.setup.plan import apply_setup
from citus_cluster.runtime.store import files

CITUS_ONLY = {"services": ["citus"], "workers": 1, "resources.memory_mb": 8000, "resources.cpus": 2}


class Disk:
    """What was asked of the system below a folder, in order: ``durable PATH``, ``rename FROM TO``, ``remove PATH``."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.asked: list[tuple[str, ...]] = []
        self._opened: dict[int, str] = {}
        for name in ("open", "fsync", "replace", "rename", "unlink"):
            monkeypatch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))

    def _at(self, path: Any) -> str:
        try:
            return Path(path).relative_to(self.root).as_posix()
        except (TypeError, ValueError):
            return ""

    def _open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *more: Any, **named: Any) -> int:
            descriptor = real(path, flags, *more, **named)
            self._opened[descriptor] = self._at(path)
            if flags & (os.O_WRONLY | os.O_RDWR):
                self.asked.append(("write", self._at(path)))
            return descriptor

        return call

    def _fsync(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(descriptor: int) -> None:
            self.asked.append(("durable", self._opened[descriptor]))

        return call

    def _replace(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any, **named: Any) -> None:
            real(source, target, **named)
            self.asked.append(("rename", self._at(source), self._at(target)))

        return call

    _rename = _replace

    def _unlink(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Any, **named: Any) -> None:
            real(path, **named)
            self.asked.append(("remove", self._at(path)))

        return call

    @property
    def renamed(self) -> list[str]:
        """The targets of all renames, in their order."""
        return [one[2] for one in self.asked if one[0] == "rename"]

    def check(self) -> None:
        """Check that each name came to lead to durable content, and that all was staged before the first did."""
        durable: set[str] = set()
        is_replacing = False
        for what, path, *target in self.asked:
            match what:
                case "write":
                    durable.discard(path)
                    assert not is_replacing, f"{path} is written after the first rename"
                case "durable":
                    durable.add(path)
                case "rename":
                    is_replacing = True
                    assert path in durable, f"{target[0]} could be empty after a power failure"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def write(root: Path, values: dict[str, Any]) -> None:
    apply_setup(plan(root, values), consent=True, replace_edited=False)


def test_a_first_set_up_stages_all_makes_it_durable_and_notes_it_before_any_file_has_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    disk = Disk(root, monkeypatch)
    write(root, CITUS_ONLY)
    disk.check()
    first, last = [at for at, path in enumerate(disk.renamed) if path == MANIFEST_FILE]
    # A file that is in no manifest is no hand edit at any time; every other one is announced first.
    assert set(disk.renamed[:first]) == {"cluster.yaml", "generated/secrets/superuser_password"}
    assert "docker-compose.yml" in disk.renamed[first + 1 : last]
    assert last == len(disk.renamed) - 1


def test_the_manifest_says_that_files_changed_only_once_their_names_are_durable(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    write(root, CITUS_ONLY | {"workers": 2, "settings.nodes.citus-worker2": {"work_mem": "5MB"}})
    disk = Disk(root, monkeypatch)
    write(root, {"settings.nodes.citus-worker2": {}, "settings.worker": {"work_mem": "6MB"}})
    disk.check()
    end = max(at for at, one in enumerate(disk.asked) if one[0] == "rename")
    assert disk.asked[end][2] == MANIFEST_FILE
    for path in {Path(path).parent.as_posix() for path in disk.renamed[:-1] if path != MANIFEST_FILE}:
        last_change = max(at for at, one in enumerate(disk.asked[:end]) if Path(one[-1]).parent.as_posix() == path)
        assert ("durable", path) in disk.asked[last_change:end], path


def test_a_single_file_is_durable_before_and_after_it_gets_its_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir()
    disk = Disk(root, monkeypatch)
    files.keep_file(root, "generated/secrets/roles/app_password", WantedFile(b"secret", 0o600))
    disk.check()
    (staged,) = [one[1] for one in disk.asked if one[0] == "write"]
    assert [one for one in disk.asked if one[0] != "remove"] == [
        ("write", staged),
        ("durable", staged),
        ("rename", staged, "generated/secrets/roles/app_password"),
        ("durable", "generated/secrets/roles"),
    ]
