"""Asking several nodes at once, also when no further session is free or one breaks."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import virtual_time

from citus_cluster.errors import UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.operations.nodes.liveness import AT_ONCE, share
from citus_cluster.runtime.postgres import Connection

NODES = [RegisteredNode(n, n, NodeAddress(f"citus-worker{n}"), True, "primary", True) for n in range(1, 9)]
HERE = cast("Connection", "here")
Work = Callable[[Connection], Awaitable[Any]]


class Asked:
    """Remembers who asked which node; each question takes four seconds."""

    def __init__(self) -> None:
        self.by: list[tuple[object, int]] = []

    async def __call__(self, session: Connection, node: RegisteredNode) -> None:
        await asyncio.sleep(4)
        self.by.append((session, node.node_id))


def ask_all(on_coordinator: Callable[[Work], Awaitable[Any]], ask: Any) -> float:
    async def body() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await share(cast("Any", on_coordinator), HERE, NODES, ask)
        return loop.time() - started

    return virtual_time.run(body())


def test_nodes_are_shared_among_a_few_sessions() -> None:
    opened = 0

    async def on_coordinator(work: Work) -> Any:
        nonlocal opened
        opened += 1
        return await work(cast("Connection", f"session {opened}"))

    asked = Asked()
    assert ask_all(on_coordinator, asked) == pytest.approx(4 * len(NODES) / AT_ONCE, abs=0.5)
    assert sorted(node_id for _, node_id in asked.by) == [node.node_id for node in NODES]
    assert opened == AT_ONCE - 1


def test_without_a_free_session_the_first_one_asks_all() -> None:
    async def never(work: Work) -> Any:
        await asyncio.Event().wait()

    async def refuse(work: Work) -> Any:
        raise UnreachableError

    for on_coordinator in (never, refuse):
        asked = Asked()
        ask_all(on_coordinator, asked)
        assert [session for session, _ in asked.by] == [HERE] * len(NODES)


def test_a_session_that_breaks_leaves_its_node_to_another() -> None:
    async def on_coordinator(work: Work) -> Any:
        return await work(cast("Connection", "broken"))

    asked = Asked()

    async def ask(session: Connection, node: RegisteredNode) -> None:
        if session != HERE:
            raise UnreachableError
        await asked(session, node)

    ask_all(on_coordinator, ask)
    assert sorted(node_id for _, node_id in asked.by) == [node.node_id for node in NODES]


def test_what_breaks_the_first_session_is_raised() -> None:
    async def on_coordinator(work: Work) -> Any:
        await asyncio.Event().wait()

    async def ask(session: Connection, node: RegisteredNode) -> None:
        raise UnreachableError

    with pytest.raises(UnreachableError):
        ask_all(on_coordinator, ask)
