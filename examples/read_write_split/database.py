"""The two connection pools, and all SQL of the service.

Writes need a server that accepts them, reads prefer a standby; both pools know both servers, so that a promotion needs
no restart. Each call ends within ``REQUEST_S``, also when a server accepts connections and then says nothing.
"""

import asyncio
import logging
import os
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from service_kit.problems import UnavailableError

from read_write_split.positions import Position, parse
from read_write_split.settings import NAME, Settings

REQUEST_S = 4.5
STATEMENT_S = 2.0
FRESH_WAIT_S = 0.5
"""How long a read waits for the replica to replay what the reader has seen already, before it asks the primary."""
_REPLICA_S = 1.0
"""How long a read waits for a connection to the replica, before it asks the primary."""
_REPLICA_PAUSE_S = 1.0
_READER_ON_PRIMARY_S = 10.0
_OPEN_S = 5.0
_RETRY_S = 0.5
_RECONNECT_S = 0.5
_MAX_SIZE = 10

logger = logging.getLogger("fastapi_app")

INSERT = "INSERT INTO users (name) VALUES (%s) RETURNING id, name"
SELECT = "SELECT id, name FROM users WHERE id > %s ORDER BY id LIMIT %s"
# After a commit that was flushed, every commit up to this one is below the position; what was not flushed counts only
# for a role that does not wait for it.
_COMMITTED = """
SELECT CASE current_setting('synchronous_commit') WHEN 'off' THEN pg_current_wal_insert_lsn()
       ELSE pg_current_wal_flush_lsn() END::text"""
# One position is taken before the snapshot of the query that follows, so the rows are at least as new.
_POSITION = """
SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
       ELSE pg_current_wal_flush_lsn() END::text"""


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection that knows since when it is open."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.opened_at = time.monotonic()


Pool = AsyncConnectionPool[Connection]


class RefusedError(Exception):
    """The database answered with an error."""

    def __init__(self, error: psycopg.Error) -> None:
        self.detail = error.diag.message_primary or str(error) or type(error).__name__
        super().__init__(self.detail)


@dataclass(frozen=True)
class Reading:
    """Rows, which server gave them, and up to where they surely have every commit (None: nobody asked)."""

    users: list[tuple[int, str]]
    standby: bool
    complete_to: int | None


class _BehindError(Exception):
    """The replica did not replay what the reader needs in time."""


def conninfo(settings: Settings, *, writes: bool) -> str:
    """Build the connection string for one of the pools; both name both servers."""
    servers = [settings.primary, settings.replica] if writes else [settings.replica, settings.primary]
    return make_conninfo(
        host=",".join(one.host for one in servers),
        port=",".join(str(one.port) for one in servers),
        dbname=settings.database,
        user=NAME,
        password=settings.password,
        target_session_attrs="read-write" if writes else settings.read_from,
        application_name=f"{NAME}-{'writer' if writes else 'reader'}",
        # Whoever answers in place of a server that is down does not get the password in clear.
        require_auth="scram-sha-256",
        gssencmode="disable",
        client_encoding="utf8",
        connect_timeout=2,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=5000,
        # Each statement sees what was committed before it, which the positions of a reading rely on.
        options=f"-c statement_timeout={STATEMENT_S:g}s -c default_transaction_isolation=read\\ committed",
    )


