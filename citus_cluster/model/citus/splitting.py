"""The hash values at which a shard is divided."""

from collections.abc import Sequence

from citus_cluster.errors import UsageError

HALF = "half"


def parse_points(text: str, lowest: str | None, highest: str | None) -> tuple[int, ...]:
    """Read ``-5,7``, or ``half``, which divides the range of the shard. Raises UsageError."""
    if text.strip().lower() == HALF:
        if lowest is None or highest is None:
            raise UsageError("The shard has no range of hash values, so it has no half.")
        return ((int(lowest) + int(highest)) // 2,)
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            "points: they must be whole numbers, separated by commas, or half.",
            hint="The range of each shard is in: citus-cluster shards list. On the command line, write -- before a "
            "negative number.",
        ) from None


def point_problems(points: Sequence[int], lowest: str | None, highest: str | None) -> tuple[str, ...]:
    """Return why Citus does not divide a range after these values."""
    if lowest is None or highest is None:
        return ("The shard has no range of hash values.",)
    low, high = int(lowest), int(highest)
    found = []
    if low == high:
        found.append(f"The shard has a single hash value ({low}), so it cannot be divided.")
    outside = [point for point in points if not low <= point < high]
    if outside and low != high:
        found.append(
            f"{', '.join(map(str, outside))}: a point is the last value of a new shard, from {low} to {high - 1}."
        )
    if list(points) != sorted(set(points)):
        found.append("The points must rise.")
    return tuple(found)
