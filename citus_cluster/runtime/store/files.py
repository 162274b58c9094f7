"""The generated directory on the disk: read, locked, and written so that old files stay intact.

Everything is staged beside its target first; only when all of it is on the disk are files
replaced, by renames. A run that is killed between the renames is told from a hand edit by the
manifest, which names what was about to be written before the first rename.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from citus_cluster.errors import LockedError, WriteError
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.plan.changes import Action, FileChange, FoundFile, WantedFile, digest
from citus_cluster.render.bundle import MANIFEST_FILE

LOCK_FILE = ".citus-cluster.lock"
_STAGING_PREFIX = ".citus-cluster.staging-"
_MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What an earlier run wrote.

    ``identity`` holds what cannot change (name, user, database, PostgreSQL major, coordinator, workers),
    ``files`` path -> digests that count as ours: the last one written, then one that a killed run was writing.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_file(root: Path, path: str) -> FoundFile | None:
    """Read one file; None where there is none. Raises WriteError, also for a FIFO, which would be waited for."""
    target = root / path
    try:
        if stat.S_ISFIFO(target.stat().st_mode):
            raise WriteError(
                f"{target} is a FIFO, not a regular file.", hint="Move it away, then run the command again."
            )
        return FoundFile(target.read_bytes(), target.stat().st_mode & 0o777)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WriteError(
            f"{target} cannot be read: {error.strerror}", hint="Check its owner and permissions."
        ) from error


def read_files(root: Path, paths: Iterable[str]) -> dict[str, FoundFile]:
    """Read those of the files that exist."""
    found = {path: read_file(root, path) for path in paths}
    return {path: file for path, file in found.items() if file is not None}


def dated(path: Path) -> os.stat_result:
    """Give what ``stat`` says of a file that containers may have read before it was changed.

    Times in the future are of a clock that was put back since: such a file counts as changed now, and gets that time,
    so that it counts once.
    """
    found = path.stat()
    if max(found.st_mtime, found.st_ctime) > time.time():
        with contextlib.suppress(OSError):
            os.utime(path)
            found = path.stat()
    return found


def read_manifest(root: Path) -> Manifest | None:
    """Read what an earlier run wrote; None in a directory that has none."""
    found = read_file(root, MANIFEST_FILE)
    if found is None:
        return None
    try:
        data = json.loads(found.content)
        return Manifest(
            identity=data["identity"],
            files={path: tuple(entry["sha256"]) for path, entry in data["files"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WriteError(
            f"{root / MANIFEST_FILE} is damaged ({error})",
            hint="Restore it from a copy. Or move it away and run again with --force: "
            "files that differ are then kept beside as .bak, and passwords are kept.",
        ) from error


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the directory's lock; a second run is refused at once, and a dead one leaves no lock.

    Makes the directory where it does not exist. Raises LockedError, WriteError.
    """
    lock = root / LOCK_FILE
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _write_error(lock, error) from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "unknown"
            raise LockedError(
                f"Another run (process {holder}) is at work in {root}; nothing was changed.",
                hint="Wait until it has ended, then run the command again.",
            ) from None
        with contextlib.suppress(OSError):  # the number is for the message alone; the disk may be full
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
        remove_staging(root)
        yield


