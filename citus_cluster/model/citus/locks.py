"""Lock waits of the whole cluster as a tree, computed from what each node reports about its own sessions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from citus_cluster.model.citus.activity import UNKNOWN, StatementRow, read_session
from citus_cluster.model.citus.registration import RegisteredNode

SessionId = tuple[str, int]
"""The global pid of a session; for a prepared transaction, which has none, its node and 0."""
PREPARED = "prepared transaction"


@dataclass(frozen=True)
class Wait:
    """One session that waits for others; both are the sessions of clients, not those that work for them."""

    waiter: SessionId
    blockers: tuple[SessionId, ...]
    node: str
    lock: str
    seconds: float | None


@dataclass(frozen=True)
class LockRow:
    """One session in the tree of lock waits.

    The rows are in the order of the tree: ``parent`` is the ``position`` of the session that blocks this one, and
    ``depth`` is 0 for a session that waits for nobody. Each session is shown once; ``waits_for`` has the global pids of
    all sessions that it waits for. ``lock`` is what it waits for, on ``waits_on``, for ``seconds``. ``in_cycle``: it
    waits for itself through others, which PostgreSQL and Citus end after a while. ``blocks`` counts the sessions that
    wait directly for it.
    """

    position: int
    depth: int
    parent: int | None
    node: str
    state: str
    blocks: int = 0
    global_pid: int | None = None
    process_id: int | None = None
    role: str | None = None
    application: str | None = None
    lock: str | None = None
    waits_on: str | None = None
    seconds: float | None = None
    waits_for: tuple[int, ...] = ()
    in_cycle: bool = False
    is_own: bool = False
    query: str | None = None
    problem: str | None = None


@dataclass
class Sessions:
    """What the nodes reported: the sessions of clients, and who waits for whom."""

    known: dict[SessionId, StatementRow] = field(default_factory=dict)
    waits: list[Wait] = field(default_factory=list)

    def add(self, node: RegisteredNode, answer: Mapping[str, Any]) -> None:
        """Add a node's answer: its ``sessions``, and its ``waits``."""
        rows = {int(row["pid"]): read_session(node, row) for row in answer["sessions"]}
        for row in rows.values():
            if not row.is_part:
                self.known[_id_of(row)] = row
        for wait in answer["waits"]:
            waiter = rows.get(int(wait["pid"]))
            if waiter is None:
                continue
            blockers = (self._blocker(node, rows, int(pid)) for pid in wait["blockers"])
            found = tuple(dict.fromkeys(one for one in blockers if one != _id_of(waiter)))
            if found:
                self.waits.append(Wait(_id_of(waiter), found, str(node.address), wait["lock"], wait["seconds"]))

    def _blocker(self, node: RegisteredNode, rows: Mapping[int, StatementRow], process_id: int) -> SessionId:
        if process_id in rows:
            return _id_of(rows[process_id])
        if process_id == 0:
            found = (str(node.address), 0)
            self.known.setdefault(found, StatementRow(id="0", node=str(node.address), state=PREPARED))
            return found
        # It has ended since, or is a process that is not listed, such as one of autovacuum.
        row = StatementRow(
            id=f"{node.node_id}-{process_id}", node=str(node.address), state=UNKNOWN, process_id=process_id
        )
        found = (f"{node.address} {process_id}", process_id)
        self.known.setdefault(found, row)
        return found


def _id_of(row: StatementRow) -> SessionId:
    return "", row.global_pid or 0


def build_tree(sessions: Sessions, silent: Mapping[str, str] | None = None) -> tuple[LockRow, ...]:
    """Return the sessions that wait or are waited for, blockers before those that wait for them.

    Each appears once, so cycles and sessions with several blockers cost no more than others. The last rows are the
    ``silent`` nodes, each with its problem.
    """
    blockers: dict[SessionId, dict[SessionId, None]] = defaultdict(dict)
    waiters: dict[SessionId, dict[SessionId, None]] = defaultdict(dict)
    longest: dict[SessionId, Wait] = {}
    for wait in sessions.waits:
        for blocker in wait.blockers:
            blockers[wait.waiter][blocker] = None
            waiters[blocker][wait.waiter] = None
        if wait.waiter not in longest or (wait.seconds or 0) > (longest[wait.waiter].seconds or 0):
            longest[wait.waiter] = wait
    everyone = sorted({*blockers, *waiters})
    # First those that wait for nobody; what is left then is part of a cycle, or waits for one.
    roots = [one for one in everyone if not blockers.get(one)]
    cyclic = _in_cycles(everyone, blockers)
    placed: dict[SessionId, int] = {}
    rows: list[LockRow] = []
    for root in (*roots, *(one for one in everyone if one in cyclic)):
        stack: list[tuple[SessionId, int, int | None]] = [(root, 0, None)]
        while stack:
            one, depth, parent = stack.pop()
            if one in placed:
                continue
            placed[one] = position = len(rows) + 1
            rows.append(_row(sessions, one, position, depth, parent, longest.get(one), blockers, waiters, cyclic))
            stack.extend((waiter, depth + 1, position) for waiter in sorted(waiters.get(one, ()), reverse=True))
    for node, reason in (silent or {}).items():
        rows.append(LockRow(len(rows) + 1, 0, None, node, UNKNOWN, problem=reason))
    return tuple(rows)


def _row(
    sessions: Sessions,
    one: SessionId,
    position: int,
    depth: int,
    parent: int | None,
    wait: Wait | None,
    blockers: Mapping[SessionId, Iterable[SessionId]],
    waiters: Mapping[SessionId, Sequence[SessionId] | dict[SessionId, None]],
    cyclic: frozenset[SessionId],
) -> LockRow:
    known = sessions.known.get(one)
    return LockRow(
        position=position,
        depth=depth,
        parent=parent,
        node=known.node if known else UNKNOWN,
        state=known.state if known else UNKNOWN,
        blocks=len(waiters.get(one, ())),
        global_pid=one[1] if not one[0] else None,
        process_id=known.process_id if known else None,
        role=known.role if known else None,
        application=known.application if known else None,
        lock=wait.lock if wait else None,
        waits_on=wait.node if wait else None,
        seconds=wait.seconds if wait else None,
        waits_for=tuple(number for name, number in blockers.get(one, ()) if not name),
        in_cycle=one in cyclic,
        is_own=known.is_own if known else False,
        query=known.query if known else None,
    )


def _in_cycles(
    everyone: Sequence[SessionId], blockers: Mapping[SessionId, Iterable[SessionId]]
) -> frozenset[SessionId]:
    """Return the sessions that wait for themselves: those of Tarjan's components with more than one member."""
    order: dict[SessionId, int] = {}
    lowest: dict[SessionId, int] = {}
    path: list[SessionId] = []
    on_path: set[SessionId] = set()
    found: set[SessionId] = set()
    for start in everyone:
        if start in order:
            continue
        work = [(start, iter(tuple(blockers.get(start, ()))))]
        order[start] = lowest[start] = len(order)
        path.append(start)
        on_path.add(start)
        while work:
            one, following = work[-1]
            for other in following:
                if other not in order:
                    order[other] = lowest[other] = len(order)
                    path.append(other)
                    on_path.add(other)
                    work.append((other, iter(tuple(blockers.get(other, ())))))
                    break
                if other in on_path:
                    lowest[one] = min(lowest[one], order[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[one])
                if lowest[one] == order[one]:
                    component: list[SessionId] = []
                    while not component or component[-1] != one:
                        component.append(path.pop())
                        on_path.discard(component[-1])
                    found.update(component if len(component) > 1 else ())
    return frozenset(found)
