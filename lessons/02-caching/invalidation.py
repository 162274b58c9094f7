"""Two ways to change what is cached: write the new value through, or delete the old one.

python invalidation.py
"""

import argparse
import json
import os
import sys

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
TTL_S = 300  # a bound for what was forgotten: an old value lives at most this long
DATABASE: dict[str, dict[str, str]] = {}


def write_through(client: redis.Redis, key: str, value: dict[str, str]) -> None:
    """Write to the database, then to the cache: the next read hits, also if nobody needs it."""
    DATABASE[key] = value
    client.set(key, json.dumps(value), ex=TTL_S)


def invalidate_on_write(client: redis.Redis, key: str, value: dict[str, str]) -> None:
    """Write to the database, then delete from the cache: the next read misses, and reads the database."""
    DATABASE[key] = value
    client.delete(key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    client = redis.Redis.from_url(REDIS_URL, decode_responses=True)
    write_through(client, "profile:1", {"name": "Alice"})
    print(f"write_through: the cache has {client.get('profile:1')!s}, for {client.ttl('profile:1')} s")
    invalidate_on_write(client, "profile:1", {"name": "Alice Smith"})
    print(f"invalidate_on_write: the cache has {client.get('profile:1')!s}")
    print(f"the database has {json.dumps(DATABASE['profile:1'])}")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
