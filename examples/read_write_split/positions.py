"""Positions in PostgreSQL's write-ahead log (LSN): how far a server has come, and how far a reader wants it to be."""

import re
from dataclasses import dataclass

_FORM = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse(text: str) -> int:
    """Read an LSN as PostgreSQL writes it, ``16/B374D848``. Raises ValueError for anything else."""
    found = _FORM.fullmatch(text)
    if not found:
        raise ValueError("must be a position such as 16/B374D848")
    return int(found[1], 16) << 32 | int(found[2], 16)


def form(lsn: int) -> str:
    """Write an LSN as PostgreSQL does."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, order=True)
class Position:
    """A point in the history of the data: a promotion begins a new timeline, on which an LSN may occur once more."""

    timeline: int
    lsn: int

    def __str__(self) -> str:
        return form(self.lsn)
