"""What disks hold and logs may take: when somebody is told, and in which words."""

import pytest
from tuning_support import tuned

from citus_cluster.model.component_name import ALL
from citus_cluster.model.disks import Disk, disk_alerts
from citus_cluster.model.tuning.formulae import Workload
from citus_cluster.model.tuning.log_space import describe, log_space, needed_mb
from citus_cluster.model.tuning.servers import with_user_settings

GIB = 2**30


def disk(used_percent: float, holder: str = "w1", total_bytes: int = 100 * GIB) -> Disk:
    return Disk(holder, total_bytes, round(total_bytes * (100 - used_percent) / 100))


@pytest.mark.parametrize(
    ("used_percent", "warnings", "alarms"),
    [(0, 0, 0), (84.9, 0, 0), (85.1, 1, 0), (94.9, 1, 0), (95.1, 0, 1), (100, 0, 1)],
)
def test_a_disk_is_told_of_from_85_percent_and_an_alarm_from_95(
    used_percent: float, warnings: int, alarms: int
) -> None:
    found = disk_alerts([disk(used_percent)])
    assert (len(found.warnings), len(found.alarms)) == (warnings, alarms)
    assert not [line for line in (*found.warnings, *found.alarms) if f"{int(used_percent)} % full" not in line]


def test_nodes_on_one_disk_are_told_of_once_with_their_names() -> None:
    of_workers = [disk(96 + number / 100, f"citus-worker{number}:5432") for number in range(1, 7)]
    found = disk_alerts([*of_workers, disk(86, "db2:5432"), disk(96, "db3:5432", 50 * GIB)])
    (shared, other), (warning,) = found.alarms, found.warnings
    assert "citus-worker1:5432, citus-worker2:5432, citus-worker3:5432, citus-worker4:5432 and 2 more is 96 %" in shared
    assert "PostgreSQL stops when it is full" in shared
    assert "disk of db3:5432 is 96 % full: 2.0 GB of 50.0 GB are free" in other
    assert "disk of db2:5432 is 86 % full" in warning


def test_a_file_system_that_tells_nothing_is_not_full() -> None:
    assert Disk("w1", 0, 0).used_part == 0


@pytest.mark.parametrize(("workload", "largest_gb"), [(Workload.MIXED, 4), (Workload.OLTP, 8), (Workload.OLAP, 16)])
def test_the_log_is_bounded_on_every_server_and_counted_by_its_settings(workload: Workload, largest_gb: int) -> None:
    result = tuned(64_000, workload=workload, services=ALL)
    for node in (result.coordinator, result.worker, result.plain):
        assert node
        found = log_space("one", node.settings)
        assert (found.usual_mb, found.kept_mb) == (largest_gb * 1024, 2 * largest_gb * 1024)


def test_settings_of_the_users_own_count() -> None:
    worker = tuned(64_000).worker
    assert worker
    large = with_user_settings(worker.settings, {"wal_keep_size": "10GB", "max_slot_wal_keep_size": -1})
    found = log_space("w1", large)
    assert (found.usual_mb, found.kept_mb) == (10 * 1024, None)
    small = log_space(
        "w2", with_user_settings(worker.settings, {"max_wal_size": 512, "max_slot_wal_keep_size": "1 GB"})
    )
    assert (small.usual_mb, small.kept_mb) == (512, 1024)
    assert needed_mb([found, small]) == 10 * 1024 + 512 + 1024
    text = describe([found, small])
    assert text.startswith("w1: 10.0 GB, without limit behind a replication slot; w2: 512.0 MB, up to 1.0 GB more")
    assert needed_mb([]) == 0
