"""What is made of what the services beside Citus say, and of their silence."""

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from citus_cluster.errors import UsageError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition, with_lacks
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.topology import Topology, resolve
from citus_cluster.operations.companions import Ask, Companions
from citus_cluster.operations.status.report import ServiceStatus, State, overall, with_containers
from citus_cluster.runtime.probes.redis import RedisClient, judge

MB = 1024 * 1024
WELL = {
    "redis_version": "7.4.1",
    "uptime_in_seconds": 12,
    "used_memory": 3 * MB,
    "maxmemory": 48 * MB,
    "maxmemory_policy": "noeviction",
    "db0": {"keys": 3, "expires": 0, "avg_ttl": 0},
    "db15": {"keys": 4, "expires": 1, "avg_ttl": 9},
    "evicted_keys": 0,
    "connected_clients": 2,
    "maxclients": 300,
    "aof_enabled": 1,
    "aof_current_size": 700,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "loading": 0,
}


@pytest.fixture
def silent() -> Iterator[NodeAddress]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield NodeAddress("127.0.0.1", listener.getsockname()[1])


def test_a_redis_that_is_well() -> None:
    found = judge(WELL)
    assert (found.condition, found.reason) == (Condition.OK, None)
    assert found.summary == "7.4.1; 3.0 of 48 MB; 7 keys; 2 clients"
    assert found.figures["keys"] == 7
    assert found.as_dict()["condition"] == "ok"


@pytest.mark.parametrize(
    ("changes", "condition", "word"),
    [
        ({"loading": 1, "loading_loaded_perc": "41.7"}, Condition.STARTING, "42 %"),
        ({"aof_enabled": 0}, Condition.DEGRADED, "file is off"),
        ({"aof_last_write_status": "err"}, Condition.DEGRADED, "refuses writes"),
        ({"aof_last_bgrewrite_status": "err"}, Condition.DEGRADED, "rewrite"),
        ({"rdb_last_bgsave_status": "err"}, Condition.DEGRADED, "BGSAVE"),
        ({"used_memory": 47 * MB}, Condition.DEGRADED, "47.0 of 48 MB"),
        ({"used_memory": 47 * MB, "maxmemory_policy": "allkeys-lru"}, Condition.OK, ""),
        ({"used_memory": 470 * MB, "maxmemory": 0}, Condition.OK, ""),
    ],
)
def test_what_is_not_as_it_should_be(changes: dict[str, Any], condition: Condition, word: str) -> None:
    found = judge(WELL | changes)
    assert found.condition is condition
    assert word in (found.reason or "")


def test_all_that_is_wrong_is_told_at_once() -> None:
    reason = judge(WELL | {"aof_enabled": 0, "used_memory": 48 * MB}).reason
    assert reason and "file is off" in reason and "48.0 of 48 MB" in reason


def test_a_silent_redis_is_down_in_time(silent: NodeAddress) -> None:
    async def ask() -> CompanionStatus:
        client = RedisClient(silent, "secret")
        try:
            return await client.ask(0.3)
        finally:
            await client.close()

    asyncio.run(ask())  # loads the driver
    began = time.monotonic()
    found = asyncio.run(ask())
    assert time.monotonic() - began < 0.6
    assert found.condition is Condition.DOWN
    assert found.reason == f"{silent} did not answer within 0.3 s"


async def no_doubt(address: NodeAddress) -> str | None:
    return None


def pair_and_redis(silent: NodeAddress) -> list[Target]:
    return [
        Target(ComponentName.PG14, {"pg14-primary": silent}),
        Target(ComponentName.REDIS, {"redis": silent}),
    ]


def ask_all(
    targets: Sequence[Target], ask_pg14: Ask, password: str | None = "secret"
) -> dict[ComponentName, CompanionStatus]:
    def password_of(service: ComponentName) -> str:
        if password is None:
            raise UsageError(f"generated/secrets/{service.value}_password is missing.")
        return password

    async def ask() -> tuple[CompanionStatus, ...]:
        companions = Companions(targets, password_of, doubt=no_doubt, instead={ComponentName.PG14: ask_pg14})
        try:
            return await companions.ask_all(0.3)
        finally:
            await companions.close()

    return {status.service: status for status in asyncio.run(ask())}


async def _hangs(timeout_s: float) -> CompanionStatus:
    await asyncio.sleep(60)
    raise AssertionError


async def _fails(timeout_s: float) -> CompanionStatus:
    raise ZeroDivisionError("an inner detail")


