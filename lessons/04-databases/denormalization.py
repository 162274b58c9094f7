"""Find the five users who spent most: by a join, and in a table that repeats the user's name in every order."""

import argparse
import random
import sqlite3
import time

USERS = 1_000
JOIN = """SELECT users.name, round(sum(amount), 2) AS total FROM orders JOIN users ON users.id = orders.user_id
          GROUP BY users.name ORDER BY total DESC, users.name LIMIT 5"""
COPY = """SELECT user_name, round(sum(amount), 2) AS total FROM orders_with_names
          GROUP BY user_name ORDER BY total DESC, user_name LIMIT 5"""


def timed(database: sqlite3.Connection, query: str) -> tuple[list[tuple[str, float]], float]:
    durations_ms = []
    for _ in range(3):
        start = time.perf_counter()
        rows = database.execute(query).fetchall()
        durations_ms.append((time.perf_counter() - start) * 1000)
    return rows, min(durations_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100_000, help="1000 to 1000000 (default %(default)s)")
    orders = min(max(parser.parse_args().orders, 1_000), 1_000_000)
    dice = random.Random(42)  # the same orders on every run

    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INT, amount REAL)")
    database.executemany("INSERT INTO users VALUES (?, ?)", ((i, f"User {i}") for i in range(USERS)))
    amounts = ((dice.randrange(USERS), dice.randint(100, 50_000) / 100) for _ in range(orders))
    database.executemany("INSERT INTO orders (user_id, amount) VALUES (?, ?)", amounts)
    database.execute(
        "CREATE TABLE orders_with_names AS SELECT orders.id, user_id, users.name AS user_name, amount"
        " FROM orders JOIN users ON users.id = orders.user_id"
    )

    joined, join_ms = timed(database, JOIN)
    copied, copy_ms = timed(database, COPY)
    for name, total in joined:
        print(f"{name:<10} {total:>12,.2f}")
    print(f"\njoin         {join_ms:7.1f} ms\nname copied  {copy_ms:7.1f} ms, {join_ms / copy_ms:.1f} times as fast")
    print("same rows" if joined == copied else "DIFFERENT ROWS: the copied names are out of date")

    name = joined[0][0]
    one = database.execute("UPDATE users SET name = 'Renamed' WHERE name = ?", (name,)).rowcount
    many = database.execute("UPDATE orders_with_names SET user_name = 'Renamed' WHERE user_name = ?", (name,)).rowcount
    print(f"the price: to rename {name}, update {one} row in the normalised tables, {many} rows in the copy")


if __name__ == "__main__":
    main()
