"""Lesson 4: what the checks do not show."""

import os
import sqlite3
from pathlib import Path

import pytest

from lessons.catalogue import unit
from lessons.check import Lab
from lessons.cluster import Servers


@pytest.fixture
def lab() -> Lab:
    return Lab(unit("4"), Servers(dict(os.environ)))


@pytest.mark.parametrize("script", ["indexes.py", "sharding.py"])
def test_a_folder_that_cannot_be_written_is_told(lab: Lab, script: str, tmp_path: Path) -> None:
    for name in ("scale_test.db", "shard_0.db"):
        (tmp_path / name).mkdir()
    out = lab.run(script, status=1, TMPDIR=str(tmp_path))
    assert "cannot be written" in out
    assert "TMPDIR" in out
    assert "Traceback" not in out


def test_explain_without_the_database_says_what_to_run(lab: Lab, tmp_path: Path) -> None:
    out = lab.run("explain.py", status=1, TMPDIR=str(tmp_path))
    assert "run indexes.py first" in out
    assert not list(tmp_path.iterdir()), "a database that is only read must not be created"


def test_explain_answers_a_query_of_ones_own_and_changes_nothing(lab: Lab, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "scale_test.db") as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    database.close()
    out = lab.run("explain.py", "SELECT * FROM orders WHERE id = 1", TMPDIR=str(tmp_path))
    assert "SEARCH orders USING INTEGER PRIMARY KEY (rowid=?)" in out
    out = lab.run("explain.py", "SELECT missing", status=1, TMPDIR=str(tmp_path))
    assert out.startswith("SELECT missing\nSQLite refuses: no such column: missing.")


@pytest.mark.parametrize(("user", "shards", "shard"), [(0, 3, 0), (4242, 3, 0), (4243, 3, 1), (9999, 4, 3)])
def test_the_shard_is_the_remainder(user: int, shards: int, shard: int) -> None:
    assert unit("4").lab("sharding").load().shard_of(user, shards) == shard
