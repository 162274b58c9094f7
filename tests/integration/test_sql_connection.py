"""Limits of time and settings of a connection, on real servers."""

import time
from typing import LiteralString

import pytest
from psycopg.errors import QueryCanceled
from sql_servers import COORDINATOR, WORKERS, Servers, on

from citus_cluster.errors import UnreachableError
from citus_cluster.runtime.postgres import Connection, bounded, bounded_rows, set_local, translated

pytestmark = pytest.mark.cluster

FIRST, SECOND, THIRD = WORKERS


@pytest.mark.usefixtures("only_newest")
def test_a_coordinator_that_hangs_does_not_hang_us(cluster: Servers) -> None:
    async def body(conn: Connection) -> None:
        with cluster.paused(COORDINATOR.host), pytest.raises(UnreachableError, match="connection failed while asking"):
            async with translated("asking"), bounded(conn, 1, whole_s=1):
                await conn.execute("SELECT 1")

    started = time.monotonic()
    on(cluster, body)
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("only_newest")
def test_a_query_in_one_round_trip_is_bounded_too_and_leaves_no_setting_behind(cluster: Servers) -> None:
    settings: LiteralString = (
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('search_path'), "
        "current_setting('jit')"
    )
    ours = ("4s", "4s", "pg_catalog", "off")

    async def body(conn: Connection) -> None:
        before = await (await conn.execute(settings)).fetchone()
        # More often than the driver runs a statement before it prepares it.
        for _ in range(7):
            assert await bounded_rows(conn, settings, 4) == [ours]
        async with bounded(conn, 4):
            assert await (await conn.execute(settings)).fetchone() == ours
        with pytest.raises(QueryCanceled):
            await bounded_rows(conn, "SELECT pg_sleep(30)", 0.2)
        assert await (await conn.execute(settings)).fetchone() == before != ours

    on(cluster, body)


def test_hidden_settings_are_set_too_and_unknown_ones_are_skipped(cluster: Servers) -> None:
    wanted = {
        "citus.enable_ddl_propagation": "off",  # pg_settings does not list it
        "citus.enable_alter_role_propagation": "off",  # nor this one
        "work_mem": "7MB",
        "own.placeholder": "ours",
    }
    unknown = {"no_such_setting": "1", "citus.no_such_setting": "1", "pg_trgm.similarity_threshold": "0.1"}

    async def values(conn: Connection, names: dict[str, str]) -> dict[str, object]:
        cursor = await conn.execute(
            "SELECT name, current_setting(name, true) FROM unnest(%s::text[]) AS name", [list(names)]
        )
        return dict(await cursor.fetchall())

    async def body(conn: Connection) -> None:
        # Of an extension that is not loaded, a server knows the settings that somebody has set.
        await conn.execute("SET own.placeholder = 'theirs'")
        before = await values(conn, wanted)
        async with bounded(conn, 4):
            await set_local(conn, wanted | unknown)
            assert await values(conn, wanted) == wanted
            assert set((await values(conn, unknown)).values()) == {None}
        assert await values(conn, wanted) == before
        assert not set(before.items()) & set(wanted.items())

    on(cluster, body)
