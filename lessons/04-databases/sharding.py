"""Spread 10,000 users over three databases by user_id modulo 3, look one up, and count them all."""

import argparse
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(tempfile.gettempdir())


def shard_of(user_id: int, shards: int) -> int:
    """Every client must compute the same: the shard is nowhere stored."""
    return user_id % shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=3, choices=range(1, 65), metavar="N", help="1 to 64 (default 3)")
    parser.add_argument("--user", type=int, default=4242, help="the user to look up (default %(default)s)")
    options = parser.parse_args()
    count, users = options.shards, range(10_000)

    shards = []
    for number in range(count):
        path = FOLDER / f"shard_{number}.db"
        path.unlink(missing_ok=True)
        shards.append(sqlite3.connect(path))
        shards[number].execute("CREATE TABLE users (user_id INTEGER PRIMARY KEY, name TEXT)")
        mine = ((user, f"User {user}") for user in users if shard_of(user, count) == number)
        shards[number].executemany("INSERT INTO users VALUES (?, ?)", mine)
        shards[number].commit()
        print(f"shard {number}: {shards[number].execute('SELECT count(*) FROM users').fetchone()[0]} users")

    start = time.perf_counter()
    where = shard_of(options.user, count)
    found = shards[where].execute("SELECT name FROM users WHERE user_id = ?", (options.user,)).fetchone()
    one_ms = (time.perf_counter() - start) * 1000
    name = found[0] if found else "no such user"
    print(f"\nuser {options.user} is on shard {where}: {name} ({one_ms:.2f} ms, 1 shard)")

    start = time.perf_counter()
    total = sum(shard.execute("SELECT count(*) FROM users").fetchone()[0] for shard in shards)
    all_ms = (time.perf_counter() - start) * 1000
    print(f"all users: {total} ({all_ms:.2f} ms, {count} shards)")

    moved = sum(shard_of(user, count) != shard_of(user, count + 1) for user in users)
    print(f"with {count + 1} shards, {moved} of {len(users)} users ({moved / len(users):.1%}) would have to move")


if __name__ == "__main__":
    try:
        main()
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"{FOLDER}/shard_N.db cannot be written: {error}. Set TMPDIR to a folder of your own.")
