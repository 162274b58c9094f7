"""What a page shows beside its main part: the latest answer of each view, which the page does not wait for.

While a node is silent, some views take seconds, and a page is read again each second. So one read of a view runs at a
time, and the page shows the last answer until the next one has arrived.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import psycopg.errors

from admin_api.dependencies import Parts
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.parameters import NoParameters
from citus_cluster.operations.view import AnyView

FAILURES = (CitusClusterError, psycopg.OperationalError, psycopg.errors.QueryCanceled, TimeoutError)
PATIENCE_S = 0.5
"""How long a page waits for new answers."""
KEPT_S = 30.0
"""How long an answer is shown if there is no newer one."""
Read = Callable[[str], Awaitable[Any]]
logger = logging.getLogger(__name__)


@dataclass
class _Latest:
    task: asyncio.Task[Any]
    value: Any = None
    read_at: float = float("-inf")

    def collect(self, now: float) -> None:
        """Keep the answer of a read that has ended; None stands for one that failed."""
        if self.task.done() and not self.task.cancelled() and (value := self.task.result()) is not None:
            self.value, self.read_at = value, now


class Beside:
    """The latest answers by the names of their views. ``read`` returns None if a view cannot be read."""

    def __init__(self) -> None:
        self._latest: dict[str, _Latest] = {}

    def begin(self, names: Iterable[str], read: Read) -> None:
        """Start a read of each view, unless one is running."""
        now = asyncio.get_running_loop().time()
        for name in names:
            latest = self._latest.get(name)
            if latest is None:
                self._latest[name] = _Latest(asyncio.ensure_future(read(name)))
            elif latest.task.done():
                latest.collect(now)
                latest.task = asyncio.ensure_future(read(name))

    async def values(self, *, patience_s: float = PATIENCE_S) -> Mapping[str, Any]:
        """Return the answers that are known now, after a short time for those that are about to arrive."""
        if self._latest:
            await asyncio.wait([one.task for one in self._latest.values()], timeout=patience_s)
        now = asyncio.get_running_loop().time()
        for one in self._latest.values():
            one.collect(now)
        return {name: one.value for name, one in self._latest.items() if now - one.read_at < KEPT_S}


async def read_view(parts: Parts, view: AnyView) -> Any:
    """Return what a view has read; None if it cannot be read."""
    try:
        return (await parts.snapshots.get(view, NoParameters())).value
    except FAILURES as error:
        logger.info("%s: %s", view.name, error)
        return None
