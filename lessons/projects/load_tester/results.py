"""What a run counts, and the figures that follow from it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99_9": 0.999}


def percentile(ordered: Sequence[float], part: float) -> float:
    """Return the smallest of the ascending values that at least this part (0 to 1) does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def summary_ms(seconds: Sequence[float]) -> dict[str, float] | None:
    """Return min, mean, percentiles and max of latencies, in ms with 3 places; None if there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    figures = {"min": ordered[0], "mean": sum(ordered) / len(ordered)}
    figures |= {name: percentile(ordered, part) for name, part in PERCENTILES.items()}
    figures["max"] = ordered[-1]
    return {name: round(1000 * value, 3) for name, value in figures.items()}


@dataclass
class Results:
    """Counts of one run, filled while it goes on.

    ``latencies_s`` run from the moment a request was due, ``service_s`` from the moment it was sent; in a closed loop
    these are the same. Both are of answered requests, whatever their status.
    """

    latencies_s: list[float] = field(default_factory=list)
    service_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    unfinished: int = 0
    """Requests of an open loop that were due, and had no answer when the run ended."""
    elapsed_s: float = 0.0
    processor_s: float = 0.0
    interrupted: bool = False

    @property
    def requests(self) -> int:
        """Requests that ended, well or not."""
        return len(self.latencies_s) + sum(self.errors.values())

    @property
    def failed(self) -> int:
        """Requests without an answer, and answers with a status of 400 and above."""
        return sum(self.errors.values()) + sum(count for status, count in self.statuses.items() if status >= 400)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of the JSON report."""
        elapsed_s = self.elapsed_s or math.inf
        return {
            "elapsed_s": round(self.elapsed_s, 3),
            "requests": self.requests,
            "failed": self.failed,
            "error_rate": round(self.failed / self.requests, 6) if self.requests else 0.0,
            "timeouts": self.errors["timeout"],
            "errors": dict(sorted(self.errors.items())),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "unfinished": self.unfinished,
            "requests_per_second": round(len(self.latencies_s) / elapsed_s, 1),
            "received_bytes": self.received_bytes,
            "bytes_per_second": round(self.received_bytes / elapsed_s, 1),
            "latency_ms": summary_ms(self.latencies_s),
            "uncorrected_latency_ms": summary_ms(self.service_s),
            "processor_share": round(self.processor_s / elapsed_s, 3),
            "interrupted": self.interrupted,
        }
