"""Running changes as operations: each is recorded with its plan, its events and its result, and outlives a restart.

An operation runs in this process, and not for a request: its sender may disconnect. If the process ends, the operation
is *interrupted*, and resuming it runs its change again, whose steps skip what is done. An operation that Citus
continues by itself is resumed when the process starts again.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from citus_cluster.errors import CitusClusterError, NotFoundError, UsageError
from citus_cluster.model.citus.inventory import Inventory, compare
from citus_cluster.model.documents import Documented, as_data
from citus_cluster.model.operation import Operation, OperationEvent, OperationState, turn_event
from citus_cluster.model.parameters import has_secret, read_parameters
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import AnyChange, command_line, perform
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.failures import NotRunningError, document_of, failure_of
from citus_cluster.operations.journaled import Asker, Journal
from citus_cluster.runtime.store.operations import NewOperation, OperationRunningError, OperationStore, StoreError

MAX_EVENTS = 5000
"""Progress beyond this number of events of one operation is not recorded; its end always is."""
_PROGRESS_INTERVAL_S = 1.0
"""Progress of one step is recorded this often at most."""
_CANCEL_TIMEOUT_S = 10.0
_CANCEL, _RESUME = "cancel", "resume"
_KEY = "idempotency_key"
"""In the data of an event: the key of the request that caused it."""
logger = logging.getLogger(__name__)


class CannotResumeError(CitusClusterError):
    """The operation cannot be resumed."""

    code = "cannot-resume"
    http_status = 409


class KeyReusedError(UsageError):
    """The idempotency key was used for another request."""

    code = "idempotency-key-reused"


@dataclass
class Running:
    """An operation that this process runs. ``outcome`` is its result, ``failure`` the error that ended it.

    ``outcome`` may hold secrets that are shown once, to whoever requested them; the record does not.
    """

    operation: Operation
    change: AnyChange
    wanted: Any
    asker: Asker
    events: list[OperationEvent] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None
    outcome: Documented | None = None
    failure: BaseException | None = None
    is_cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, whenever there is another event, or the operation has ended."""
    written: float = 0.0
    progress: dict[str, float] = field(default_factory=dict)

    async def ended(self, within_s: float) -> bool:
        """Wait for the end. Returns whether it has ended within this time."""
        if self.task is not None:
            await asyncio.wait({self.task}, timeout=within_s)
        return self.task is None or self.task.done()

    def tell(self) -> None:
        """Wake everybody who waits for events."""
        self.changed.set()
        self.changed = asyncio.Event()


