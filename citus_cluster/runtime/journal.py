"""generated/journal.jsonl: what the command line did, one JSON object a line, without secrets."""

import contextlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

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
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
