"""Draws the hit rate over time, for three times to live."""

import os
import time

import redis
from cache_stats import REDIS_URL, lookups, requested
from matplotlib.figure import Figure

from lessons.figures import save

REQUESTS, PAUSE_S, SPAN = 2000, 0.004, 100
TTLS_S = (60, 2, 0.5)


def main() -> None:
    """Run the requests of cache_stats.py, spread over some seconds, once for each time to live."""
    client = redis.Redis.from_url(os.environ.get("REDIS_URL", REDIS_URL), decode_responses=True)
    figure = Figure()
    axes = figure.subplots()
    for ttl_s in TTLS_S:
        started = time.monotonic()
        seen = [
            (time.monotonic() - started, hit) for hit in lookups(client, requested(REQUESTS, seed=1), ttl_s, PAUSE_S)
        ]
        # The part of hits among the last SPAN requests.
        times_s = [seen[index][0] for index in range(SPAN, REQUESTS)]
        rates = [sum(hit for _, hit in seen[index - SPAN : index]) for index in range(SPAN, REQUESTS)]
        axes.plot(times_s, rates, label=f"{ttl_s:g} s", linewidth=1.3)
    axes.set(xlabel="seconds", ylabel=f"hits of the last {SPAN} requests, %", ylim=(0, 101), xlim=(0, None))
    axes.legend(title="time to live")
    save(figure, __file__, "hit-rate")


if __name__ == "__main__":
    main()
