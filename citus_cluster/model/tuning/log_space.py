"""The disk space that write-ahead logs may take, by the settings of each server."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from citus_cluster.model.tuning.formulae import Setting
from citus_cluster.model.units import size

_DEFAULTS = {"max_wal_size": "1GB", "wal_keep_size": "0", "max_slot_wal_keep_size": "-1"}
"""PostgreSQL's own, for what the settings do not say; their unit is the MB."""
_UNITS_MB = {"": 1.0, "B": 2**-20, "kB": 2**-10, "MB": 1.0, "GB": 2.0**10, "TB": 2.0**20}
_MB = 2**20


@dataclass(frozen=True)
class LogSpace:
    """What the log of one server may take, in MB.

    ``usual_mb`` is what it grows to between checkpoints, or keeps for a standby in any case. ``kept_mb`` is what a
    replication slot may hold beyond, of a standby that is away or of a move that hangs; None where nothing limits it.
    """

    service: str
    usual_mb: float
    kept_mb: float | None


def log_space(service: str, settings: Sequence[Setting]) -> LogSpace:
    """Read it from a server's settings, the user's own among them."""
    values = _DEFAULTS | {setting.name.lower(): setting.value for setting in settings}
    kept_mb = _size_mb(values["max_slot_wal_keep_size"])
    usual_mb = max(_size_mb(values["max_wal_size"]), _size_mb(values["wal_keep_size"]))
    return LogSpace(service, usual_mb, kept_mb if kept_mb >= 0 else None)


def needed_mb(logs: Iterable[LogSpace]) -> float:
    """What all logs may take together: each its usual space, and one of them what a slot may hold.

    One, because a move hangs on one node and one standby is away at a time (judgement).
    """
    found = list(logs)
    return sum(log.usual_mb for log in found) + max((log.kept_mb or 0 for log in found), default=0)


def describe(logs: Sequence[LogSpace]) -> str:
    """Say it by server, those with the same figures together."""
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
