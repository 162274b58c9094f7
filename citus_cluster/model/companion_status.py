"""The status of a companion, in the form that ``status`` prints and the admin API answers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.documents import Documented


class Condition(StrEnum):
    """``starting`` needs only time; ``degraded`` serves, but not completely.

    ``unknown`` did not answer in time, twice, while its own health check passed: the machine may be overloaded.
    """

    OK = "ok"
    STARTING = "starting"
    DEGRADED = "degraded"
    DOWN = "down"
    UNKNOWN = "unknown"


_TIMED_OUT = re.compile(r"(no answer|did not answer|did not end) within|does not answer on")


def timed_out(reason: str | None) -> bool:
    """Return whether a reason means that there was no answer in time, so that the query may be repeated once."""
    return bool(reason and _TIMED_OUT.search(reason))


@dataclass(frozen=True)
class CompanionStatus(Documented):
    """One companion. ``reason`` says why the condition is not ok; ``figures`` are plain data, without secrets.

    ``summary`` is the one line of them that people read.
    """

    service: ComponentName
    condition: Condition
    reason: str | None
    figures: Mapping[str, object]
    summary: str = ""

    def document(self) -> Mapping[str, object]:
        """Return the keys that every companion has, followed by its own figures."""
        return {
            "service": self.service,
            "condition": self.condition,
            "reason": self.reason,
            "summary": self.summary,
            **self.figures,
        }


def with_lacks(statuses: Iterable[CompanionStatus], lacks: Mapping[ComponentName, str]) -> tuple[CompanionStatus, ...]:
    """Add to each status what the companion lacks on the coordinator, which its own server does not know.

    The status of a companion that is down does not change.
    """
    return tuple(
        replace(
            status,
            condition=Condition.DEGRADED,
            reason="; ".join(filter(None, (status.reason, lacks[status.service]))),
        )
        if status.service in lacks and status.condition in {Condition.OK, Condition.DEGRADED}
        else status
        for status in statuses
    )
