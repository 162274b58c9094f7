"""A key with a time to live: it is there, it counts down, it is gone.

python expiry.py [--ttl 10]
"""

import argparse
import os
import sys
import time

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
KEY = "temp_key"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ttl", type=int, default=10, metavar="S", help="time to live in seconds (default: 10)")
    options = parser.parse_args()
    client = redis.Redis.from_url(REDIS_URL, decode_responses=True)
    client.set(KEY, "hello", ex=options.ttl)
    print(f"SET {KEY} hello EX {options.ttl}")
    print(f"GET {KEY}: {client.get(KEY)!s}")
    print(f"TTL {KEY}: {client.ttl(KEY)}")
    time.sleep(options.ttl + 1)
    print(f"after {options.ttl + 1} s, GET {KEY}: {client.get(KEY) or '(nil)'!s}")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
