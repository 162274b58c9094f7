"""The latest figures of the cluster for monitoring, from one loop in the background.

The loop runs only while somebody asks for the figures, so their cost for the database depends on the interval, not on
the number of those who ask. Nobody waits for a node that hangs: after a short time, the answer is what is known.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

import psycopg

from admin_api.settings import Settings
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.figures import Catalog, NodeAnswers, RebalanceFigures, ShardLoad
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus
from citus_cluster.operations.monitoring import collection
from citus_cluster.runtime.postgres import Connection

_LIFE_S = 3.0
"""How long the coordinator may take to answer an empty query."""
_CANCEL_GRACE_S = 1.0
_SHARDS_SHARE = 20
"""Reading the size of every shard may take this part of the time at most, as a fraction 1/n."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


class Part(StrEnum):
    """A part of the figures, which can fail and grow old separately."""

    CATALOG = "catalog"
    NODES = "nodes"
    SHARDS = "shards"
    REBALANCE = "rebalance"
    COMPANIONS = "companions"


_OF_CITUS = (Part.CATALOG, Part.NODES, Part.SHARDS, Part.REBALANCE)
_LIMITS_S: Mapping[Part, float] = {
    Part.CATALOG: 12.0,
    Part.NODES: collection.NODES_BUDGET_S + 15,
    Part.SHARDS: 120.0,
    Part.REBALANCE: 30.0,
    Part.COMPANIONS: 10.0,
}


@dataclass(frozen=True)
class Sample:
    """The latest figures; each is the last one that was read, and ``read_at`` (event loop's time) says when.

    ``coordinator_answers`` is None before the first attempt. ``failures`` counts the failed attempts of each part.
    """

    coordinator_answers: bool | None = None
    catalog: Catalog | None = None
    answers: NodeAnswers = field(default_factory=NodeAnswers)
    loads: Mapping[NodeAddress, ShardLoad] = field(default_factory=dict)
    rebalance: RebalanceFigures | None = None
    companions: tuple[CompanionStatus, ...] = ()
    read_at: Mapping[Part, float] = field(default_factory=dict)
    failures: Mapping[Part, int] = field(default_factory=lambda: dict.fromkeys(Part, 0))
    rounds: int = 0
    round_s: float = 0.0

    def as_of(self, part: Part) -> datetime | None:
        """Return when a part was read, by the clock (UTC)."""
        at = self.read_at.get(part)
        return None if at is None else datetime.now(UTC) - timedelta(seconds=_now() - at)


