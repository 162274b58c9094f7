"""100 look-ups of 10 users, without and with a cache, and how much faster the cache is.

python cache_demo.py [--ttl 30] [--pause-ms 0]
"""

import argparse
import json
import os
import sys
import time
from typing import Any

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
USERS, LOOKUPS = 10, 100


def query(user_id: int, query_s: float) -> dict[str, Any]:
    """Stand for a slow query of the database."""
    time.sleep(query_s)
    return {"user_id": user_id, "name": f"User {user_id}", "score": user_id * 42}


def cached_query(client: redis.Redis, user_id: int, query_s: float, ttl_s: int = 30) -> tuple[dict[str, Any], bool]:
    """Return the user, and whether it came from the cache."""
    key = f"user:{user_id}"
    if found := client.get(key):
        user: dict[str, Any] = json.loads(str(found))
        return user, True
    user = query(user_id, query_s)
    client.set(key, json.dumps(user), ex=ttl_s)
    return user, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ttl", type=int, default=30, metavar="S", help="time to live in the cache (default: 30)")
    parser.add_argument("--pause-ms", type=float, default=0, help="between look-ups with the cache (default: 0)")
    parser.add_argument("--query-ms", type=float, default=100, help="how long a query takes (default: 100)")
    options = parser.parse_args()
    query_s = options.query_ms / 1000
    client = redis.Redis.from_url(REDIS_URL, decode_responses=True)
    client.delete(*(f"user:{user_id}" for user_id in range(USERS)))

    started = time.perf_counter()
    for number in range(LOOKUPS):
        query(number % USERS, query_s)
    without_s = time.perf_counter() - started
    print(f"Without cache: {without_s:.2f} s", flush=True)

    hits, with_s = 0, 0.0
    for number in range(LOOKUPS):
        started = time.perf_counter()
        _, hit = cached_query(client, number % USERS, query_s, options.ttl)
        with_s += time.perf_counter() - started
        hits += hit
        time.sleep(options.pause_ms / 1000)
    print(f"With cache: {with_s:.2f} s, {hits} hits, {LOOKUPS - hits} misses")
    print(f"Speedup: {without_s / with_s:.1f}x")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
