"""The events that an operation reports while it runs; the command line prints them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What an event reports about its step."""

    STARTED = "started"
    PROGRESS = "progress"
    DONE = "done"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """One report of one step.

    ``step`` names the step and, after a colon, its subject (``register:citus-worker1``), so that
    a console can keep a line for each. ``data`` holds plain JSON values, never a secret.
    """

    step: str
    kind: EventKind
    message: str
    data: Mapping[str, object] = field(default_factory=dict)


Emit = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop the event: for callers that need only the result."""