class Sampler:
    """Reads the figures again and again while they are asked for. It keeps one connection, and closes it in a pause."""

    def __init__(
        self,
        settings: Settings,
        dial: Callable[[], Awaitable[Connection]],
        companions: Callable[[], Awaitable[Sequence[CompanionStatus]]],
    ) -> None:
        self._settings = settings
        self._dial = dial
        self._companions = companions
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._round_over = asyncio.Event()
        self._asked_at = float("-inf")
        self._sampled_at = float("-inf")
        self._shards_again_at = 0.0
        self._sizes: Mapping[int, int] = {}
        self._reasons: dict[Part, str] = {}
        self._sample = Sample()

    async def latest(self) -> Sample:
        """Return the latest figures. Waits for new ones, but only briefly, if they are old because nobody asked."""
        known = self.known()
        if _now() - self._sampled_at <= 2 * self._settings.sample_interval_s:
            return known
        with suppress(TimeoutError):
            await asyncio.wait_for(self._round_over.wait(), self._settings.sample_wait_s)
        return self._sample

    def known(self) -> Sample:
        """Return the latest figures at once, however old they are; while somebody asks, new ones are read."""
        self._asked_at = _now()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="sampler")
        return self._sample

    async def close(self) -> None:
        """End the loop, and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while _now() - self._asked_at < self._settings.sample_pause_s:
                began = _now()
                try:
                    await self._round()
                except Exception:
                    # A bug of ours; the loop must go on, and the age of the figures shows it.
                    logger.exception("the figures of the cluster could not be read")
                took_s = _now() - began
                self._sampled_at = _now()
                self._sample = replace(self._sample, rounds=self._sample.rounds + 1, round_s=took_s)
                self._round_over.set()
                self._round_over = asyncio.Event()
                await asyncio.sleep(max(0.0, self._settings.sample_interval_s - took_s))
        finally:
            await self._hang_up()

    async def _round(self) -> None:
        """Read every part that is due."""
        companions = asyncio.create_task(self._read_companions())
        try:
            connection = await self._connected()
            if connection is not None:
                await self._read_citus(connection)
        finally:
            await companions

    async def _read_companions(self) -> None:
        if (found := await self._read(Part.COMPANIONS, self._known_companions())) is not None:
            self._sample = replace(self._sample, companions=tuple(found))

    async def _known_companions(self) -> Sequence[CompanionStatus]:
        return await self._companions()

    async def _connected(self) -> Connection | None:
        """Return a connection that answers; None if the coordinator does not, which is a failure of each part."""
        for _ in range(2):  # The kept connection may be to a coordinator that has been restarted since.
            kept = self._connection is not None
            try:
                if self._connection is None:
                    self._connection = await self._dial()
                await _bounded(_sign_of_life(self._connection), _LIFE_S)
            except (CitusClusterError, psycopg.Error, OSError, TimeoutError) as error:
                await self._hang_up()
                if kept and not isinstance(error, TimeoutError):
                    continue
                self._fail(Part.CATALOG, f"the coordinator does not answer: {_reason(error)}", *_OF_CITUS)
                self._sample = replace(self._sample, coordinator_answers=False)
                return None
            self._sample = replace(self._sample, coordinator_answers=True)
            return self._connection
        return None

    async def _read_citus(self, connection: Connection) -> None:
        catalog = await self._read(Part.CATALOG, collection.read_catalog(connection))
        if catalog is None:
            return
        self._sample = replace(self._sample, catalog=catalog)
        answers = await self._read(Part.NODES, collection.ask_nodes(connection, catalog))
        if answers is None or connection.closed:
            return
        self._sample = replace(self._sample, answers=answers)
        if _now() >= self._shards_again_at:
            began = _now()
            found = await self._read(Part.SHARDS, collection.read_shards(connection, catalog, answers.silent.keys()))
            took_s = _now() - began
            self._shards_again_at = _now() + max(
                self._settings.shards_interval_s, _SHARDS_SHARE * took_s if found else 0.0
            )
            if found is not None:
                loads, self._sizes = found
                self._sample = replace(self._sample, loads=loads)
        if connection.closed:
            return
        silent = tuple(answers.silent.values())
        rebalance = await self._read(Part.REBALANCE, collection.read_rebalance(connection, self._sizes, silent))
        if rebalance is not None:
            self._sample = replace(self._sample, rebalance=rebalance)

    async def _read(self, part: Part, work: Coroutine[Any, Any, T]) -> T | None:
        """Run the work of one part within its limit; None if it failed."""
        try:
            found = await _bounded(work, _LIMITS_S[part])
        except (CitusClusterError, psycopg.Error, OSError, TimeoutError) as error:
            if isinstance(error, TimeoutError) and part is not Part.COMPANIONS:
                await self._hang_up()
            self._fail(part, _reason(error))
            return None
        if self._reasons.pop(part, None):
            logger.info("the figures of part %s can be read again", part.value)
        self._sample = replace(self._sample, read_at={**self._sample.read_at, part: _now()})
        return found

    def _fail(self, part: Part, reason: str, *others: Part) -> None:
        """Count a failure of a part, and of ``others`` that failed with it; log a reason when it changes."""
        if self._reasons.get(part) != reason:
            self._reasons[part] = reason
            logger.warning("the figures of part %s cannot be read: %s", part.value, reason)
        failures = {**self._sample.failures}
        for one in {part, *others}:
            failures[one] += 1
        self._sample = replace(self._sample, failures=failures)

    async def _hang_up(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _sign_of_life(connection: Connection) -> None:
    await connection.execute("")


async def _bounded(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    """Wait no longer than this, even for work that cannot be cancelled: a paused server confirms no cancellation."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    except asyncio.CancelledError:
        _end(task)
        raise
    if not task.done():
        _end(task)
        raise TimeoutError
    return task.result()


def _end(task: asyncio.Task[Any]) -> None:
    # The second cancellation ends the driver's own wait for the server to cancel.
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    task.cancel()
    asyncio.get_running_loop().call_later(_CANCEL_GRACE_S, task.cancel)


def _reason(error: Exception) -> str:
    if isinstance(error, CitusClusterError):
        return error.message
    return "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}".strip()
