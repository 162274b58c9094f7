"""Resolve conflicting writes in three ways: the last one wins, the highest version wins, or sets are merged."""

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Write:
    value: str
    timestamp: float = 0
    version: int = 0


def last_write_wins(*writes: Write) -> Write:
    """Simple, and loses every other write. The clocks of the writers decide who wins."""
    return max(writes, key=lambda write: (write.timestamp, write.value))


def highest_version(*writes: Write) -> Write:
    """As safe as the rule that a writer must name the version that it has read."""
    return max(writes, key=lambda write: (write.version, write.value))


def merge(*carts: set[str]) -> set[str]:
    """Loses nothing that was added; an item removed on one side comes back."""
    return set().union(*carts)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    winner = last_write_wins(Write("alice_old", timestamp=1000), Write("alice_new", timestamp=1005))
    print(f"Last write wins:  {winner.value}")
    newest = highest_version(Write("draft", version=3), Write("published", version=5))
    print(f"Highest version:  {newest.value} ({newest.version})")
    cart = merge({"apple", "banana"}, {"banana", "cherry"})
    print(f"Merged sets:      {{{', '.join(sorted(cart))}}}")


if __name__ == "__main__":
    main()
