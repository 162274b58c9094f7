"""The connections that requests share: which is lent, which is kept, and which is closed."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest
from fake_coordinator import Clock, FakeConnection
from psycopg.pq import TransactionStatus

from admin_api import connections
from admin_api.connections import MAX_AGE_S, MAX_IDLE_S, Connections
from citus_cluster.runtime.postgres import Connection


class Pool:
    """The connections under test, with those that they opened."""

    def __init__(self) -> None:
        self.opened: list[FakeConnection] = []
        self.refusal: Exception | None = None
        self.connections = Connections(self._dial)

    async def _dial(self) -> Connection:
        if self.refusal:
            raise self.refusal
        self.opened.append(FakeConnection())
        return cast("Connection", self.opened[-1])

    async def use(self) -> FakeConnection:
        async with self.connections.lent() as lent:
            return cast("FakeConnection", lent)

    async def use_at_once(self, number: int) -> list[FakeConnection]:
        """Borrow so many at the same time, and give them back in the order in which they were opened."""
        borrowed = [self.connections.lent() for _ in range(number)]
        found = [cast("FakeConnection", await one.__aenter__()) for one in borrowed]
        for one in borrowed:
            await one.__aexit__(None, None, None)
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(connections, "time", clock)
    return clock


@pytest.fixture
def run(clock: Clock) -> Iterator[Callable[[Callable[[Pool], Coroutine[Any, Any, None]]], None]]:
    def scenario(act: Callable[[Pool], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            pool = Pool()
            try:
                await act(pool)
            finally:
                for one in pool.opened:
                    await one.close()

        asyncio.run(whole())

    yield scenario


Run = Callable[[Callable[[Pool], Coroutine[Any, Any, None]]], None]


def test_a_connection_serves_one_request_after_the_other(run: Run) -> None:
    async def act(pool: Pool) -> None:
        first = await pool.use()
        assert await pool.use() is first
        assert not first.closed

    run(act)


def test_two_requests_at_once_have_a_connection_each_and_the_last_returned_is_lent_first(run: Run) -> None:
    async def act(pool: Pool) -> None:
        first, second = await pool.use_at_once(2)
        assert first is not second
        assert await pool.use() is second

    run(act)


def test_what_keeps_a_connection_from_opening_is_raised_and_the_next_request_tries_again(run: Run) -> None:
    async def act(pool: Pool) -> None:
        pool.refusal = ConnectionRefusedError()
        with pytest.raises(ConnectionRefusedError):
            await pool.use()
        pool.refusal = None
        assert not (await pool.use()).closed

    run(act)


@pytest.mark.parametrize(("error", "is_kept"), [(ValueError, True), (asyncio.CancelledError, False)])
def test_an_interrupted_request_costs_the_connection_and_a_failed_one_does_not(
    run: Run, error: type[BaseException], is_kept: bool
) -> None:
    async def act(pool: Pool) -> None:
        with pytest.raises(error):
            async with pool.connections.lent():
                raise error
        (one,) = pool.opened
        assert one.closed is not is_kept
        assert ((await pool.use()) is one) is is_kept

    run(act)


@pytest.mark.parametrize("status", [TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE])
def test_a_connection_that_is_left_in_a_transaction_is_closed_alone(run: Run, status: TransactionStatus) -> None:
    async def act(pool: Pool) -> None:
        idle, used = await pool.use_at_once(2)
        async with pool.connections.lent() as lent:
            assert lent is cast("Connection", used)
            used.pgconn.transaction_status = status
        assert (used.closed, idle.closed) == (True, False)
        assert await pool.use() is idle

    run(act)


def test_a_broken_connection_takes_the_idle_ones_with_it(run: Run) -> None:
    """They lead to the same server, and each would fail a request."""

    async def act(pool: Pool) -> None:
        found = await pool.use_at_once(3)
        async with pool.connections.lent():
            found[-1].pgconn.transaction_status = TransactionStatus.UNKNOWN
        assert [one.closed for one in found] == [True, True, True]
        assert not (await pool.use()).closed

    run(act)


def test_a_connection_to_which_the_server_has_said_something_is_not_lent_again(run: Run) -> None:
    async def act(pool: Pool) -> None:
        told, gone, well = await pool.use_at_once(3)
        # They are lent from the last to the first.
        told, well = well, told
        told.server.send(b"E")
        gone.closed = True
        assert await pool.use() is well
        assert told.closed

    run(act)


def test_an_old_connection_is_closed_when_it_comes_back(run: Run, clock: Clock) -> None:
    async def act(pool: Pool) -> None:
        one = await pool.use()
        clock.now_s += MAX_AGE_S - 1
        assert await pool.use() is one
        assert not one.closed
        clock.now_s += 1
        await pool.use()
        assert one.closed

    run(act)


def test_connections_that_nobody_needs_any_more_are_closed(run: Run, clock: Clock) -> None:
    async def act(pool: Pool) -> None:
        unneeded, used = await pool.use_at_once(2)
        clock.now_s += MAX_IDLE_S
        assert await pool.use() is used
        assert not unneeded.closed
        clock.now_s += 1
        assert await pool.use() is used
        assert (unneeded.closed, used.closed) == (True, False)
        clock.now_s += MAX_IDLE_S
        assert await pool.use() is used

    run(act)


def test_closing_ends_the_idle_connections_at_once_and_the_lent_ones_when_they_come_back(run: Run) -> None:
    async def act(pool: Pool) -> None:
        idle, lent = await pool.use_at_once(2)
        async with pool.connections.lent():
            await pool.connections.close()
            assert (idle.closed, lent.closed) == (True, False)
        assert lent.closed

    run(act)
