"""Which nodes answer now: several are asked at once, so that the silent ones do not add up."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from citus_cluster.errors import CitusClusterError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.companion_status import timed_out
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.postgres import Connection

AT_ONCE = 4
"""Sessions on the coordinator that ask nodes at the same time."""
FIRST_S = 1.0
"""A node that answers needs milliseconds, so silent nodes are sorted out first."""
BUDGET_S = 4.5
LIFE_S = 1.0
"""How long views use a result: a page asks several of them, each second, and a silent node takes them seconds."""
_LEAST_S = 0.3
_OPENING_S = 0.5
_ALONE_S = 0.1
"""Nodes that all answer need no second session."""

Ask = Callable[[Connection, RegisteredNode], Awaitable[None]]


class Liveness:
    """Which nodes do not answer, for views: those that ask at the same time, or soon after, share one result.

    Changes do not use it: they call :func:`silence`, because what answered a second ago may not answer now.
    """

    def __init__(self) -> None:
        self._asked: dict[float, _Asked] = {}

    async def silence(
        self,
        on_coordinator: OnCoordinator,
        nodes: Iterable[RegisteredNode],
        *,
        budget_s: float = BUDGET_S,
        max_age_s: float = LIFE_S,
    ) -> Mapping[NodeAddress, str]:
        """Return the active nodes that do not answer, at most ``max_age_s`` ago. Raises what ``on_coordinator`` does.

        The caller holds no connection meanwhile, so that there are sessions with which to ask several nodes at once.
        """
        active = tuple(node for node in nodes if node.is_active)
        asked = self._asked.get(budget_s)
        if asked is None or not asked.serves(active, max_age_s):
            asked = _Asked(active, asyncio.create_task(self._ask(on_coordinator, active, budget_s)))
            # Marks an error as retrieved, in case no request waits any more.
            asked.task.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._asked[budget_s] = asked
        # A request that ends must not cancel the question for the others.
        return await asyncio.shield(asked.task)

    async def _ask(
        self, on_coordinator: OnCoordinator, nodes: Sequence[RegisteredNode], budget_s: float
    ) -> Mapping[NodeAddress, str]:
        async def work(conn: Connection) -> Mapping[NodeAddress, str]:
            return await silence(on_coordinator, conn, nodes, budget_s=budget_s)

        try:
            return await on_coordinator(work)
        finally:
            asked = self._asked[budget_s]
            if asked.task is asyncio.current_task():
                asked.ended_at = asyncio.get_running_loop().time()


@dataclass
class _Asked:
    """One question to all nodes. ``ended_at`` is the event loop's time of its answer."""

    nodes: tuple[RegisteredNode, ...]
    task: asyncio.Task[Mapping[NodeAddress, str]]
    ended_at: float | None = None

    def serves(self, nodes: tuple[RegisteredNode, ...], max_age_s: float) -> bool:
        if self.nodes != nodes:
            return False
        if self.task.done() and (self.task.cancelled() or self.task.exception() is not None):
            return False
        return self.ended_at is None or asyncio.get_running_loop().time() < self.ended_at + max_age_s


async def silence(
    on_coordinator: OnCoordinator, conn: Connection, nodes: Iterable[RegisteredNode], *, budget_s: float = BUDGET_S
) -> Mapping[NodeAddress, str]:
    """Return the active nodes that do not answer now, one line with the reason for each, within about ``budget_s``.

    Each node has a second to answer. Those that did not are asked once more, with the rest of the time. ``conn`` asks
    too, and ``on_coordinator`` opens more sessions; without a free one, ``conn`` asks all nodes.
    """
    deadline = time.monotonic() + budget_s
    found: dict[NodeAddress, str] = {}

    async def ask(session: Connection, node: RegisteredNode) -> None:
        left_s = deadline - time.monotonic()
        if node.address in found and left_s < _LEAST_S:
            return
        try:
            await citus_probe.ask_node(
                session, node, "SELECT to_json(1)", timeout_s=left_s if node.address in found else FIRST_S
            )
        except citus_probe.ProbeUnavailableError:
            pass
        except UnreachableError as error:
            if session.closed:
                raise
            found[node.address] = error.message
            return
        found.pop(node.address, None)

    active = [node for node in nodes if node.is_active]
    await share(on_coordinator, conn, active, ask)
    await share(on_coordinator, conn, [node for node in active if timed_out(found.get(node.address, ""))], ask)
    return found


async def share(on_coordinator: OnCoordinator, conn: Connection, nodes: Sequence[RegisteredNode], ask: Ask) -> None:
    """Ask every node once, several at the same time. Raises what ``ask`` raises on ``conn``."""
    left = deque(nodes)
    working: set[asyncio.Task[None]] = set()
    resting: set[asyncio.Task[None] | None] = set()

    async def work(session: Connection) -> None:
        while left:
            node = left.popleft()
            try:
                await ask(session, node)
            except BaseException:
                left.appendleft(node)
                raise

    async def help_out() -> None:
        task = asyncio.current_task()
        resting.add(task)
        await asyncio.sleep(_ALONE_S)
        resting.discard(task)

        async def working_on(session: Connection) -> None:
            task = asyncio.current_task()
            if task and left:
                working.add(task)
                await work(session)

        # Without a free session, or if it breaks, the first one asks what is left.
        with suppress(CitusClusterError, psycopg.Error, TimeoutError):
            await on_coordinator(working_on)

    helpers = [asyncio.create_task(help_out()) for _ in range(min(AT_ONCE, len(nodes)) - 1)]
    try:
        await work(conn)
        if working:
            await asyncio.wait(working)
        await work(conn)
        # One that is just opening its session finds nothing to do; cancelled now, it could leave the session open.
        if opening := [helper for helper in helpers if helper not in resting and not helper.done()]:
            await asyncio.wait(opening, timeout=_OPENING_S)
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
