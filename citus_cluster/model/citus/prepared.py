"""Prepared transactions that are left over: whose they are, and whether their coordinator has committed them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from citus_cluster.model.citus.activity import read_time
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode

# remote_transaction.c: citus_<group of the node that began it>_<its process>_<number of the transaction>_<connection>
_GID = re.compile(r"citus_(\d+)_(\d+)_(\d+)_(\d+)")


class Decision(StrEnum):
    """What becomes of a prepared transaction."""

    COMMIT = "commit"
    """The node that began it has committed it (``pg_dist_transaction``)."""
    ROLLBACK = "rollback"
    """The node that began it has not committed it, and is no longer working on it."""
    RUNNING = "running"
    """The transaction is still running."""
    UNKNOWN = "unknown"
    """The node that began it does not answer, or is not in the node list."""
    FOREIGN = "foreign"
    """It does not belong to Citus: its application decides."""


@dataclass(frozen=True)
class Prepared:
    """One prepared transaction of a node."""

    node: RegisteredNode
    gid: str
    owner: str
    prepared_at: datetime
    seconds: float

    @property
    def initiator(self) -> int | None:
        """The group of the node that began it; None if it is not of Citus."""
        found = _GID.fullmatch(self.gid)
        return int(found[1]) if found else None

    @property
    def number(self) -> int:
        """The number of the transaction on the node that began it."""
        found = _GID.fullmatch(self.gid)
        return int(found[3]) if found else 0


@dataclass(frozen=True)
class Initiator:
    """What the node that began transactions knows: which are running, and which it has committed, by group and gid.

    It must have been asked after the prepared transactions were read: one that is running then was running before, and
    one that is not has its record, if it was committed.
    """

    address: NodeAddress
    running: frozenset[int]
    committed: frozenset[tuple[int, str]]

    @classmethod
    def from_json(cls, address: NodeAddress, answer: Mapping[str, Any]) -> "Initiator":
        committed = frozenset((int(group), str(gid)) for group, gid in answer["committed"])
        return cls(address, frozenset(map(int, answer["running"])), committed)


@dataclass(frozen=True)
class PreparedRow:
    """One prepared transaction, which holds its locks until it ends.

    ``initiator`` is the node that began it. A node that does not answer has one row, with ``problem``.
    """

    id: str
    node: str
    gid: str | None = None
    owner: str | None = None
    prepared_at: datetime | None = None
    seconds: float | None = None
    initiator: str | None = None
    decision: Decision = Decision.UNKNOWN
    problem: str | None = None


def read_prepared(node: RegisteredNode, rows: Iterable[Mapping[str, Any]]) -> Iterable[Prepared]:
    """Read a node's answer (:mod:`citus_cluster.runtime.citus.consistency`)."""
    for row in rows:
        at = read_time(row["prepared_at"])
        assert at is not None  # noqa: S101 - a column that is never null
        yield Prepared(node, row["gid"], row["owner"], at, float(row["seconds"]))


def decide(
    found: Sequence[Prepared], initiators: Mapping[int, Initiator], silent: Mapping[NodeAddress, str]
) -> tuple[PreparedRow, ...]:
    """Return what becomes of each prepared transaction, by the rule of Citus (``RecoverWorkerTransactions``).

    ``initiators`` are keyed by group; those that did not answer are missing.
    """
    rows = [
        PreparedRow(
            id=f"{one.node.address}/{one.gid}",
            node=str(one.node.address),
            gid=one.gid,
            owner=one.owner,
            prepared_at=one.prepared_at,
            seconds=one.seconds,
            initiator=_name(one, initiators),
            decision=_decision(one, initiators),
        )
        for one in found
    ]
    rows += [PreparedRow(id=str(node), node=str(node), problem=reason) for node, reason in silent.items()]
    return tuple(rows)


def _decision(one: Prepared, initiators: Mapping[int, Initiator]) -> Decision:
    if one.initiator is None:
        return Decision.FOREIGN
    initiator = initiators.get(one.initiator)
    if initiator is None:
        return Decision.UNKNOWN
    if one.number in initiator.running:
        return Decision.RUNNING
    if (one.node.group_id, one.gid) in initiator.committed:
        return Decision.COMMIT
    return Decision.ROLLBACK


def _name(one: Prepared, initiators: Mapping[int, Initiator]) -> str | None:
    initiator = None if one.initiator is None else initiators.get(one.initiator)
    return str(initiator.address) if initiator else None
