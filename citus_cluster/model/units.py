"""Amounts for people, in one style everywhere: that of PostgreSQL's ``pg_size_pretty`` and of its settings."""


def size(size_bytes: float | None) -> str:
    """Write a number of bytes: ``512 B``, ``1.5 kB``, ``12.0 MB``; 1 kB is 1024 B, as in PostgreSQL. ``?`` for None."""
    if size_bytes is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        # Write 1024.0 of one unit as 1.0 of the next.
        if abs(size_bytes) < (1024 if unit == "B" else 1023.95):
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TB"


def count(number: int, noun: str) -> str:
    """Write ``1 shard``, ``2 shards``, ``1,200 shards``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
