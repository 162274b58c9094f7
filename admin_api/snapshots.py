"""What views have read: shared by the requests that arrive while it is read, and kept while it is recent enough."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import psycopg

from admin_api.responses import tag_of
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.documents import as_data
from citus_cluster.model.listing import Listing, ListQuery
from citus_cluster.model.visible import json_text
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import AnyView

KEPT_SNAPSHOTS = 64
KEPT_OF_A_VIEW = 8
"""Answers of one view with different parameters, such as the statements of each node."""
PAGES_AGE_S = 60.0
"""How old an answer may be for its following pages: one that was read again for each would make them slow."""
KEPT_BYTES = 16 * 1024 * 1024
"""Rendered answers of all views together, a fraction of the memory of the container."""


class Bodies:
    """Rendered answers, of which those that were used longest ago are dropped beyond a number of bytes."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Hashable, tuple[bytes, str]] = OrderedDict()
        self.size_bytes = 0

    def get(self, place: Hashable, render: Callable[[], tuple[bytes, str]]) -> tuple[bytes, str]:
        """Return what is kept at a place, or render it."""
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        found = render()
        self._kept[place] = found
        self.size_bytes += len(found[0])
        while self.size_bytes > self._max_bytes:
            _, (body, _) = self._kept.popitem(last=False)
            self.size_bytes -= len(body)
        return found


@dataclass
class Snapshot:
    """One answer of the cluster. ``taken_at`` is the event loop's time, ``as_of`` that of the clock (UTC).

    ``number`` tells it apart from others with the same ``bodies``.
    """

    view: AnyView
    value: Any
    as_of: datetime
    taken_at: float
    listing: Listing | None = None
    bodies: Bodies = field(default_factory=Bodies, repr=False)
    number: int = 0

    def body(self, query: ListQuery | None) -> tuple[bytes, str]:
        """Return the JSON of the answer, and its entity tag. Raises UsageError for a query that does not fit."""
        place = query and (
            query.limit,
            query.cursor,
            query.sort,
            query.fields,
            query.q,
            tuple(sorted(query.filters.items())),
        )
        return self.bodies.get((self.number, place), lambda: self._render(query))

    def _render(self, query: ListQuery | None) -> tuple[bytes, str]:
        if self.listing is None or query is None:
            content = as_data(self.value)
        else:
            page = self.listing.page(query)
            content = {"items": list(page.items), "next_cursor": page.next_cursor, "total": page.total}
        # Rendered once: the tag is that of the rows, whenever they were read.
        text = json_text(content, compact=True)
        return f'{text[:-1]},"as_of":"{self.as_of.isoformat(timespec="milliseconds")}"}}'.encode(), tag_of(text)


@dataclass
class _Reading:
    """The reads of one view with the same parameters: one that runs, and one that waits for it."""

    running: "asyncio.Task[Snapshot] | None" = None
    following: "asyncio.Task[Snapshot] | None" = None
    latest: Snapshot | None = None


class Snapshots:
    """Reads views; ``cluster`` gives them a superuser's connections, and ``reader`` those of a role that only reads.

    ``reader`` returns None while this role cannot be used, and ``doubt`` is told what it could not read.
    """

    def __init__(
        self,
        cluster: Callable[[], Cluster],
        reader: Callable[[], Cluster | None] = lambda: None,
        doubt: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._reader = reader
        self._doubt = doubt
        self._readings: dict[tuple[str, Hashable], _Reading] = {}
        self._bodies = Bodies()
        self._numbers = count()

    async def get(self, view: AnyView, wanted: Any, *, is_following: bool = False) -> Snapshot:
        """Return what a view shows: at most ``max_age_s`` old, or read after this call if that is 0.

        ``is_following`` says that it is for a page after the first one, for which a kept answer may be older. Requests
        that arrive while a read runs share the next one. Raises what ``read`` raises.
        """
        reading = self._reading((view.name, wanted))
        kept = reading.latest
        max_age_s = max(view.max_age_s, PAGES_AGE_S) if is_following else view.max_age_s
        if kept and asyncio.get_running_loop().time() - kept.taken_at < max_age_s:
            return kept
        if reading.running is None:
            reading.running = asyncio.create_task(self._read(view, wanted, reading))
        elif view.max_age_s == 0:
            if reading.following is None:
                reading.following = asyncio.create_task(self._read_next(view, wanted, reading))
            return await asyncio.shield(reading.following)
        # A request that ends must not cancel the read for the others.
        return await asyncio.shield(reading.running)

    def age_s(self, snapshot: Snapshot) -> int:
        """Return the age of a snapshot in whole seconds."""
        return int(asyncio.get_running_loop().time() - snapshot.taken_at)

    def _reading(self, key: tuple[str, Hashable]) -> _Reading:
        if key not in self._readings:
            self._make_room([one for one in self._readings if one[0] == key[0]], KEPT_OF_A_VIEW)
            self._make_room(list(self._readings), KEPT_SNAPSHOTS)
            self._readings[key] = _Reading()
        return self._readings[key]

    def _make_room(self, keys: Sequence[tuple[str, Hashable]], most: int) -> None:
        """Forget the oldest of these readings that nobody waits for, so that there is room for one more."""
        idle = [one for one in keys if self._readings[one].running is None]
        for one in idle[: max(0, len(keys) - most + 1)]:
            del self._readings[one]

    async def _read(self, view: AnyView, wanted: Any, reading: _Reading) -> Snapshot:
        loop = asyncio.get_running_loop()
        try:
            taken_at, as_of = loop.time(), datetime.now(UTC)
            value = await self._value(view, wanted)
            listing = Listing(value, view.row, view.key) if view.key is not None else None
            found = Snapshot(view, value, as_of, taken_at, listing, self._bodies, next(self._numbers))
            if view.max_age_s:
                reading.latest = found
            return found
        finally:
            reading.running = None

    async def _value(self, view: AnyView, wanted: Any) -> Any:
        """Read as the role that only reads, and if that fails, for whatever reason, as the superuser."""
        if not view.superuser and (reader := self._reader()) is not None:
            try:
                return await view.read(reader, wanted)
            except (CitusClusterError, psycopg.Error) as error:
                self._doubt(error)
        return await view.read(self._cluster(), wanted)

    async def _read_next(self, view: AnyView, wanted: Any, reading: _Reading) -> Snapshot:
        if reading.running is not None:
            await asyncio.wait({reading.running})
        reading.running, reading.following = reading.following, None
        return await self._read(view, wanted, reading)
