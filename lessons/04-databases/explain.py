"""Print how SQLite would answer a query on the orders that indexes.py made: run indexes.py first."""

import argparse
import sqlite3
import sys
import tempfile
from pathlib import Path

DATABASE = Path(tempfile.gettempdir()) / "scale_test.db"
EXERCISE = {
    "SELECT * FROM orders WHERE user_id = 7": "user_id is the first column of an index: SQLite searches it.",
    "SELECT * FROM orders WHERE user_id = 7 AND amount > 100": "Both columns of the composite index narrow the search.",
    "SELECT * FROM orders WHERE day = '2024-02-29'": "No index begins with day: every order is read.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query", nargs="*", help="SQL; without one, the three queries of the exercise")
    queries = parser.parse_args().query
    database = sqlite3.connect(f"{DATABASE.as_uri()}?mode=ro", uri=True)
    for query in queries or EXERCISE:
        print(query)
        for *_, step in database.execute(f"EXPLAIN QUERY PLAN {query}"):
            print(f"  {step}")
        if not queries:
            print(f"  {EXERCISE[query]}")


if __name__ == "__main__":
    try:
        main()
    except sqlite3.Error as error:
        sys.exit(f"SQLite refuses: {error}. Correct the query; if {DATABASE} is missing, run indexes.py first.")
