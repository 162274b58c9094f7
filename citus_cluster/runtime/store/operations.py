"""The record of operations: an embedded SQLite database, in which each change of state is durable at once.

All functions of a store run one after another in one thread of its own, because SQLite has one writer, and a slow disk
must not stop the event loop.
"""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.inventory import Inventory
from citus_cluster.model.operation import Operation, OperationEvent, OperationState
from citus_cluster.model.plan.events import EventKind

T = TypeVar("T")

KEPT = timedelta(days=90)
KEPT_OPERATIONS = 5000
KEYS_KEPT = timedelta(hours=24)
"""How long an idempotency key is remembered."""
_MAX_ID = 2**63 - 1
_VERSION = 2
_SCHEMA = """
CREATE TABLE operation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    summary TEXT NOT NULL,
    scope TEXT NOT NULL,
    state TEXT NOT NULL,
    command TEXT NOT NULL,
    parameters TEXT NOT NULL,
    plan TEXT NOT NULL,
    result TEXT,
    error TEXT,
    asker TEXT NOT NULL,
    created_at TEXT NOT NULL,
    ended_at TEXT,
    attempts INTEGER NOT NULL,
    resumable INTEGER NOT NULL,
    idempotency_key TEXT,
    inventory TEXT,
    diff TEXT
) STRICT;
CREATE UNIQUE INDEX one_runs ON operation (scope) WHERE state = 'running';
CREATE UNIQUE INDEX one_for_a_key ON operation (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE event (
    operation_id INTEGER NOT NULL REFERENCES operation ON DELETE CASCADE,
    number INTEGER NOT NULL,
    time TEXT NOT NULL,
    step TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (operation_id, number)
) STRICT, WITHOUT ROWID;
"""
_SINCE_VERSION_1 = """
ALTER TABLE operation ADD COLUMN inventory TEXT;
ALTER TABLE operation ADD COLUMN diff TEXT;
"""
_COLUMNS = """
id, kind, summary, state, command, parameters, plan, result, error, asker, created_at, ended_at, attempts,
resumable, diff,
(SELECT count(*) FROM event WHERE operation_id = id),
(SELECT message FROM event WHERE operation_id = id ORDER BY number DESC LIMIT 1)
"""
logger = logging.getLogger(__name__)


class StoreError(CitusClusterError):
    """The record of operations cannot be written."""

    code = "operations-unavailable"
    http_status = 503


class OperationRunningError(CitusClusterError):
    """The same change, or one that excludes it, is running."""

    code = "operation-running"
    http_status = 409

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        super().__init__(
            f"Operation {operation.id} ({operation.kind}) is running, and excludes this one.",
            hint=f"Wait until it has ended, or cancel it: POST /api/v1/operations/{operation.id}/cancel",
        )


@dataclass(frozen=True)
class NewOperation:
    """What is recorded of an operation when it starts; operations of the same ``scope`` exclude each other."""

    kind: str
    summary: str
    scope: str
    command: str
    parameters: Mapping[str, object]
    plan: Mapping[str, object]
    by: Mapping[str, object]
    resumable: bool
    idempotency_key: str | None = None


