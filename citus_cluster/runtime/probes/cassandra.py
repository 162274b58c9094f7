"""The status of Cassandra: whether CQL answers, the nodes of the ring, and the output of nodetool.

All code for its protocol is here. The driver blocks, so it runs in a thread; it is loaded at the first call, because it
costs 80 ms and 10 MB.
"""

import asyncio
import re
import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components.cassandra import OPTIONS
from citus_cluster.model.components.cassandra import USER as CASSANDRA_USER
from citus_cluster.model.documents import Documented
from citus_cluster.runtime.cassandra import cluster_at
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.ports import answers
from citus_cluster.runtime.probes import Doubt

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session

_NODETOOL_TIMEOUT_S = 20.0
_NODETOOL_LINE = re.compile(
    r"^(?P<status>[UD])(?P<state>[NLJM])\s+(?P<address>\S+)\s+(?P<load>\?|[\d.]+ \S+)\s+(?P<tokens>\d+)\s+"
    r"(?P<owns>\?|[\d.]+%)\s+(?P<id>[0-9a-f-]{36})\s+(?P<rack>\S+)\s*$",
    re.MULTILINE,
)
_STATES = {"N": "normal", "L": "leaving", "J": "joining", "M": "moving"}


@dataclass(frozen=True)
class RingNode(Documented):
    """One line of ``nodetool status``; ``load`` and ``owns`` as it writes them."""

    address: str
    up: bool
    state: str
    load: str
    owns: str
    rack: str


class CassandraProbe:
    """The ring. CQL accepts passwords only in cleartext, so the listener of each node is checked before each call."""

    def __init__(self, target: Target, password: str, doubt: Doubt) -> None:
        self._addresses = tuple(target.addresses.values())
        self._client = CassandraClient(self._addresses, password)
        self._doubt = doubt

    async def ask(self, timeout_s: float) -> CompanionStatus:
        doubts = {address: await self._doubt(address) for address in self._addresses}
        if all(doubts.values()):
            return _down(next(iter(doubts.values())) or "")
        return await self._client.ask(timeout_s, not_ours={address for address in doubts if doubts[address]})

    async def close(self) -> None:
        await self._client.close()


