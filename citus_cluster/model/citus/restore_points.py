"""Restore points: named positions in the WAL of all nodes, to which backups can be restored together."""

from dataclasses import dataclass
from datetime import datetime

MOST_BYTES = 63
"""The longest name that PostgreSQL takes (``MAXFNAMELEN`` - 1)."""


@dataclass(frozen=True)
class RestorePointRow:
    """A restore point that this tool has created; ``lsn`` is the coordinator's position."""

    name: str
    lsn: str
    created_at: datetime
