"""Token buckets: how often a client may do something, in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

MAX_CLIENTS = 10_000
"""Buckets that are kept; beyond that, the one that was used longest ago is dropped, and is full when it comes back."""


@dataclass(frozen=True)
class Rate:
    """``burst`` actions at once, and ``per_s`` actions per second on average."""

    burst: int
    per_s: float


class RateLimits:
    """One bucket for each client (any key). A client that does nothing for a while has a full bucket again."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """By client: what was left at a time."""

    def take(self, client: Hashable) -> float:
        """Take one action; return 0 if it is allowed, otherwise after how many seconds the next one is."""
        now = self._clock()
        left, at = self._buckets.pop(client, (float(self._rate.burst), now))
        left = min(self._rate.burst, left + (now - at) * self._rate.per_s)
        is_allowed = left >= 1
        self._buckets[client] = (left - 1 if is_allowed else left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if is_allowed else (1 - left) / self._rate.per_s

    def __len__(self) -> int:
        return len(self._buckets)