def remove_staging(root: Path) -> None:
    """Remove what a killed run had staged."""
    for left in root.glob(f"{_STAGING_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def has_staging(root: Path) -> bool:
    """Tell whether a killed run has left behind what it had staged."""
    return any(root.glob(f"{_STAGING_PREFIX}*"))


def recorded_after(changes: Iterable[FileChange], previous: Manifest | None) -> dict[str, tuple[str, ...]]:
    """Give what the manifest says of the files, path -> digests, once the ``changes`` are made."""
    recorded = previous.files if previous else {}
    tracked = [change for change in changes if change.wanted and change.wanted.tracked]
    return {
        change.path: recorded[change.path]
        if change.action is Action.KEEP and change.path in recorded
        else (digest(change.wanted.content),)
        for change in tracked
        if change.wanted
    }


def apply_changes(
    root: Path,
    changes: Iterable[FileChange],
    *,
    secrets: Mapping[str, WantedFile],
    spec: WantedFile | None,
    identity: Mapping[str, Any],
    previous: Manifest | None,
) -> None:
    """Write what changes, or nothing at all.

    ``secrets`` and ``spec`` are files that are in no manifest. A hand-edited file that is replaced
    or removed is kept beside as .bak. Raises WriteError, which says whether all old files are intact:
    only a rename that fails, when all is on the disk already, can leave some new and some old.
    """
    changes = list(changes)
    edits = [change for change in changes if change.changes and change.edited]
    writes = {change.path: change.wanted for change in changes if change.changes and change.wanted}
    plain: dict[str, WantedFile] = {**secrets, **({SPEC_FILE: spec} if spec else {})}
    backups = {_free_backup(root, change.path): WantedFile(change.old or b"", 0o600) for change in edits}
    removals = [change.path for change in changes if change.action is Action.REMOVE]
    recorded = dict(previous.files) if previous else {}
    after = recorded_after(changes, previous)
    # All that earlier runs recorded stays until this one ends: several may have been killed in a row.
    pending = {path: (*recorded.get(path, ()), *after.get(path, ())) for path in {**recorded, **after}}
    staging = root / f"{_STAGING_PREFIX}{os.getpid()}"
    begun = False
    first = {MANIFEST_FILE: _manifest_file(identity, pending)}
    last = {MANIFEST_FILE: _manifest_file(identity, after)}
    try:
        _make_folders(root, [*writes, *plain, MANIFEST_FILE])
        staged = _stage(staging, [plain, backups, first, writes, last])
        *replacements, (_, last_manifest) = staged
        for path, source in replacements:
            source.replace(root / path)
            begun = True
        for path in removals:
            (root / path).unlink(missing_ok=True)
        # The renames are on the disk before the manifest that says so: a power cut must not look like an edit.
        for folder in {(root / path).parent for path in (*writes, *plain, *removals)}:
            _make_durable(folder)
        last_manifest.replace(root / MANIFEST_FILE)
        _remove_empty_folders(root, removals)
    except OSError as error:
        raise _write_error(root, error, begun=begun) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def keep_file(root: Path, path: str, wanted: WantedFile) -> None:
    """Write one file that is in no manifest, whole or not at all. Call it under the lock. Raises WriteError."""
    staging = root / f"{_STAGING_PREFIX}{os.getpid()}"
    try:
        _make_folders(root, [path])
        ((_, staged),) = _stage(staging, [{path: wanted}])
        staged.replace(root / path)
        _make_durable((root / path).parent)
    except OSError as error:
        raise _write_error(root / path, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def keep_identity(root: Path, identity: Mapping[str, Any], previous: Manifest) -> None:
    """Have the manifest know another identity, and the same files. Call it under the lock. Raises WriteError."""
    keep_file(root, MANIFEST_FILE, _manifest_file(identity, previous.files))


def drop_file(root: Path, path: str) -> None:
    """Remove one file that is in no manifest, and its folder if that is then empty. Raises WriteError."""
    try:
        (root / path).unlink(missing_ok=True)
        if (root / path).parent.is_dir():
            _remove_empty_folders(root, [path])
    except OSError as error:
        raise _write_error(root / path, error) from error


def _free_backup(root: Path, path: str) -> str:
    """Name the copy of an edited file, so that no earlier copy is overwritten."""
    names = (f"{path}.bak", *(f"{path}.bak{number}" for number in range(2, 1000)))
    return next(name for name in names if not (root / name).exists())


def _manifest_file(identity: Mapping[str, Any], files: Mapping[str, tuple[str, ...]]) -> WantedFile:
    from citus_cluster import __version__

    data = {
        "version": _MANIFEST_VERSION,
        "generator": __version__,
        "identity": dict(identity),
        "files": {path: {"sha256": list(dict.fromkeys(digests))} for path, digests in sorted(files.items())},
    }
    return WantedFile((json.dumps(data, indent=2) + "\n").encode())


def _make_folders(root: Path, paths: Iterable[str]) -> None:
    """Make the folders, with modes that do not depend on the umask: containers read some of them."""
    wanted = {PurePosixPath(path).parent for path in paths}
    folders = {folder for path in wanted for folder in (path, *path.parents)} - {PurePosixPath()}
    for path in sorted(folders):
        folder = root / path
        folder.mkdir(exist_ok=True)
        mode = 0o700 if "secrets" in path.parts else 0o755
        if folder.stat().st_mode & 0o777 != mode:
            folder.chmod(mode)


def _stage(staging: Path, groups: Iterable[Mapping[str, WantedFile]]) -> list[tuple[str, Path]]:
    """Write all files below ``staging``, durable, and give them in the order of the renames."""
    staging.mkdir(mode=0o700)
    staged = []
    for number, group in enumerate(groups):
        for path, wanted in group.items():
            target = staging / f"{number}-{path.replace('/', '!')}"
            _write(target, wanted)
            staged.append((path, target))
    # After the last write, since the first of them then brings most of the others to the disk too.
    for _, target in staged:
        _make_durable(target)
    return staged


def _write(target: Path, wanted: WantedFile) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(wanted.content)
        os.fchmod(file.fileno(), wanted.mode)  # not by the mode of open, which the umask cuts


def _make_durable(target: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty_folders(root: Path, removed: Iterable[str]) -> None:
    for path in removed:
        for folder in (root / path).parents:
            if folder == root or (folder.exists() and any(folder.iterdir())):
                break
            if folder.exists():
                folder.rmdir()


def _write_error(path: Path, error: OSError, *, begun: bool = False) -> WriteError:
    # A rename names its source first, which is a staged file of ours.
    what = f"{error.filename2 or error.filename or path} cannot be written: {error.strerror}"
    if begun:
        return WriteError(
            f"{what}; some files are new already, and the others are as they were.",
            hint="Mend that, then run the command again: it goes on where this run ended.",
        )
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return WriteError(
        f"{what}; the files that were there are intact.",
        hint="Free some space, then run the command again."
        if full
        else "Choose a directory that you may write to (--output-dir), then run the command again.",
    )
