"""The clock of tests that wait for nothing."""

import asyncio
import threading
import time

import virtual_time


def test_a_wait_takes_no_time() -> None:
    async def wait() -> float:
        began = time.monotonic()
        await asyncio.sleep(3600)
        return time.monotonic() - began

    began = time.monotonic()
    assert virtual_time.run(wait()) >= 3600
    assert time.monotonic() - began < 5


def test_the_clock_of_other_threads_is_the_real_one() -> None:
    seen: list[float] = []

    async def look() -> None:
        await asyncio.sleep(3600)
        other = threading.Thread(target=lambda: seen.append(time.monotonic()))
        other.start()
        other.join()

    before = time.monotonic()
    virtual_time.run(look())
    assert before <= seen[0] <= time.monotonic()
