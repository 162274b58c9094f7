"""Draw the histogram of the latencies that metrics.py measured, with the percentiles that it reports."""

import metrics
from matplotlib.figure import Figure

from lessons import figures

REQUESTS = 1000


def main() -> None:
    measured = metrics.Metrics()
    metrics.simulate(measured, REQUESTS, seed=22)
    name = "request_duration_ms"
    durations = sorted(measured.histograms[name])
    drawing = Figure()
    axes = drawing.subplots()
    axes.hist(durations, bins=range(0, int(durations[-1]) + 10, 10), color=figures.COLOURS[0], alpha=0.75)
    top = axes.get_ylim()[1]
    for percent, colour, place in zip((50, 95, 99), figures.COLOURS[1:], (0.97, 0.85, 0.73), strict=False):
        value = metrics.percentile(durations, percent / 100)
        axes.axvline(value, color=colour, linewidth=2)
        axes.text(value + 4, top * place, f"p{percent}: {value:.0f} ms", color=colour, va="top", fontweight="bold")
    mean = sum(durations) / len(durations)
    axes.set_xlabel(f"latency in milliseconds; the mean of {mean:.0f} ms says nothing about the tail")
    axes.set_ylabel(f"requests of {REQUESTS}")
    axes.set_xlim(left=0)
    figures.save(drawing, __file__, "latency")


if __name__ == "__main__":
    main()
