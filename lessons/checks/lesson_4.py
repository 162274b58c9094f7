"""Checks of lesson 4, databases. Indexes are compared by plan and by the steps of SQLite's machine, never by time."""

import contextlib
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lessons.check import Lab, Seen, check

_LINE = re.compile(r"^(?P<what>.+?)\s+(?P<ms>[\d.]+) ms\s+(?P<answer>\S+ \S+|\S+)\s\s+(?P<plan>.+)$", re.MULTILINE)


@contextlib.contextmanager
def _orders(lab: Lab) -> Iterator[tuple[dict[str, re.Match[str]], sqlite3.Connection]]:
    """Run indexes.py in a folder of its own. Yields its lines by their first column, and its database."""
    with tempfile.TemporaryDirectory() as folder:
        out = lab.run("indexes.py", TMPDIR=folder)
        database = sqlite3.connect(Path(folder) / "scale_test.db")
        try:
            yield {one["what"]: one for one in _LINE.finditer(out)}, database
        finally:
            database.close()


def _steps(database: sqlite3.Connection, query: str) -> tuple[int, list[tuple[object, ...]]]:
    """Return how many steps SQLite's virtual machine takes, in hundreds, and the rows, sorted."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    database.set_progress_handler(count, 100)
    rows = sorted(database.execute(query))
    database.set_progress_handler(None, 0)
    return steps, rows


@check("E4-01", expected="100000 orders, 1000 users, 50 products, 366 days of 2024")
def orders_are_there(lab: Lab) -> Seen:
    """indexes.py fills a database with orders."""
    with _orders(lab) as (_, database):
        (seen,) = database.execute(
            "SELECT count(*), count(DISTINCT user_id), count(DISTINCT product), count(DISTINCT day),"
            " min(day), max(day) FROM orders"
        )
    return Seen(seen == (100_000, 1_000, 50, 366, "2024-01-01", "2024-12-31"), ", ".join(map(str, seen)))


@check("E4-02", expected="the same 100 rows, with less than 1/100 of the steps (a user has 1/1000 of the orders)")
def index_finds_the_same(lab: Lab) -> Seen:
    """The query for one user gives the same rows without and with the index, with less work."""
    with _orders(lab) as (lines, database):
        scan, all_rows = _steps(database, "SELECT * FROM orders NOT INDEXED WHERE user_id = 42")
        search, found = _steps(database, "SELECT * FROM orders INDEXED BY idx_orders_user WHERE user_id = 42")
    told = lines["user, no index"]["answer"] == lines["user, index"]["answer"] == "100 rows"
    return Seen(
        told and all_rows == found and len(found) == 100 and search < scan / 100,
        f"{len(found)} rows, {search * 100} steps instead of {scan * 100}",
    )


@check("E4-03", expected="SCAN, then SEARCH by idx_orders_user; SCAN for a product")
def index_changes_the_plan(lab: Lab) -> Seen:
    """SQLite searches the indexed column, and scans for the other."""
    with _orders(lab) as (lines, _):
        plans = [lines[one]["plan"] for one in ("user, no index", "user, index", "product")]
    wanted = ["SCAN orders", "SEARCH orders USING INDEX idx_orders_user (user_id=?)", "SCAN orders"]
    return Seen(plans == wanted, "; ".join(plans))


@check("E4-04", expected="SCAN; COVERING INDEX for the sum; (user_id=? AND amount>?); SCAN for the amount alone")
def composite_index_serves_its_first_column(lab: Lab) -> Seen:
    """The composite index answers a sum alone, narrows by both columns, and does not help for its second column."""
    with _orders(lab) as (lines, _):
        plans = [lines[one]["plan"] for one in lines if "product and" in one or "composite" in one]
    wanted = [
        "SCAN orders",
        "SEARCH orders USING COVERING INDEX idx_orders_user_amount (user_id=?)",
        "SEARCH orders USING INDEX idx_orders_user_amount (user_id=? AND amount>?)",
        "SCAN orders",
    ]
    return Seen(plans == wanted, "; ".join(plans))


def _sharding(lab: Lab, *options: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = lab.run("sharding.py", *options, TMPDIR=folder)
        counts = []
        for path in sorted(Path(folder).glob("shard_*.db")):
            with contextlib.closing(sqlite3.connect(path)) as shard:
                counts.append(shard.execute("SELECT count(*) FROM users").fetchone()[0])
    told = [int(one) for one in re.findall(r"^shard \d+: (\d+) users", out, re.MULTILINE)]
    assert counts == told, f"the files hold {counts} users, but sharding.py says {told}"
    return out


@check("E4-05", expected="3334, 3333 and 3333 users on shard_0.db, shard_1.db and shard_2.db")
def users_are_spread(lab: Lab) -> Seen:
    """10,000 users are spread evenly over three databases."""
    counts = re.findall(r"^shard \d+: (\d+) users", _sharding(lab), re.MULTILINE)
    return Seen(counts == ["3334", "3333", "3333"], ", ".join(counts))


@check("E4-06", expected="user 4242 on shard 0")
def look_up_asks_one_shard(lab: Lab) -> Seen:
    """The shard of a user is computed, not searched."""
    (found,) = re.findall(r"^user 4242 is on shard \d+: User 4242", _sharding(lab), re.MULTILINE)
    return Seen("shard 0:" in found, found)


@check("E4-07", expected="10000 users, with the time, from 3 shards; 75.0% move with a fourth")
def count_asks_every_shard(lab: Lab) -> Seen:
    """A query without the shard key asks all shards, and another number of shards moves most users."""
    (found,) = re.findall(r"^all users: .*$", _sharding(lab), re.MULTILINE)
    (moved,) = re.findall(r"(\d+) of 10000 users \(([\d.]+)%\) would have to move", _sharding(lab))
    passed = re.fullmatch(r"all users: 10000 \([\d.]+ ms, 3 shards\)", found) and moved == ("7498", "75.0")
    return Seen(bool(passed), f"{found}; {moved[0]} users ({moved[1]}%) move")


@check("E4-08", expected="the same five rows, both with their time; a rename updates many rows instead of 1")
def copied_names_answer_the_same(lab: Lab) -> Seen:
    """The table with copied names gives the same top five as the join, and costs more to change."""
    out = lab.run("denormalization.py")
    top = re.findall(r"^User \d+ +[\d,.]+$", out, re.MULTILINE)
    timed = re.search(r"^join +[\d.]+ ms\nname copied +[\d.]+ ms", out, re.MULTILINE)
    price = re.search(r"update 1 row in the normalised tables, (\d+) rows in the copy", out)
    passed = len(top) == 5 and "\nsame rows\n" in out and timed and price and int(price[1]) > 50
    return Seen(bool(passed), f"{len(top)} rows, {'same' if 'same rows' in out else 'different'}; {price and price[1]}")


@check("E4-09", expected="B-tree, O(n), O(log n), read replica, sharding, vertical and horizontal partitioning, pool")
def levers_are_explained(lab: Lab) -> Seen:
    """The page names the levers that make a database larger or faster."""
    return lab.page_names(
        "B-tree", "O(n)", "O(log n)", "read replica", "sharding", "vertical partition", "horizontal partition", "pool"
    )


@check("E4-10", expected="three plans, each with its reason: SEARCH by one column, by two, and SCAN")
def exercise_prints_three_plans(lab: Lab) -> Seen:
    """explain.py answers the exercise: a query that uses an index, one for the composite, one that scans."""
    with tempfile.TemporaryDirectory() as folder:
        lab.run("indexes.py", TMPDIR=folder)
        out = lab.run("explain.py", TMPDIR=folder)
    blocks = [one.splitlines() for one in re.split(r"^(?=SELECT)", out, flags=re.MULTILINE) if one]
    plans = [lines[1].strip() for lines in blocks]
    kinds = [re.sub(r" USING INDEX \w+", "", one) for one in plans]
    wanted = ["SEARCH orders (user_id=?)", "SEARCH orders (user_id=? AND amount>?)", "SCAN orders"]
    return Seen(kinds == wanted and all(len(lines) == 3 for lines in blocks), "; ".join(plans))
