"""What the service needs to know, read once when it starts: from the environment, or from the cluster's directory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from service_kit.cluster import Address, Cluster, NotConfiguredError

NAME = "example_replication"
"""The role, the schema, the Redis user and prefix, the keyspace: all have this name."""
ReadFrom = Literal["prefer-standby", "standby"]
LogFormat = Literal["plain", "json"]
MIN_KEY_BYTES = 32
_T = TypeVar("_T", bound=str)


@dataclass(frozen=True)
class Server:
    """A server with a login of its own for this service."""

    address: Address
    password: str = field(repr=False)


@dataclass(frozen=True)
class LogSettings:
    """``file`` is where the log goes besides the console; ``level`` is that of this service's own lines."""

    format: LogFormat = "plain"
    level: str = "DEBUG"
    file: str = "app.log"


@dataclass(frozen=True)
class Settings:
    """``redis``, ``cassandra`` and ``jwt_key`` are None where the service runs without them."""

    primary: Address
    replica: Address
    database: str
    password: str = field(repr=False)
    redis: Server | None = None
    cassandra: Server | None = None
    jwt_key: str | None = field(default=None, repr=False)
    read_from: ReadFrom = "prefer-standby"
    rate_limit: int = 10
    rate_window_s: int = 60
    cache_ttl_s: int = 30
    start_timeout_s: int = 5
    """How long a start waits for servers that do not answer, or do not know the role yet."""


def read(cluster: Cluster) -> Settings:
    """Read all settings. Raises NotConfiguredError for one that is missing or wrong."""
    values = cluster.environment
    return Settings(
        primary=cluster.address("PG14_PRIMARY", "PG14_PRIMARY_PORT"),
        replica=cluster.address("PG14_REPLICA", "PG14_REPLICA_PORT"),
        # The pair's database has this name, unless somebody changed it.
        database=values.get("PG14_DATABASE") or "testdb",
        password=cluster.secret(f"{NAME}_password"),
        redis=_optional(cluster, "REDIS", "REDIS_PORT", f"{NAME}_redis_password"),
        cassandra=_optional(cluster, "CASSANDRA", "CASSANDRA_PORT", f"{NAME}_cassandra_password"),
        jwt_key=jwt_key(cluster) if _one_of(values, "AUTH", ("on", "off"), "off") == "on" else None,
        read_from=_one_of(values, "READ_FROM", get_args(ReadFrom), "prefer-standby"),
        rate_limit=_number(values, "RATE_LIMIT", 10),
        rate_window_s=max(1, _number(values, "RATE_WINDOW_S", 60)),
        cache_ttl_s=_number(values, "CACHE_TTL_S", 30),
        start_timeout_s=_number(values, "START_TIMEOUT_S", 5),
    )


def read_log(values: Mapping[str, str]) -> LogSettings:
    """Read how to log. Raises NotConfiguredError."""
    return LogSettings(
        format=_one_of(values, "LOG_FORMAT", get_args(LogFormat), "plain"),
        level=_one_of(values, "LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG"),
        file=values.get("LOG_FILE", "app.log"),
    )


def jwt_key(cluster: Cluster) -> str:
    """Give the key that signs tokens. Raises NotConfiguredError, also for a key that is too short to be safe."""
    key = cluster.secret(f"{NAME}_jwt_key")
    if len(key.encode()) < MIN_KEY_BYTES:
        raise NotConfiguredError(
            f"The secret {NAME}_jwt_key has {len(key.encode())} bytes, but HS256 needs {MIN_KEY_BYTES} at least."
        )
    return key


def _optional(cluster: Cluster, name: str, published_port: str, secret: str) -> Server | None:
    if cluster.environment.get(name) == "off" or not cluster.value(name, published_port, default=""):
        return None
    return Server(cluster.address(name, published_port), cluster.secret(secret))


def _one_of(values: Mapping[str, str], name: str, allowed: tuple[_T, ...], default: _T) -> _T:
    given = values.get(name) or default
    for one in allowed:
        if given == one:
            return one
    raise NotConfiguredError(f"{name} is {given!r}, but must be one of {', '.join(allowed)}.")


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    given = values.get(name) or str(default)
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise NotConfiguredError(f"{name} is {given!r}, but must be a whole number.")
    return int(given)
