"""Views that take longer than a page waits for them: the page shows their last answer meanwhile."""

import asyncio

import virtual_time

from admin_api.pages.beside import KEPT_S, Beside


class Slow:
    """A view whose answer, the number of the read, takes some seconds."""

    def __init__(self) -> None:
        self.takes_s = 4.0
        self.fails = False
        self.reads = 0

    async def __call__(self, name: str) -> str | None:
        self.reads += 1
        number = self.reads
        await asyncio.sleep(self.takes_s)
        return None if self.fails else f"{name} {number}"


async def look(beside: Beside, view: Slow) -> object:
    beside.begin(["drift"], view)
    return (await beside.values()).get("drift")


def test_a_slow_answer_is_shown_until_the_next_one_arrives() -> None:
    async def body() -> None:
        beside, view = Beside(), Slow()
        seen = []
        for _ in range(10):
            seen.append(await look(beside, view))
            await asyncio.sleep(0.5)
        # One read at a time, and no gap between two answers.
        assert seen == [None] * 4 + ["drift 1"] * 4 + ["drift 2"] * 2
        assert view.reads == 3

    virtual_time.run(body())


def test_a_fast_answer_is_that_of_this_page() -> None:
    async def body() -> None:
        beside, view = Beside(), Slow()
        view.takes_s = 0.1
        assert [await look(beside, view) for _ in range(3)] == ["drift 1", "drift 2", "drift 3"]

    virtual_time.run(body())


def test_an_old_answer_is_not_shown_for_ever() -> None:
    async def body() -> None:
        beside, view = Beside(), Slow()
        view.takes_s = 0.1
        assert await look(beside, view) == "drift 1"
        view.fails = True
        assert await look(beside, view) == "drift 1"
        await asyncio.sleep(KEPT_S)
        assert await look(beside, view) is None

    virtual_time.run(body())
