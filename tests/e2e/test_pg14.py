"""The PostgreSQL 14 pair on real servers: replication, kills at the worst moments, promotion and rebuild."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from generated_cluster import ROOT, GeneratedCluster

pytestmark = pytest.mark.cluster

PRIMARY, REPLICA = "pg14-primary", "pg14-replica"
DATA = "/var/lib/postgresql/data"
NASTY = 'it\'s "q" \\ a:b $HOME `id` {} %s #'
COMMIT_COUNT = "SELECT count(*), max(id) FROM t"


class Pair:
    """The pair of a generated cluster, by the services' names."""

    def __init__(self, cluster: GeneratedCluster) -> None:
        self.cluster = cluster
        self.password = cluster.secret("pg14_password")

    def container(self, service: str) -> str:
        return self.cluster.container(service)

    def connect(self, service: str, **values: Any) -> psycopg.Connection[tuple[Any, ...]]:
        given = {
            "host": "127.0.0.1",
            "port": self.cluster.pg14_port + (service == REPLICA),
            "user": "postgres",
            "password": self.password,
            "dbname": "testdb",
            "connect_timeout": 5,
            "autocommit": True,
        }
        return psycopg.connect(**{**given, **values})

    def sql(self, service: str, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.connect(service, **values) as connection:
            cursor = connection.execute(statement.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def value(self, service: str, statement: str) -> Any:
        return self.sql(service, statement)[0][0]

    def status(self) -> Any:
        return self.cluster.cli("pg14", "status", "--format=json", check=False).json()

    def role(self, service: str) -> str:
        found = next(server for server in self.status()["servers"] if server["service"] == service)
        return str(found["role"])

    def follows(self, primary: str = PRIMARY) -> bool:
        """Whether the other server streams, and has all that the primary has."""
        found = self.status()
        return bool(found["chosen_primary"] == primary and found["ok"] and found["lag"]["bytes"] == 0)

    def kill(self, *services: str) -> None:
        self.cluster.docker("kill", *(self.container(service) for service in services))

    def start(self, *services: str) -> None:
        self.cluster.docker("start", *(self.container(service) for service in services))

    def log(self, service: str) -> str:
        return self.cluster.docker("logs", self.container(service)).text

    def inside(self, service: str, script: str, check: bool = True) -> str:
        return self.cluster.docker("exec", self.container(service), "sh", "-c", script, check=check).out.strip()

    def health(self, service: str) -> str:
        """What the health check says just now."""
        check = f"sh /etc/citus-cluster/healthcheck.sh {service}"
        return self.inside(service, f"{check} 2>&1 || true")


def until(happens: Callable[[], object], within_s: float = 60) -> None:
    """Wait until something is so; a server that is away answers no."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if happens():
                return
        except psycopg.Error:
            pass
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.2)


@pytest.fixture
def make_pair(cluster: GeneratedCluster) -> Callable[..., Pair]:
    def make(*options: str) -> Pair:
        cluster.create("--services=pg14", "--up", *options)
        return Pair(cluster)

    return make


@pytest.fixture
def pair(make_pair: Callable[..., Pair]) -> Pair:
    return make_pair()


@contextmanager
def writing(pair: Pair, service: str, clients: int = 4) -> Iterator[list[int]]:
    """Insert rows by several clients until the server goes away; gives the ids whose commit was acknowledged."""
    acknowledged: list[int] = []

    def write() -> None:
        try:
            with pair.connect(service) as connection:
                while not done.is_set():
                    row = connection.execute("INSERT INTO t (v) VALUES ('w') RETURNING id").fetchone()
                    assert row is not None
                    acknowledged.append(row[0])
        except psycopg.Error:
            pass

    done = threading.Event()
    threads = [threading.Thread(target=write) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(acknowledged) > 50)
        yield acknowledged
    finally:
        done.set()
        for thread in threads:
            thread.join()


def make_table(pair: Pair, service: str = PRIMARY, rows: int = 100) -> None:
    pair.sql(service, "CREATE TABLE t (id bigserial PRIMARY KEY, v text)")
    pair.sql(service, f"INSERT INTO t (v) SELECT repeat(md5(i::text), 8) FROM generate_series(1, {rows}) i")


def lost(pair: Pair, service: str, acknowledged: list[int]) -> set[int]:
    return set(acknowledged) - {row[0] for row in pair.sql(service, "SELECT id FROM t WHERE v = 'w'")}


def started(cluster: GeneratedCluster, *arguments: str) -> subprocess.Popen[str]:
    """A command that runs meanwhile."""
    return subprocess.Popen(
        [sys.executable, "-m", "citus_cluster", *arguments],
        cwd=cluster.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(cluster: GeneratedCluster, line: str, *arguments: str) -> None:
    """Start a command, and kill it as soon as it has said ``line``."""
    with started(cluster, *arguments) as process:
        assert process.stderr is not None
        said = next((said for said in process.stderr if line in said), None)
        process.send_signal(signal.SIGKILL)
    assert said is not None, f"it ended without saying {line!r}"


def test_a_plain_compose_up_replicates(cluster: GeneratedCluster) -> None:
    cluster.create("--services=pg14")
    cluster.compose("up", "-d", "--wait")
    pair = Pair(cluster)
    until(pair.follows)
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
    with started(cluster, "pg14", "lag", "--watch", "0.1", "--format", "json") as watch:
        assert watch.stdout is not None
        assert [json.loads(watch.stdout.readline())["bytes"] for _ in range(2)] == [0, 0]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=30) == 130


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
    assert "pg14-replica is the primary now" in result.out
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
    until(lambda: pair.sql(PRIMARY, "SELECT count(*) FROM t WHERE v = 'waits'") == [(1,)])
    assert pair.status()["sync_state"] == "sync"
    assert_what_is_dropped_is_said(pair)


def assert_commits_that_do_not_wait_are_noticed(pair: Pair) -> None:
    """By the health check's note: a promotion excuses what is missing only while every role's commits wait."""
    note = f"test -e /var/lib/citus-cluster/synchronous-{PRIMARY} && echo there || echo gone"
    until(lambda: pair.inside(PRIMARY, note) == "there")
    for whose, value in (("ROLE postgres IN DATABASE postgres", "local"), ("DATABASE testdb", "'OFF'")):
        pair.sql(PRIMARY, f"ALTER {whose} SET synchronous_commit = {value}")
        until(lambda: pair.inside(PRIMARY, note) == "gone")
        pair.sql(PRIMARY, f"ALTER {whose} RESET synchronous_commit")
        until(lambda: pair.inside(PRIMARY, note) == "there")


def assert_what_is_dropped_is_said(pair: Pair) -> None:
    """The replica is away, a commit waits for it, and the primary (pg14-replica now) dies."""
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
    assert f"has everything that {REPLICA} has acknowledged" in promoted.err
    assert re.search(r"in its log did not reach pg14-primary and (is|are) dropped\. Commits waited", promoted.err)
    assert pair.sql(PRIMARY, "SELECT count(*) FROM t WHERE v = 'dropped'") == [(0,)]


def _insert_until_it_ends(connection: psycopg.Connection[tuple[Any, ...]], value: str) -> None:
    with suppress(psycopg.OperationalError):
        connection.execute("INSERT INTO t (v) VALUES (%s)", [value])


@contextmanager
def network_cut(pair: Pair, service: str) -> Iterator[None]:
    """Take a server off the network. The other one notices a minute later."""
    cluster, container = pair.cluster, pair.container(service)
    network = f"{cluster.name}_default"
    cluster.docker("network", "disconnect", network, container)
    try:
        yield
    finally:
        cluster.docker("network", "connect", "--alias", service, network, container)
        cluster.docker("restart", container)  # or it waits a minute for the connection that it had


def assert_waiting_sessions_are_told_in_a_cut(pair: Pair) -> None:
    waiting = threading.Thread(target=pair.sql, args=(PRIMARY, "INSERT INTO t (v) VALUES ('in a cut')"))
    with network_cut(pair, REPLICA):
        waiting.start()
        until(lambda: any("1 session waits now" in problem for problem in pair.status()["problems"]), within_s=45)
    waiting.join(timeout=90)
    assert not waiting.is_alive()
    until(pair.follows)


def assert_a_replica_is_behind_in_a_cut(pair: Pair) -> None:
    with network_cut(pair, REPLICA):
        pair.sql(PRIMARY, "INSERT INTO t (v) SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        lag = pair.cluster.cli("pg14", "lag", "--format=json").json()
        assert lag["bytes"] > 1_000_000
        assert lag["seconds"] is None or lag["seconds"] > 0
    until(pair.follows)


def assert_a_lost_slot_is_told(pair: Pair) -> None:
    """By ``up`` too, which finds a replica that serves reads."""
    cluster = pair.cluster
    cluster.docker("stop", pair.container(REPLICA))
    for setting in ("wal_keep_size = 0", "max_slot_wal_keep_size = '1MB'"):
        pair.sql(PRIMARY, f"ALTER SYSTEM SET {setting}")
    pair.sql(PRIMARY, "SELECT pg_reload_conf()")
    for _ in range(4):
        pair.sql(PRIMARY, "INSERT INTO t (v) VALUES ('fills the log')")
        pair.sql(PRIMARY, "SELECT pg_switch_wal()")
    pair.sql(PRIMARY, "CHECKPOINT")
    until(lambda: pair.status()["slot"]["wal_status"] == "lost")
    pair.sql(PRIMARY, "ALTER SYSTEM RESET ALL")
    pair.sql(PRIMARY, "SELECT pg_reload_conf()")
    assert "its slot is lost" in cluster.cli("up").err
    assert pair.health(REPLICA) == "", "it serves reads"


def assert_a_copy_that_fails_is_told(pair: Pair) -> None:
    """Before anything is removed, where the reason is known; at once, where it shows while the data are copied."""
    base = f"{DATA}/pgdata/base"
    huge = pair.inside(PRIMARY, f"f=$(ls -d {base}/*/ | head -n 1)huge; truncate -s 8T $f; echo $f")
    refused = pair.cluster.cli("pg14", "rebuild-replica", "--yes", check=False)
    assert refused.status == 1
    assert "has no room for a copy of pg14-primary: it needs 8.0 TB" in refused.err
    assert pair.role(REPLICA) == "replica"
    pair.inside(PRIMARY, f"rm {huge}; install -m 600 /dev/null {base}/unreadable")
    failed = pair.cluster.cli("pg14", "rebuild-replica", "--yes", check=False)
    assert "could not copy the data of the primary pg14-primary" in failed.err
    assert "Permission denied" in failed.err
    pair.inside(PRIMARY, f"rm {base}/unreadable")
    until(pair.follows)


def test_roles_are_switched_and_switched_back(pair: Pair) -> None:
    make_table(pair)
    until(pair.follows)
    cluster = pair.cluster
    with writing(pair, PRIMARY) as acknowledged:
        result = cluster.cli("pg14", "promote", "--yes")
    assert "has everything that pg14-primary has written" in result.err
    assert str(cluster.pg14_port + 1) in result.out
    assert lost(pair, REPLICA, acknowledged) == set(), "a planned switch loses nothing, though replication is async"
    assert "Nothing to do" in cluster.cli("pg14", "promote", "--yes").out

    cluster.compose("down")
    cluster.compose("up", "-d")
    until(lambda: pair.role(REPLICA) == "primary" and pair.role(PRIMARY) == "fenced")
    assert pair.health(PRIMARY).startswith("fenced: pg14-primary has the data of an old primary")
    assert "citus-cluster pg14 rebuild-replica" in cluster.cli("up", check=False).err
    pair.sql(REPLICA, "INSERT INTO t (v) VALUES ('new')")
    refused = cluster.cli("pg14", "promote", PRIMARY, "--yes", check=False)
    assert refused.status == 1
    assert "lacks all that pg14-replica has written" in refused.err
    assert cluster.cli("pg14", "rebuild-replica", check=False).status == 4, "its data are removed: that needs a yes"
    cluster.cli("pg14", "rebuild-replica", "--yes")
    assert pair.follows(REPLICA)

    cluster.cli("pg14", "promote", "--yes")
    cluster.cli("pg14", "rebuild-replica", "--yes")
    assert pair.follows(PRIMARY)
    assert lost(pair, REPLICA, acknowledged) == set()
    assert pair.sql(REPLICA, "SELECT count(*) FROM t WHERE v = 'new'") == [(1,)]

    assert_a_replica_is_behind_in_a_cut(pair)
    assert_a_lost_slot_is_told(pair)
    assert_a_copy_that_fails_is_told(pair)


def test_an_interrupted_promotion_or_rebuild_is_completed(pair: Pair) -> None:
    make_table(pair)
    until(pair.follows)
    cluster = pair.cluster
    now, then = PRIMARY, REPLICA
    for line in ("is stopped", "is fenced"):
        pair.sql(now, "INSERT INTO t (v) VALUES ('before')")
        interrupt(cluster, line, "pg14", "promote", then, "--yes")
        cluster.compose("restart", then)
        cluster.cli("pg14", "promote", then, "--yes")
        assert pair.role(then) == "primary"
        interrupt(cluster, "which then copies", "pg14", "rebuild-replica", "--yes")
        cluster.cli("pg14", "rebuild-replica", "--yes")
        assert pair.follows(then)
        now, then = then, now
    assert pair.sql(REPLICA, "SELECT count(*) FROM t WHERE v = 'before'") == [(2,)]


def test_a_promotion_that_would_lose_rows_is_refused(pair: Pair) -> None:
    make_table(pair)
    until(pair.follows)
    cluster = pair.cluster
    started = cluster.docker("inspect", "-f", "{{.State.StartedAt}}", pair.container(PRIMARY)).out
    assert cluster.cli("pg14", "promote", check=False).status == 4, "it needs a yes"
    assert cluster.cli("pg14", "promote", "pg14", "--yes", check=False).status == 2
    pair.sql(PRIMARY, "ALTER ROLE replicator PASSWORD 'another'")
    pair.sql(PRIMARY, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
    until(lambda: not pair.status()["state"])
    pair.sql(PRIMARY, "INSERT INTO t (v) VALUES ('not replicated')")
    refused = cluster.cli("pg14", "promote", "--yes", check=False)
    assert refused.status == 1
    assert "pg14-replica does not follow pg14-primary" in refused.err
    assert cluster.docker("inspect", "-f", "{{.State.StartedAt}}", pair.container(PRIMARY)).out == started
    cluster.cli("pg14", "promote", "--yes", "--accept-loss")
    assert pair.sql(REPLICA, COMMIT_COUNT) == [(100, 100)]
    pair.start(PRIMARY)
    until(lambda: pair.role(PRIMARY) == "fenced")
    cluster.cli("pg14", "promote", PRIMARY, "--yes", "--accept-loss")
    assert pair.sql(PRIMARY, COMMIT_COUNT) == [(101, 101)], "what was fenced is intact"
    refused = cluster.cli("pg14", "rebuild-replica", PRIMARY, "--yes", check=False)
    assert refused.status == 2
    assert "is the primary" in refused.err

    pair.sql(PRIMARY, f"ALTER ROLE replicator PASSWORD '{cluster.secret('replicator_password')}'")
    said = cluster.cli("pg14", "rebuild-replica", "--yes")
    assert "last copy of whatever it committed that pg14-primary lacks" in said.err
    until(pair.follows)
    assert_a_crash_loses_nothing_unasked(pair)


def assert_a_crash_loses_nothing_unasked(pair: Pair) -> None:
    cluster = pair.cluster
    before = pair.sql(PRIMARY, COMMIT_COUNT)[0][0]
    cluster.setup("--yes", "--pg14-sync")  # which the primary has not read yet: its commits do not wait
    cluster.docker("stop", pair.container(REPLICA))
    pair.sql(PRIMARY, "INSERT INTO t (v) SELECT 'x' FROM generate_series(1, 100001)")
    pair.sql(PRIMARY, "CHECKPOINT")
    pair.sql(PRIMARY, "INSERT INTO t (v) VALUES ('after the checkpoint')")
    pair.kill(PRIMARY)
    pair.start(REPLICA)
    refused = cluster.cli("pg14", "promote", "--yes", check=False)
    assert refused.status == 1
    # Autovacuum may have committed some of its own.
    lacking = re.search(r"pg14-replica lacks the last (\d+) transactions that pg14-primary had committed", refused.err)
    assert lacking is not None, refused.text
    assert int(lacking[1]) >= 2
    assert "--accept-loss" in refused.err
    assert pair.role(REPLICA) == "replica"
    accepted = cluster.cli("pg14", "promote", "--yes", "--accept-loss")
    assert lacking[0] in accepted.err
    assert pair.sql(REPLICA, COMMIT_COUNT)[0][0] == before

    # The rows are in the old primary's data alone, which are kept and can be read.
    pair.start(PRIMARY)
    rebuilt = cluster.cli("pg14", "rebuild-replica", "--yes")
    assert f"pg14-primary has the last copy of {lacking[1]} transactions that pg14-replica lacks" in rebuilt.err
    (kept,) = (name for name in pair.inside(PRIMARY, f"ls {DATA}").split() if "kept" in name)
    assert kept in rebuilt.out
    assert count_in_kept_data(pair, kept) == before + 100_002
    until(lambda: pair.follows(REPLICA))

    # This one dies with nothing that the other lacks: that is proved, and said although nobody is asked.
    pair.kill(REPLICA)
    promoted = cluster.cli("pg14", "promote", "--yes")
    assert "its log shows that pg14-primary has every transaction that it committed" in promoted.err
    pair.start(REPLICA)
    rebuilt = cluster.cli("pg14", "rebuild-replica", "--yes")
    assert "pg14-primary has everything that pg14-replica had committed" in rebuilt.err
    until(pair.follows)


def count_in_kept_data(pair: Pair, kept: str) -> int:
    """Count the rows in data that a rebuild has kept, as docs/replication.md says."""
    cluster, name = pair.cluster, f"{pair.cluster.name}-kept"
    volume = f"{cluster.name}_{PRIMARY}-data:{DATA}"
    options = ("--network", "none", "-v", volume, "-e", f"PGDATA={DATA}/{kept}")
    cluster.docker("run", "--rm", "--detach", "--name", name, *options, "postgres:14")
    try:
        command = ("exec", name, "psql", "-U", "postgres", "-d", "testdb", "-Atc", "SELECT count(*) FROM t")
        until(lambda: cluster.docker(*command, check=False).status == 0)
        return int(cluster.docker(*command).out)
    finally:
        cluster.docker("rm", "--force", name)


def test_a_promotion_by_hand_is_told_and_fenced(pair: Pair) -> None:
    until(pair.follows)
    pair.sql(REPLICA, "SELECT pg_promote()")
    assert "takes writes, but pg14-primary was chosen" in " ".join(pair.status()["problems"])
    assert "takes writes, but pg14-primary was chosen" in pair.health(REPLICA)
    pair.cluster.docker("restart", pair.container(REPLICA))
    until(lambda: pair.role(REPLICA) == "fenced")
    pair.cluster.cli("pg14", "rebuild-replica", "--yes")
    assert pair.follows()


def test_a_lost_volume_never_ends_in_an_empty_primary(pair: Pair) -> None:
    make_table(pair)
    until(pair.follows)
    cluster = pair.cluster
    cluster.docker("rm", "--force", pair.container(PRIMARY))
    cluster.docker("volume", "rm", f"{cluster.name}_{PRIMARY}-data")
    cluster.compose("up", "-d")
    until(lambda: pair.role(PRIMARY) == "fenced")
    assert "citus-cluster pg14 promote pg14-replica" in pair.health(PRIMARY)
    cluster.cli("pg14", "promote", "--yes")
    until(lambda: pair.follows(REPLICA))
    assert pair.sql(PRIMARY, COMMIT_COUNT) == [(100, 100)]


def test_limits_are_lowered_and_raised(pair: Pair) -> None:
    until(pair.follows)
    spec = pair.cluster.root / "cluster.yaml"
    written = spec.read_text()
    for limit in (25, 60):
        spec.write_text(written + f"settings:\n  pg14: {{max_connections: {limit}, max_wal_senders: {limit // 5}}}\n")
        pair.cluster.setup("--yes", "--up")
        until(pair.follows)
        assert pair.value(PRIMARY, "SHOW max_connections") == str(limit)
        assert int(pair.value(REPLICA, "SHOW max_connections")) >= limit


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