class Operations:
    """Runs operations, and knows the earlier ones.

    ``cluster`` gives a change and its parameters their connections; without a change, those of a plan or a stop.
    ``look`` reads what the cluster consists of, for the diff of an operation; without it, there is none. ``ended`` is
    called after each operation.
    """

    def __init__(
        self,
        store: OperationStore,
        changes: Mapping[str, AnyChange],
        cluster: Callable[[AnyChange | None, Any], Cluster],
        journal: Callable[[Asker], Journal],
        entering: Callable[[int], AbstractContextManager[object]] = lambda _: nullcontext(),
        look: Callable[[Cluster], Awaitable[Inventory | None]] | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._changes = changes
        self._cluster = cluster
        self._journal = journal
        self._entering = entering
        self._look = look
        self._ended = ended
        self._running: dict[int, Running] = {}
        self._unrecorded: dict[int, Operation] = {}
        """Operations that have ended; their end is not recorded yet."""
        self._unwritten: dict[int, list[OperationEvent]] = {}
        """By operation: events that could not be recorded yet."""
        self._writes: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def open(self) -> None:
        """Open the record, mark what an earlier process left, and follow what Citus has continued by itself."""
        await self._store.open()
        for operation in await self._store.interrupt_all():
            await self._note(operation, EventKind.WARNING, "The admin API ended while this operation ran.")
        for operation in await self._store.latest():
            change = self._changes.get(operation.kind)
            if operation.state is not OperationState.INTERRUPTED or change is None or change.continues is None:
                continue
            events = await self.events(operation.id)
            if _continued(change, events) is None:
                continue
            try:
                await self._restart(
                    operation, change, _asker_of(operation), Event(_RESUME, EventKind.STARTED, "resumed")
                )
            except CitusClusterError as error:
                logger.warning("operation %s is not followed: %s", operation.id, error.message)

    async def close(self) -> None:
        """Interrupt what runs, and record that; the changes can be resumed later."""
        self._is_closing = True
        tasks = [one.task for one in self._running.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT_S)
        if self._writes:
            await asyncio.wait(self._writes, timeout=_CANCEL_TIMEOUT_S)
        with contextlib.suppress(StoreError):
            await self._record_ends()
        await self._store.close()

    @property
    def is_durable(self) -> bool:
        return self._store.is_durable

    async def plan(self, change: AnyChange, wanted: Any) -> Preview:
        """Return what a change would do. Raises what its ``plan`` raises."""
        found: Preview = await change.plan(self._cluster(None, wanted), wanted)
        return found

    async def begin(self, change: AnyChange, wanted: Any, asker: Asker, *, key: str | None = None) -> Running:
        """Plan a change, record it, and start it. The same ``key`` returns the operation that it has started before.

        Raises what ``Preview.refuse`` raises if the plan's checks found what would make it fail, OperationRunningError
        if a change that excludes it is running, KeyReusedError, StoreError, and what ``plan`` raises.
        """
        asked = _parameters(wanted)
        await self._record_ends()
        if key is not None and (earlier := await self._store.by_key(key)):
            return self._same(earlier, change, asked)
        if running := await self._store.running(change.scope_of(wanted)):
            # Found before the plan, which may wait for the other one's locks.
            raise OperationRunningError(running)
        preview = await self._planned(change, wanted, asker)
        new = NewOperation(
            kind=change.name,
            summary=change.summary,
            scope=change.scope_of(wanted),
            command=command_line(change, wanted),
            parameters=asked,
            plan=preview.as_dict(),
            by=asker.as_dict(),
            resumable=not has_secret(wanted),
            idempotency_key=key,
        )
        operation, is_new = await self._store.begin(new)
        if not is_new:
            return self._same(operation, change, asked)
        return self._start(Running(operation, change, wanted, asker), preview)

    async def _planned(self, change: AnyChange, wanted: Any, asker: Asker) -> Preview:
        """Plan, and record in the journal a change that is refused."""
        refusal: CitusClusterError | None = None
        preview: Preview | None = None
        try:
            preview = await self.plan(change, wanted)
            preview.refuse()
        except CitusClusterError as error:
            refusal = error
        if preview is not None and refusal is None:
            return preview
        with self._journal(asker).entry(change.name, **_fields(wanted)) as entry:
            entry.plan = preview.steps if preview else ()
            assert refusal is not None  # noqa: S101 - otherwise there is a plan
            raise refusal

    async def plan_cancel(self, operation_id: int) -> Preview:
        """Return what ``cancel`` would do. Raises NotFoundError, NotRunningError."""
        operation = (await self._cancellable(operation_id)).operation
        return Preview((f"Cancel operation {operation_id}, {operation.kind}: what it has done stays done.",))

    async def cancel(self, operation_id: int, asker: Asker, *, key: str | None = None) -> Operation:
        """End a running operation: what it has done stays done. Its events and the journal say who wanted that.

        The same ``key`` returns the operation that it has cancelled before. Raises NotFoundError, NotRunningError.
        """
        if await self._was_requested(operation_id, _CANCEL, key):
            if (earlier := self._running.get(operation_id)) is not None and earlier.is_cancelled:
                await earlier.ended(_CANCEL_TIMEOUT_S)
            return await self.get(operation_id)
        running = await self._cancellable(operation_id)
        with self._journal(replace(asker, operation=operation_id)).entry("operations-cancel"):
            await self._end(running, asker, key)
        return await self.get(operation_id)

    async def _cancellable(self, operation_id: int) -> Running:
        operation = await self.get(operation_id)
        running = self._running.get(operation_id)
        if running is None or running.task is None:
            raise NotRunningError(f"Operation {operation_id} has ended: {operation.state.value}.")
        return running

    async def _was_requested(self, operation_id: int, step: str, key: str | None) -> bool:
        """Return whether a request with this key has cancelled or resumed an operation before, and did not fail."""
        if key is None:
            return False
        found = [one for one in await self.events(operation_id) if one.step == step and one.data.get(_KEY) == key]
        return bool(found) and found[-1].kind is EventKind.STARTED

    async def _end(self, running: Running, asker: Asker, key: str | None) -> None:
        if not running.is_cancelled:
            running.is_cancelled = True
            by, message = _by(asker, key), f"cancelling{_on_request(asker)}"
            self._emit(running, Event(_CANCEL, EventKind.STARTED, message, by))
            if running.change.stop is not None:
                try:
                    await running.change.stop(
                        # Not behind what another long change is doing.
                        self._cluster(None, running.wanted),
                        running.wanted,
                        lambda event: self._emit(running, event),
                    )
                except BaseException as failure:
                    running.is_cancelled = False
                    reason = document_of(failure)["message"]
                    self._emit(running, Event(_CANCEL, EventKind.WARNING, f"not cancelled: {reason}", by))
                    raise
        if running.task is not None:
            running.task.cancel()
        await running.ended(_CANCEL_TIMEOUT_S)

    async def plan_resume(self, operation_id: int) -> Preview:
        """Return what ``resume`` would do. Raises NotFoundError, CannotResumeError, and what the plan raises."""
        operation, change = await self._resumable(operation_id)
        return await self.plan(change, read_parameters(change.parameters, operation.parameters))

    async def resume(self, operation_id: int, asker: Asker, *, key: str | None = None) -> Running:
        """Run an operation again that did not succeed. Raises NotFoundError, CannotResumeError.

        The same ``key`` returns the operation that it has resumed before.
        """
        await self._record_ends()
        if await self._was_requested(operation_id, _RESUME, key):
            operation = await self.get(operation_id)
            if change := self._changes.get(operation.kind):
                return self._again(operation, change)
        operation, change = await self._resumable(operation_id)
        by, message = _by(asker, key), f"resumed{_on_request(asker)}: what is done is skipped"
        return await self._restart(operation, change, asker, Event(_RESUME, EventKind.STARTED, message, by))

    async def _resumable(self, operation_id: int) -> tuple[Operation, AnyChange]:
        operation = await self.get(operation_id)
        change = self._changes.get(operation.kind)
        if operation.state is OperationState.DONE:
            raise CannotResumeError(f"Operation {operation_id} has succeeded: there is nothing to resume.")
        if operation.state is OperationState.RUNNING:
            raise CannotResumeError(f"Operation {operation_id} is running.")
        if change is None or not operation.resumable:
            reason = "its secret is not kept" if change else "this version does not know it"
            raise CannotResumeError(
                f"Operation {operation_id} cannot be resumed: {reason}.", hint="Request the change again."
            )
        return operation, change

    async def get(self, operation_id: int) -> Operation:
        """Return an operation. Raises NotFoundError."""
        if unrecorded := self._unrecorded.get(operation_id):
            return unrecorded
        found = await self._store.get(operation_id)
        if found is None:
            raise NotFoundError(f"There is no operation {operation_id}.", hint="GET /api/v1/operations lists them.")
        return found

    async def latest(self) -> list[Operation]:
        """Return the operations that are kept, the newest first."""
        return [self._unrecorded.get(one.id, one) for one in await self._store.latest()]

    async def page(self, limit: int, before: int | None = None) -> tuple[list[Operation], int]:
        """Return the latest operations with a smaller id than ``before``, the newest first, and the number of all."""
        found, total = await self._store.page(limit, before)
        return [self._unrecorded.get(one.id, one) for one in found], total

    async def latest_of_kinds(self) -> list[Operation]:
        """Return the latest operation of each kind, the newest first."""
        return [self._unrecorded.get(one.id, one) for one in await self._store.latest_of_kinds()]

    async def events(self, operation_id: int, after: int = 0) -> list[OperationEvent]:
        """Return the events of an operation with a greater number. Raises NotFoundError."""
        await self.get(operation_id)
        running = self._running.get(operation_id)
        if running is not None:
            return [event for event in running.events if event.number > after]
        found = await self._store.events(operation_id, after, MAX_EVENTS + 100)
        unwritten = [event for event in self._unwritten.get(operation_id, ()) if event.number > after]
        return sorted([*found, *unwritten], key=lambda event: event.number)

    async def follow(self, operation_id: int, after: int = 0) -> AsyncGenerator[OperationEvent | None, None]:
        """Yield the events of an operation after a number, as they come, until its end.

        Yields None now and then, when nothing has happened. Raises NotFoundError.
        """
        while True:
            running = self._running.get(operation_id)
            woken = running.changed if running else None
            for event in await self.events(operation_id, after):
                after = event.number
                yield event
            if running is None or woken is None:
                return
            try:
                async with asyncio.timeout(15):
                    await woken.wait()
            except TimeoutError:
                yield None

    def report_wait(self, operation_id: int, ahead: Sequence[int] | None) -> None:
        """Report as an event that a running operation waits for those ``ahead``; with None, that its turn has come."""
        if (running := self._running.get(operation_id)) is not None:
            kinds = {one: self._running[one].operation.kind for one in ahead or () if one in self._running}
            self._emit(running, turn_event(None if ahead is None else kinds))

    def _same(self, earlier: Operation, change: AnyChange, asked: Mapping[str, object]) -> Running:
        if earlier.kind != change.name or earlier.parameters != asked:
            raise KeyReusedError(
                "The idempotency key was used for another request.", hint="Use a new key for each change."
            )
        return self._again(earlier, change)

    def _again(self, earlier: Operation, change: AnyChange) -> Running:
        """Return an operation as it answers a repeated request."""
        return self._running.get(earlier.id) or Running(
            earlier, change, None, _asker_of(earlier), failure=failure_of(earlier)
        )

    async def _restart(self, operation: Operation, change: AnyChange, asker: Asker, first: Event) -> Running:
        wanted = read_parameters(change.parameters, operation.parameters)
        again = await self._store.again(operation.id)
        events = await self._store.events(operation.id, 0, 2 * MAX_EVENTS)
        running = Running(again, change, wanted, asker, events=list(events))
        self._running[operation.id] = running
        self._emit(running, first)
        return self._start(running, None)

    def _start(self, running: Running, preview: Preview | None) -> Running:
        self._running[running.operation.id] = running
        running.task = asyncio.create_task(self._run(running, preview), name=f"operation {running.operation.id}")
        return running

    async def _run(self, running: Running, preview: Preview | None) -> None:
        asker = replace(running.asker, operation=running.operation.id)
        state, result, error = OperationState.DONE, None, None
        before: Inventory | None = None
        try:
            with self._entering(running.operation.id):
                before = await self._before(running, is_new=preview is not None)
                running.outcome = await perform(
                    running.change,
                    self._cluster(running.change, running.wanted),
                    self._journal(asker),
                    running.wanted,
                    lambda event: self._emit(running, event),
                    preview=preview,
                    follows=None if preview else _continued(running.change, running.events),
                    planned=None if preview else _details_of(running.operation.plan),
                )
                result = running.outcome.as_dict()
        except asyncio.CancelledError:
            state = OperationState.INTERRUPTED if self._is_closing else OperationState.CANCELLED
            running.failure = NotRunningError(f"The operation was {state.value}.")
        except Exception as failure:
            state = OperationState.CANCELLED if running.is_cancelled else OperationState.FAILED
            running.failure, error = failure, document_of(failure)
            if not isinstance(failure, (CitusClusterError, TimeoutError)):
                logger.exception("operation %s (%s) failed", running.operation.id, running.change.name)
        running.operation = replace(running.operation, diff=await self._diff(before))
        self._emit(running, _end_of(state, error))
        await self._record(running, state, result, error)

    async def _before(self, running: Running, *, is_new: bool) -> Inventory | None:
        """Return what the cluster consisted of when the operation began for the first time."""
        if self._look is None:
            return None
        number = running.operation.id
        try:
            if not is_new:
                return await self._store.inventory(number)
            found = await self._look(self._cluster(None, None))
            if found is not None:
                await self._store.keep_inventory(number, found)
        except StoreError as failure:
            logger.warning("the inventory of operation %s: %s", number, failure.message)
            return None
        return found

    async def _diff(self, before: Inventory | None) -> Mapping[str, object] | None:
        """Compare with what the cluster consists of now. While the process ends, there is no time for it."""
        if before is None or self._look is None or self._is_closing:
            return None
        try:
            after = await self._look(self._cluster(None, None))
        except asyncio.CancelledError:
            # It was cancelled again; its end must be recorded nevertheless.
            return None
        return compare(before, after).as_dict() if after is not None else None

    async def _record(
        self,
        running: Running,
        state: OperationState,
        result: Mapping[str, object] | None,
        error: Mapping[str, object] | None,
    ) -> None:
        number = running.operation.id
        ended = self._unrecorded[number] = replace(
            running.operation,
            state=state,
            result=result,
            error=error,
            ended_at=datetime.now(UTC),
            resumable=running.operation.resumable and state is not OperationState.DONE,
            events=len(running.events),
            last_message=running.events[-1].message,
        )
        try:
            if self._writes:
                await asyncio.wait(self._writes)
            await self._record_ends()
        except StoreError as failure:
            # What the change did is done; its record follows when the store can be written again.
            logger.error("the end of operation %s (%s): %s", number, state.value, failure.message)
        finally:
            running.operation = ended
            self._running.pop(number, None)
            running.tell()
            self._ended()

    async def _record_ends(self) -> None:
        """Record what could not be recorded before. Raises StoreError if the store cannot be written."""
        for number, events in list(self._unwritten.items()):
            for event in list(events):
                await self._store.add_event(number, event)
                with contextlib.suppress(ValueError):
                    events.remove(event)
            if not events:
                self._unwritten.pop(number, None)
        for number, ended in list(self._unrecorded.items()):
            await self._store.end(ended)
            self._unrecorded.pop(number, None)

    def _emit(self, running: Running, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        is_progress = event.kind is EventKind.PROGRESS
        if is_progress:
            if len(running.events) >= MAX_EVENTS or now - running.progress.get(event.step, -1e9) < _PROGRESS_INTERVAL_S:
                return
            running.progress[event.step] = now
        stored = OperationEvent(
            len(running.events) + 1,
            datetime.now(UTC),
            event.step,
            event.kind,
            event.message,
            as_data(event.data),
        )
        running.events.append(stored)
        self._write(running.operation.id, stored)
        running.tell()

    def _write(self, operation_id: int, event: OperationEvent) -> None:
        async def write() -> None:
            try:
                await self._store.add_event(operation_id, event)
            except StoreError as failure:
                self._unwritten.setdefault(operation_id, []).append(event)
                logger.warning("an event of operation %s: %s", operation_id, failure.message)

        task = asyncio.create_task(write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _note(self, operation: Operation, kind: EventKind, message: str) -> None:
        await self._store.add_event(
            operation.id, OperationEvent(operation.events + 1, datetime.now(UTC), "operation", kind, message, {})
        )


def _end_of(state: OperationState, error: Mapping[str, object] | None) -> Event:
    data = {"state": state.value}
    match state:
        case OperationState.DONE:
            return Event("operation", EventKind.DONE, "done", data)
        case OperationState.FAILED:
            return Event("operation", EventKind.FAILED, str((error or {}).get("message")), data)
        case OperationState.INTERRUPTED:
            return Event("operation", EventKind.WARNING, "the admin API ended; the operation can be resumed", data)
        case _:
            return Event("operation", EventKind.WARNING, "cancelled; what was done stays done", data)


def _on_request(asker: Asker) -> str:
    return f" on request of {asker.name}" if asker.name else ""


def _by(asker: Asker, key: str | None) -> Mapping[str, object]:
    return {"by": asker.as_dict()} | ({_KEY: key} if key else {})


def _continued(change: AnyChange, events: Sequence[OperationEvent]) -> object:
    """Return what identifies the part of an interrupted change that went on by itself; None if there is none."""
    found = [event.data[change.continues] for event in events if change.continues and change.continues in event.data]
    return found[-1] if found else None


def _details_of(plan: Mapping[str, object]) -> Mapping[str, object]:
    details = plan.get("details")
    return details if isinstance(details, Mapping) else {}


def _fields(wanted: Any) -> dict[str, Any]:
    return {one.name: getattr(wanted, one.name) for one in fields(wanted)}


def _parameters(wanted: Any) -> dict[str, object]:
    found = as_data(_fields(wanted))
    assert isinstance(found, dict)  # noqa: S101 - a mapping stays one
    return found


def _asker_of(operation: Operation) -> Asker:
    known = {one.name for one in fields(Asker)}
    return Asker(**{name: value for name, value in operation.by.items() if name in known})  # type: ignore[arg-type]
