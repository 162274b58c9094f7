"""Draw how long the queries of indexes.py take, coloured by SQLite's plan."""

import re
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

from lessons import figures

LAB = Path(__file__).with_name("indexes.py")
KINDS = {"SCAN": "SCAN: reads every order", "SEARCH": "SEARCH … USING INDEX", "COVERING": "… USING COVERING INDEX"}


def main() -> None:
    out = subprocess.run([sys.executable, LAB], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = re.findall(r"^(.+?) +([\d.]+) ms +(.+?)  +(.+)$", out, re.MULTILINE)
    drawing = Figure()
    axes = drawing.subplots()
    for kind, colour in zip(KINDS, figures.COLOURS[1:], strict=False):
        mine = [
            (len(rows) - place, float(ms), f"{what} ({answer})")
            for place, (what, ms, answer, plan) in enumerate(rows)
            if kind == ("COVERING" if "COVERING" in plan else plan.split()[0])
        ]
        bars = axes.barh([one[0] for one in mine], [one[1] for one in mine], color=colour, label=KINDS[kind])
        axes.bar_label(bars, [f"{one[1]:.3g} ms" for one in mine], padding=3)
    axes.set_yticks(
        [len(rows) - place for place in range(len(rows))],
        [f"{what}\n{answer}" for what, _, answer, _ in rows],
    )
    axes.set_xscale("log")
    axes.set_xlim(right=max(float(ms) for _, ms, _, _ in rows) * 5)
    axes.set_xlabel("milliseconds (logarithmic scale)")
    axes.grid(visible=False, axis="y")
    drawing.set_size_inches(7.5, 4.6)
    drawing.legend(loc="outside upper center", ncols=3)
    figures.save(drawing, __file__, "plans")


if __name__ == "__main__":
    main()
