"""Asking all shards: bounded, in waves, and with some that do not answer."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from consistent_hashing.bounded import within
from consistent_hashing.scatter import Answers, Scatter
from service_kit.unavailable import UnavailableError

SHARDS = [f"shard_{number}" for number in range(12)]


def test_only_so_many_are_asked_at_once_by_all_requests_together() -> None:
    running = most = 0

    async def ask(shard: str) -> Sequence[str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        return [shard]

    async def run() -> tuple[Answers[str], Answers[str]]:
        scatter = Scatter(concurrency=3)
        return await asyncio.gather(scatter.gather([SHARDS], ask), scatter.gather([SHARDS], ask))

    for answers in asyncio.run(run()):
        assert answers.complete
        assert answers.of_shards == {shard: [shard] for shard in SHARDS}
    assert most == 3


def test_a_wave_is_asked_when_the_one_before_has_answered() -> None:
    events: list[str] = []

    async def ask(shard: str) -> Sequence[str]:
        events.append(f"ask {shard}")
        await asyncio.sleep(0)
        events.append(f"answer {shard}")
        return []

    asyncio.run(Scatter().gather([("old",), ("new",)], ask))
    assert events == ["ask old", "answer old", "ask new", "answer new"]


def test_shards_that_fail_are_named_and_the_others_answer() -> None:
    async def ask(shard: str) -> Sequence[str]:
        match shard:
            case "away":
                raise UnavailableError("Shard away does not answer.")
            case "lost":
                raise psycopg.OperationalError("server closed the connection")
            case "slow":
                await asyncio.sleep(60)
        return [shard]

    answers = asyncio.run(Scatter(shard_timeout_s=0.05).gather([("good", "away", "lost", "slow")], ask))
    assert answers.of_shards == {"good": ["good"]}
    assert answers.failed == {
        "away": "Shard away does not answer.",
        "lost": "lost the connection",
        "slow": "did not answer within 0.05 s",
    }
    assert not answers.complete
    with pytest.raises(UnavailableError):
        asyncio.run(Scatter(shard_timeout_s=0.05).gather([("away", "slow")], ask))


def test_a_defect_is_not_taken_for_a_failed_shard() -> None:
    async def ask(shard: str) -> Sequence[str]:
        raise KeyError(shard)

    with pytest.raises(KeyError):
        asyncio.run(Scatter().gather([("shard_1",)], ask))


def test_what_cannot_be_cancelled_is_left_behind() -> None:
    async def stubborn(ended: asyncio.Event) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            for _ in range(100):
                await asyncio.sleep(0)
            ended.set()
            raise

    async def run() -> None:
        ended = asyncio.Event()
        with pytest.raises(TimeoutError):
            await within(0.01, stubborn(ended))
        assert not ended.is_set()
        await ended.wait()

    asyncio.run(run())
