"""Who did what, in Cassandra: noted at once in memory, and written in the background.

No request waits for Cassandra. While it is away, up to ``CAPACITY`` records wait; more are dropped, and counted. A
record that is written twice is one row, so every write may be tried again.
"""

import asyncio
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from read_write_split.metrics import Metrics
from read_write_split.settings import NAME, Server

if TYPE_CHECKING:
    from cassandra.cluster import Cluster, Session

CAPACITY = 1000
_WRITERS = 8
_TIMEOUT_S = 2.0
_PAUSE_S = 2.0
_LAST_CHANCE_S = 2.0
_WARN_EVERY_S = 10.0
_NOT_YET = "not connected yet"

logger = logging.getLogger("fastapi_app")

# One partition for each hour, so that none grows without bound; the files of a day expire together.
_TABLE = """
CREATE TABLE IF NOT EXISTS activity (
    hour timestamp, at timeuuid, actor text, action text, user_id int, name text,
    PRIMARY KEY (hour, at)
) WITH CLUSTERING ORDER BY (at DESC) AND default_time_to_live = 2592000
  AND compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS',
                    'compaction_window_size': 1}"""
_INSERT = "INSERT INTO activity (hour, at, actor, action, user_id, name) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class Record:
    """``at`` identifies it and says when it was."""

    actor: str
    action: str
    user_id: int
    name: str
    at: uuid.UUID = field(default_factory=uuid.uuid1)
    hour: datetime = field(default_factory=lambda: datetime.now(UTC).replace(minute=0, second=0, microsecond=0))


class ActivityLog:
    """The queue and its writers; without Cassandra (None) it keeps nothing."""

    def __init__(self, server: Server | None, metrics: Metrics) -> None:
        self._server = server
        self._metrics = metrics
        self._queue: asyncio.Queue[Record] = asyncio.Queue(CAPACITY)
        self._unwritten = 0
        self._dropped = 0
        self._warned_at = -_WARN_EVERY_S
        self._writers: list[asyncio.Task[None]] = []
        # The driver blocks while it connects. A thread of our own: the shared ones resolve names for PostgreSQL.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cassandra")
        self._turn = asyncio.Lock()
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._insert: Any = None
        self._away: str | None = _NOT_YET

    def open(self) -> None:
        """Begin to connect and to write. Cassandra may be away."""
        if self._server is not None:
            # Before the first record: the health of the service says whether it works.
            connecting = asyncio.create_task(self._connect_first())
            self._writers = [connecting, *(asyncio.create_task(self._write()) for _ in range(_WRITERS))]

    def note(self, record: Record) -> None:
        """Queue a record, or drop it; returns at once."""
        if self._server is None:
            return
        try:
            self._queue.put_nowait(record)
        except asyncio.QueueFull:
            self._drop(1, "full")
        else:
            self._unwritten += 1
            self._metrics.activity_queued.set(self._unwritten)

    async def close(self) -> None:
        """Write what waits, for two seconds at most, and count the rest as dropped."""
        if self._server is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_CHANCE_S if self._away in {None, _NOT_YET} else 0):
                await self._queue.join()
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        if self._unwritten:
            self._warned_at = -_WARN_EVERY_S
            self._drop(self._unwritten, "shutdown")
        await self._disconnect()
        self._thread.shutdown(wait=False)

    def state(self) -> dict[str, Any]:
        """Say how it is, for the health of the service."""
        if self._server is None:
            return {"status": "off"}
        figures = {"queued": self._unwritten, "dropped": self._dropped}
        if self._away is None:
            return {"status": "ok", **figures}
        return {"status": "down", "detail": self._away, **figures}

    def _drop(self, number: int, reason: str) -> None:
        self._dropped += number
        self._metrics.activity_dropped.labels(reason).inc(number)
        if time.monotonic() - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = time.monotonic()
            logger.warning("Activity records are dropped (%s): %d since the start", reason, self._dropped)

    async def _write(self) -> None:
        while True:
            record = await self._queue.get()
            while True:
                try:
                    session = await self._connected()
                    await self._execute(session, record)
                    break
                except Exception as error:  # the driver has no base class for its own
                    await self._lost(error)
            self._unwritten -= 1
            self._metrics.activity_queued.set(self._unwritten)
            self._metrics.activity_written.inc()
            self._queue.task_done()

    async def _connect_first(self) -> None:
        await self._connected()

    async def _connected(self) -> "Session":
        async with self._turn:
            while self._session is None:
                try:
                    await self._in_thread(self._connect)
                except Exception as error:
                    self._note_away(error)
                    await asyncio.sleep(_PAUSE_S)
            if self._away is not None:
                self._away = None
                logger.info("Cassandra takes the activity records; %d wait", self._unwritten)
            return self._session

    async def _execute(self, session: "Session", record: Record) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(None)

        values = (record.hour, record.at, record.actor, record.action, record.user_id, record.name)
        pending = session.execute_async(self._insert, values, timeout=_TIMEOUT_S)
        # They run in the driver's thread.
        pending.add_callbacks(
            lambda _: loop.call_soon_threadsafe(settle, None), lambda error: loop.call_soon_threadsafe(settle, error)
        )
        async with asyncio.timeout(_TIMEOUT_S * 2):
            await done

    async def _lost(self, error: Exception) -> None:
        """Drop the connection: a new one looks the address up again, which may be another by now."""
        self._note_away(error)
        async with self._turn:
            await self._disconnect()
        await asyncio.sleep(_PAUSE_S)

    def _note_away(self, error: Exception) -> None:
        # The driver wraps the errors of its attempts, one for each address.
        causes = getattr(error, "errors", None)
        cause = next(iter(causes.values())) if isinstance(causes, dict) and causes else error
        reason = (str(cause).splitlines() or [""])[0] or type(cause).__name__
        if self._away in {None, _NOT_YET}:
            logger.warning("Cassandra does not take activity records, so they wait: %s", reason)
        self._away = reason

    async def _disconnect(self) -> None:
        cluster, self._cluster, self._session = self._cluster, None, None
        if cluster is not None:
            with suppress(Exception):
                await self._in_thread(cluster.shutdown)

    async def _in_thread(self, work: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _connect(self) -> None:
        """Connect, and create the table where it is missing. Blocks."""
        from cassandra import ConsistencyLevel
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
        from cassandra.policies import WhiteListRoundRobinPolicy

        assert self._server is not None  # noqa: S101
        address = self._server.address
        profile = ExecutionProfile(
            # The nodes announce addresses that only containers reach; this one is reached.
            load_balancing_policy=WhiteListRoundRobinPolicy([address.host]),
            consistency_level=ConsistencyLevel.LOCAL_ONE,
            request_timeout=_TIMEOUT_S,
        )
        cluster = Cluster(
            [address.host],
            port=address.port,
            auth_provider=PlainTextAuthProvider(NAME, self._server.password),
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            # With version 5, large results failed with "CRC mismatch on header" (driver 3.30.1).
            protocol_version=4,
            connect_timeout=_TIMEOUT_S,
            control_connection_timeout=_TIMEOUT_S,
            executor_threads=1,
        )
        try:
            session = cluster.connect(NAME)
            session.execute(_TABLE, timeout=10)
            self._insert = session.prepare(_INSERT)
        except BaseException:
            cluster.shutdown()
            raise
        self._cluster, self._session = cluster, session
