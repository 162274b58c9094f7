"""Amounts are written in one style, PostgreSQL's."""

import pytest

from citus_cluster.model.citus.capacity import DiskSpace
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance import JobState, RebalanceStatus
from citus_cluster.model.citus.removal import HeldTable
from citus_cluster.model.units import size
from citus_cluster.operations.rebalance.watch import progress_line


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 kB"),
        (32 * 2**10, "32.0 kB"),
        (2**20 - 1, "1.0 MB"),
        (1.5 * 2**20, "1.5 MB"),
        (1023.9 * 2**20, "1023.9 MB"),
        (25 * 2**30, "25.0 GB"),
        (3 * 2**40, "3.0 TB"),
        (-5 * 2**20, "-5.0 MB"),
    ],
)
def test_a_size_has_the_unit_that_fits(size_bytes: float | None, written: str) -> None:
    assert size(size_bytes) == written


def test_progress_tables_and_refusals_have_the_same_units() -> None:
    found = RebalanceStatus(
        JobState.RUNNING,
        job_id=3,
        shards_done=3,
        shards_total=8,
        bytes_done=32 * 2**10,
        bytes_total=96 * 2**20,
        rate_bytes_per_s=5.1 * 2**20,
        time_left_s=18.6,
    )
    assert progress_line(found) == "running: 3 of 8 shards, 32.0 kB of 96.0 MB, 5.1 MB/s, 19 s left"
    assert str(HeldTable("orders", 1, 1, 32 * 2**10)) == "orders: 1 shard, 32.0 kB"
    assert "has room for 32.0 kB (1.0 MB must stay free" in DiskSpace(NodeAddress("w"), 2**20 + 2**15, 2**20).lacks(
        "more"
    )
