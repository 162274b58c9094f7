"""What requests may ask of the coordinator: how many at once, for how long, and what becomes of those given up."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from api_support import ApiFiles
from fake_coordinator import ADDRESS, Clock, FakeCoordinator, in_place

from admin_api import coordinator as coordinator_module
from admin_api import recent
from admin_api.configuration import Configuration
from admin_api.coordinator import BusyError, Coordinator, Shared, connection_info
from admin_api.request_context import running_operation
from admin_api.settings import APPLICATION_NAME, MAX_CHANGES, MAX_CONNECTIONS, MAX_LASTING
from citus_cluster.errors import UnreachableError
from citus_cluster.runtime.postgres import Connection

LONG_S = 30.0


@pytest.fixture
def files(tmp_path: Path) -> ApiFiles:
    return ApiFiles.of_cluster(tmp_path, ADDRESS)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    with in_place(monkeypatch) as fake:
        yield fake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recent, "time", clock)
    return clock


Act = Callable[[Coordinator], Coroutine[Any, Any, None]]
Run = Callable[[Act], None]


@pytest.fixture
def waits() -> list[tuple[int, Sequence[int] | None]]:
    """What the coordinator has reported of operations that wait."""
    return []


@pytest.fixture
def run(files: ApiFiles, fake: FakeCoordinator, waits: list[tuple[int, Sequence[int] | None]]) -> Run:
    settings = files.settings(health_timeout_s=0.05, connect_timeout_s=7)

    def scenario(act: Act) -> None:
        async def whole() -> None:
            coordinator = Coordinator(settings, Configuration(settings), lambda *told: waits.append(told))
            try:
                await act(coordinator)
            finally:
                await coordinator.close()

        asyncio.run(asyncio.wait_for(whole(), LONG_S))

    return scenario


class Held:
    """Work that lasts until it may end, and notes how often it was interrupted."""

    def __init__(self, *, stubborn: int = 0) -> None:
        self.begun = 0
        self.interrupted = 0
        self.ended = asyncio.Event()
        self.may_end = asyncio.Event()
        self._stubborn = stubborn

    async def __call__(self, connection: Connection) -> str:
        self.begun += 1
        while True:
            try:
                await self.may_end.wait()
                return "done"
            except asyncio.CancelledError:
                self.interrupted += 1
                if self.interrupted > self._stubborn:
                    self.ended.set()
                    raise


async def settle() -> None:
    """Let every task go on as far as it can without waiting."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_coordinator_is_reached_as_the_files_say(files: ApiFiles, fake: FakeCoordinator, run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        async def name(connection: Connection) -> str:
            return "answer"

        assert await coordinator.run(name, timeout_s=LONG_S) == "answer"
        assert await coordinator.change(name, timeout_s=LONG_S) == "answer"

    run(act)
    ((info, timeout_s, application_name),) = fake.dialled
    settings = files.settings()
    cluster = Configuration(settings).cluster()
    assert info == connection_info(cluster, Configuration(settings))
    assert (info.host, info.port) == (cluster.coordinator.host, cluster.coordinator.port)
    assert (info.user, info.database, info.password) == ("postgres", "postgres", files.password_file.read_text())
    assert (timeout_s, application_name) == (7, APPLICATION_NAME)


