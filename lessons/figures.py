"""The style that all figures share, and how they are saved: equal data give equal bytes."""

from pathlib import Path

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

COLOURS = ("#2563a8", "#c8501e", "#3b8544", "#7b4ea3", "#6b6b6b")
"""Told apart by people who do not see all colours, on paper and on a screen."""

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "lessons",
        # Text stays text: it can be searched, and the file is smaller.
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "figure.figsize": (7, 3.6),
        "figure.constrained_layout.use": True,
        # Also on a dark page.
        "savefig.facecolor": "white",
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e3e3e3",
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
)


def save(figure: Figure, script: str, name: str) -> Path:
    """Save as ``figures/NAME.svg`` beside ``script`` (its ``__file__``). Returns the path."""
    path = Path(script).parent / "figures" / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    # Without a date, and without the version of the library.
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path
