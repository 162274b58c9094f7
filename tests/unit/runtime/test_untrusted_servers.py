"""No server gets a password in clear, and nothing of the caller's surroundings decides how we connect."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_servers import MD5, PASSWORD_IN_CLEAR, TRUST, Thief, fake_cassandra, fake_postgres, fake_redis
from hostile_environment import HOSTILE, ONLY_VARIABLES
from psycopg import pq
from setup_support import ROOT, set_up

from bench.measure import free_base_port
from citus_cluster.errors import CitusClusterError, UnprovenServerError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.component_name import ComponentName
from citus_cluster.operations.listeners import why_not_ours
from citus_cluster.runtime import libpq, own_network
from citus_cluster.runtime.docker.engine import Container
from citus_cluster.runtime.postgres import ConnectionInfo, connect

SECRET = "sesame-open"


def greeting(thief: Thief) -> None:
    """Connect, which must fail because of how the server wants the login."""
    info = ConnectionInfo(thief.host, thief.port, "u", "d", SECRET)
    with pytest.raises(UnprovenServerError) as caught:
        asyncio.run(connect(info, timeout_s=5))
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert str(thief.port) in str(caught.value.hint)


@pytest.mark.parametrize("method", [PASSWORD_IN_CLEAR, MD5, TRUST])
def test_a_server_of_ours_must_prove_that_it_knows_the_password(method: int) -> None:
    with fake_postgres(method) as thief:
        greeting(thief)
    assert thief.greetings
    assert thief.loot == b""


@pytest.mark.parametrize("method", [PASSWORD_IN_CLEAR, MD5])
def test_a_dsn_gives_nothing_away_unless_it_says_so(method: int) -> None:
    with fake_postgres(method) as thief:
        dsn = f"postgresql://u:{SECRET}@{thief.host}:{thief.port}/d"
        with pytest.raises(UnprovenServerError) as caught:
            asyncio.run(connect(ConnectionInfo.from_dsn(dsn), timeout_s=5))
        assert "require_auth" in str(caught.value.hint)
        assert thief.loot == b""
        with pytest.raises(CitusClusterError):
            asyncio.run(connect(ConnectionInfo.from_dsn(f"{dsn}?require_auth=password,md5"), timeout_s=1))
    assert thief.loot.startswith(b"p")


def test_every_variable_of_libpq_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = {option.envvar.decode() for option in pq.Conninfo.get_defaults() if option.envvar}
    assert known <= {*HOSTILE, *ONLY_VARIABLES}, "libpq reads a variable that this test does not know"
    with fake_postgres() as thief:
        greeting(thief)
        for name, value in HOSTILE.items():
            monkeypatch.setenv(name, value)
        greeting(thief)
        plain, bent = thief.greetings
    assert plain == bent
    assert b"elsewhere" not in plain
    assert thief.loot == b""


def test_files_in_the_home_directory_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".postgresql").mkdir()
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (tmp_path / ".postgresql" / name).write_text("no certificate")
    monkeypatch.setenv("HOME", str(tmp_path))
    made = libpq.explicit({"host": "h"})
    paths = {made[name] for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl")}
    assert paths == {libpq.NOWHERE}
    assert not Path(libpq.NOWHERE).exists()
    # A DSN that wants a certificate checked has psql's place for it.
    assert libpq.explicit({"sslmode": "verify-full"})["sslrootcert"] == ""
    assert libpq.explicit({"sslmode": "verify-full", "sslrootcert": "/ca.crt"})["sslrootcert"] == "/ca.crt"
    assert libpq.explicit({"sslcert": "/me.crt"})["sslcertmode"] == "allow"


def test_a_libpq_that_cannot_keep_a_password_connects_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: value for name, value in libpq.explicit({}).items() if name != "require_auth"}
    monkeypatch.setattr(libpq, "_known", lambda: known)
    with fake_postgres() as thief:
        info = ConnectionInfo(thief.host, thief.port, "u", "d", SECRET)
        with pytest.raises(CitusClusterError, match="in clear"):
            asyncio.run(connect(info, timeout_s=5))
    assert thief.greetings == []


@dataclass
class Taken:
    """A directory whose ports fake servers hold while its containers do not run."""

    root: Path
    postgres: list[Thief]
    others: list[Thief]

    def run(self, *arguments: str, engine: str | None = None, **variables: str) -> str:
        environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "citus_cluster", *arguments],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode != 0
        return done.stdout + done.stderr

    def secrets(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.root / "generated/secrets").iterdir() if file.is_file()]


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Taken]:
    base = free_base_port()
    ports = {"citus": base, "pg14": base + 10, "redis": base + 12, "cassandra": base + 13}
    values = {f"ports.{service}": port for service, port in ports.items()}
    set_up(tmp_path, {"name": f"taken-{base}", "workers": 1, "services": [*ComponentName], **values})
    with ExitStack() as stack:
        databases = [stack.enter_context(fake_postgres(port=port)) for port in (base, base + 10, base + 11)]
        others = [stack.enter_context(fake_redis(base + 12)), stack.enter_context(fake_cassandra(base + 13))]
        yield Taken(tmp_path, databases, others)


@pytest.mark.parametrize("engine", [None, "unix:///nowhere.sock"], ids=["this-engine", "no-engine"])
def test_who_took_the_ports_of_stopped_containers_gets_nothing(taken: Taken, engine: str | None) -> None:
    variables = {**HOSTILE, **ONLY_VARIABLES, **({"DOCKER_HOST": engine} if engine else {})}
    said = taken.run("status", **variables)
    said += taken.run("rebalance", "status", **variables)
    said += taken.run("pg14", "status", **variables)
    assert "was not sent the password" in said
    loot = b"".join(thief.loot for thief in (*taken.postgres, *taken.others))
    assert not [secret for secret in taken.secrets() if secret in loot or secret in said.encode()]
    assert loot == b""
    # What was sent, was sent without anything of the environment.
    assert taken.postgres[0].greetings
    for words in taken.postgres[0].greetings:
        assert not {b"TimeZone", b"timezone", b"datestyle", b"geqo"} & set(words.split(b"\0")), words
    # Redis is not even greeted; whether CQL answers is asked with nothing secret.
    assert taken.others[0].greetings == []
    assert set(taken.others[1].greetings) <= {b"\x05"}


def a_container(state: str, *open_ports: tuple[str, int], ours: bool = True) -> Container:
    return Container(
        *("id", "redis", "citus", "redis", state, None, "", (), 0, False, "", "", 0, None, ours, open_ports), open_ports
    )


@pytest.mark.parametrize(
    ("container", "ours"),
    [
        (a_container("running", ("127.0.0.1", 6379)), True),
        (a_container("running", ("0.0.0.0", 6379)), True),
        (a_container("paused", ("127.0.0.1", 6379)), True),
        (a_container("exited", ("127.0.0.1", 6379)), False),
        (a_container("restarting", ("127.0.0.1", 6379)), False),
        (a_container("running", ("127.0.0.1", 6380)), False),
        (a_container("running", ("192.0.2.1", 6379)), False),
        (a_container("running", ("::", 6379)), False),
        (a_container("running"), False),
        (a_container("running", ("127.0.0.1", 6379), ours=False), False),
    ],
)
def test_a_port_is_ours_where_the_engine_listens_on_it_for_us(container: Container, ours: bool) -> None:
    assert (why_not_ours(NodeAddress("127.0.0.1", 6379), [container]) is None) is ours


def test_a_port_of_no_container_is_not_ours() -> None:
    assert why_not_ours(NodeAddress("127.0.0.1", 6379), []) is not None


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010012AC\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000012AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000000C0\t010012AC\t0003\t0\t0\t0\t000000FF\t0\t0\t0
"""
ADDRESSES = "fd0000000000000000000000000000aa 2a 40 00 80     eth0\n"


def test_networks_without_a_gateway_are_own() -> None:
    assert [str(network) for network in own_network.routes_v4(ROUTES)] == ["172.18.0.0/16"]
    assert [str(network) for network in own_network.addresses_v6(ADDRESSES)] == ["fd00::/64"]


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("::1", True), ("203.0.113.9", False), ("x.invalid", False)]
)
def test_only_own_addresses_are_own(host: str, own: bool) -> None:
    assert own_network.is_own(host) is own
