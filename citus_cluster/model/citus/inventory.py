"""What a cluster consists of, as far as changes alter it, and the difference between two moments.

It is small on purpose: the nodes, the tables and the roles, with the properties that an operator reads; no rows, no
passwords, and no single shards, of which there can be 100,000.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from citus_cluster.model.documents import Documented

Inventory = Mapping[str, Mapping[str, object]]
"""Properties by item. An item keeps its key when its ``name`` changes; its kind is the key up to the first space."""
MOST = 500
"""Differences of one operation that are kept."""
_NAME = "name"


@dataclass(frozen=True)
class Difference(Documented):
    """One property that differs, such as ``node citus-worker1:5432``, ``is_active``, False, True.

    ``before`` and ``after`` are texts, numbers, or truth values; None if the item did not exist, or has no such
    property.
    """

    item: str
    property: str
    before: object
    after: object


@dataclass(frozen=True)
class Diff(Documented):
    """What differs between the start and the end of an operation; ``left_out`` counts what is not listed."""

    changes: tuple[Difference, ...]
    left_out: int = 0


def compare(before: Inventory, after: Inventory) -> Diff:
    """Return what differs, item by item."""
    found = list(_differences(before, after))
    return Diff(tuple(found[:MOST]), max(0, len(found) - MOST))


def _differences(before: Inventory, after: Inventory) -> Iterator[Difference]:
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, {}), after.get(key, {})
        item = f"{key.partition(' ')[0]} {new.get(_NAME) or old.get(_NAME)}"
        for name in _order(old, new):
            if old.get(name) != new.get(name):
                yield Difference(item, name, old.get(name), new.get(name))


def _order(old: Mapping[str, object], new: Mapping[str, object]) -> Sequence[str]:
    names = list(dict.fromkeys([*old, *new]))
    # A name that an item has kept, gained or lost says nothing beside the item itself.
    return [name for name in names if name != _NAME or (old and new)]
