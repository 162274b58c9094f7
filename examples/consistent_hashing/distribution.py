"""How many users each shard has: for a terminal, and as a picture.

The picture is written by hand: four rectangles and some text need no library of charts, and an SVG needs no more than
a template that escapes what it is given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape

_BAR_WIDTH = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class ShardCount:
    """The users of a shard; None if it does not answer. ``ring_share`` is the part of the ring that it owns."""

    shard: str
    users: int | None
    ring_share: float


def report(counts: Mapping[str, int], ring_shares: Mapping[str, float]) -> list[ShardCount]:
    """Combine what was counted with what the ring promises."""
    return [ShardCount(shard, counts.get(shard), share) for shard, share in sorted(ring_shares.items())]


def draw_text(report: list[ShardCount]) -> str:
    """Draw a bar for each shard, the longest 40 characters wide."""
    total = sum(one.users or 0 for one in report)
    largest = max((one.users or 0 for one in report), default=0) or 1
    width = max(len(one.shard) for one in report)
    digits = len(str(largest))
    lines = []
    for one in report:
        if one.users is None:
            lines.append(f"{one.shard:{width}}  does not answer")
            continue
        part = f"{one.users:{digits}}  {_percent(one.users, total):>5}  (ring {one.ring_share:.1%})"
        lines.append(f"{one.shard:{width}}  {_bar(one.users / largest):{_BAR_WIDTH}}  {part}")
    return "\n".join([*lines, f"{'total':{width}}  {total}"])


def _bar(part: float) -> str:
    eighths = round(part * _BAR_WIDTH * 8)
    return "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def _percent(users: int, total: int) -> str:
    return f"{users / total:.1%}" if total else "-"


def draw_svg(report: list[ShardCount]) -> str:
    """Draw the same as an SVG: a bar for each shard, and a line where the ring's share ends."""
    total = sum(one.users or 0 for one in report)
    scale = max([one.ring_share for one in report] + [(one.users or 0) / (total or 1) for one in report]) or 1
    rows = []
    for number, one in enumerate(report):
        top = 40 + number * 36
        bar = 300 * ((one.users or 0) / (total or 1)) / scale
        promised = 130 + 300 * one.ring_share / scale
        said = "does not answer" if one.users is None else f"{one.users} ({_percent(one.users, total)})"
        rows.append(
            f'  <text x="120" y="{top + 16}" text-anchor="end">{escape(one.shard)}</text>\n'
            f'  <rect x="130" y="{top}" width="{bar:.1f}" height="24" fill="#3b6fb6"/>\n'
            f'  <line x1="{promised:.1f}" x2="{promised:.1f}" y1="{top - 3}" y2="{top + 27}" stroke="#d1495b"'
            ' stroke-width="2"/>\n'
            f'  <text x="440" y="{top + 16}">{escape(said)}</text>'
        )
    height = 56 + len(report) * 36
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 580 {height}" width="580" height="{height}"'
        ' font-family="sans-serif" font-size="13" role="img">\n'
        f"  <title>Users on each shard: {total}</title>\n"
        '  <rect width="100%" height="100%" fill="#ffffff"/>\n'
        f'  <text x="130" y="22">{total} users; red: the share of the ring</text>\n' + "\n".join(rows) + "\n</svg>\n"
    )
