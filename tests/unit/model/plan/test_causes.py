import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from citus_cluster.model.plan.causes import last_reason, probable_cause
from citus_cluster.operations.status import report as status
from citus_cluster.runtime.docker.engine import Container, Engine


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("exec /usr/local/bin/docker-entrypoint.sh: exec format error", "another processor"),
        ('psql: error: FATAL:  password authentication failed for user "postgres"', "another password"),
        ("FATAL:  database files are incompatible with server", "another PostgreSQL major"),
        ("PANIC:  could not write to file: No space left on device", "disk is full"),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "memory"),
        ("Bind for 127.0.0.1:5434 failed: port is already allocated", "port is in use"),
        ('FATAL:  configuration file "/etc/citus-cluster/postgresql.conf" contains errors', "settings"),
        ('LOG:  unrecognized configuration parameter "shared_bufers"', "settings"),
        ("sh: 0: cannot open /etc/citus-cluster/healthcheck.sh: Permission denied", "configuration"),
        ("the credentials for other nodes are missing: the init script did not run", "first start"),
        ("LOG:  database system was not properly shut down; automatic recovery in progress", "recovering"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "password of Redis differs"),
        ("ERROR java.lang.RuntimeException: Unable to gossip with any peers", "no other node"),
        ("# Unexpected end of file reading the append only file appendonly.aof.1.incr.aof", "is damaged"),
    ],
)
def test_a_known_sign_gives_its_cause(text: str, part: str) -> None:
    cause = probable_cause(text)
    assert cause is not None and part in cause.text
    assert cause.hint


def test_what_every_first_start_logs_is_no_cause() -> None:
    log = """\
LOG:  parameter "listen_addresses" cannot be changed without restarting the server
LOG:  configuration file "/etc/citus-cluster/postgresql.conf" contains errors; unaffected changes were applied
LOG:  database system is ready to accept connections"""
    assert probable_cause(log) is None


def test_being_out_of_memory_wins_over_what_the_log_says() -> None:
    cause = probable_cause("FATAL:  port is already allocated", exit_code=137, oom_killed=True)
    assert cause is not None and "out of memory" in cause.text


def test_being_killed_is_a_cause_only_without_a_better_one() -> None:
    killed, better = probable_cause("", exit_code=137), probable_cause("No space left on device", exit_code=137)
    assert killed is not None and "killed" in killed.text
    assert better is not None and "disk" in better.text


@pytest.mark.parametrize("exit_code", [0, 1, 2, 127, 130, 143])
def test_another_exit_status_alone_is_no_cause(exit_code: int) -> None:
    assert probable_cause("", exit_code=exit_code) is None


class Logs:
    """An engine whose containers all log the same."""

    def logs(self, container: Container, lines: int, *, earlier: bool = False) -> str:
        return "FATAL:  could not write to file: No space left on device"


@pytest.mark.parametrize(
    ("exit_code", "oom_killed", "is_crash"),
    [
        (0, False, False),
        (130, False, False),
        (137, False, False),
        (143, False, False),
        (137, True, True),
        (1, False, True),
    ],
)
def test_a_container_that_was_stopped_is_not_said_to_have_crashed(
    exit_code: int, oom_killed: bool, is_crash: bool
) -> None:
    """SIGINT, SIGKILL and SIGTERM are how people and Docker stop it; its log is then of an earlier time."""
    ended = cast("Container", SimpleNamespace(exit_code=exit_code, oom_killed=oom_killed))
    said = asyncio.run(status._end_of(cast("Engine", Logs()), ended))
    assert said.startswith(f"exit status {exit_code}")
    assert (said != f"exit status {exit_code}") is is_crash


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            'psql: error: connection to server at "127.0.0.1", port 5432 failed: Connection refused\n'
            "\tIs the server running on that host and accepting TCP/IP connections?\n",
            "Connection refused",
        ),
        (
            'connection to server at "127.0.0.1", port 5432 failed: FATAL:  the database system is starting up',
            "FATAL:  the database system is starting up",
        ),
        ("first\nthe extension citus is missing\n\n", "the extension citus is missing"),
        ("\n", None),
    ],
)
def test_the_line_of_a_health_check_that_says_why(output: str, reason: str | None) -> None:
    assert last_reason(output) == reason
