"""Write-behind: writes go to the cache, and to the database in batches; what it gains, and what a crash loses.

python write_behind.py [--writes 1000] [--every 100] [--crash]
"""

import argparse
import os
import random
import sqlite3
import sys

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
VIEWS, DIRTY = "views", "views:dirty"  # a hash with the count of each page, and the pages that the database lacks
PAGES = 20


def write(client: redis.Redis, page: str) -> None:
    """Count a view in the cache only."""
    with client.pipeline() as both:
        both.hincrby(VIEWS, page)
        both.sadd(DIRTY, page)
        both.execute()


def flush(client: redis.Redis, database: sqlite3.Connection) -> int:
    """Write what has changed to the database, in one transaction. Returns the number of rows."""
    # This program is the only one that writes here; otherwise a page could change between these two commands.
    pages = sorted(map(str, client.smembers(DIRTY)))
    rows = [(page, int(str(client.hget(VIEWS, page)))) for page in pages]
    with database:
        database.executemany(
            "INSERT INTO views VALUES (?, ?) ON CONFLICT (page) DO UPDATE SET count = excluded.count", rows
        )
    if pages:
        client.srem(DIRTY, *pages)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=1000, help="default: 1000")
    parser.add_argument("--every", type=int, default=100, help="writes for each batch (default: 100)")
    parser.add_argument("--crash", action="store_true", help="lose the cache before the last batch is written")
    options = parser.parse_args()
    client = redis.Redis.from_url(REDIS_URL, decode_responses=True)
    client.delete(VIEWS, DIRTY)
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE views (page TEXT PRIMARY KEY, count INTEGER)")
    rows = 0
    for number in range(1, options.writes + 1):
        write(client, f"page_{random.randrange(PAGES)}")
        if number % options.every == 0 and not (options.crash and number == options.writes):
            rows += flush(client, database)
    (stored,) = database.execute("SELECT coalesce(sum(count), 0) FROM views").fetchone()
    print(f"writes: {options.writes}, rows written to the database: {rows}")
    print(f"views in the database: {stored}, lost in a crash now: {options.writes - stored}")
    client.delete(VIEWS, DIRTY)


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