class Database:
    """The pair of servers. Errors: UnavailableError, psycopg.OperationalError (both: no answer), RefusedError."""

    def __init__(self, settings: Settings, on_new_timeline: Callable[[Position], Awaitable[None]]) -> None:
        self._settings = settings
        self._on_new_timeline = on_new_timeline
        self._timeline = 0
        self.writers = self._pool(writes=True)
        self.readers = self._pool(writes=False)
        self._replica_fails_until = 0.0
        self._replica_failed = False
        self._replica_behind_until = 0.0

    def _pool(self, *, writes: bool) -> Pool:
        return AsyncConnectionPool(
            conninfo(self._settings, writes=writes),
            connection_class=Connection,
            kwargs={"autocommit": True},
            configure=self._learn_timeline if writes else None,
            min_size=2,
            max_size=_MAX_SIZE,
            timeout=REQUEST_S,
            # A failed connection is given up at once, and tried again for the next request: the pool's own attempts
            # become rare during an outage.
            reconnect_timeout=_RECONNECT_S,
            open=False,
            name="writers" if writes else "readers",
        )

    async def open(self) -> None:
        """Connect, and create the table where it is missing. Raises psycopg.Error if a server is away for too long."""
        await self._await_servers()
        for pool in (self.writers, self.readers):
            await pool.open(wait=True, timeout=_OPEN_S)
        async with self.writers.connection() as connection, connection.transaction():
            # Two instances may start at once.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"{NAME}.users"])
            cursor = await connection.execute("SELECT to_regclass('users')")
            if await cursor.fetchone() == (None,):
                await connection.execute("CREATE TABLE users (id serial PRIMARY KEY, name text)")

    async def _await_servers(self) -> None:
        """Try until both servers let the service in; the pools would try less and less often, and not say why."""
        ends = time.monotonic() + self._settings.start_timeout_s
        told = False
        while True:
            try:
                for writes in (True, False):
                    await (await psycopg.AsyncConnection.connect(conninfo(self._settings, writes=writes))).close()
            except psycopg.OperationalError as error:
                if time.monotonic() + _RETRY_S > ends:
                    raise
                if not told:
                    logger.warning("Waiting for the database: %s", str(error).partition("\n")[0])
                told = True
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def close(self) -> None:
        for pool in (self.writers, self.readers):
            await pool.close()

    async def create_user(self, name: str) -> tuple[int, str, Position]:
        """Insert a row on the primary; its values, and a position from which on every server has it."""
        ends = time.monotonic() + REQUEST_S
        while True:
            committing = False
            async with _connection(self.writers, ends) as connection:
                try:
                    with _Deadline(connection, ends):
                        async with connection.transaction():
                            cursor = await connection.execute(INSERT, [name])
                            row = await cursor.fetchone()
                            committing = True
                        committed = await _one(connection, _COMMITTED)
                except (
                    psycopg.OperationalError,
                    psycopg.InterfaceError,
                    psycopg.errors.ReadOnlySqlTransaction,
                ) as error:
                    if committing:
                        logger.warning("The commit of a user was not confirmed: %s", str(error).partition("\n")[0])
                        raise UnavailableError(
                            "The database was lost before it confirmed the commit. The user may exist, or not: "
                            "look before you try again."
                        ) from error
                    # Nothing was committed, so another connection may try again.
                    if not _is_lost(connection, error):
                        raise
                    await connection.close()
                    continue
                except psycopg.Error as error:
                    raise RefusedError(error) from error
            assert row is not None  # noqa: S101
            return row[0], row[1], Position(self._timeline, parse(committed[0]))

    async def users(self, after: int, limit: int, at_least: int = 0, *, position: bool = False) -> Reading:
        """Read rows that are complete up to the LSN ``at_least``, from the replica where possible."""
        ends = time.monotonic() + REQUEST_S
        query = (after, limit, at_least, position or at_least > 0)
        if at_least and time.monotonic() < self._replica_behind_until:
            pass  # Somebody has just waited for it in vain.
        elif self._settings.read_from == "standby":
            with suppress(_BehindError):
                return await self._read(self.readers, ends, ends, *query)
        elif time.monotonic() >= self._replica_fails_until:
            # While it fails, one request at a time tries it.
            if self._replica_failed:
                self._replica_fails_until = time.monotonic() + _REPLICA_PAUSE_S
            now = time.monotonic()
            try:
                reading = await self._read(self.readers, now + _REPLICA_S, now + STATEMENT_S, *query)
            except _BehindError:
                pass
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                self._replica_fails_until = time.monotonic() + _REPLICA_PAUSE_S
                if not self._replica_failed:
                    self._replica_failed = True
                    reason = str(error).partition("\n")[0]
                    logger.warning("The replica does not answer, so the primary serves the reads: %s", reason)
            else:
                if self._replica_failed:
                    self._replica_failed = False
                    logger.info("The %s serves reads again", "replica" if reading.standby else "pool of readers")
                return reading
        return await self._read(self.writers, ends, ends, *query)

    async def _read(
        self, pool: Pool, connected_by: float, ends: float, after: int, limit: int, at_least: int, position: bool
    ) -> Reading:
        waits_until = time.monotonic() + FRESH_WAIT_S
        pause_s = 0.002
        while True:
            async with _connection(pool, connected_by) as connection:
                try:
                    with _Deadline(connection, ends):
                        standby = connection.info.parameter_status("in_hot_standby") == "on"
                        reached: int | None = None
                        if position:
                            standby, written = await _one(connection, _POSITION)
                            reached = parse(written)
                        if reached is None or not standby or reached >= at_least:
                            cursor = await connection.execute(SELECT, [after, limit])
                            rows = await cursor.fetchall()
                            if pool is self.readers and not standby:
                                await self._leave_primary(connection)
                            return Reading(rows, standby, _complete_to(standby, reached))
                except (psycopg.OperationalError, psycopg.InterfaceError):
                    raise
                except psycopg.Error as error:
                    raise RefusedError(error) from error
            # No connection is held meanwhile.
            if time.monotonic() > waits_until:
                self._replica_behind_until = time.monotonic() + _REPLICA_PAUSE_S
                raise _BehindError
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)

    async def _leave_primary(self, connection: Connection) -> None:
        """Close a reader's connection to the primary after a while, so that the next finds a replica that is back."""
        age_s = time.monotonic() - connection.opened_at
        if age_s > _READER_ON_PRIMARY_S and self._settings.read_from == "prefer-standby":
            await connection.close()

    async def state(self) -> dict[str, dict[str, Any]]:
        """Ask both pools whether they work, and how far the replica is behind."""
        writers, readers = await asyncio.gather(self._ask(self.writers), self._ask(self.readers))
        if "standby" in readers and not readers["standby"]:
            readers = {**readers, "status": "degraded", "detail": "No replica answers; the primary serves the reads."}
        elif writers["status"] == readers["status"] == "ok":
            readers["bytes_behind"] = max(0, parse(writers["position"]) - parse(readers["position"]))
        return {"primary": writers, "replica": readers}

    async def _ask(self, pool: Pool) -> dict[str, Any]:
        now = time.monotonic()
        try:
            async with _connection(pool, now + _REPLICA_S) as connection:
                with _Deadline(connection, now + STATEMENT_S):
                    standby, position = await _one(connection, _POSITION)
                    if pool is self.readers and not standby:
                        await self._leave_primary(connection)
        except psycopg.Error as error:
            return {"status": "down", "detail": str(error).splitlines()[0] if str(error) else type(error).__name__}
        return {"status": "ok", "standby": standby, "position": position}

    async def _learn_timeline(self, connection: Connection) -> None:
        name, position = await _one(
            connection, "SELECT pg_walfile_name(pg_current_wal_insert_lsn()), pg_current_wal_flush_lsn()::text"
        )
        timeline = int(name[:8], 16)
        if timeline <= self._timeline:
            return
        known, self._timeline = self._timeline, timeline
        if known:
            logger.warning("Another server is the primary now: timeline %s, position %s", timeline, position)
        await self._on_new_timeline(Position(timeline, parse(position)))


