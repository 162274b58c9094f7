"""The PostgreSQL 14 pair on real servers: replication, kills at the worst moments, roles, limits and logs."""

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from generated_cluster import GeneratedCluster
from pair_support import (
    COMMIT_COUNT,
    DATA,
    PRIMARY,
    REPLICA,
    Pair,
    lost,
    make_table,
    network_cut,
    until,
    writing,
)

pytestmark = pytest.mark.cluster

NASTY = 'it\'s "q" \\ a:b $HOME `id` {} %s #'


def test_a_plain_compose_up_replicates(pair: Pair) -> None:
    cluster = pair.cluster
    pair.sql(PRIMARY, "CREATE TABLE users (id serial PRIMARY KEY, name text)")
    pair.sql(PRIMARY, "INSERT INTO users (name) VALUES ('Bob')")
    until(lambda: pair.sql(REPLICA, "SELECT id, name FROM users") == [(1, "Bob")])
    assert pair.sql(PRIMARY, "SELECT state, sync_state FROM pg_stat_replication") == [("streaming", "async")]
    assert pair.sql(PRIMARY, "SELECT current_database(), pg_is_in_recovery()") == [("testdb", False)]
    assert pair.value(PRIMARY, "SHOW server_version").startswith("14.")
    settings = {"wal_level": "replica", "max_wal_senders": "10", "wal_keep_size": "64MB", "listen_addresses": "*"}
    for name, value in settings.items():
        assert pair.value(PRIMARY, f"SHOW {name}") == value
    assert pair.sql(REPLICA, "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()") == [(True,)]
    assert "passfile=" in pair.value(REPLICA, "SHOW primary_conninfo")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pair.sql(REPLICA, "CREATE TABLE x ()")
    pair.inside(REPLICA, 'pg_isready -h 127.0.0.1 && ls "$PGDATA/standby.signal"')
    assert "pg14-replica: 0 bytes behind, 0.000 s" in cluster.cli("pg14", "lag").out
    with cluster.running_cli("pg14", "lag", "--watch", "--interval", "0.1", "--format", "json") as watch:
        assert [json.loads(watch.out.readline())["bytes"] for _ in range(2)] == [0, 0]
        watch.interrupt()
        assert watch.process.wait(timeout=30) == 130


def test_roles_are_narrow(pair: Pair) -> None:
    assert pair.sql(PRIMARY, "SELECT rolreplication, rolsuper FROM pg_roles WHERE rolname = 'replicator'") == [
        (True, False)
    ]
    replicator = {"user": "replicator", "password": pair.cluster.secret("replicator_password")}
    for service in (PRIMARY, REPLICA):
        for refused in (replicator, {**replicator, "dbname": "postgres"}, {"password": "wrong"}):
            with pytest.raises(psycopg.OperationalError, match=r"rejects connection|authentication failed"):
                pair.connect(service, **refused)
    replication = [sys.executable, "-c", f"import psycopg; psycopg.connect({_replication_dsn(pair)!r})"]
    assert "no pg_hba.conf entry for replication" in pair.cluster.run(*replication, check=False).err
    assert pair.value(PRIMARY, "SELECT count(*) FROM pg_available_extensions WHERE name = 'citus'") == 0
    assert pair.inside(PRIMARY, "psql -U postgres -d testdb -Atc 'SELECT 1'") == "1", "no password is asked inside"


def _replication_dsn(pair: Pair) -> str:
    return f"host=127.0.0.1 port={pair.cluster.pg14_port} user=postgres password={pair.password} replication=true"


def test_kills_in_any_order(pair: Pair) -> None:
    make_table(pair)
    until(pair.follows)
    pair.kill(PRIMARY)
    assert pair.sql(REPLICA, COMMIT_COUNT) == [(100, 100)], "reads go on without the primary"
    assert pair.health(REPLICA) == ""
    found = pair.cluster.cli("pg14", "status", check=False)
    assert found.status == 1
    assert "citus-cluster pg14 promote" in found.out
    pair.start(PRIMARY)
    until(pair.follows)
    pair.kill(REPLICA)
    pair.sql(PRIMARY, "INSERT INTO t (v) VALUES ('while it was away')")
    pair.start(REPLICA)
    until(pair.follows)
    pair.kill(PRIMARY, REPLICA)
    pair.start(REPLICA)
    until(lambda: pair.sql(REPLICA, COMMIT_COUNT)[0][0] == 101)
    pair.start(PRIMARY)
    until(pair.follows)
    pair.kill(REPLICA, PRIMARY)
    pair.cluster.compose("down")
    pair.cluster.compose("up", "-d", "--wait")
    until(pair.follows)
    assert pair.sql(REPLICA, COMMIT_COUNT)[0][0] == 101


