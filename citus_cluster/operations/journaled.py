"""Operations in the journal: one line for each when it has ended, for every requester and every result."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.documents import Documented, as_data
from citus_cluster.runtime.store import journal

COMMAND_LINE = "citus-cluster"
ADMIN_API = "admin-api"
MAX_STEPS = 50
"""Steps of a plan in one line."""


@dataclass(frozen=True)
class Asker(Documented):
    """Who requests operations, and how: with the ``arguments`` of a command (redacted), or a ``request``.

    ``user`` runs the command. ``name`` and ``role`` are those of the request's token, which arrived ``via`` a header or
    otherwise, from the address ``client``; ``request_id`` is also in the log and in the answer. ``operation`` is the id
    of the operation that it started. Work that the program starts by itself has none of them.
    """

    program: str
    user: str | None = None
    arguments: tuple[str, ...] | None = None
    request: str | None = None
    role: str | None = None
    name: str | None = None
    via: str | None = None
    client: str | None = None
    request_id: str | None = None
    operation: int | None = None

    def document(self) -> Mapping[str, object]:
        """Return the keys that have values."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None}


@dataclass(frozen=True)
class Journal:
    """The journal for one asker's operations; no ``file``: the cluster has no directory here, and nothing is written.

    ``needs_folder``: if the file's folder does not exist, the line goes to the log; otherwise no line is written.
    """

    asker: Asker
    file: Path | None
    mode: int = journal.PRIVATE
    needs_folder: bool = False

    @contextmanager
    def entry(self, operation: str, **parameters: object) -> Iterator["Entry"]:
        """Record the operation that the block runs: its parameters (no secrets), and its result from the entry.

        An operation that is cancelled or interrupted is recorded too.
        """
        entry = Entry()
        started = time.monotonic()

        def note(result: str, **more: object) -> None:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "operation": operation,
                "parameters": as_data(parameters),
                **({"plan": list(entry.plan[:MAX_STEPS])} if entry.plan else {}),
                "result": result,
                **more,
                "outcome": as_data(entry.outcome),
                "duration_s": round(time.monotonic() - started, 3),
                "by": self.asker.as_dict(),
            }
            if entry.is_noted and self.file and (self.needs_folder or self.file.parent.is_dir()):
                journal.append(self.file, line, mode=self.mode)

        try:
            yield entry
        except BaseException as error:
            if isinstance(error, CitusClusterError):
                note("failed", error=error.code, message=error.message)
            else:
                note("failed", error=type(error).__name__)
            raise
        note("done")


@dataclass
class Entry:
    """The result of an operation; with ``is_noted`` False no line is written, because nothing had to be done.

    ``plan`` are the steps of a change that was planned first.
    """

    outcome: dict[str, object] = field(default_factory=dict)
    plan: Sequence[str] = ()
    is_noted: bool = True

    def tell(self, **outcome: object) -> None:
        self.outcome |= outcome


def of_command(root: Path | None, arguments: Sequence[str]) -> Journal:
    """Return the journal of a command of this machine's user; ``arguments`` hold no secret."""
    asker = Asker(COMMAND_LINE, user=os.environ.get("USER") or str(os.getuid()), arguments=tuple(arguments))
    return Journal(asker, root / journal.JOURNAL_FILE if root else None)


def of_container(folder: Path, asker: Asker) -> Journal:
    """Return the journal of a container that has ``folder`` for it."""
    return Journal(asker, folder / journal.CONTAINER_FILE, mode=journal.BEHIND_A_PRIVATE_FOLDER, needs_folder=True)
