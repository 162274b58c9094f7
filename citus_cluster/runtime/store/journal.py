"""The journal: the operations on a cluster, when and by whom; one JSON object per line, without secrets.

The command line appends to generated/journal.jsonl. A container that also changes the cluster appends to its own file,
in the only folder of the directory that it may write, so it can neither change nor remove the lines of others. Each
line begins with its time, so ``sort`` merges the files.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from citus_cluster.errors import WriteError
from citus_cluster.model.component import JOURNAL_FOLDER
from citus_cluster.model.visible import json_text

JOURNAL_FILE = "generated/journal.jsonl"
CONTAINER_FILE = "journal.jsonl"
"""Name of a container's file in its folder."""
PRIVATE, BEHIND_A_PRIVATE_FOLDER = 0o600, 0o644
logger = logging.getLogger(__name__)


def append(file: Path, line: Mapping[str, object], *, mode: int = PRIVATE) -> None:
    """Append one line, with one write, so that lines of several writers do not mix; ``mode`` is that of a new file.

    Raises nothing: an operation never fails because its line cannot be written. The line then goes to the log.
    """
    text = json_text(line)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, mode)
        try:
            with contextlib.suppress(OSError):  # not every shared folder has locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A full disk may have cut off the previous line; without the lock, an unfinished line looks the same.
            size = os.fstat(descriptor).st_size
            is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            content = (("\n" if is_cut else "") + text + "\n").encode()
            if os.write(descriptor, content) < len(content):
                raise OSError(0, "no space left for the whole line")
        finally:
            os.close(descriptor)
    except OSError as error:
        logger.warning("the journal %s cannot be written (%s), so here is its line: %s", file, error.strerror, text)


def make_folder(root: Path, service: str) -> None:
    """Create the folder that the container of a service may write. Raises WriteError if it cannot be created.

    The container's user differs from the directory's owner, and is the same everywhere. So every user may write to the
    folder, but only the owner may enter the folder above it; the container mounts its folder.
    """
    folder = root / JOURNAL_FOLDER / service
    try:
        for path, mode in ((folder.parent, 0o700), (folder, 0o777)):
            path.mkdir(parents=True, exist_ok=True)
            # A folder of another owner stays as it is; the container's log shows the lines that it could not write.
            with contextlib.suppress(PermissionError):
                if path.stat().st_mode & 0o777 != mode:
                    path.chmod(mode)
    except OSError as error:
        raise WriteError(
            f"{folder} cannot be created: {error.strerror}.", hint="Check the owner and the permissions of generated/."
        ) from error


def last(root: Path, operations: Collection[str]) -> Mapping[str, Any] | None:
    """Return the last line of one of these operations that the command line has written; None if there is none.

    The containers' files are not read, because an attacker in a container could write anything there.
    """
    try:
        lines = (root / JOURNAL_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("operation") in operations:
                return found
    return None
