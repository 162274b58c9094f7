"""Count and measure 1,000 simulated requests from ten threads, and report percentiles."""

import argparse
import json
import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor


def percentile(ordered: list[float], part: float) -> float:
    """The value that a part of all values is below: index int(part * n) of the sorted list."""
    return ordered[int(part * len(ordered))]


class Metrics:
    """Counters only grow, gauges go up and down, histograms keep every value. Threads may share it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counters: dict[str, int] = defaultdict(int)
        self.gauges: dict[str, float] = {}
        self.histograms: dict[str, list[float]] = defaultdict(list)

    def increment(self, name: str, by: int = 1) -> None:
        with self.lock:  # reading, adding and storing are three steps: without the lock, threads lose counts
            self.counters[name] += by

    def set(self, name: str, value: float) -> None:
        with self.lock:
            self.gauges[name] = value

    def observe(self, name: str, value: float) -> None:
        with self.lock:
            self.histograms[name].append(value)

    def report(self) -> dict[str, dict[str, object]]:
        with self.lock:
            ordered = {name: sorted(values) for name, values in self.histograms.items()}
            summary = {
                name: {"count": len(one), **{f"p{p}": round(percentile(one, p / 100), 1) for p in (50, 95, 99)}}
                for name, one in ordered.items()
            }
            return {"counters": dict(self.counters), "gauges": dict(self.gauges), "histograms": dict(summary)}


def simulate(metrics: Metrics, requests: int, seed: int | None) -> None:
    dice = random.Random(seed)
    answers = [(dice.expovariate(1 / 50), dice.random() < 0.02) for _ in range(requests)]

    def request(answer: tuple[float, bool]) -> None:
        duration_ms, failed = answer
        metrics.increment("requests_total")
        metrics.increment("errors_total", int(failed))
        metrics.observe("request_duration_ms", duration_ms)

    with ThreadPoolExecutor(10) as threads:
        list(threads.map(request, answers))
    metrics.set("active_connections", 47)
    metrics.set("queue_depth", 12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="any number: the same requests again")
    options = parser.parse_args()
    metrics = Metrics()
    simulate(metrics, options.requests, options.seed)
    print(json.dumps(metrics.report(), indent=2))


if __name__ == "__main__":
    main()
