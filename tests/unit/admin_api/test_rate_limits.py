"""Token buckets on a clock that the test sets."""

import pytest

from admin_api import rate_limits
from admin_api.rate_limits import Rate, RateLimits


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_then_the_rate_holds() -> None:
    clock = Clock()
    limits = RateLimits(Rate(burst=3, per_s=0.5), clock)
    assert [limits.take("a") for _ in range(4)] == [0, 0, 0, 2]
    clock.now += 1.5
    assert limits.take("a") == 0.5
    clock.now += 0.5
    assert [limits.take("a"), limits.take("a")] == [0, 2]
    clock.now += 1000
    assert [limits.take("a") for _ in range(4)] == [0, 0, 0, 2]


def test_each_client_has_its_own_bucket() -> None:
    limits = RateLimits(Rate(burst=1, per_s=1), Clock())
    assert [limits.take("a"), limits.take("b"), limits.take("a"), limits.take(None)] == [0, 0, 1, 0]


def test_the_memory_is_bounded_and_the_longest_unused_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_CLIENTS", 3)
    limits = RateLimits(Rate(burst=1, per_s=0.001), Clock())
    for client in "abc":
        limits.take(client)
    assert limits.take("a") > 0
    limits.take("d")
    assert len(limits) == 3
    assert limits.take("a") > 0
    assert limits.take("b") == 0
