"""SQLite and PostgreSQL."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql as composed
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from .store import SCHEMA, Store, StoreAwayError

_BUSY_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 2
_STATEMENT_TIMEOUT_MS = 2500
_ANSWER_TIMEOUT_S = 3.0
_DEAD_AFTER_MS = 10_000
_CONNECTIONS = 8
_SCHEMA_LOCK = 7_110_117_114_108
"""An advisory lock: CREATE TABLE IF NOT EXISTS fails when two processes run it at once."""

_T = TypeVar("_T")


class _Connection:
    """A connection to SQLite, used by a thread of its own, so that the event loop does not wait for the disk."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        # Readers do not wait for the writer. FULL: a committed transaction survives a power failure.
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {setting}")

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._connection)
        except sqlite3.Error as error:
            raise StoreAwayError(f"SQLite: {error}") from error

    async def close(self) -> None:
        await self.run(lambda connection: connection.close())
        self._thread.shutdown()


class SqliteStore(Store):
    """A file, for one machine."""

    def __init__(self, path: Path) -> None:
        try:
            self._writer, self._reader = _Connection(path), _Connection(path)
        except sqlite3.Error as error:
            raise StoreAwayError(f"{path} cannot be opened: {error}") from error

    @classmethod
    async def open(cls, path: Path) -> "SqliteStore":
        """Open the file, and create the tables that are missing."""
        store = cls(path)
        await store._writer.run(lambda connection: connection.executescript(SCHEMA.format(serial="INTEGER")))
        return store

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()

    async def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self._reader.run(lambda connection: connection.execute(_marks(sql), values).fetchall())

    async def _change(self, sql: str, *values: Any) -> int:
        return await self._writer.run(lambda connection: connection.execute(_marks(sql), values).rowcount)

    async def _change_together(
        self, guard: str, guard_values: Sequence[Any], sql: str, rows: Sequence[Sequence[Any]]
    ) -> int | None:
        def work(connection: sqlite3.Connection) -> int | None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not connection.execute(_marks(guard), guard_values).rowcount:
                    connection.execute("ROLLBACK")
                    return None
                changed = connection.executemany(_marks(sql), rows).rowcount if rows else 0
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return changed

        return await self._writer.run(work)


def _marks(sql: str) -> str:
    return sql.replace("%s", "?")


class PostgresStore(Store):
    """PostgreSQL; without a schema, that of the role."""

    def __init__(self, url: str, schema: str) -> None:
        async def configure(connection: psycopg.AsyncConnection) -> None:
            await connection.execute(f"SET statement_timeout = {_STATEMENT_TIMEOUT_MS}")
            if schema:
                await connection.execute(composed.SQL("SET search_path TO {}").format(composed.Identifier(schema)))
            await connection.commit()

        self._unanswered: set[asyncio.Task[Any]] = set()
        self._pool = AsyncConnectionPool(
            url,
            kwargs={
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "application_name": "url_shortener",
                "tcp_user_timeout": _DEAD_AFTER_MS,
            },
            configure=configure,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=_CONNECT_TIMEOUT_S,
            open=False,
        )

    @classmethod
    async def open(cls, url: str, schema: str) -> "PostgresStore":
        """Connect, and create the schema and the tables that are missing."""
        store = cls(url, schema)
        try:
            where = conninfo_to_dict(url)
            async with await psycopg.AsyncConnection.connect(url, connect_timeout=_CONNECT_TIMEOUT_S) as connection:
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
                if schema:
                    name = composed.Identifier(schema)
                    await connection.execute(composed.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
                    await connection.execute(composed.SQL("SET LOCAL search_path TO {}").format(name))
                serial = "BIGINT GENERATED ALWAYS AS IDENTITY"
                await connection.execute(SCHEMA.format(serial=serial))
        except psycopg.Error as error:
            at = (
                f"{where.get('host', 'localhost')}:{where.get('port', 5432)}" if "where" in locals() else "DATABASE_URL"
            )
            reason = " ".join(str(error).split())
            raise StoreAwayError(f"PostgreSQL at {at} cannot be used: {reason}") from error
        await store._pool.open()
        return store

    async def close(self) -> None:
        await self._pool.close()

    async def _answer(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Wait for the work for some seconds: a server that is frozen enforces no timeout of its own.

        The work is not cancelled, because psycopg would then wait for the server. It ends when the server answers, is
        declared dead by the kernel, or ends.
        """
        task = asyncio.create_task(work)
        self._unanswered.add(task)
        task.add_done_callback(self._unanswered.discard)
        done, _ = await asyncio.wait({task}, timeout=_ANSWER_TIMEOUT_S)
        if not done:
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            raise StoreAwayError(f"PostgreSQL: no answer within {_ANSWER_TIMEOUT_S:g} s")
        return task.result()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Give a connection in a transaction, which ends with the block."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, PoolTimeout) as error:
            raise StoreAwayError(f"PostgreSQL: {str(error).strip() or type(error).__name__}") from error

    async def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        async def work() -> list[tuple[Any, ...]]:
            async with self._connection() as connection:
                return await (await connection.execute(sql, values)).fetchall()

        return await self._answer(work())

    async def _change(self, sql: str, *values: Any) -> int:
        async def work() -> int:
            async with self._connection() as connection:
                return (await connection.execute(sql, values)).rowcount

        return await self._answer(work())

    async def _change_together(
        self, guard: str, guard_values: Sequence[Any], sql: str, rows: Sequence[Sequence[Any]]
    ) -> int | None:
        async def work() -> int | None:
            async with self._connection() as connection, connection.cursor() as cursor:
                await cursor.execute(guard, guard_values)
                if not cursor.rowcount:
                    return None
                if rows:
                    await cursor.executemany(sql, rows)
                return cursor.rowcount if rows else 0

        # If it is committed after all, the guard refuses to do it again.
        return await self._answer(work())
