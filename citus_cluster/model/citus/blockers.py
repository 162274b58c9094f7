"""Sessions that block a move of shards, as texts for people."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from citus_cluster.model.citus.nodes import NodeAddress

_PIDS_PER_NODE = 10_000_000_000
"""Citus' number of a session in the whole cluster: the id of its node, then its process id in ten digits."""


def global_pid(node_id: int, process_id: int) -> int:
    """Return Citus' number of a session."""
    return node_id * _PIDS_PER_NODE + process_id


def split_global_pid(gpid: int) -> tuple[int, int]:
    """Return the id of the node, and the process id there."""
    return divmod(gpid, _PIDS_PER_NODE)


@dataclass(frozen=True)
class Session:
    """A session whose transaction holds a lock; ``process_id`` is 0 for a prepared transaction, which has none.

    ``origin``: Citus' number of the session that it works for, unless it is a client's own. Its statement is omitted,
    because statements contain data.
    """

    node: NodeAddress
    process_id: int
    role: str | None
    application: str | None
    state: str | None
    began_at: datetime | None
    origin: int | None

    @classmethod
    def from_json(cls, node: NodeAddress, row: Mapping[str, object]) -> "Session":
        """Read a row of the query in :mod:`citus_cluster.runtime.citus.blockers`."""

        def text(key: str) -> str | None:
            return None if row.get(key) is None else str(row[key])

        began, origin = text("began_at"), text("origin")
        return cls(
            node=node,
            process_id=int(str(row["pid"])),
            role=text("role"),
            application=text("application"),
            state=text("state"),
            began_at=datetime.fromisoformat(began) if began else None,
            origin=int(origin) if origin else None,
        )


def describe_blocker(session: Session) -> str:
    """Return one line for people: which session blocks the move, and how to end it."""
    if session.process_id == 0:
        return (
            f"a move waits for a prepared transaction on {session.node}; Citus ends it within a minute. To end it now: "
            "SELECT recover_prepared_transactions();"
        )
    facts = [session.application or "no application name", f"role {session.role}"]
    facts += [session.state] if session.state else []
    facts += [f"its transaction began at {session.began_at:%H:%M:%S %Z}"] if session.began_at else []
    return (
        f"a move waits for session {session.process_id} on {session.node} ({', '.join(facts)}). Wait for its end, or "
        f"end it on that node: SELECT pg_terminate_backend({session.process_id});"
    )
