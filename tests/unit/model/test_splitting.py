"""The hash values at which a shard is divided."""

import pytest

from citus_cluster.errors import UsageError
from citus_cluster.model.citus.splitting import parse_points, point_problems


def test_points_are_numbers_or_the_middle_of_the_range() -> None:
    assert parse_points("-5, 7", "-10", "10") == (-5, 7)
    assert parse_points("Half", "-2147483648", "2147483647") == (-1,)
    assert parse_points("half", "0", "1") == (0,)


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1.5"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="whole numbers"):
        parse_points(text, "0", "10")


@pytest.mark.parametrize(
    ("points", "problem"),
    [
        ((0,), None),
        ((9,), None),
        ((0, 5, 9), None),
        ((10,), "from 0 to 9"),
        ((-1,), "from 0 to 9"),
        ((5, 4), "must rise"),
        ((5, 5), "must rise"),
    ],
)
def test_points_lie_in_the_range_and_rise(points: tuple[int, ...], problem: str | None) -> None:
    found = point_problems(points, "0", "10")
    assert problem in found[0] if problem else found == ()


def test_a_shard_without_a_range_or_with_one_value_cannot_be_divided() -> None:
    assert point_problems((5,), None, None)
    assert "single hash value" in point_problems((5,), "5", "5")[0]
    with pytest.raises(UsageError, match="no half"):
        parse_points("half", None, None)
