"""Operations: recorded, followed, cancelled, interrupted and resumed."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from painting import FullError, Painted, Painter, Painting
from pydantic import SecretStr

from citus_cluster.errors import BlockedError, NotFoundError, UnreachableError
from citus_cluster.model.citus.inventory import Inventory
from citus_cluster.model.operation import OperationState
from citus_cluster.model.plan.events import Emit, EventKind
from citus_cluster.operations.change import AnyChange, command_line
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.failures import NotRunningError
from citus_cluster.operations.journaled import ADMIN_API, Asker, of_container
from citus_cluster.operations.running import CannotResumeError, KeyReusedError, Operations, Running
from citus_cluster.runtime.postgres import ConnectionInfo
from citus_cluster.runtime.store.operations import OperationRunningError, OperationStore, StoreError

ASKER = Asker(ADMIN_API, request="POST /walls/paint", role="admin", name="ann")
BOB = Asker(ADMIN_API, request="POST /operations", role="admin", name="bob")


async def unreached(work: Callable[[Any], Awaitable[Any]], /) -> Any:
    raise AssertionError("no test here needs a server")


Look = Callable[[Cluster], Awaitable[Inventory | None]]
INFO = ConnectionInfo(host="nowhere", port=1, user="postgres", database="postgres", password="")


@asynccontextmanager
async def engine(folder: Path, *changes: AnyChange, look: Look | None = None) -> AsyncIterator[Operations]:
    """Operations in a folder, as one process runs them."""
    journal = folder / "journal"
    journal.mkdir(exist_ok=True)
    operations = Operations(
        OperationStore(folder / "operations.sqlite"),
        {change.name: change for change in changes},
        lambda change, wanted: Cluster(unreached, INFO),
        lambda asker: of_container(journal, asker),
        look=look,
    )
    await operations.open()
    try:
        yield operations
    finally:
        await operations.close()


async def ended(running: Running) -> Running:
    assert await running.ended(30)
    return running


def journal_of(folder: Path) -> str:
    file = folder / "journal" / "journal.jsonl"
    return file.read_text() if file.exists() else ""


def contents(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def copied(folder: Path) -> Path:
    copy = folder / "copy"
    copy.mkdir()
    for file in folder.glob("operations.sqlite*"):
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main())


def test_an_operation_keeps_its_plan_its_events_and_its_result(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            running = await ended(await operations.begin(change, Painting("north", 2), ASKER))
            assert isinstance(running.outcome, Painted)
            found = await operations.get(running.operation.id)
            assert found.state is OperationState.DONE
            assert found.plan == {"steps": ["Paint north."], "findings": [], "details": {"litres": 2}}
            assert found.result == {"wall": "north", "coats": 2, "is_new": True}
            assert found.command == "citus-cluster walls paint north --coats 2"
            assert found.by["name"] == "ann"
            assert found.ended_at is not None
            assert found.ended_at >= found.created_at
            events = await operations.events(found.id)
            assert [event.number for event in events] == [1, 2, 3]
            assert [event.message for event in events] == ["painting north", "north is painted", "done"]
            assert [event.number for event in await operations.events(found.id, 2)] == [3]
        assert '"operation": 1' in journal_of(tmp_path)

    run(work())


def test_what_a_plan_refuses_starts_no_operation_but_has_a_line_in_the_journal(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            with pytest.raises(BlockedError, match="the wall is wet"):
                await operations.begin(change, Painting("wet"), ASKER)
            with pytest.raises(NotFoundError):
                await operations.begin(change, Painting("missing"), ASKER)
            assert await operations.latest() == []
            assert painter.painted == []
        assert journal_of(tmp_path).count('"result": "failed"') == 2

    run(work())


@pytest.mark.parametrize(("wall", "code", "kind"), [("full", "wall-full", FullError), ("bug", "internal-error", None)])
def test_a_failure_is_kept_with_its_reason(
    tmp_path: Path, wall: str, code: str, kind: type | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        change = Painter().change()
        async with engine(tmp_path, change) as operations:
            running = await ended(await operations.begin(change, Painting(wall), ASKER))
            assert kind is None or isinstance(running.failure, kind)
            found = await operations.get(1)
            assert found.state is OperationState.FAILED
            assert found.error is not None
            assert found.error["code"] == code
            assert "a bug" not in str(found.error)
            assert (await operations.events(1))[-1].data == {"state": "failed"}

    run(work())


def test_of_two_changes_that_exclude_each_other_one_wins(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            both = await asyncio.gather(
                *(operations.begin(change, Painting("slow"), ASKER) for _ in range(2)), return_exceptions=True
            )
            (won,) = [one for one in both if isinstance(one, Running)]
            (lost,) = [one for one in both if isinstance(one, OperationRunningError)]
            assert lost.operation.id == won.operation.id
            with pytest.raises(OperationRunningError):
                await operations.begin(change, Painting("slow"), ASKER)
            await ended(await operations.begin(change, Painting("north"), ASKER))
            painter.go.set()
            await ended(won)
            await ended(await operations.begin(change, Painting("slow"), ASKER))
        assert painter.painted == ["north", "slow", "slow"]

    run(work())


def test_an_operation_that_waits_for_its_turn_says_for_which(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = replace(painter.change(), scope=lambda wanted: str(wanted.coats))
        async with engine(tmp_path, change) as operations:
            both = [await operations.begin(change, Painting("slow", coats), ASKER) for coats in (1, 2)]
            operations.report_wait(2, (1,))
            operations.report_wait(2, None)
            operations.report_wait(2, ())
            operations.report_wait(9, (1,))
            painter.go.set()
            await asyncio.gather(*map(ended, both))
            events = [one for one in await operations.events(2) if one.step == "turn"]
            assert [(one.kind, one.message.partition(":")[0]) for one in events] == [
                (EventKind.STARTED, "waiting for operation 1 (walls-paint)"),
                (EventKind.DONE, "no longer waiting"),
                (EventKind.STARTED, "waiting for other requests"),
            ]
            assert events[0].data == {"waits_for": [1]}
            assert [one.step for one in await operations.events(1)].count("turn") == 0

    run(work())


def test_the_same_idempotency_key_runs_once(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            several = await asyncio.gather(
                *(operations.begin(change, Painting("north"), ASKER, key="k") for _ in range(5))
            )
            assert {one.operation.id for one in several} == {1}
            await asyncio.gather(*map(ended, several))
            again = await operations.begin(change, Painting("north"), ASKER, key="k")
            assert (again.operation.id, again.operation.state) == (1, OperationState.DONE)
            with pytest.raises(KeyReusedError):
                await operations.begin(change, Painting("south"), ASKER, key="k")
        async with engine(tmp_path, change) as operations:
            later = await operations.begin(change, Painting("north"), ASKER, key="k")
            assert later.operation.id == 1
        assert painter.painted == ["north"]

    run(work())


def test_a_key_is_forgotten_after_a_day(tmp_path: Path) -> None:
    async def work() -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        store = OperationStore(tmp_path / "x.sqlite", now=lambda: now)
        operations = Operations(
            store, {}, lambda change, wanted: Cluster(unreached, INFO), lambda asker: of_container(tmp_path, asker)
        )
        await operations.open()
        change = Painter().change()
        await ended(await operations.begin(change, Painting("north"), ASKER, key="k"))
        now += timedelta(hours=25)
        second = await ended(await operations.begin(change, Painting("north"), ASKER, key="k"))
        assert second.operation.id == 2
        now += timedelta(days=91)
        third = await ended(await operations.begin(change, Painting("north"), ASKER))
        assert [one.id for one in await operations.latest()] == [third.operation.id] == [3]
        assert await operations.events(3)
        await operations.close()

    run(work())


def test_a_cancel_that_failed_is_done_again_with_the_same_key(tmp_path: Path) -> None:
    failures = [UnreachableError("The coordinator does not answer.")]

    async def stop(cluster: Cluster, wanted: Painting, emit: Emit) -> None:
        if failures:
            raise failures.pop()

    async def work() -> None:
        painter = Painter()
        change = painter.change(stop=stop)
        async with engine(tmp_path, change) as operations:
            number = (await operations.begin(change, Painting("slow"), ASKER)).operation.id
            await painter.started.wait()
            with pytest.raises(UnreachableError):
                await operations.cancel(number, BOB, key="c-1")
            assert (await operations.events(number))[-1].message == "not cancelled: The coordinator does not answer."
            states = [(await operations.cancel(number, BOB, key="c-1")).state for _ in range(2)]
            assert states == [OperationState.CANCELLED] * 2

    asyncio.run(work())


def test_a_cancelled_operation_ends_and_stops_what_it_began(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change(stop=painter.stop)
        async with engine(tmp_path, change) as operations:
            running = await operations.begin(change, Painting("slow"), ASKER)
            await painter.started.wait()
            found = await operations.cancel(running.operation.id, BOB)
            assert found.state is OperationState.CANCELLED
            assert painter.stopped == ["slow"]
            assert painter.painted == []
            asked = next(event for event in await operations.events(found.id) if event.step == "cancel")
            assert (asked.message, asked.data["by"]) == ("cancelling on request of bob", BOB.as_dict())
            with pytest.raises(NotRunningError):
                await operations.cancel(found.id, BOB)
            painter.go.set()
            again = await ended(await operations.resume(found.id, BOB))
            assert (again.operation.state, again.operation.attempts) == (OperationState.DONE, 2)
            lines = [json.loads(line) for line in journal_of(tmp_path).splitlines()]
            asked = next(line for line in lines if line["operation"] == "operations-cancel")
            assert (asked["by"]["name"], asked["by"]["operation"], asked["result"]) == ("bob", found.id, "done")
            assert lines[-1]["plan"] == ["Paint slow."]
            messages = [event.message for event in await operations.events(found.id)]
            assert "resumed on request of bob: what is done is skipped" in messages
        assert painter.painted == ["slow"]

    run(work())


def test_the_end_of_the_process_interrupts_and_a_resumed_operation_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            await operations.begin(change, Painting("slow"), ASKER)
            await painter.started.wait()
        async with engine(tmp_path, change) as operations:
            found = await operations.get(1)
            assert (found.state, found.resumable) == (OperationState.INTERRUPTED, True)
            assert "can be resumed" in str(found.last_message)
            painter.go.set()
            again = await ended(await operations.resume(1, ASKER))
            assert again.operation.state is OperationState.DONE
            numbers = [event.number for event in await operations.events(1)]
            assert numbers == list(range(1, len(numbers) + 1))
            with pytest.raises(CannotResumeError, match="nothing to resume"):
                await operations.resume(1, ASKER)
        assert painter.painted == ["slow"]

    run(work())


def test_a_killed_process_leaves_an_operation_that_says_so(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            await operations.begin(change, Painting("slow"), ASKER)
            await painter.started.wait()
            # As after SIGKILL: a copy of the files while it runs.
            copy = copied(tmp_path)
            async with engine(copy, change) as later:
                found = await later.get(1)
                assert found.state is OperationState.INTERRUPTED
                assert found.last_message == "The admin API ended while this operation ran."
                # It does not exclude a new one.
                painter.go.set()
                await ended(await later.begin(change, Painting("slow"), ASKER))

    run(work())


def test_what_goes_on_by_itself_is_followed_after_a_restart(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change(continues="job_id", follow=painter.follow)
        async with engine(tmp_path, change) as operations:
            await operations.begin(change, Painting("slow"), ASKER)
            await painter.started.wait()
        async with engine(tmp_path, change) as operations:
            async for _ in operations.follow(1):
                pass
            assert (await operations.get(1)).state is OperationState.DONE
        assert (painter.followed, painter.painted) == ([7], [])

    run(work())


def test_a_secret_is_not_kept_so_its_operation_cannot_be_resumed(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        wanted = Painting("slow", key=SecretStr("hunter2"))
        async with engine(tmp_path, change) as operations:
            await operations.begin(change, wanted, ASKER)
            await painter.started.wait()
        async with engine(tmp_path, change) as operations:
            found = await operations.get(1)
            assert found.parameters["key"] == "***"
            assert "--key-file FILE" in found.command
            with pytest.raises(CannotResumeError, match="secret"):
                await operations.resume(1, ASKER)
        everything = contents(tmp_path)
        assert b"slow" in everything
        assert b"hunter2" not in everything

    run(work())


def test_events_are_followed_from_any_number_to_the_end(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            await operations.begin(change, Painting("slow"), ASKER)
            followers = [asyncio.create_task(all_of(operations.follow(1, after))) for after in (0, 1, 2)]
            await painter.started.wait()
            await asyncio.sleep(0)
            painter.go.set()
            seen = await asyncio.gather(*followers)
            assert seen == [[1, 2, 3], [2, 3], [3]]
            assert await all_of(operations.follow(1, 3)) == []
            with pytest.raises(NotFoundError):
                await all_of(operations.follow(2))

    run(work())


async def all_of(events: AsyncIterator[Any]) -> list[int]:
    return [event.number async for event in events if event is not None]


def test_a_record_that_cannot_be_used_says_so_and_is_left_alone(tmp_path: Path) -> None:
    async def work() -> None:
        file = tmp_path / "operations.sqlite"
        file.write_bytes(b"not a database" * 100)
        store = OperationStore(file)
        with pytest.raises(StoreError, match="record of operations"):
            await store.open()
        assert file.read_bytes().startswith(b"not a database")
        await store.close()
        file.unlink()
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 99")
        newer = OperationStore(file)
        with pytest.raises(StoreError, match="newer version"):
            await newer.open()
        await newer.close()

    run(work())


def test_a_full_disk_refuses_a_new_operation_but_not_the_end_of_a_running_one(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change()
        async with engine(tmp_path, change) as operations:
            running = await operations.begin(change, Painting("slow"), ASKER)
            await painter.started.wait()
            await operations._store._call(lambda db: db.execute("PRAGMA query_only = ON"))
            with pytest.raises(StoreError):
                await operations.begin(change, Painting("north"), ASKER)
            painter.go.set()
            await ended(running)
            assert painter.painted == ["slow"]
            assert isinstance(running.outcome, Painted)
            # Its end is shown at once, and recorded as soon as there is space.
            for found in (await operations.get(1), *await operations.latest()):
                assert (found.state, found.resumable) == (OperationState.DONE, False)
                assert (found.result or {})["wall"] == "slow"
            with pytest.raises(NotRunningError):
                await operations.cancel(1, BOB)
            await operations._store._call(lambda db: db.execute("PRAGMA query_only = OFF"))
            await ended(await operations.begin(change, Painting("slow"), ASKER))
            shown = await operations.events(1)
            assert [event.message for event in shown][-2:] == ["slow is painted", "done"]
        async with engine(tmp_path, change) as operations:
            assert (await operations.get(1)).state is OperationState.DONE
            assert await operations.events(1) == shown

    run(work())


def test_an_operation_that_this_version_cannot_read_prevents_no_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        painter = Painter()
        change = painter.change(continues="job_id", follow=painter.follow)
        async with engine(tmp_path, change) as operations:
            await operations.begin(change, Painting("slow"), ASKER)
            await painter.started.wait()
            await operations._store._call(lambda db: db.execute("UPDATE operation SET parameters = '{\"roof\": 1}'"))
        async with engine(tmp_path, change) as operations:
            assert (await operations.get(1)).state is OperationState.INTERRUPTED
        assert "operation 1 is not followed" in caplog.text

    run(work())


def test_the_command_of_a_change_can_be_pasted() -> None:
    change = Painter().change()
    assert command_line(change, Painting("it's <red>", 3)) == ("citus-cluster walls paint 'it'\"'\"'s <red>' --coats 3")
    assert command_line(change, Painting("-5", 3)) == "citus-cluster walls paint --coats 3 -- -5"


def walls_of(painter: Painter) -> Look:
    """Return an inventory of walls, each with whether it is painted."""

    async def look(_: Cluster) -> Inventory | None:
        return {f"wall {one}": {"name": one, "is_painted": one in painter.painted} for one in ("north", "slow")}

    return look


PAINTED = {"property": "is_painted", "before": False, "after": True}


def test_an_operation_keeps_what_differs_after_it(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        async with engine(tmp_path, painter.change(), look=walls_of(painter)) as operations:
            await ended(await operations.begin(painter.change(), Painting("north"), ASKER))
            assert (await operations.get(1)).diff == {"changes": [{"item": "wall north", **PAINTED}], "left_out": 0}
            failed = await ended(await operations.begin(painter.change(), Painting("full"), ASKER))
            assert failed.operation.diff == {"changes": [], "left_out": 0}
        async with engine(tmp_path, painter.change()) as operations:
            assert (await operations.get(1)).diff is not None

    run(work())


def test_a_resumed_operation_compares_with_its_first_start(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        async with engine(tmp_path, painter.change(), look=walls_of(painter)) as operations:
            await operations.begin(painter.change(), Painting("slow"), ASKER)
            await painter.started.wait()
            # Its first attempt has had this effect.
            painter.painted.append("north")
        painter.go.set()
        async with engine(tmp_path, painter.change(), look=walls_of(painter)) as operations:
            interrupted = await operations.get(1)
            assert (interrupted.state, interrupted.diff) == (OperationState.INTERRUPTED, None)
            await ended(await operations.resume(1, ASKER))
            found = (await operations.get(1)).diff
            assert found is not None
            assert found["changes"] == [{"item": f"wall {wall}", **PAINTED} for wall in ("north", "slow")]

    run(work())


@pytest.mark.parametrize("fails_at", [1, 2])
def test_what_cannot_be_compared_has_no_diff_and_runs_nevertheless(tmp_path: Path, fails_at: int) -> None:
    async def work() -> None:
        painter, looked = Painter(), 0

        async def look(cluster: Cluster) -> Inventory | None:
            nonlocal looked
            looked += 1
            return None if looked == fails_at else await walls_of(painter)(cluster)

        async with engine(tmp_path, painter.change(), look=look) as operations:
            found = await ended(await operations.begin(painter.change(), Painting("north"), ASKER))
            assert (found.operation.state, found.operation.diff) == (OperationState.DONE, None)
        assert looked == fails_at

    run(work())


def test_an_operation_that_is_cancelled_twice_is_recorded(tmp_path: Path) -> None:
    async def work() -> None:
        painter, looking = Painter(), asyncio.Event()

        async def look(cluster: Cluster) -> Inventory | None:
            if painter.started.is_set():
                looking.set()
                await asyncio.sleep(60)
            return {}

        async with engine(tmp_path, painter.change(), look=look) as operations:
            await operations.begin(painter.change(), Painting("slow"), ASKER)
            await painter.started.wait()
            first = asyncio.create_task(operations.cancel(1, BOB))
            await looking.wait()
            assert (await operations.cancel(1, BOB)).state is OperationState.CANCELLED
            assert (await first).diff is None

    run(work())


def test_a_record_of_an_earlier_version_is_upgraded(tmp_path: Path) -> None:
    async def work() -> None:
        painter = Painter()
        async with engine(tmp_path, painter.change()) as operations:
            await ended(await operations.begin(painter.change(), Painting("north"), ASKER))
        with sqlite3.connect(tmp_path / "operations.sqlite") as database:
            database.execute("ALTER TABLE operation DROP COLUMN inventory")
            database.execute("ALTER TABLE operation DROP COLUMN diff")
            database.execute("PRAGMA user_version = 1")
        async with engine(tmp_path, painter.change(), look=walls_of(painter)) as operations:
            assert (await operations.get(1)).diff is None
            await ended(await operations.begin(painter.change(), Painting("full"), ASKER))
            assert (await operations.get(2)).diff == {"changes": [], "left_out": 0}

    run(work())