def _complete_to(standby: bool, reached: int | None) -> int | None:
    """Up to where a reading surely has every commit that was acknowledged.

    A standby has replayed a commit when it says so. A primary has flushed a commit a moment before it shows it to
    others; but whoever knows a position of an acknowledged commit asked for it later, so below the last byte it counts.
    """
    if reached is None:
        return None
    return reached if standby else reached - 1


async def _one(connection: Connection, statement: str) -> tuple[Any, ...]:
    row = await (await connection.execute(statement.encode())).fetchone()
    assert row is not None  # noqa: S101
    return row


@asynccontextmanager
async def _connection(pool: Pool, ends: float) -> AsyncIterator[Connection]:
    """Lend a connection that works, by the time ``ends``.

    The pool tries to connect when somebody asks, so it is asked again and again; it finds out that an idle connection
    was lost only when that is used, so its socket is looked at first, which costs no round trip.
    """
    while True:
        left_s = ends - time.monotonic()
        if left_s <= 0:
            raise PoolTimeout(f"no connection of the {pool.name} in time")
        try:
            connection = await pool.getconn(timeout=min(left_s, _RECONNECT_S))
        except PoolTimeout:
            continue
        if await _usable(connection):
            break
        await connection.close()
        await pool.putconn(connection)
    try:
        yield connection
    finally:
        await pool.putconn(connection)


async def _usable(connection: Connection) -> bool:
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    # Something came unasked: the server's last words, the end of the stream, or a notice.
    try:
        with _Deadline(connection, time.monotonic() + STATEMENT_S):
            await connection.execute("")
    except psycopg.Error:
        return False
    return True


def _is_lost(connection: Connection, error: psycopg.Error) -> bool:
    """Whether the server ended the connection, or takes no writes any more."""
    ended = (error.sqlstate or "").startswith(("57P", "08"))
    return connection.closed or ended or isinstance(error, psycopg.errors.ReadOnlySqlTransaction)


class _Deadline:
    """Ends what a connection does at a time: asks the server to cancel it, then cuts the connection.

    A frozen server keeps its TCP connections, so neither its own timeouts nor TCP's end the wait.
    """

    def __init__(self, connection: Connection, ends: float) -> None:
        self._connection = connection
        self._seconds = min(STATEMENT_S + _RECONNECT_S, ends - time.monotonic())
        self._late: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._begin_to_end)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._timer.cancel()
        if self._late is not None:
            # The server may get the request to cancel later: it must not meet another query.
            self._late.cancel()
            self._cut()
            if error is None:
                raise psycopg.OperationalError("the server did not answer in time")

    def _begin_to_end(self) -> None:
        self._late = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        with suppress(psycopg.Error):
            await self._connection.cancel_safe(timeout=0.5)
        await asyncio.sleep(0.1)
        self._cut()

    def _cut(self) -> None:
        # Of a copy: the descriptor itself is still awaited.
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as one:
            one.shutdown(socket.SHUT_RDWR)