def test_a_half_copied_base_backup_is_never_started(pair: Pair) -> None:
    make_table(pair, rows=1_000_000)
    cluster = pair.cluster
    for _attempt in range(5):  # a fast disk may copy everything before it is caught
        cluster.docker("rm", "--force", pair.container(REPLICA))
        cluster.docker("volume", "rm", f"{cluster.name}_{REPLICA}-data")
        cluster.compose("up", "-d", REPLICA)
        until(lambda: "base" in pair.inside(REPLICA, f"ls {DATA}/pgdata*", check=False))
        cluster.docker("pause", pair.container(PRIMARY))  # so that it stays half made
        if pair.inside(REPLICA, f"ls {DATA}") == "lock\npgdata.partial":
            break
        cluster.docker("unpause", pair.container(PRIMARY))
    else:
        pytest.fail("the copy was never caught half way")
    assert "copies the data of the primary pg14-primary (" in pair.health(REPLICA)
    pair.kill(REPLICA)
    cluster.docker("unpause", pair.container(PRIMARY))
    pair.start(REPLICA)
    until(pair.follows)
    assert pair.inside(REPLICA, f"ls {DATA}") == "lock\npgdata"
    wanted = "SELECT count(*), sum(hashtext(v)) FROM t"
    assert pair.sql(REPLICA, wanted) == pair.sql(PRIMARY, wanted)


def test_limits_are_lowered_and_raised(pair: Pair) -> None:
    """The last one with this pair, which keeps the limits."""
    spec = pair.cluster.root / "cluster.yaml"
    written = spec.read_text()
    for limit in (25, 60):
        spec.write_text(written + f"settings:\n  pg14: {{max_connections: {limit}, max_wal_senders: {limit // 5}}}\n")
        pair.cluster.setup("--yes", "--up")
        until(pair.follows)
        assert pair.value(PRIMARY, "SHOW max_connections") == str(limit)
        assert int(pair.value(REPLICA, "SHOW max_connections")) >= limit


def test_a_killed_initialisation_begins_anew(cluster: GeneratedCluster) -> None:
    cluster.create("--services=pg14")
    cluster.compose("up", "-d")
    pair = Pair(cluster)
    for pause_s in (0.2, 0.6, 1.0, 1.2, 1.4, 1.6):
        time.sleep(pause_s)
        pair.kill(PRIMARY)
        pair.start(PRIMARY)
    until(pair.follows)
    assert pair.sql(REPLICA, "SELECT rolname FROM pg_roles WHERE rolreplication ORDER BY 1") == [
        ("postgres",),
        ("replicator",),
    ]
    assert pair.inside(PRIMARY, f"ls {DATA}") == "lock\npgdata"


