"""Operations: requested changes with their plan, events and result, as the admin API keeps and shows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from citus_cluster.model.documents import Documented
from citus_cluster.model.plan.events import Event, EventKind

SECRET = "***"  # noqa: S105 - what is stored in place of a secret


class OperationState(StrEnum):
    """The state of an operation; all but ``running`` are final, unless it is resumed."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """The program that ran it ended first. What was done stays done, and resuming does the rest."""


@dataclass(frozen=True)
class OperationEvent(Documented):
    """One report of a running operation. ``number`` counts from 1 in each operation, without gaps."""

    number: int
    time: datetime
    step: str
    kind: EventKind
    message: str
    data: Mapping[str, object]


@dataclass(frozen=True)
class Operation(Documented):
    """One requested change.

    ``kind`` is the name of the change, and ``command`` the command that does the same. ``parameters``, ``plan``,
    ``result`` and ``error`` are plain JSON data, in which a secret is ``***``. ``diff`` is what differs between the
    start and the end in the node list, the tables and the roles, whoever changed it: ``changes`` with ``item``,
    ``property``, ``before`` and ``after``, and ``left_out``, the number of those that are not listed. It is None until
    the end, and if the coordinator could not be read. ``by`` says who requested it, ``events``
    how many events there are, and ``attempts`` how often it ran: once, and once for each time it was resumed.
    """

    id: int
    kind: str
    summary: str
    state: OperationState
    command: str
    parameters: Mapping[str, object]
    plan: Mapping[str, object]
    result: Mapping[str, object] | None
    diff: Mapping[str, object] | None
    error: Mapping[str, object] | None
    by: Mapping[str, object]
    created_at: datetime
    ended_at: datetime | None
    attempts: int
    resumable: bool
    events: int
    last_message: str | None

    @property
    def is_final(self) -> bool:
        return self.state is not OperationState.RUNNING


def turn_event(ahead: Mapping[int, str] | None) -> Event:
    """Return the event of an operation that waits for others, by their ids and names; None if its turn has come."""
    if ahead is None:
        return Event("turn", EventKind.DONE, "no longer waiting")
    names = " and ".join(f"{number} ({kind})" for number, kind in ahead.items())
    others = f"operation{'s' * (len(ahead) > 1)} {names}" if ahead else "other requests"
    message = f"waiting for {others}: only a few changes use the coordinator at a time"
    return Event("turn", EventKind.STARTED, message, {"waits_for": list(ahead)})
