"""Lesson 6: what the checks do not show."""

import itertools
import os

import pytest

from lessons.catalogue import unit
from lessons.check import Lab, free_port
from lessons.cluster import Servers

LESSON = unit("6")


def test_without_redis_the_lab_says_what_to_do() -> None:
    lab = Lab(LESSON, Servers({**os.environ}))
    out = lab.run("eventual.py", status=1, REDIS_URL=f"redis://:geheim@127.0.0.1:{free_port()}/15")
    assert out.startswith("Redis cannot be used: ")
    assert "Traceback" not in out
    assert "geheim" not in out


def test_strategies_do_not_depend_on_the_order() -> None:
    """Two nodes that meet the writes in different orders must come to the same value, also for equal times."""
    conflict = LESSON.lab("conflict").load()
    writes = [conflict.Write("a", 5, 1), conflict.Write("b", 5, 2), conflict.Write("c", 4, 2)]
    for strategy in (conflict.last_write_wins, conflict.highest_version):
        assert len({strategy(*order) for order in itertools.permutations(writes)}) == 1
    carts = [{"apple"}, {"banana"}, {"apple", "cherry"}]
    assert all(conflict.merge(*order) == {"apple", "banana", "cherry"} for order in itertools.permutations(carts))


def test_a_later_write_on_either_side_wins(capsys: pytest.CaptureFixture[str]) -> None:
    """Two writes on A are later than one on B, although B's name decides between equals."""
    cap_sim = LESSON.lab("cap_sim").load()
    a, b = cap_sim.Node("A"), cap_sim.Node("B")
    a.peers, b.peers = [b], [a]
    a.reachable = b.reachable = False
    a.write(1)
    a.write(2)
    b.write(3)
    cap_sim.heal(a, b)
    assert (a.value, b.value) == (2, 2)
    b.write(4)
    assert (a.value, b.value) == (4, 4)
    assert "PARTITION" in capsys.readouterr().out