def test_no_acknowledged_commit_is_lost_in_sync_mode(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair("--pg14-sync")
    make_table(pair)
    until(pair.follows)
    assert pair.status()["sync_state"] == "sync"
    assert_waiting_sessions_are_told_in_a_cut(pair)
    assert_commits_that_do_not_wait_are_noticed(pair)
    with writing(pair, PRIMARY) as acknowledged:
        time.sleep(3)
        pair.kill(PRIMARY)
    result = pair.cluster.cli("pg14", "promote", "--yes")
    assert "pg14-replica is now the primary" in result.out
    assert len(acknowledged) > 100
    assert lost(pair, REPLICA, acknowledged) == set()

    # While it has no replica, its commits wait; nobody is told that they are done.
    waiting = threading.Thread(target=pair.sql, args=(REPLICA, "INSERT INTO t (v) VALUES ('waits')"))
    waiting.start()
    until(lambda: pair.status()["waiting_sessions"] == 1)
    assert any("1 session waits now" in problem for problem in pair.status()["problems"])
    pair.cluster.cli("pg14", "rebuild-replica", "--yes")
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    # The snapshots of a copy that began while a commit waited end before it; the next transaction moves them on.
    pair.sql(REPLICA, "SELECT txid_current()")
    until(lambda: pair.sql(PRIMARY, "SELECT count(*) FROM t WHERE v = 'waits'") == [(1,)])
    assert pair.status()["sync_state"] == "sync"
    assert_what_is_dropped_is_said(pair)


def assert_commits_that_do_not_wait_are_noticed(pair: Pair) -> None:
    """By the health check's note: a promotion excuses what is missing only while every role's commits wait."""
    note = f"test -e /var/lib/citus-cluster/synchronous-{PRIMARY} && echo there || echo gone"

    def noted() -> str:
        pair.health(PRIMARY)  # the engine runs it every 5 s
        return pair.inside(PRIMARY, note)

    until(lambda: noted() == "there")
    for whose, value in (("ROLE postgres IN DATABASE postgres", "local"), ("DATABASE testdb", "'OFF'")):
        pair.sql(PRIMARY, f"ALTER {whose} SET synchronous_commit = {value}")
        until(lambda: noted() == "gone")
        pair.sql(PRIMARY, f"ALTER {whose} RESET synchronous_commit")
        until(lambda: noted() == "there")


def assert_what_is_dropped_is_said(pair: Pair) -> None:
    """The replica is away, a commit waits for it, and the primary (pg14-replica now) dies."""
    pair.health(REPLICA)  # records that commits wait; the engine may not have run it since the promotion
    pair.cluster.docker("stop", pair.container(PRIMARY))
    with pair.connect(REPLICA) as connection:
        waiting = threading.Thread(target=_insert_until_it_ends, args=(connection, "dropped"))
        waiting.start()
        until(lambda: pair.status()["waiting_sessions"] == 1)
        pair.kill(REPLICA)
        waiting.join(timeout=30)
    pair.start(PRIMARY)
    promoted = pair.cluster.cli("pg14", "promote", PRIMARY, "--yes")
    assert f"has everything that {REPLICA} has written" not in promoted.err
    assert f"has every transaction that {REPLICA} has confirmed" in promoted.err
    assert re.search(r"in its WAL did not reach pg14-primary and (is|are) dropped\. According to", promoted.err)
    assert pair.sql(PRIMARY, "SELECT count(*) FROM t WHERE v = 'dropped'") == [(0,)]


def _insert_until_it_ends(connection: psycopg.Connection[tuple[Any, ...]], value: str) -> None:
    with suppress(psycopg.OperationalError):
        connection.execute("INSERT INTO t (v) VALUES (%s)", [value])


def assert_waiting_sessions_are_told_in_a_cut(pair: Pair) -> None:
    waiting = threading.Thread(target=pair.sql, args=(PRIMARY, "INSERT INTO t (v) VALUES ('in a cut')"))
    with network_cut(pair, REPLICA):
        waiting.start()
        until(lambda: any("1 session waits now" in problem for problem in pair.status()["problems"]), within_s=45)
    waiting.join(timeout=90)
    assert not waiting.is_alive()
    until(pair.follows)


def test_the_verbose_log_shows_statements_and_no_password(cluster: GeneratedCluster) -> None:
    cluster.create("--services=pg14", "--pg14-log=verbose")
    for name in ("pg14_password", "replicator_password"):
        (cluster.root / "generated/secrets" / name).write_text(NASTY + name)
    cluster.cli("up")
    pair = Pair(cluster)
    until(pair.follows)
    settings = {"log_min_messages": "debug1", "log_connections": "on", "log_disconnections": "on"}
    settings |= {"log_statement": "all", "log_replication_commands": "on", "log_line_prefix": "%m [%p] %u@%d "}
    for name, value in settings.items():
        assert pair.value(REPLICA, f"SHOW {name}") == value
    pair.sql(PRIMARY, "CREATE TABLE users (id serial PRIMARY KEY, name text)")
    pair.sql(PRIMARY, "INSERT INTO users (name) VALUES ('Grace')")
    until(lambda: pair.sql(REPLICA, "SELECT id, name FROM users") == [(1, "Grace")])
    primary, replica = pair.log(PRIMARY), pair.log(REPLICA)
    assert "statement: INSERT INTO users (name) VALUES ('Grace')" in primary
    assert "START_REPLICATION" in primary
    assert "statement: SELECT id, name FROM users" in replica
    assert NASTY not in primary + replica
    assert "PASSWORD" not in primary + replica
    processes = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; done"
    assert NASTY not in pair.inside(PRIMARY, processes) + pair.inside(REPLICA, processes)
