"""One look at a project's containers serves all who ask; the engine is a double that counts."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from citus_cluster.errors import EngineUnavailableError
from citus_cluster.runtime.docker.project import Project


class CountingEngine:
    """Fails as often as ``failures`` says, then gives the number of the look."""

    def __init__(self, *failures: str) -> None:
        self.connected = 0
        self.looked = 0
        self._failures = list(failures)

    def connect(self) -> Any:
        self.connected += 1
        return self

    def project_containers(self, project: str) -> Any:
        assert project == "shop"
        self.looked += 1
        if self._failures:
            raise EngineUnavailableError(self._failures.pop(0))
        return (self.looked,)


def ask(engine: CountingEngine, question: Callable[[Project], Any]) -> Any:
    async def run() -> Any:
        return await question(Project("shop", connect=engine.connect))

    return asyncio.run(run())


def test_all_who_ask_share_one_look() -> None:
    engine = CountingEngine()

    async def question(project: Project) -> list[Any]:
        answers = await asyncio.gather(*(project.look(max_age_s=0) for _ in range(5)))
        return [*answers, await project.look()]

    assert ask(engine, question) == [(engine, (1,))] * 6
    assert (engine.connected, engine.looked) == (1, 1)


def test_who_must_look_again_does_by_the_same_engine() -> None:
    engine = CountingEngine()

    async def question(project: Project) -> list[Any]:
        return [(await project.look(max_age_s=age_s))[1] for age_s in (60, 60, -1, 60)]

    assert ask(engine, question) == [(1,), (1,), (2,), (2,)]
    assert (engine.connected, engine.looked) == (1, 2)


def test_one_that_is_open_already_is_used() -> None:
    engine = CountingEngine()
    asyncio.run(Project("shop", engine.connect()).look())
    assert (engine.connected, engine.looked) == (1, 1)


def test_an_engine_that_is_late_is_asked_twice() -> None:
    engine = CountingEngine("The Docker engine does not answer.")
    assert ask(engine, lambda project: project.look()) == (engine, (2,))


def test_a_failure_is_told_to_all_who_waited_and_not_kept() -> None:
    engine = CountingEngine("There is no engine.")

    async def question(project: Project) -> Any:
        failed = await asyncio.gather(*(project.look() for _ in range(3)), return_exceptions=True)
        return [str(one) for one in failed], await project.look()

    assert ask(engine, question) == (["There is no engine."] * 3, (engine, (2,)))


def test_who_gives_up_leaves_the_look_to_the_others() -> None:
    engine = CountingEngine()

    async def question(project: Project) -> Any:
        impatient = asyncio.create_task(project.look())
        await asyncio.sleep(0)
        patient = asyncio.create_task(project.look())
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        return await patient

    assert ask(engine, question) == (engine, (1,))
    assert engine.looked == 1
