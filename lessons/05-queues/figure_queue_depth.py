"""Draw how the queue of parallel.py empties with one, two and four consumers."""

import os
import re
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

from lessons import figures

LAB = Path(__file__).with_name("parallel.py")
TASKS = 40


def depths(consumers: int) -> tuple[list[float], list[int]]:
    command = [sys.executable, str(LAB), f"--tasks={TASKS}", f"--consumers={consumers}"]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seen = [(float(second), int(depth)) for second, depth in re.findall(r"([\d.]+) s  depth +(\d+)", out)]
    empty = next(place for place, (_, depth) in enumerate(seen) if depth == 0)
    return [second for second, _ in seen[: empty + 1]], [depth for _, depth in seen[: empty + 1]]


def main() -> None:
    if "REDIS_URL" not in os.environ:
        sys.exit("REDIS_URL is not set. Run: python -m lessons figures 5")
    drawing = Figure()
    axes = drawing.subplots()
    for consumers in (1, 2, 4):
        seconds, depth = depths(consumers)
        axes.step(seconds, depth, where="post", label=f"{consumers} consumer{'s' * (consumers > 1)}")
        axes.annotate(f"{seconds[-1]:.1f} s", (seconds[-1], 0), xytext=(5, 5), textcoords="offset points")
    axes.set_xlabel(f"seconds after {TASKS} tasks were queued")
    axes.set_ylabel("tasks in the queue")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.margins(x=0.08)
    axes.legend()
    figures.save(drawing, __file__, "queue_depth")


if __name__ == "__main__":
    main()
