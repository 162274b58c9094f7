"""Generation of 3, 100 and 1,000 workers, with start-up; the lower bound is the import of the libraries."""

import sys
import tempfile
from pathlib import Path

from bench.measure import SETUP, Run, median, print_table, run

_RUNS = 5
_COUNTS = (3, 100, 1000)
_FLOOR = [sys.executable, "-c", "import typer, pydantic, jinja2, yaml, psycopg"]


def bench_generation() -> None:
    """Measure in turns, so that a machine that becomes slower affects all of them."""
    floors: list[Run] = []
    runs: dict[int, list[Run]] = {count: [] for count in _COUNTS}
    for turn in range(_RUNS):
        floors.append(run(_FLOOR))
        for count in _COUNTS:
            with tempfile.TemporaryDirectory() as folder:
                options = [f"--workers={count}", "--services=citus,admin-api", f"--name=bench{turn}"]
                runs[count].append(run([*SETUP, *options, f"--output-dir={Path(folder) / 'cluster'}"]))
    floor_s = median([one.wall_s for one in floors])
    rows: list[tuple[object, ...]] = [("imports alone (floor)", f"{floor_s:.3f}", "1.00", _peak(floors), "")]
    walls = {count: median([one.wall_s for one in done]) for count, done in runs.items()}
    for count, done in runs.items():
        rows.append(
            (
                f"{count} workers",
                f"{walls[count]:.3f}",
                f"{walls[count] / floor_s:.2f}",
                _peak(done),
                _cost(walls, count),
            )
        )
    print_table(
        f"Generation, median of {_RUNS} (goals: 3 workers under 0.5 s, 1,000 under 3 s, growth linear)",
        ("what", "wall s", "ratio to floor", "peak MB", "ms for each further worker"),
        rows,
    )


def _peak(runs: list[Run]) -> str:
    return f"{median([one.peak_mb for one in runs]):.0f}"


def _cost(walls: dict[int, float], count: int) -> str:
    smaller = [other for other in walls if other < count]
    if not smaller:
        return ""
    before = max(smaller)
    return f"{(walls[count] - walls[before]) / (count - before) * 1000:.2f}"
