"""The lock of writers on real servers: who can take it, who is named, and what an interruption leaves behind."""

import asyncio
import random
import time
from collections.abc import Iterator

import psycopg
import pytest
from sql_servers import COORDINATOR, Servers, on

from citus_cluster.errors import LockedError
from citus_cluster.runtime.citus.lock import ADVISORY_KEY, writer_lock
from citus_cluster.runtime.postgres import Connection

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("only_newest")]

# Not the superuser's: the servers log statements, and another test wants that password in no log.
STRANGERS = "password-of-a-stranger"
LEFT = f"""
SELECT (SELECT count(*) FROM citus_cluster.writer JOIN pg_stat_activity USING (pid, backend_start))
     + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND (classid::bigint << 32) | objid::bigint = {ADVISORY_KEY})
"""


@pytest.fixture
def stranger(cluster: Servers) -> Iterator[str]:
    """Return an ordinary role, with everything that PUBLIC may do."""
    cluster.sql(COORDINATOR.host, f"CREATE ROLE stranger LOGIN PASSWORD '{STRANGERS}'")
    try:
        yield "stranger"
    finally:
        cluster.sql(COORDINATOR.host, "DROP ROLE stranger")


def connect_as(cluster: Servers, role: str) -> psycopg.Connection[tuple[object, ...]]:
    info = cluster.info(COORDINATOR.host)
    return psycopg.connect(
        host=info.host, port=info.port, user=role, password=STRANGERS, dbname=info.database, autocommit=True
    )


async def hold(conn: Connection, *, wait_s: float = 5) -> None:
    async with writer_lock(conn, wait_s=wait_s):
        pass


def test_an_ordinary_role_cannot_stop_administration(cluster: Servers, stranger: str) -> None:
    on(cluster, hold)
    with connect_as(cluster, stranger) as session:
        session.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_KEY])
        on(cluster, lambda conn: hold(conn, wait_s=0.2))
        for attempt in ("LOCK TABLE citus_cluster.writer IN ACCESS SHARE MODE", "TABLE citus_cluster.writer"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), session.transaction():
                session.execute(attempt.encode())


def test_the_holder_is_named_and_its_end_frees_the_lock(cluster: Servers) -> None:
    async def body(conn: Connection) -> None:
        async with await cluster.connect() as third:
            other = await cluster.connect()
            async with writer_lock(other, wait_s=1):
                told = (
                    rf"session {other.info.backend_pid} "
                    r"\(citus-cluster, role postgres, from \S+, since \d\d:\d\d:\d\d UTC\)"
                )
                with pytest.raises(LockedError, match=told):
                    await hold(conn, wait_s=0.2)
                assert not conn.closed, "it was refused, not interrupted"
                waiting = asyncio.create_task(hold(conn))
                await third.execute("SELECT pg_terminate_backend(%s::int)", [other.info.backend_pid])
                await waiting
                with pytest.raises(psycopg.OperationalError):
                    await other.execute("SELECT 1")
            async with writer_lock(conn, wait_s=1):
                with pytest.raises(LockedError, match=f"session {conn.info.backend_pid} "):
                    await hold(third, wait_s=0)

    on(cluster, body)


def test_runs_of_the_first_versions_and_of_this_one_wait_for_each_other(cluster: Servers) -> None:
    async def body(conn: Connection) -> None:
        async with await cluster.connect() as older:
            await older.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_KEY])
            with pytest.raises(LockedError, match=rf"session {older.info.backend_pid} \(citus-cluster, role postgres"):
                await hold(conn, wait_s=0.2)
            await older.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_KEY])
            async with writer_lock(conn, wait_s=1):
                assert await (await older.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_KEY])).fetchone() == (
                    False,
                )
            assert await (await older.execute("SELECT pg_try_advisory_lock(%s)", [ADVISORY_KEY])).fetchone() == (True,)

    on(cluster, body)


def test_several_that_begin_on_a_new_cluster_take_turns(cluster: Servers) -> None:
    inside = 0
    seen = []

    async def one() -> None:
        nonlocal inside
        async with await cluster.connect() as conn:
            for _ in range(3):
                async with writer_lock(conn, wait_s=30):
                    inside += 1
                    seen.append(inside)
                    await conn.execute("SELECT pg_sleep(0.01)")
                    inside -= 1

    async def body(_: Connection) -> None:
        await asyncio.gather(*(one() for _ in range(6)))

    on(cluster, body)
    assert seen == [1] * 18


def test_an_interruption_leaves_no_lock_on_a_connection_that_lives_on(cluster: Servers) -> None:
    chance = random.Random(7)

    async def body(watcher: Connection) -> None:
        await hold(watcher)
        conn = await cluster.connect()
        for _ in range(60):
            if conn.closed:
                conn = await cluster.connect()
            started = time.monotonic()
            await hold(conn)
            whole_s = time.monotonic() - started
            attempt = asyncio.create_task(hold(conn))
            await asyncio.wait([attempt], timeout=chance.uniform(0, whole_s))
            attempt.cancel()
            await asyncio.wait([attempt])
            assert attempt.cancelled() or attempt.exception() is None
            if not conn.closed:
                cursor = await conn.execute(LEFT.encode())
                assert await cursor.fetchone() == (0,)
        await conn.close()
        # The sessions of those that were closed end by themselves.
        await hold(watcher)

    on(cluster, body)
