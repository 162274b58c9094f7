"""How a service beside Citus is, in the one shape that ``status`` prints and the admin API answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.model.services import Service


class Condition(StrEnum):
    """``starting`` is on its way and needs no one; ``degraded`` serves, but not all of it."""

    OK = "ok"
    STARTING = "starting"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True)
class CompanionStatus:
    """One companion. ``reason`` says why the condition is not ok; ``figures`` are plain data, without secrets.

    ``summary`` is the one line of them that people read.
    """

    service: Service
    condition: Condition
    reason: str | None
    figures: Mapping[str, object]
    summary: str = ""

    def as_dict(self) -> Mapping[str, object]:
        return {
            "service": self.service.value,
            "condition": self.condition.value,
            "reason": self.reason,
            "summary": self.summary,
            **self.figures,
        }
