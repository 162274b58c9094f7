"""The disk space that write-ahead logs (WAL) may take, by the settings of each server."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from citus_cluster.model.tuning.formulae import Setting
from citus_cluster.model.units import size

_DEFAULTS = {"max_wal_size": "1GB", "wal_keep_size": "0", "max_slot_wal_keep_size": "-1"}
"""PostgreSQL's own values, for parameters that the settings omit; in MB."""
_UNITS_MB = {"": 1.0, "B": 2**-20, "kB": 2**-10, "MB": 1.0, "GB": 2.0**10, "TB": 2.0**20}
_MB = 2**20


@dataclass(frozen=True)
class LogSpace:
    """The disk space that the WAL of one server may take, in MB.

    ``usual_mb``: what it grows to between checkpoints, or always keeps for a standby. ``kept_mb``: what a replication
    slot may hold in addition, for a standby that is down or a move that hangs; None if nothing limits it.
    """

    service: str
    usual_mb: float
    kept_mb: float | None


def log_space(service: str, settings: Sequence[Setting]) -> LogSpace:
    """Read it from a server's settings, including the user's own."""
    values = _DEFAULTS | {setting.name.lower(): setting.value for setting in settings}
    kept_mb = _size_mb(values["max_slot_wal_keep_size"])
    usual_mb = max(_size_mb(values["max_wal_size"]), _size_mb(values["wal_keep_size"]))
    return LogSpace(service, usual_mb, kept_mb if kept_mb >= 0 else None)


def needed_mb(logs: Iterable[LogSpace]) -> float:
    """Return what all logs may take together: each its usual space, and one of them what a slot may hold.

    Only one, because a move hangs on one node, and one standby is down, at a time (judgement).
    """
    found = list(logs)
    return sum(log.usual_mb for log in found) + max((log.kept_mb or 0 for log in found), default=0)


def describe(logs: Sequence[LogSpace]) -> str:
    """Describe it by server; servers with the same figures share a line."""
    groups: dict[tuple[float, float | None], list[str]] = {}
    for log in logs:
        groups.setdefault((log.usual_mb, log.kept_mb), []).append(log.service)
    return "; ".join(_group(names, *figures) for figures, names in groups.items())


def _group(names: Sequence[str], usual_mb: float, kept_mb: float | None) -> str:
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    slot = "without limit" if kept_mb is None else f"up to {size(kept_mb * _MB)} more"
    return f"{listed}: {size(usual_mb * _MB)}{' each' if len(names) > 1 else ''}, {slot} behind a replication slot"


def _size_mb(value: str) -> float:
    found = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([a-zA-Z]*)\s*", value, re.IGNORECASE)
    return float(found[1]) * _UNITS_MB.get(found[2], 1.0) if found else 0.0
