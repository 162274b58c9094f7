"""Draws throughput and mean latency of both servers against the number of clients."""

import itertools

from compare_servers import CLIENTS, measure_all
from matplotlib.figure import Figure

from lessons.figures import save

WORK_MS = 10


def main() -> None:
    """Measure both servers as compare_servers.py does, and draw."""
    figure = Figure()
    throughput, latency = figure.subplots(1, 2)
    for script, rows in itertools.groupby(measure_all(400, WORK_MS), key=lambda row: row[0]):
        _, clients, rates, means_ms = zip(*rows, strict=True)
        throughput.plot(clients, rates, marker="o", label=script)
        latency.plot(clients, means_ms, marker="o", label=script)
    throughput.set(title="Throughput", ylabel="requests per second", ylim=(0, None))
    latency.set(title="Mean latency", ylabel="ms", ylim=(0, None))
    for axes in (throughput, latency):
        axes.set(xlabel="clients", xticks=CLIENTS)
    throughput.legend()
    figure.suptitle(f"Each request takes {WORK_MS} ms")
    save(figure, __file__, "throughput")


if __name__ == "__main__":
    main()
