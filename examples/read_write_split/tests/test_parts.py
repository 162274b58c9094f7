"""Tokens, settings, positions, and what needs no server of the database and the activity log."""

import asyncio
import base64
import importlib
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import psycopg.conninfo
import pytest
from fastapi import FastAPI
from read_write_split import logs, settings
from read_write_split.activity import CAPACITY, ActivityLog, Record
from read_write_split.database import Database, conninfo
from read_write_split.list_cache import ListCache
from read_write_split.metrics import Metrics
from read_write_split.positions import Position, form, parse
from read_write_split.settings import LogSettings, Server, Settings
from read_write_split.tokens import AUDIENCE, ISSUER, RefusedTokenError, issue, subject_of
from service_kit.cluster import Address, Cluster, NotConfiguredError

KEY = "k" * 32
HERE = Address("127.0.0.1", 1)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "nbf": now, "exp": now + 86400, **changed}
    return {name: value for name, value in made.items() if value is not None}


def unsigned() -> str:
    parts = ({"alg": "none", "typ": "JWT"}, claims())
    return ".".join(base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode() for one in parts) + "."


NOW = int(time.time())


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (unsigned(), "not valid"),
        (jwt.encode(claims(), "w" * 32, "HS256"), "not valid"),
        (jwt.encode(claims(), "k" * 64, "HS512"), "not valid"),
        (jwt.encode(claims(exp=NOW - 60), KEY), "expired"),
        (jwt.encode(claims(nbf=NOW + 86400), KEY), "not valid yet"),
        (jwt.encode(claims(iat=NOW + 86400), KEY), "not valid yet"),
        (jwt.encode(claims(aud="another"), KEY), "another service"),
        (jwt.encode(claims(iss="another"), KEY), "another service"),
        (jwt.encode(claims(exp=None), KEY), "not valid"),
        (jwt.encode(claims(sub=None), KEY), "not valid"),
        (jwt.encode(claims(aud=None), KEY), "not valid"),
        (jwt.encode(claims(exp=10**30), KEY)[:-2], "not valid"),
        ("", "not valid"),
        ("a.b.c", "not valid"),
        ("😀", "not valid"),
        ("x" * 60_000, "not valid"),
    ],
)
def test_a_token_is_refused(token: str, reason: str) -> None:
    """G-04."""
    with pytest.raises(RefusedTokenError, match=reason):
        subject_of(KEY, token)


def test_a_token_names_its_subject() -> None:
    assert subject_of(KEY, issue(KEY, "alice", 60)) == "alice"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in ("password", "redis_password", "cassandra_password"):
        (folder / f"example_replication_{name}").write_text("s3cret")
    (folder / "example_replication_jwt_key").write_text("too short")
    return Cluster({"PG14_PRIMARY": "pg14-primary:5432", "PG14_REPLICA": "pg14-replica:5432"}, folder)


def changed(cluster: Cluster, **values: str) -> Cluster:
    return Cluster({**cluster.environment, **values}, cluster.mounted_secrets)


def test_only_the_pair_is_needed(cluster: Cluster) -> None:
    given = settings.read(changed(cluster, CLUSTER_DIR="/nowhere"))
    assert (given.database, given.redis, given.cassandra, given.jwt_key) == ("testdb", None, None, None)
    assert (given.rate_limit, given.rate_window_s) == (10, 60)  # E8-07
    with_redis = settings.read(changed(cluster, REDIS="redis:6379", CASSANDRA="off", CLUSTER_DIR="/nowhere"))
    assert with_redis.redis == Server(Address("redis", 6379), "s3cret")
    assert "s3cret" not in repr(with_redis)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AUTH", "on", "HS256 needs 32"),
        ("AUTH", "yes", "on, off"),
        ("READ_FROM", "primary", "prefer-standby, standby"),
        ("RATE_LIMIT", "-1", "whole number"),
        ("RATE_LIMIT", "9" * 30, "whole number"),
        ("REDIS", "redis", "HOST:PORT"),
    ],
)
def test_a_wrong_setting_is_told(cluster: Cluster, name: str, value: str, said: str) -> None:
    with pytest.raises(NotConfiguredError, match=said):
        settings.read(changed(cluster, CLUSTER_DIR="/nowhere", **{name: value}))


