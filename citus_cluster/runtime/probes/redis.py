"""The status of Redis.

All code for its protocol is here; the driver is loaded at the first call, because it costs 100 ms.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.runtime.probes import Doubt

if TYPE_CHECKING:
    from redis.asyncio import Redis

_MB = 1024 * 1024
_FULL_PART = 0.95
"""A write of a large value is refused before the limit is reached, and the memory of connections varies."""


class RedisProbe:
    """The server. Redis accepts passwords only in cleartext, so the listener is checked before each call."""

    def __init__(self, target: Target, password: str, doubt: Doubt) -> None:
        (self._address,) = target.addresses.values()
        self._client = RedisClient(self._address, password)
        self._doubt = doubt

    async def ask(self, timeout_s: float) -> CompanionStatus:
        if reason := await self._doubt(self._address):
            return _down(reason)
        return await self._client.ask(timeout_s)

    async def close(self) -> None:
        await self._client.close()


class RedisClient:
    """One server. It connects at the first call, keeps the connection, and reconnects to a server that came back."""

    def __init__(self, address: NodeAddress, password: str) -> None:
        self._address = address
        self._password = password
        self._redis: Redis | None = None

    async def ask(self, timeout_s: float) -> CompanionStatus:
        """Read and judge the status. Never raises because the server is down, and always ends in time."""
        from redis.exceptions import AuthenticationError, RedisError
        from redis.exceptions import TimeoutError as DriverTimeoutError

        try:
            async with asyncio.timeout(timeout_s):
                info: Mapping[str, Any] = await self._connection(timeout_s).info()
        except AuthenticationError as error:
            return _down(f"{self._address} refuses the password ({error})")
        except (TimeoutError, DriverTimeoutError):
            return _down(f"{self._address} did not answer within {timeout_s:g} s")
        except (RedisError, OSError) as error:
            if "max number of clients" in str(error):
                reason = "all its connections are in use: close some (see CLIENT LIST in an open session)"
                return CompanionStatus(ComponentName.REDIS, Condition.DEGRADED, reason, {})
            return _down(f"{self._address} does not answer: {error}")
        return judge(info)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None

    def _connection(self, timeout_s: float) -> "Redis":
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        if self._redis is None:
            self._redis = Redis(
                host=self._address.host,
                port=self._address.port,
                password=self._password,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # Once: the kept connection may be to a server that has been restarted since.
                retry=Retry(NoBackoff(), 1),
                client_name="citus-cluster",
                decode_responses=True,
            )
        return self._redis


def judge(info: Mapping[str, Any]) -> CompanionStatus:
    """Judge the output of INFO."""
    figures = _figures(info)
    summary = _summary(figures)
    if info.get("loading"):
        reason = f"it is loading its data ({float(info.get('loading_loaded_perc', 0)):.0f} %)"
        return CompanionStatus(ComponentName.REDIS, Condition.STARTING, reason, figures, summary)
    reasons = "; ".join(_problems(info, figures))
    condition = Condition.DEGRADED if reasons else Condition.OK
    return CompanionStatus(ComponentName.REDIS, condition, reasons or None, figures, summary)


def _figures(info: Mapping[str, Any]) -> Mapping[str, Any]:
    databases = [value for name, value in info.items() if name.startswith("db") and isinstance(value, Mapping)]
    return {
        "version": info.get("redis_version"),
        "uptime_s": info.get("uptime_in_seconds"),
        "used_memory_bytes": info.get("used_memory"),
        "max_memory_bytes": info.get("maxmemory"),
        "maxmemory_policy": info.get("maxmemory_policy"),
        "keys": sum(int(database.get("keys", 0)) for database in databases),
        "evicted_keys": info.get("evicted_keys"),
        "clients": info.get("connected_clients"),
        "max_clients": info.get("maxclients"),
        "append_only_file": bool(info.get("aof_enabled")),
        "append_only_file_bytes": info.get("aof_current_size"),
        "last_write_ok": info.get("aof_last_write_status") == "ok",
        "last_rewrite_ok": info.get("aof_last_bgrewrite_status") == "ok",
        "last_save_ok": info.get("rdb_last_bgsave_status") == "ok",
    }


def _problems(info: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures["append_only_file"]:
        yield "its append-only file is off, so a restart loses the data: run CONFIG SET appendonly yes"
    elif not figures["last_write_ok"]:
        yield (
            "it cannot write its append-only file, and refuses writes: check its log, and whether the disk is full "
            "(df -h)"
        )
    elif not figures["last_rewrite_ok"]:
        yield "the last rewrite of its append-only file failed, so the file only grows: see its log"
    if not figures["last_save_ok"]:
        yield "the last snapshot (BGSAVE) failed: see its log"
    used, limit = int(figures["used_memory_bytes"] or 0), int(figures["max_memory_bytes"] or 0)
    if limit and used >= limit * _FULL_PART and figures["maxmemory_policy"] == "noeviction":
        yield (
            f"{used / _MB:.1f} of {limit / _MB:.0f} MB are used, and writes are refused when it is full: "
            "remove keys, or allow evictions (redis.maxmemory_policy)"
        )


def _summary(figures: Mapping[str, Any]) -> str:
    used, limit = int(figures["used_memory_bytes"] or 0), int(figures["max_memory_bytes"] or 0)
    keys, clients = figures["keys"], figures["clients"] or 0
    return (
        f"{figures['version']}; {used / _MB:.1f}"
        + (f" of {limit / _MB:.0f} MB" if limit else " MB")
        + f"; {keys} {'key' if keys == 1 else 'keys'}; {clients} {'client' if clients == 1 else 'clients'}"
    )


def _down(reason: str) -> CompanionStatus:
    return CompanionStatus(ComponentName.REDIS, Condition.DOWN, reason, {})
