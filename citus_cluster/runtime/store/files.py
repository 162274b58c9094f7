"""The generated directory on the disk: read, locked, and written so that old files stay intact.

Every file is first staged next to its target; once all are on the disk, renames replace the files. The manifest
distinguishes a run that is killed between the renames from a hand edit, because it lists the new files before the first
rename.
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
from citus_cluster.model.layout import MANIFEST_FILE, SPEC_FILE
from citus_cluster.model.plan.changes import Action, FileChange, FoundFile, WantedFile, digest

LOCK_FILE = ".citus-cluster.lock"
_STAGING_PREFIX = ".citus-cluster.staging-"
_MANIFEST_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The record of an earlier run.

    ``identity`` has the values that cannot change (name, user, database, PostgreSQL major, coordinator, workers),
    ``files`` path -> digests that count as ours: the last one written, then one that a killed run was writing.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_file(root: Path, path: str) -> FoundFile | None:
    """Read one file; None if it does not exist. Raises WriteError, also for a FIFO, which would block."""
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
    """Read the files that exist."""
    found = {path: read_file(root, path) for path in paths}
    return {path: file for path, file in found.items() if file is not None}


def dated(path: Path) -> os.stat_result:
    """Return the ``stat`` of a file that containers may have read before it was changed.

    A time in the future means that the clock was set back: such a file counts as changed now, and gets the current
    time, so that it counts once.
    """
    found = path.stat()
    if max(found.st_mtime, found.st_ctime) > time.time():
        with contextlib.suppress(OSError):
            os.utime(path)
            found = path.stat()
    return found


def read_manifest(root: Path) -> Manifest | None:
    """Read the record of an earlier run; None if the directory has none."""
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
            hint="Restore it from a copy, or move it away and run the command again with --force: "
            "files that differ are then kept as .bak, and passwords are kept.",
        ) from error


@contextlib.contextmanager
def locked(root: Path | None) -> Iterator[None]:
    """Hold the directory's lock. A second run is refused at once, and a dead one leaves no lock.

    Creates the directory if it does not exist. A cluster without a directory here (None) needs no lock. Raises
    LockedError, WriteError.
    """
    if root is None:
        yield
        return
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
                f"Another run (process {holder}) is working in {root}; nothing was changed.",
                hint="Wait until it has ended, then run the command again.",
            ) from None
        with contextlib.suppress(OSError):  # the number is only for the message; the disk may be full
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
        remove_staging(root)
        yield


def remove_staging(root: Path) -> None:
    """Remove the staged files of a killed run."""
    for left in root.glob(f"{_STAGING_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def has_staging(root: Path) -> bool:
    """Return whether a killed run has left staged files."""
    return any(root.glob(f"{_STAGING_PREFIX}*"))


def recorded_after(changes: Iterable[FileChange], previous: Manifest | None) -> dict[str, tuple[str, ...]]:
    """Return the manifest's entries of the files, path -> digests, after the ``changes``."""
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
    """Write all changes, or nothing.

    ``secrets`` and ``spec`` are files that are in no manifest. A hand-edited file that is replaced or removed is kept
    as .bak. Raises WriteError, which says whether all old files are intact: only a failed rename, when everything is on
    the disk already, can leave some new and some old files.
    """
    changes = list(changes)
    edits = [change for change in changes if change.changes and change.edited]
    writes = {change.path: change.wanted for change in changes if change.changes and change.wanted}
    plain: dict[str, WantedFile] = {**secrets, **({SPEC_FILE: spec} if spec else {})}
    backups = {_free_backup(root, change.path): WantedFile(change.old or b"", 0o600) for change in edits}
    removals = [change.path for change in changes if change.action is Action.REMOVE]
    recorded = dict(previous.files) if previous else {}
    after = recorded_after(changes, previous)
    # The records of earlier runs stay until this one ends: several may have been killed in a row.
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
        # The renames are on the disk before the manifest that records them: a power failure must not look like an edit.
        for folder in {(root / path).parent for path in (*writes, *plain, *removals)}:
            _make_durable(folder)
        last_manifest.replace(root / MANIFEST_FILE)
        _remove_empty_folders(root, removals)
    except OSError as error:
        raise _write_error(root, error, begun=begun) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def keep_file(root: Path, path: str, wanted: WantedFile) -> None:
    """Write one file that is in no manifest, completely or not at all. Call this under the lock. Raises WriteError."""
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
    """Change the identity in the manifest, but not the files. Call this under the lock. Raises WriteError."""
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
    """Return a name for the copy of an edited file that overwrites no earlier copy."""
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
    """Create the folders, with modes that do not depend on the umask, because containers read some of them."""
    wanted = {PurePosixPath(path).parent for path in paths}
    folders = {folder for path in wanted for folder in (path, *path.parents)} - {PurePosixPath()}
    for path in sorted(folders):
        folder = root / path
        folder.mkdir(exist_ok=True)
        mode = 0o700 if "secrets" in path.parts else 0o755
        if folder.stat().st_mode & 0o777 != mode:
            folder.chmod(mode)


def _stage(staging: Path, groups: Iterable[Mapping[str, WantedFile]]) -> list[tuple[str, Path]]:
    """Write all files below ``staging`` durably, and return them in the order of the renames."""
    staging.mkdir(mode=0o700)
    staged = []
    for number, group in enumerate(groups):
        for path, wanted in group.items():
            target = staging / f"{number}-{path.replace('/', '!')}"
            _write(target, wanted)
            staged.append((path, target))
    # After the last write, because the first sync then writes most of the other files to the disk too.
    for _, target in staged:
        _make_durable(target)
    return staged


def _write(target: Path, wanted: WantedFile) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(wanted.content)
        os.fchmod(file.fileno(), wanted.mode)  # not with the mode of open, which the umask reduces


def _make_durable(target: Path) -> None:
    """Sync a file's content, or a folder's list of names, to the disk."""
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
    # The error of a rename names its source first, which is one of our staged files.
    what = f"{error.filename2 or error.filename or path} cannot be written: {error.strerror}"
    if begun:
        return WriteError(
            f"{what}; some files are already new, and the others are unchanged.",
            hint="Fix the cause, then run the command again, which continues where this run ended.",
        )
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return WriteError(
        f"{what}; the existing files are intact.",
        hint="Free some space, then run the command again."
        if full
        else "Choose a directory that you may write to (--output-dir), then run the command again.",
    )
