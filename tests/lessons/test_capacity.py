"""The estimate of lesson 1."""

import pytest

from lessons.catalogue import unit

estimation = unit("1").lab("estimate").load()


def test_the_photo_service_e1_04() -> None:
    found = estimation.estimate(10e6, 0.1, 2, 2)
    assert found.active_users == 1_000_000
    assert found.uploads_per_day == 2_000_000
    assert found.uploads_per_s == pytest.approx(23.15, abs=0.005)
    assert found.reads_per_s == pytest.approx(231.5, abs=0.05)
    assert found.tb_per_day == 4
    assert found.pb_per_year == pytest.approx(1.46)
    assert found.one_ssd_is_fast_enough


def test_a_larger_service_needs_more_than_one_ssd() -> None:
    assert not estimation.estimate(1e9, 0.5, 2, 2).one_ssd_is_fast_enough
