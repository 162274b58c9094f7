"""generated/journal.jsonl: what the command line did, one JSON object a line, without secrets."""

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from citus_cluster.model.visible import json_text

JOURNAL_FILE = "generated/journal.jsonl"


def record(root: Path, operation: str, result: str, details: Mapping[str, object]) -> None:
    """Append one line. A journal that cannot be written never fails the operation that it tells of."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "user": os.environ.get("USER") or str(os.getuid()),
        "operation": operation,
        "result": result,
        **details,
    }
    target = root / JOURNAL_FILE
    if not target.parent.is_dir():
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(json_text(line) + "\n")


def last(root: Path, operations: Collection[str]) -> Mapping[str, Any] | None:
    """Give the last line of one of these operations, as :func:`record` wrote it; None where there is none."""
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
