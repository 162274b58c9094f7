"""The schedule of a rebalance: small groups move first, with writes held, and the others online; pure.

Citus plans a rebalance as one background task for each group of colocated shards. An online move sets up logical
replication, which takes seconds even for an empty shard; a move that holds writes takes tenths of a second.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

LIMIT_BYTES = 8 * 2**20
SHARD_BYTES = 2 * 2**20
"""The largest size at which a group moves with writes held: its bytes, plus this much for each of its shards.

Each shard of a group costs connections, a table and constraints, for about the time that copying 2 MB takes; see
docs/performance.md. Partitions count as shards.
"""
STALL_S = 0.5
"""The longest time in seconds that a writer usually waits for a move that holds writes to a group."""
LANES = 2
"""How many moves may hold writes at a time: each takes 0.4 s of a processor, and a laptop has few to spare."""


def is_small(shards: int, size_bytes: int) -> bool:
    """Return whether a group of colocated shards moves fast enough for its writes to be held."""
    return shards * SHARD_BYTES + size_bytes <= LIMIT_BYTES


@dataclass(frozen=True)
class Scheduled:
    """One task as Citus has scheduled it; ``shard_id`` and nodes are None for a copy of reference tables.

    ``locks_shared``: the move also locks the reference tables to which its tables have foreign keys.
    """

    task_id: int
    shard_id: int | None = None
    source: int | None = None
    target: int | None = None
    depends_on: frozenset[int] = frozenset()
    locks_shared: bool = False


@dataclass(frozen=True)
class Arrangement:
    """The lane of each task that holds writes, and the dependencies of every task, by task id."""

    lanes: Mapping[int, int]
    depends_on: Mapping[int, frozenset[int]]


def arrange(tasks: Sequence[Scheduled], held: Collection[int], lanes: int) -> Arrangement:
    """Schedule the moves of the shards ``held`` first, in parallel lanes, and the other moves after them.

    A lane gets the moves between some pairs of nodes, so that two simultaneous moves differ in source or target.
    Moves that lock reference tables share the first lane: two at a time could deadlock. A move that fails does not
    block the others of its lane. The other moves keep the order that Citus gave them.
    """
    small = [task for task in tasks if task.shard_id in held]
    lane_of = {task.task_id: lane for lane, members in enumerate(_share(small, lanes)) for task in members}
    known = {task.task_id: task.depends_on for task in tasks}
    copying = frozenset(task.task_id for task in tasks if task.shard_id is None)
    last = frozenset({lane: task_id for task_id, lane in sorted(lane_of.items())}.values())
    depends_on: dict[int, frozenset[int]] = {}
    for task in tasks:
        if task.task_id in lane_of:
            depends_on[task.task_id] = copying
            continue
        kept = _beyond(task.depends_on, lane_of, known)
        first = task.shard_id is not None and not kept - copying
        depends_on[task.task_id] = kept | last if first else kept
    return Arrangement(lane_of, depends_on)


def _share(tasks: Sequence[Scheduled], lanes: int) -> Sequence[Sequence[Scheduled]]:
    """Distribute the moves by pairs of nodes, the pair with most moves first, each to the shortest lane."""
    pairs: dict[tuple[int | None, int | None], list[Scheduled]] = {}
    for task in tasks:
        if not task.locks_shared:
            pairs.setdefault((task.source, task.target), []).append(task)
    found = [[task for task in tasks if task.locks_shared], *([] for _ in range(1, lanes))]
    for pair in sorted(pairs.values(), key=len, reverse=True):
        min(found, key=len).extend(pair)
    return found


def _beyond(wanted: Iterable[int], passed: Collection[int], known: Mapping[int, Collection[int]]) -> frozenset[int]:
    """Replace each task of ``passed`` by its own dependencies."""
    found: set[int] = set()
    seen: set[int] = set()
    left = list(wanted)
    while left:
        task_id = left.pop()
        if task_id in seen:
            continue
        seen.add(task_id)
        if task_id in passed:
            left.extend(known.get(task_id, ()))
        else:
            found.add(task_id)
    return frozenset(found)