class CassandraClient:
    """The ring, by the addresses of its nodes. It connects at the first call, and keeps one connection."""

    def __init__(self, addresses: Sequence[NodeAddress], password: str) -> None:
        self._addresses = tuple(addresses)
        self._password = password
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        # One call at a time, even if the one before has exceeded its time limit.
        self._turn = threading.Lock()
        self._closed = False

    async def ask(self, timeout_s: float, not_ours: Set[NodeAddress] = frozenset()) -> CompanionStatus:
        """Ask every node whether CQL answers, and log in to one. Never raises because a node is down; ends in time.

        A listener at an address of ``not_ours`` is no node, and is ignored.
        """
        answering = await asyncio.gather(
            *(in_thread(answers, one.host, one.port, OPTIONS, timeout_s=timeout_s / 3) for one in self._addresses)
        )
        found = zip(self._addresses, answering, strict=True)
        up = [address for address, ok in found if ok and address not in not_ours]
        silent = [str(address) for address in self._addresses if address not in up]
        if not up:
            return _down(f"CQL does not answer on {', '.join(silent)}")
        try:
            async with asyncio.timeout(timeout_s):
                facts = await asyncio.to_thread(self._facts, up, timeout_s / 2)
        except TimeoutError:
            return _down(_late(up[0], timeout_s))
        if isinstance(facts, str):
            return _down(facts)
        nodes = [{"address": str(address), "answers": address in up} for address in self._addresses]
        figures = {**facts, "nodes": nodes}
        summary = (
            f"{facts['version']}; {len(up)} of {len(nodes)} {'nodes answer' if len(nodes) > 1 else 'node answers'}"
        )
        if silent:
            reason = f"CQL does not answer on {', '.join(silent)}"
            return CompanionStatus(ComponentName.CASSANDRA, Condition.DEGRADED, reason, figures, summary)
        return CompanionStatus(ComponentName.CASSANDRA, Condition.OK, None, figures, summary)

    async def close(self) -> None:
        await asyncio.to_thread(self._end)

    def _facts(self, up: Sequence[NodeAddress], timeout_s: float) -> Mapping[str, Any] | str:
        """Return a node's data about itself, or why it does not answer. Blocks."""
        from cassandra import DriverException, OperationTimedOut
        from cassandra.cluster import NoHostAvailable

        if not self._turn.acquire(timeout=timeout_s):
            return "an earlier query has not been answered yet"
        try:
            for attempt in (1, 2):
                if self._closed:
                    return "the query was cancelled"
                fresh = self._session is None
                try:
                    row = self._connect(up[0], timeout_s).execute(_FACTS, timeout=timeout_s).one()
                except NoHostAvailable as error:
                    self._disconnect()
                    # The kept connection may be to a node that has been restarted since.
                    if fresh or attempt == 2:
                        return _refusal(up[0], error, timeout_s)
                except OperationTimedOut:
                    self._disconnect()
                    return _late(up[0], timeout_s)
                except (DriverException, OSError) as error:
                    self._disconnect()
                    return f"{up[0]}: {_first_line(error)}"
                except BaseException:
                    self._disconnect()  # no error leaves a connection open
                    raise
                else:
                    return {"version": row[0], "cluster_name": row[1], "data_center": row[2]}
            return "unreachable"
        finally:
            self._turn.release()

    def _connect(self, address: NodeAddress, timeout_s: float) -> "Session":
        if self._session is None:
            self._cluster = cluster_at(address, CASSANDRA_USER, self._password, timeout_s)
            self._session = self._cluster.connect()
        return self._session

    def _end(self) -> None:
        """Close permanently; a running call closes its own connection."""
        self._closed = True
        with self._turn:
            self._disconnect()

    def _disconnect(self) -> None:
        cluster, self._cluster, self._session = self._cluster, None, None
        if cluster is not None:
            with suppress(Exception):
                cluster.shutdown()


_FACTS = "SELECT release_version, cluster_name, data_center FROM system.local"


def nodetool_status(engine: Engine, container: Container) -> tuple[RingNode, ...]:
    """Run ``nodetool status`` in a node's container; blocks for some seconds. Raises CitusClusterError."""
    done = engine.execute(container, ["nodetool", "status"], timeout_s=_NODETOOL_TIMEOUT_S)
    if not done.ok:
        said = (done.output.splitlines() or ["it printed nothing"])[-1]
        raise CitusClusterError(f"nodetool status in {container.name} failed: {said}")
    return parse_ring(done.output)


def parse_ring(text: str) -> tuple[RingNode, ...]:
    """Read the output of ``nodetool status``; empty for other output."""
    return tuple(
        RingNode(
            address=found["address"],
            up=found["status"] == "U",
            state=_STATES[found["state"]],
            load=found["load"],
            owns=found["owns"],
            rack=found["rack"],
        )
        for found in _NODETOOL_LINE.finditer(text)
    )


def _late(address: NodeAddress, timeout_s: float) -> str:
    return f"CQL answers on {address}, but a query did not end within {timeout_s:g} s"


def _refusal(address: NodeAddress, error: Any, timeout_s: float) -> str:
    from cassandra import AuthenticationFailed, OperationTimedOut

    causes = list(error.errors.values()) if isinstance(error.errors, dict) else []
    if any(isinstance(cause, AuthenticationFailed) for cause in causes):
        return f"{address} refuses the password of role {CASSANDRA_USER}"
    if any(isinstance(cause, OperationTimedOut) for cause in causes):
        return _late(address, timeout_s)
    return f"{address}: {_first_line(causes[0] if causes else error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _down(reason: str) -> CompanionStatus:
    return CompanionStatus(ComponentName.CASSANDRA, Condition.DOWN, reason, {})
