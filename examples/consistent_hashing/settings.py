"""What the service and its commands are told, by variables of the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from service_kit.cluster import Address, Cluster, NotConfiguredError

from consistent_hashing.server import ROLE, Server, find_server
from consistent_hashing.shards import POOL_SIZE
from consistent_hashing.topology import ShardBy, Topology, TopologyError, first_topology

REDIS_SECRET = f"{ROLE}_redis_password"


@dataclass(frozen=True)
class Redis:
    """Where the cache is. The user may use only keys that begin with ``prefix``."""

    address: Address
    password: str = field(repr=False)
    user: str = ROLE
    prefix: str = f"{ROLE}:"


@dataclass(frozen=True)
class Settings:
    """Where the servers are, and the topology to begin with, if there is none yet."""

    server: Server
    first: Topology
    redis: Redis | None = None
    pool_size: int = POOL_SIZE
    log_level: str = "INFO"


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the environment and the cluster's directory. Raises NotConfiguredError."""
    given = os.environ if environment is None else environment
    cluster = Cluster(given)
    try:
        first = first_topology(
            [name.strip() for name in given.get("SHARDS", "shard_1,shard_2,shard_3").split(",")],
            ShardBy(given.get("SHARD_BY", ShardBy.HYBRID)),
            virtual_nodes=int(given.get("VIRTUAL_NODES", "100")),
            hash_name=given.get("HASH_NAME", "md5"),
            separator=given.get("SEPARATOR", "#"),
        )
        _ = first.ring
        pool_size = int(given.get("POOL_SIZE", str(POOL_SIZE)))
    except (ValueError, TopologyError) as error:
        raise NotConfiguredError(
            f"SHARDS, SHARD_BY, VIRTUAL_NODES, HASH_NAME or POOL_SIZE is wrong: {error}"
        ) from error
    log_level = given.get("LOG_LEVEL", "INFO").upper()
    return Settings(find_server(cluster), first, _find_redis(cluster), pool_size, log_level)


def _find_redis(cluster: Cluster) -> Redis | None:
    try:
        return Redis(cluster.address("REDIS", "REDIS_PORT"), cluster.secret(REDIS_SECRET))
    except NotConfiguredError:
        return None  # The cache is optional.