async def _is_well(timeout_s: float) -> CompanionStatus:
    return CompanionStatus(ComponentName.PG14, Condition.OK, None, {})


@pytest.mark.parametrize(
    ("ask_pg14", "reason"), [(_hangs, "no answer within 0.3 s"), (_fails, "it could not be asked (ZeroDivisionError)")]
)
def test_one_that_fails_hides_no_other(ask_pg14: Ask, reason: str, silent: NodeAddress) -> None:
    began = time.monotonic()
    found = ask_all(pair_and_redis(silent), ask_pg14)
    assert time.monotonic() - began < 3
    assert found[ComponentName.PG14] == CompanionStatus(ComponentName.PG14, Condition.DOWN, reason, {})
    assert found[ComponentName.REDIS].reason == f"{silent} did not answer within 0.3 s"


def test_a_lost_password_is_told_of_who_needs_it(silent: NodeAddress) -> None:
    found = ask_all(pair_and_redis(silent), _is_well, password=None)
    assert found[ComponentName.PG14].condition is Condition.OK
    assert found[ComponentName.REDIS].reason == "generated/secrets/redis_password is missing."


def test_only_what_is_wanted_is_asked() -> None:
    assert ask_all([], _fails) == {}


def topology(*services: str) -> Topology:
    spec = parse_spec({"apiVersion": "citus-cluster/v1", "services": list(services), "cassandra": {"nodes": 2}})
    return resolve(spec, memory_mb=16000, cpus=2, pg_major=17)[0]


def service(name: str, state: str, health: str | None, reason: str | None = None) -> ServiceStatus:
    return ServiceStatus(name, name, state, health, reason)


def down(which: ComponentName) -> CompanionStatus:
    return CompanionStatus(which, Condition.DOWN, "127.0.0.1:1 does not answer", {})


def test_a_container_that_starts_makes_its_companion_starting() -> None:
    seen = [service("redis", "running", "starting", "Redis loads its data")]
    found = with_containers(topology("redis"), down(ComponentName.REDIS), seen)
    assert (found.condition, found.reason) == (Condition.STARTING, "Redis loads its data")


def test_a_container_that_does_not_run_is_the_reason() -> None:
    seen = [service("redis", "exited", None, "exit status 137"), service("cassandra", "running", "healthy")]
    found = with_containers(topology("redis", "cassandra"), down(ComponentName.REDIS), seen)
    assert (found.condition, found.reason) == (Condition.DOWN, "its container is exited (exit status 137)")


def test_of_several_nodes_each_is_named() -> None:
    seen = [service("cassandra", "exited", None, "exit status 1"), service("cassandra2", "missing", None)]
    found = with_containers(topology("cassandra"), down(ComponentName.CASSANDRA), seen)
    assert found.reason == "cassandra is exited (exit status 1); cassandra2 is missing"


def test_what_one_lacks_elsewhere_degrades_it_unless_it_is_down() -> None:
    def status(condition: Condition, reason: str | None = None) -> CompanionStatus:
        return CompanionStatus(ComponentName.PGBOUNCER, condition, reason, {"clients": 3}, "3 clients")

    lacks = {ComponentName.PGBOUNCER: "its role is missing"}
    found = with_lacks([status(Condition.OK), status(Condition.DEGRADED, "it is full")], lacks)
    assert [(one.condition, one.reason) for one in found] == [
        (Condition.DEGRADED, "its role is missing"),
        (Condition.DEGRADED, "it is full; its role is missing"),
    ]
    assert (found[0].figures, found[0].summary) == ({"clients": 3}, "3 clients")
    others = (status(Condition.DOWN, "gone"), status(Condition.STARTING), down(ComponentName.REDIS))
    assert with_lacks(others, lacks) == others


@pytest.mark.parametrize("seen", [("running", "unhealthy"), ("running", "healthy"), ("unknown", None)])
def test_else_the_companion_speaks_for_itself(seen: tuple[str, str | None]) -> None:
    assert with_containers(topology("redis"), down(ComponentName.REDIS), [service("redis", *seen)]) == down(
        ComponentName.REDIS
    )


def test_without_citus_the_companions_are_the_cluster() -> None:
    one = topology("redis")
    assert overall(one, [service("redis", "running", "healthy")], None, has_problems=False) is State.OK
    assert overall(one, [service("redis", "running", "healthy")], None, has_problems=True) is State.DEGRADED
    assert overall(one, [service("redis", "exited", None)], None, has_problems=True) is State.DOWN
