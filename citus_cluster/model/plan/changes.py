"""The difference between the files that a cluster needs and those on the disk, as a value."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Action(StrEnum):
    """What happens to one file."""

    CREATE = "create"
    UPDATE = "update"
    SET_MODE = "set mode"
    REMOVE = "remove"
    KEEP = "keep"
    """The user has edited it, and what this tool would write has not changed since."""
    NONE = "none"


@dataclass(frozen=True)
class WantedFile:
    """The wanted state of a file. Only ``tracked`` files count as hand-edited; others are shared with the user."""

    content: bytes = field(repr=False)
    mode: int = 0o644
    tracked: bool = True


@dataclass(frozen=True)
class FoundFile:
    """The state of a file on the disk; ``mode`` has only the permission bits."""

    content: bytes = field(repr=False)
    mode: int


@dataclass(frozen=True)
class FileChange:
    """What happens to one file, and whether a user's edit would be replaced by it."""

    path: str
    action: Action
    old: bytes | None = field(repr=False)
    wanted: WantedFile | None
    edited: bool = False

    @property
    def changes(self) -> bool:
        return self.action not in {Action.NONE, Action.KEEP}

    @property
    def after(self) -> bytes | None:
        """Content after the change; None if the file does not exist then."""
        if not self.changes:
            return self.old
        return self.wanted.content if self.wanted else None


def digest(content: bytes) -> str:
    """SHA-256 of a file's content, as the manifest records it."""
    return hashlib.sha256(content).hexdigest()


def plan_files(
    wanted: Mapping[str, WantedFile],
    found: Mapping[str, FoundFile],
    recorded: Mapping[str, Sequence[str]],
    *,
    replace_edited: bool = False,
) -> tuple[FileChange, ...]:
    """Compare, in the order of ``wanted``; then the files that are no longer needed.

    ``found`` holds the existing files among the wanted and recorded paths. ``recorded`` has, for each
    path that an earlier run wrote, the digests that count as ours: the last one written, and the one
    that an interrupted run was about to write.
    """
    changes = [
        _compare(path, file, found.get(path), recorded.get(path), replace_edited) for path, file in wanted.items()
    ]
    for path in sorted(set(recorded) - set(wanted)):
        old = found.get(path)
        if old is None:
            continue
        ours = digest(old.content) in recorded[path]
        changes.append(FileChange(path, Action.REMOVE if ours else Action.KEEP, old.content, None, edited=not ours))
    return tuple(changes)


def _compare(
    path: str, wanted: WantedFile, found: FoundFile | None, recorded: Sequence[str] | None, replace_edited: bool
) -> FileChange:
    if found is None:
        return FileChange(path, Action.CREATE, None, wanted)
    if not wanted.tracked:
        wanted = replace(wanted, mode=found.mode)  # the file belongs to the user, and so do its permissions
    if found.content == wanted.content:
        action = Action.NONE if found.mode == wanted.mode else Action.SET_MODE
        return FileChange(path, action, found.content, wanted)
    edited = wanted.tracked and (recorded is None or digest(found.content) not in recorded)
    if edited and recorded and digest(wanted.content) == recorded[0] and not replace_edited:
        return FileChange(path, Action.KEEP, found.content, wanted, edited=True)
    return FileChange(path, Action.UPDATE, found.content, wanted, edited=edited)
