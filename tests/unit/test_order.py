"""The order in which several processes take the files of the tests."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


def item(file: str, *, cluster: bool) -> Any:
    return SimpleNamespace(nodeid=f"tests/{file}::test", get_closest_marker=lambda name: True if cluster else None)


def test_the_longest_files_come_first_and_those_without_a_cluster_last(pytestconfig: pytest.Config) -> None:
    order: Any = pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    longest = order.LONGEST_FILES
    assert not [file for file in longest if not (TESTS / file).exists()]
    first, second, cluster, alone = (
        item(longest[0], cluster=True),
        item(longest[1], cluster=True),
        item("e2e/test_redis.py", cluster=True),
        item("unit/test_order.py", cluster=False),
    )
    items = [alone, cluster, second, first]
    config: Any = SimpleNamespace(workerinput={}, getoption=lambda name: None)
    order.pytest_collection_modifyitems(config, items)
    assert items == [first, second, cluster, alone]


def test_no_other_order_is_made_of_it(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getoption("loadscopereorder", None) is not True
