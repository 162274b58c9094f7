"""Asking several nodes at once, also when no further session is free or one breaks, and sharing what was found."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, cast

import pytest
import virtual_time

from citus_cluster.errors import UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.operations import liveness
from citus_cluster.operations.liveness import AT_ONCE, LIFE_S, Liveness, share
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


class Questions:
    """Stands for asking the nodes: counts the questions, each of which takes two seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.failure: Exception | None = None
        monkeypatch.setattr(liveness, "silence", self._answer)

    async def _answer(
        self, _: object, __: object, nodes: Iterable[RegisteredNode], **___: float
    ) -> Mapping[NodeAddress, str]:
        self.count += 1
        number = self.count
        await asyncio.sleep(2)
        if self.failure:
            raise self.failure
        return {node.address: f"answer {number}" for node in nodes}


async def on_here(work: Work) -> Any:
    return await work(HERE)


async def ask_once(shared: Liveness, nodes: Iterable[RegisteredNode] = NODES, **options: float) -> set[str]:
    return set((await shared.silence(cast("Any", on_here), nodes, **options)).values())


def test_views_share_a_result_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    questions, shared = Questions(monkeypatch), Liveness()

    async def body() -> None:
        at_once = await asyncio.gather(*(ask_once(shared) for _ in range(5)))
        assert at_once == [{"answer 1"}] * 5
        await asyncio.sleep(LIFE_S * 0.9)
        assert await ask_once(shared) == {"answer 1"}
        await asyncio.sleep(LIFE_S * 0.2)
        assert await ask_once(shared) == {"answer 2"}
        # Other nodes, or less patience, are another question.
        assert await ask_once(shared, NODES[:2]) == {"answer 3"}
        assert await ask_once(shared, NODES[:2], budget_s=1.0) == {"answer 4"}
        assert await ask_once(shared, NODES[:2], max_age_s=0) == {"answer 5"}

    virtual_time.run(body())
    assert questions.count == 5


def test_a_view_that_is_cancelled_leaves_the_answer_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    Questions(monkeypatch)
    shared = Liveness()

    async def body() -> set[str]:
        first = asyncio.create_task(ask_once(shared))
        second = asyncio.create_task(ask_once(shared))
        await asyncio.sleep(1)
        first.cancel()
        return await second

    assert virtual_time.run(body()) == {"answer 1"}


def test_a_failure_reaches_all_that_wait_and_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    questions, shared = Questions(monkeypatch), Liveness()

    async def body() -> None:
        questions.failure = UnreachableError()
        failures = await asyncio.gather(ask_once(shared), ask_once(shared), return_exceptions=True)
        assert [type(one) for one in failures] == [UnreachableError] * 2
        questions.failure = None
        assert await ask_once(shared) == {"answer 2"}

    virtual_time.run(body())