class OperationStore:
    """The operations of one cluster. ``path`` None keeps them in memory, until the process ends."""

    def __init__(self, path: Path | None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="operations")
        self._database: sqlite3.Connection | None = None

    @property
    def is_durable(self) -> bool:
        return self._path is not None

    async def open(self) -> None:
        """Open or create the database. Raises StoreError if it cannot be opened or belongs to a newer version."""
        await self._call(self._open)

    async def close(self) -> None:
        """Wait for the calls that have begun, and close the database."""
        with suppress(StoreError):
            await self._call(lambda db: db.close())
        self._thread.shutdown(wait=False)

    async def begin(self, new: NewOperation) -> tuple[Operation, bool]:
        """Record an operation that starts now. Returns it, or the earlier one with its idempotency key, and False.

        Raises OperationRunningError if another one of its scope is running.
        """
        return await self._call(lambda db: self._begin(db, new))

    async def again(self, operation_id: int) -> Operation:
        """Record that an operation runs again. Raises OperationRunningError if another one of its scope is running."""
        return await self._call(lambda db: self._again(db, operation_id))

    async def end(self, ended: Operation) -> None:
        """Record the state, the result, the diff, the error and the time of the end of an operation."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE operation SET state = ?, result = ?, diff = ?, error = ?, ended_at = ? WHERE id = ?",
                [
                    ended.state.value,
                    _dump(ended.result),
                    _dump(ended.diff),
                    _dump(ended.error),
                    ended.ended_at and ended.ended_at.isoformat(),
                    ended.id,
                ],
            )

        await self._call(work)

    async def keep_inventory(self, operation_id: int, found: Inventory) -> None:
        """Record what the cluster consisted of when an operation began; a resumed one keeps its first."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE operation SET inventory = ? WHERE id = ? AND inventory IS NULL", [_dump(found), operation_id]
            )

        await self._call(work)

    async def inventory(self, operation_id: int) -> Inventory | None:
        """Return what the cluster consisted of when an operation began, if that is known."""

        def work(db: sqlite3.Connection) -> Inventory | None:
            row = db.execute("SELECT inventory FROM operation WHERE id = ?", [operation_id]).fetchone()
            return json.loads(row[0]) if row and row[0] else None

        return await self._call(work)

    async def interrupt_all(self) -> Sequence[Operation]:
        """Record that operations were interrupted, which an earlier process left as running. Returns them."""

        def work(db: sqlite3.Connection) -> Sequence[Operation]:
            ids = [row[0] for row in db.execute("SELECT id FROM operation WHERE state = 'running' ORDER BY id")]
            db.execute(
                "UPDATE operation SET state = 'interrupted', ended_at = ? WHERE state = 'running'", [self._time()]
            )
            return [found for one in ids if (found := self._get(db, one))]

        return await self._call(work)

    async def add_event(self, operation_id: int, event: OperationEvent) -> None:
        """Record one event."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    operation_id,
                    event.number,
                    event.time.isoformat(),
                    event.step,
                    event.kind.value,
                    event.message,
                    _dump(event.data),
                ],
            )

        await self._call(work)

    async def get(self, operation_id: int) -> Operation | None:
        """Return an operation, or None if there is none with this id."""
        return await self._call(lambda db: self._get(db, operation_id))

    async def by_key(self, key: str) -> Operation | None:
        """Return the operation that was started with an idempotency key, if it is remembered."""
        return await self._call(lambda db: self._by_key(db, key))

    async def running(self, scope: str) -> Operation | None:
        """Return the running operation of a scope."""

        def work(db: sqlite3.Connection) -> Operation | None:
            return self._one(db, "scope = ? AND state = 'running'", scope)

        return await self._call(work)

    async def latest(self, limit: int = KEPT_OPERATIONS) -> Sequence[Operation]:
        """Return the latest operations, the newest first."""

        def work(db: sqlite3.Connection) -> Sequence[Operation]:
            rows = db.execute(f"SELECT {_COLUMNS} FROM operation ORDER BY id DESC LIMIT ?", [limit])  # noqa: S608
            return [_operation(row) for row in rows]

        return await self._call(work)

    async def page(self, limit: int, before: int | None = None) -> tuple[Sequence[Operation], int]:
        """Return the latest operations with a smaller id than ``before``, the newest first, and the number of all."""

        def work(db: sqlite3.Connection) -> tuple[Sequence[Operation], int]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM operation WHERE id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608
                [_MAX_ID if before is None else max(0, min(before, _MAX_ID)), limit],
            )
            return [_operation(row) for row in rows], db.execute("SELECT count(*) FROM operation").fetchone()[0]

        return await self._call(work)

    async def latest_of_kinds(self) -> Sequence[Operation]:
        """Return the latest operation of each kind, the newest first."""

        def work(db: sqlite3.Connection) -> Sequence[Operation]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM operation WHERE id IN (SELECT max(id) FROM operation GROUP BY kind) "  # noqa: S608
                "ORDER BY id DESC"
            )
            return [_operation(row) for row in rows]

        return await self._call(work)

    async def events(self, operation_id: int, after: int = 0, limit: int = 1000) -> Sequence[OperationEvent]:
        """Return the events of an operation with a number greater than ``after``, in their order."""

        def work(db: sqlite3.Connection) -> Sequence[OperationEvent]:
            rows = db.execute(
                "SELECT number, time, step, kind, message, data FROM event WHERE operation_id = ? AND number > ? "
                "ORDER BY number LIMIT ?",
                [operation_id, after, limit],
            )
            return [
                OperationEvent(number, datetime.fromisoformat(time), step, EventKind(kind), message, json.loads(data))
                for number, time, step, kind, message, data in rows
            ]

        return await self._call(work)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._database is None:
                self._database = self._connect()
            with self._database:
                return work(self._database)
        except sqlite3.Error as error:
            raise StoreError(
                f"The record of operations cannot be used: {error}.",
                hint="Check the free space and the permissions of the volume of the admin API (docker system df), "
                "then try again.",
            ) from error

    def _connect(self) -> sqlite3.Connection:
        # Other threads never use it: each call runs in the store's own.
        database = sqlite3.connect(self._path or ":memory:", check_same_thread=False, timeout=5)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        return database

    def _open(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise StoreError(
                f"The record of operations was written by a newer version of the admin API (format {version}).",
                hint="Use that version, or remove the volume of the admin API, which holds nothing else.",
            )
        if version < _VERSION:
            script = _SINCE_VERSION_1 if version else _SCHEMA
            db.executescript(f"BEGIN; {script} PRAGMA user_version = {_VERSION}; COMMIT;")
        self._forget_old(db)

    def _forget_old(self, db: sqlite3.Connection) -> None:
        now = self._now()
        db.execute(
            "DELETE FROM operation WHERE state <> 'running' AND (created_at < ? OR id <= "
            "(SELECT coalesce(max(id), 0) FROM operation) - ?)",
            [(now - KEPT).isoformat(), KEPT_OPERATIONS],
        )
        db.execute(
            "UPDATE operation SET idempotency_key = NULL WHERE idempotency_key IS NOT NULL AND created_at < ?",
            [(now - KEYS_KEPT).isoformat()],
        )

    def _begin(self, db: sqlite3.Connection, new: NewOperation) -> tuple[Operation, bool]:
        self._forget_old(db)
        if new.idempotency_key and (earlier := self._by_key(db, new.idempotency_key)):
            return earlier, False
        self._refuse_running(db, new.scope)
        cursor = db.execute(
            "INSERT INTO operation (kind, summary, scope, state, command, parameters, plan, asker, created_at, "
            "attempts, resumable, idempotency_key) VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?, 1, ?, ?)",
            [
                new.kind,
                new.summary,
                new.scope,
                new.command,
                _dump(new.parameters),
                _dump(new.plan),
                _dump(new.by),
                self._time(),
                int(new.resumable),
                new.idempotency_key,
            ],
        )
        found = self._get(db, cursor.lastrowid or 0)
        assert found is not None  # noqa: S101 - it was inserted above
        return found, True

    def _again(self, db: sqlite3.Connection, operation_id: int) -> Operation:
        row = db.execute("SELECT scope FROM operation WHERE id = ?", [operation_id]).fetchone()
        self._refuse_running(db, row[0])
        db.execute(
            "UPDATE operation SET state = 'running', attempts = attempts + 1, ended_at = NULL, error = NULL, "
            "diff = NULL "
            "WHERE id = ?",
            [operation_id],
        )
        found = self._get(db, operation_id)
        assert found is not None  # noqa: S101
        return found

    def _refuse_running(self, db: sqlite3.Connection, scope: str) -> None:
        if running := self._one(db, "scope = ? AND state = 'running'", scope):
            raise OperationRunningError(running)

    def _get(self, db: sqlite3.Connection, operation_id: int) -> Operation | None:
        return self._one(db, "id = ?", operation_id)

    def _by_key(self, db: sqlite3.Connection, key: str) -> Operation | None:
        return self._one(db, "idempotency_key = ? AND created_at >= ?", key, (self._now() - KEYS_KEPT).isoformat())

    def _one(self, db: sqlite3.Connection, where: str, *values: object) -> Operation | None:
        row = db.execute(f"SELECT {_COLUMNS} FROM operation WHERE {where}", values).fetchone()  # noqa: S608
        return _operation(row) if row else None

    def _time(self) -> str:
        return self._now().isoformat()


def _operation(row: Sequence[Any]) -> Operation:
    (id_, kind, summary, state, command, parameters, plan, result, error, by, created, ended, attempts, *rest) = row
    resumable, diff, events, last = rest
    return Operation(
        id=id_,
        kind=kind,
        summary=summary,
        state=OperationState(state),
        command=command,
        parameters=json.loads(parameters),
        plan=json.loads(plan),
        result=json.loads(result) if result else None,
        diff=json.loads(diff) if diff else None,
        error=json.loads(error) if error else None,
        by=json.loads(by),
        created_at=datetime.fromisoformat(created),
        ended_at=datetime.fromisoformat(ended) if ended else None,
        attempts=attempts,
        resumable=bool(resumable) and state != OperationState.DONE.value,
        events=events,
        last_message=last,
    )


def _dump(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
