"""Promotion and rebuild of the PostgreSQL 14 pair on real servers: planned, after a crash, interrupted, by hand."""

import re

import pytest
from pair_support import (
    COMMIT_COUNT,
    DATA,
    PRIMARY,
    REPLICA,
    Pair,
    interrupt,
    lost,
    make_table,
    network_cut,
    until,
    writing,
)

pytestmark = pytest.mark.cluster


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
    assert "has too little space for a copy of pg14-primary: it needs 8.0 TB" in refused.err
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
    assert "without anything that pg14-replica has written" in refused.err
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
    assert "last copy of any transactions missing on pg14-primary" in said.err
    until(pair.follows)
    assert_a_crash_loses_nothing_unasked(pair)
    cluster.setup("--yes", "--pg14-async", "--up")


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
    lacking = re.search(
        r"The last (\d+) transactions that pg14-primary committed are missing on pg14-replica", refused.err
    )
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
    assert f"pg14-primary has the last copy of {lacking[1]} transactions missing on pg14-replica" in rebuilt.err
    (kept,) = (name for name in pair.inside(PRIMARY, f"ls {DATA}").split() if "kept" in name and name in rebuilt.out)
    assert count_in_kept_data(pair, kept) == before + 100_002
    until(lambda: pair.follows(REPLICA))

    # This one dies with nothing that the other lacks: that is proved, and said although nobody is asked.
    pair.kill(REPLICA)
    promoted = cluster.cli("pg14", "promote", "--yes")
    assert "its WAL shows that pg14-primary has every transaction that it committed" in promoted.err
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
