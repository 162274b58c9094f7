"""Sessions and statements of all nodes, as rows for people; secrets in statements are masked."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from citus_cluster.model.citus.blockers import global_pid
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode

QUERY_CHARACTERS = 1000
"""How much of a statement is shown."""
OWN_APPLICATIONS = "citus-cluster"
"""How the application names of this tool's sessions begin."""
UNKNOWN = "unknown"

_LITERAL = r"(?:[eEuU]?&?'(?:[^'\\]|''|\\.)*'?|\$(\w*)\$.*?(?:\$\2\$|$)|\S+)"
_PASSWORD = re.compile(rf"(?is)\b(password\s*=?\s*)(?!null\b){_LITERAL}")


def masked(query: str) -> str:
    """Return a statement without the passwords in it, even if the end of a literal was cut off."""
    return _PASSWORD.sub(lambda found: f"{found[1]}'***'", query)


@dataclass(frozen=True)
class StatementRow:
    """One session of one node, and the statement that it runs or ran last.

    ``global_pid`` is Citus' number of the session for which it works: ``is_part`` if that is a session of another node,
    so cancelling it ends the whole statement. ``seconds`` is how long the statement has been running, or the session
    has been in its state; ``transaction_seconds`` the age of its transaction. ``is_own``: it belongs to this tool.
    A node that does not answer has one row, with ``problem``.
    """

    id: str
    node: str
    state: str
    global_pid: int | None = None
    process_id: int | None = None
    role: str | None = None
    database: str | None = None
    application: str | None = None
    client: str | None = None
    kind: str | None = None
    seconds: float | None = None
    transaction_seconds: float | None = None
    started_at: datetime | None = None
    session_started_at: datetime | None = None
    wait_event: str | None = None
    is_part: bool = False
    is_own: bool = False
    query: str | None = None
    problem: str | None = None

    @property
    def is_running(self) -> bool:
        return self.state == "active"

    @property
    def in_transaction(self) -> bool:
        return self.state.startswith("idle in transaction")

    def describe(self) -> str:
        """Return the session in a few words, such as ``session 71 of role app on citus-worker1:5432``."""
        text = f"session {self.process_id}"
        text += f" of role {self.role}" if self.role else ""
        text += f" ({self.application})" if self.application else ""
        return f"{text} on {self.node}"


def read_session(node: RegisteredNode, row: Mapping[str, Any]) -> StatementRow:
    """Read one session of a node's answer (:mod:`citus_cluster.runtime.citus.activity`)."""
    process_id = int(row["pid"])
    origin = int(row["origin"]) if row["origin"] else 0
    own_number = global_pid(node.node_id, process_id)
    application = row["application"]
    return StatementRow(
        id=f"{node.node_id}-{process_id}",
        node=str(node.address),
        state=row["state"] or UNKNOWN,
        global_pid=origin or own_number,
        process_id=process_id,
        role=row["role"],
        database=row["database"],
        application=application,
        client=row["client"],
        kind=row["kind"],
        seconds=row["seconds"],
        transaction_seconds=row["transaction_seconds"],
        started_at=read_time(row["started_at"]),
        session_started_at=read_time(row["session_started_at"]),
        wait_event=row["wait_event"],
        is_part=origin not in {0, own_number},
        is_own=(application or "").startswith(OWN_APPLICATIONS),
        query=masked(row["query"]) if row["query"] else None,
    )


def read_time(text: str | None) -> datetime | None:
    """Read a time of a JSON document, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def silent_row(address: NodeAddress, reason: str) -> StatementRow:
    """Return the row of a node that does not answer."""
    return StatementRow(id=str(address), node=str(address), state=UNKNOWN, problem=reason)


def mark_own(rows: Iterable[StatementRow]) -> tuple[StatementRow, ...]:
    """Mark the parts of this tool's own statements too, which other nodes run."""
    rows = tuple(rows)
    own = {row.global_pid for row in rows if row.is_own and not row.is_part}
    return tuple(replace(row, is_own=True) if row.global_pid in own and row.global_pid else row for row in rows)


def shown(rows: Sequence[StatementRow], *, idle: bool, parts: bool) -> tuple[StatementRow, ...]:
    """Return the wanted rows: without idle sessions and parts of other nodes' statements, unless they are wanted."""
    return tuple(row for row in rows if row.problem or ((idle or row.state != "idle") and (parts or not row.is_part)))
