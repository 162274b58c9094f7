"""An answer that many share: asked once at a time, and good for its life."""

import asyncio

import pytest

from admin_api.recent import Recent


class Question:
    """Answers with the number of the question, once it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> int:
        self.asked += 1
        self.begun.set()
        number = self.asked
        await self.may_answer.wait()
        if number == 13:
            raise ValueError
        return number


def test_all_who_ask_at_the_same_time_share_one_question() -> None:
    async def scenario() -> None:
        question = Question()
        question.may_answer.clear()
        recent = Recent(question, lambda answer: 0)
        asking = [asyncio.create_task(recent.answer()) for _ in range(1000)]
        await asyncio.sleep(0)
        asking[0].cancel()
        await asyncio.sleep(0)
        question.may_answer.set()
        assert await asyncio.gather(*asking[1:]) == [1] * 999
        assert question.asked == 1

    asyncio.run(scenario())


def test_an_answer_is_good_for_its_life() -> None:
    async def scenario() -> None:
        for_ever, for_nothing = Question(), Question()
        lasting, passing = Recent(for_ever, lambda answer: 3600), Recent(for_nothing, lambda answer: 0)
        assert [await lasting.answer() for _ in range(3)] == [1, 1, 1]
        assert [await passing.answer() for _ in range(3)] == [1, 2, 3]

    asyncio.run(scenario())


def test_an_error_is_that_of_those_who_asked_and_the_next_question_is_asked() -> None:
    async def scenario() -> None:
        question = Question()
        question.asked = 12
        recent = Recent(question, lambda answer: 3600)
        answers = await asyncio.gather(recent.answer(), recent.answer(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ValueError, ValueError]
        assert await recent.answer() == 14

    asyncio.run(scenario())


def test_a_question_that_was_cancelled_is_asked_anew() -> None:
    async def scenario() -> None:
        question = Question()
        question.may_answer.clear()
        recent = Recent(question, lambda answer: 3600)
        question.begun.clear()
        waiting = asyncio.create_task(recent.answer())
        await question.begun.wait()
        for task in asyncio.all_tasks() - {waiting, asyncio.current_task()}:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        question.may_answer.set()
        assert await recent.answer() == 2

    asyncio.run(scenario())
