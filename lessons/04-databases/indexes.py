"""Ask 100,000 orders the same questions without and with indexes, and read SQLite's plans.

The database stays in the folder for temporary files; open it afterwards with: sqlite3 /tmp/scale_test.db
"""

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

DATABASE = Path(tempfile.gettempdir()) / "scale_test.db"
ORDERS, USERS, PRODUCTS = 100_000, 1_000, 50


def fill(database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INT, product TEXT, amount REAL, day TEXT)")
    dice = random.Random(42)  # the same orders on every run
    database.executemany(
        "INSERT INTO orders (user_id, product, amount, day) VALUES (?, ?, ?, date('2024-01-01', ?))",
        (
            (i % USERS, f"product_{dice.randrange(PRODUCTS)}", dice.randint(100, 50_000) / 100, f"+{i % 366} days")
            for i in range(ORDERS)
        ),
    )
    database.commit()


def ask(database: sqlite3.Connection, what: str, query: str) -> None:
    (plan,) = (row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}"))
    durations_ms = []
    for _ in range(5):
        start = time.perf_counter()
        rows = database.execute(query).fetchall()
        durations_ms.append((time.perf_counter() - start) * 1000)
    answer = f"{len(rows)} rows" if len(rows) != 1 else f"answer {rows[0][0]}"
    print(f"{what:<28} {min(durations_ms):8.3f} ms   {answer:<16} {plan}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    DATABASE.unlink(missing_ok=True)
    database = sqlite3.connect(DATABASE)
    fill(database)
    print(f"{database.execute('SELECT count(*) FROM orders').fetchone()[0]} orders in {DATABASE}\n")
    ask(database, "user, no index", "SELECT * FROM orders WHERE user_id = 42")
    database.execute("CREATE INDEX idx_orders_user ON orders (user_id)")
    ask(database, "user, index", "SELECT * FROM orders WHERE user_id = 42")
    ask(database, "product", "SELECT * FROM orders WHERE product = 'product_7'")
    ask(database, "product and amount", "SELECT * FROM orders WHERE product = 'product_7' AND amount > 50")
    database.execute("CREATE INDEX idx_orders_user_amount ON orders (user_id, amount)")
    ask(database, "sum of a user, composite", "SELECT round(sum(amount), 2) FROM orders WHERE user_id = 42")
    ask(database, "user and amount, composite", "SELECT * FROM orders WHERE user_id = 42 AND amount > 50")
    ask(database, "amount alone, composite", "SELECT * FROM orders WHERE amount > 50")


if __name__ == "__main__":
    try:
        main()
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"{DATABASE} cannot be written: {error}. Set TMPDIR to a folder of your own, or end the other run.")