def test_both_pools_know_both_servers() -> None:
    """C-22: two pools of ten, on the two ports, made without a running loop."""
    given = Settings(Address("127.0.0.1", 5432), Address("127.0.0.1", 5433), "testdb", "password")

    async def nothing(_: Position) -> None:
        pass

    async def make() -> tuple[int, int]:
        database = Database(given, nothing)
        return database.writers.max_size, database.readers.max_size

    assert asyncio.run(make()) == (10, 10)
    writes, reads = (psycopg.conninfo.conninfo_to_dict(conninfo(given, writes=one)) for one in (True, False))
    assert (writes["port"], writes["target_session_attrs"]) == ("5432,5433", "read-write")
    assert (reads["port"], reads["target_session_attrs"]) == ("5433,5432", "prefer-standby")
    assert writes["dbname"] == reads["dbname"] == "testdb"


def test_a_replica_that_is_behind_is_waited_for_once_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(Address("127.0.0.1", 5432), Address("127.0.0.1", 5433), "testdb", "password")
    asked: list[str] = []

    async def nothing(_: Position) -> None:
        pass

    async def run() -> None:
        database = Database(given, nothing)
        monkeypatch.setattr("read_write_split.database.FRESH_WAIT_S", 0.0)
        monkeypatch.setattr("read_write_split.database._connection", behind)
        for _ in range(3):
            assert (await database.users(0, 10, at_least=2**20)).users == [(1, "Grace")]

    @asynccontextmanager
    async def behind(pool: Any, ends: float) -> AsyncIterator[FakeConnection]:
        asked.append(pool.name)
        yield FakeConnection(standby=pool.name == "readers")

    asyncio.run(run())
    assert asked == ["readers", "writers", "writers", "writers"]


class FakeConnection:
    """A server that is at position 0/1 as a standby, and at 0/FFFFFF as the primary."""

    def __init__(self, standby: bool) -> None:
        self.standby = standby
        self.info = self

    def parameter_status(self, name: str) -> str:
        return "on" if self.standby else "off"

    async def execute(self, statement: str | bytes, values: Any = None) -> "FakeConnection":
        self.rows = [(1, "Grace")] if values else [(self.standby, "0/1" if self.standby else "0/FFFFFF")]
        return self

    async def fetchone(self) -> Any:
        return self.rows[0]

    async def fetchall(self) -> Any:
        return self.rows


def test_the_module_of_the_documents_has_the_application() -> None:
    """C-20, C-21: what is installed, and what uvicorn imports; nothing is read or connected yet."""
    assert importlib.import_module("psycopg_pool")
    assert isinstance(importlib.import_module("read_write_split.main").app, FastAPI)


def test_positions() -> None:
    for text in ("0/0", "0/3000148", "16/B374D848", "FFFFFFFF/FFFFFFFF"):
        assert form(parse(text)) == text
    assert parse("1/0") == 2**32
    assert Position(2, 5) > Position(1, 9), "a promotion begins a new history"
    assert str(Position(1, 2**32 + 15)) == "1/F"


def test_without_redis_the_last_write_of_this_process_is_known() -> None:
    async def run() -> tuple[int, int]:
        cache = ListCache(None, 30)
        before = await cache.look_up()
        await cache.invalidate(Position(1, 50))
        await cache.invalidate(Position(1, 40))
        return before.at_least, (await cache.look_up(token=45)).at_least

    assert asyncio.run(run()) == (0, 50)


def test_records_beyond_the_queue_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """G-08: nothing waits for a Cassandra that is away."""
    metrics = Metrics()

    async def run() -> dict[str, Any]:
        activity = ActivityLog(Server(HERE, "password"), metrics)
        for number in range(CAPACITY + 5):
            activity.note(Record("alice", "user created", number, "Grace"))
        state = activity.state()
        await activity.close()
        return state

    with caplog.at_level(logging.WARNING, "fastapi_app"):
        state = asyncio.run(run())
    assert (state["status"], state["queued"], state["dropped"]) == ("down", CAPACITY, 5)
    text = metrics.text().decode()
    assert 'activity_records_dropped_total{reason="full"} 5.0' in text
    assert f'activity_records_dropped_total{{reason="shutdown"}} {CAPACITY}.0' in text
    assert "Activity records are dropped (full): 1 since the start" in caplog.text
    assert f"Activity records are dropped (shutdown): {CAPACITY + 5} since the start" in caplog.text


def test_a_folder_that_cannot_be_written_leaves_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C-24."""
    for file in (str(tmp_path / "app.log"), str(tmp_path / "missing" / "app.log")):
        handlers = logs.configure(LogSettings(file=file))
        logging.getLogger("fastapi_app").info("a line")
        logs.stop(handlers)
    assert "[INFO] fastapi_app: a line" in (tmp_path / "app.log").read_text()
    said = capsys.readouterr().err
    assert said.count("[INFO] fastapi_app: a line") == 2
    assert "No such file or directory, so the console alone has the log" in said