def test_work_that_takes_too_long_is_given_up_and_ended(run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        held = Held()
        with pytest.raises(TimeoutError):
            await coordinator.run(held, timeout_s=0.01)
        await held.ended.wait()
        assert held.interrupted == 1

    run(act)


def test_work_that_does_not_end_when_it_is_cancelled_is_cancelled_once_more(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver asks the server to end a cancelled query, which a paused server does not do."""
    monkeypatch.setattr(coordinator_module, "_CANCEL_GRACE_S", 0.01)

    async def act(coordinator: Coordinator) -> None:
        held = Held(stubborn=1)
        with pytest.raises(TimeoutError):
            await coordinator.change(held, timeout_s=0.01)
        await held.ended.wait()
        assert held.interrupted == 2

    run(act)


def test_the_work_of_a_request_that_ends_is_ended_too(run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        held = Held()
        asking = asyncio.create_task(coordinator.run(held, timeout_s=LONG_S))
        await settle()
        assert held.begun == 1
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await held.ended.wait()

    run(act)


def test_closing_ends_what_still_runs(run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        held = Held()
        asking = asyncio.create_task(coordinator.run(held, timeout_s=LONG_S))
        await settle()
        await coordinator.close()
        await held.ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking

    run(act)


def test_a_change_that_lasts_leaves_a_connection_for_short_ones_and_has_no_time_limit(run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        lasting, short = Held(), Held()
        on_coordinator = coordinator.lasting()
        waiting = [asyncio.create_task(on_coordinator(lasting)) for _ in range(MAX_CONNECTIONS)]
        await settle()
        assert lasting.begun == MAX_LASTING < MAX_CHANGES
        waiting.append(asyncio.create_task(coordinator.change(short, timeout_s=LONG_S)))
        await settle()
        assert short.begun == 1
        lasting.may_end.set()
        short.may_end.set()
        assert set(await asyncio.gather(*waiting)) == {"done"}

    run(act)


def test_an_operation_that_waits_for_its_turn_is_reported_with_those_before_it(
    run: Run, waits: list[tuple[int, Sequence[int] | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "_BRIEF_WAIT_S", 0)

    async def as_operation(number: int, work: Coroutine[Any, Any, str]) -> str:
        with running_operation(str(number)):
            return await work

    async def act(coordinator: Coordinator) -> None:
        lasting, short = Held(), Held()
        on_coordinator = coordinator.lasting()
        several = [asyncio.create_task(as_operation(number, on_coordinator(lasting))) for number in (1, 2, 3)]
        await settle()
        assert waits == [(2, (1,)), (3, (1, 2))]
        several[1].cancel()
        await settle()
        # One of two turns is that of 1, and a plan, which is no operation, has the other.
        several.append(asyncio.create_task(coordinator.change(short, timeout_s=LONG_S)))
        await settle()
        several.append(asyncio.create_task(as_operation(4, coordinator.change(short, timeout_s=LONG_S))))
        await settle()
        assert waits[2:] == [(4, (1,))]
        lasting.may_end.set()
        short.may_end.set()
        await asyncio.gather(*several, return_exceptions=True)
        assert sorted(one for one, ahead in waits if ahead is None) == [3, 4]

    run(act)


def test_a_brief_wait_is_not_reported(
    run: Run, waits: list[tuple[int, Sequence[int] | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_module, "_BRIEF_WAIT_S", 1.0)  # longer than a pause of a busy machine

    async def act(coordinator: Coordinator) -> None:
        held, on_coordinator = Held(), coordinator.lasting()
        with running_operation("1"):
            first = asyncio.create_task(on_coordinator(held))
        with running_operation("2"):
            second = asyncio.create_task(on_coordinator(held))
        await settle()
        held.may_end.set()
        assert {await first, await second} == {"done"}
        await asyncio.sleep(1.1)  # until the report would have come

    run(act)
    assert waits == []


def test_one_connection_is_left_for_health_and_one_more_for_who_only_reads(run: Run, fake: FakeCoordinator) -> None:
    async def act(coordinator: Coordinator) -> None:
        changes, reads = Held(), Held()
        waiting = [asyncio.create_task(coordinator.change(changes, timeout_s=LONG_S)) for _ in range(MAX_CONNECTIONS)]
        await settle()
        assert changes.begun == MAX_CHANGES < MAX_CONNECTIONS - 1
        waiting += [asyncio.create_task(coordinator.run(reads, timeout_s=LONG_S)) for _ in range(MAX_CONNECTIONS)]
        await settle()
        assert (changes.begun, reads.begun) == (MAX_CHANGES, MAX_CONNECTIONS - 1 - MAX_CHANGES)
        assert await coordinator.check() is None
        assert len(fake.connections) == MAX_CONNECTIONS
        changes.may_end.set()
        reads.may_end.set()
        assert set(await asyncio.gather(*waiting)) == {"done"}
        assert len(fake.connections) == MAX_CONNECTIONS

    run(act)


def test_a_crowd_is_told_to_come_back_later(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "MAX_REQUESTS", 2)

    async def act(coordinator: Coordinator) -> None:
        held = Held()
        waiting = [asyncio.create_task(coordinator.run(held, timeout_s=LONG_S)) for _ in range(2)]
        await settle()
        for ask in (coordinator.run, coordinator.change):
            with pytest.raises(BusyError) as refused:
                await ask(held, timeout_s=LONG_S)
            assert (refused.value.code, refused.value.http_status) == ("busy", 503)
            assert refused.value.message == "Too many requests at once."
            assert refused.value.hint == "Try again in a few seconds."
        held.may_end.set()
        await asyncio.gather(*waiting)
        assert await coordinator.run(held, timeout_s=LONG_S) == "done"

    run(act)


def test_who_asks_for_a_sign_of_life_shortly_afterwards_gets_the_same_answer(
    run: Run, fake: FakeCoordinator, clock: Clock
) -> None:
    async def act(coordinator: Coordinator) -> None:
        assert await coordinator.check() is None
        (connection,) = fake.connections
        assert connection.statements == [""]
        clock.now_s += 0.9
        assert await coordinator.check() is None
        assert len(connection.statements) == 1
        clock.now_s += 0.1
        await coordinator.check()
        assert len(connection.statements) == 2

    run(act)


def test_the_return_of_a_coordinator_is_seen_sooner_than_its_loss(
    run: Run, fake: FakeCoordinator, clock: Clock
) -> None:
    async def act(coordinator: Coordinator) -> None:
        fake.refusal = UnreachableError("It refuses.")
        assert await coordinator.check() is fake.refusal
        clock.now_s += 0.19
        assert await coordinator.check() is fake.refusal
        assert len(fake.dialled) == 1
        clock.now_s += 0.01
        fake.refusal = None
        assert await coordinator.check() is None

    run(act)


@pytest.mark.parametrize("way", ["silent", "lost"])
def test_a_coordinator_that_does_not_answer_is_told_with_what_to_look_at(
    run: Run, fake: FakeCoordinator, clock: Clock, way: str
) -> None:
    async def act(coordinator: Coordinator) -> None:
        assert await coordinator.check() is None
        (connection,) = fake.connections
        clock.now_s += 10
        if way == "silent":
            connection.may_answer.clear()
        else:
            connection.failure = psycopg.OperationalError("server closed the connection unexpectedly")
        refusal = await coordinator.check()
        assert isinstance(refusal, UnreachableError)
        assert refusal.message == "The coordinator did not answer within 0.05 s."
        assert refusal.hint == "Check whether it runs: docker compose ps; docker compose logs citus-coordinator"

    run(act)


def test_who_waits_for_a_connection_shares_the_next_question(run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        held = Held()
        shared = Shared(coordinator, held, timeout_s=LONG_S)
        free = MAX_CONNECTIONS - 1
        early = []
        for number in range(free):
            early.append(asyncio.create_task(shared.answer()))
            await settle()
            assert held.begun == number + 1
        late = [asyncio.create_task(shared.answer()) for _ in range(10)]
        await settle()
        assert held.begun == free
        late[0].cancel()
        held.may_end.set()
        assert await asyncio.gather(*early, *late[1:]) == ["done"] * (free + 9)
        assert held.begun == free + 1

    run(act)


def test_an_error_reaches_all_who_share_the_question_and_the_next_one_is_asked_anew(
    run: Run, fake: FakeCoordinator
) -> None:
    async def act(coordinator: Coordinator) -> None:
        held = Held()
        held.may_end.set()
        shared = Shared(coordinator, held, timeout_s=LONG_S)
        fake.refusal = UnreachableError("It refuses.")
        answers = await asyncio.gather(*(shared.answer() for _ in range(3)), return_exceptions=True)
        assert answers == [fake.refusal] * 3
        assert len(fake.dialled) == 1
        fake.refusal = None
        assert await shared.answer() == "done"

    run(act)


def test_a_shared_question_ends_in_time(run: Run) -> None:
    async def act(coordinator: Coordinator) -> None:
        shared = Shared(coordinator, Held(), timeout_s=0.01)
        with pytest.raises(TimeoutError):
            await shared.answer()

    run(act)


def test_a_password_that_cannot_be_read_is_the_reason(run: Run, files: ApiFiles, tmp_path: Path) -> None:
    files.password_file.unlink()

    async def act(coordinator: Coordinator) -> None:
        refusal = await coordinator.check()
        assert refusal is not None
        assert refusal.code == "configuration"

    run(act)
