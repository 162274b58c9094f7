"""The hit rate when few keys are popular: 1000 requests for 100 products, of which 5 get 80 %.

python cache_stats.py [--ttl 60] [--pause-ms 0]
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Iterator

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
PRODUCTS, POPULAR, POPULAR_PART = 100, 5, 0.8


def requested(number: int, seed: int | None = None) -> Iterator[int]:
    """Give the products that are asked for."""
    chance = random.Random(seed)
    for _ in range(number):
        popular = chance.random() < POPULAR_PART
        yield chance.randrange(POPULAR) if popular else chance.randrange(POPULAR, PRODUCTS)


def lookups(client: redis.Redis, products: Iterator[int], ttl_s: float, pause_s: float = 0) -> Iterator[bool]:
    """Look each product up, and put it into the cache if it is not there. Give whether it was."""
    client.delete(*(f"product:{product}" for product in range(PRODUCTS)))
    for product in products:
        hit = client.get(f"product:{product}") is not None
        if not hit:
            client.set(f"product:{product}", f"Product {product}", px=round(1000 * ttl_s))
        yield hit
        time.sleep(pause_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ttl", type=float, default=60, metavar="S", help="time to live in the cache (default: 60)")
    parser.add_argument("--pause-ms", type=float, default=0, help="between requests (default: 0)")
    parser.add_argument("-n", "--requests", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, help="the same products in each run")
    options = parser.parse_args()
    client = redis.Redis.from_url(REDIS_URL, decode_responses=True)
    products = requested(options.requests, options.seed)
    hits = sum(lookups(client, products, options.ttl, options.pause_ms / 1000))
    print(f"Requests: {options.requests}")
    print(f"Hits: {hits}, misses: {options.requests - hits}")
    print(f"Hit rate: {hits / options.requests:.1%}")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
