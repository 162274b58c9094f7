"""Disk usage of the servers, and the thresholds for warnings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from citus_cluster.model.documents import Documented
from citus_cluster.model.units import size

WARNED_PART = 0.85
ALARMED_PART = 0.95
"""The used parts of a disk at which a warning is shown, and at which the cluster is degraded (judgement).

PostgreSQL stops when it cannot write its WAL, and Citus itself refuses moves below 10 % of free space.
"""
_SAME_PART = 0.002
"""Nodes on one disk are queried one after the other, so their answers differ by the writes in between."""


@dataclass(frozen=True)
class DiskDocument:
    """The disk usage of one server."""

    holder: str
    total_bytes: int
    available_bytes: int
    used_percent: float


@dataclass(frozen=True)
class Disk(Documented):
    """The disk below one server, or below the engine's own folder: ``holder`` says which."""

    holder: str
    total_bytes: int
    available_bytes: int

    @property
    def used_part(self) -> float:
        return 1 - self.available_bytes / self.total_bytes if self.total_bytes > 0 else 0.0

    def is_same_as(self, other: "Disk") -> bool:
        """Return whether both are probably the same disk: of the same size and usage."""
        return self.total_bytes == other.total_bytes and abs(self.used_part - other.used_part) < _SAME_PART

    def document(self) -> DiskDocument:
        return DiskDocument(self.holder, self.total_bytes, self.available_bytes, round(100 * self.used_part, 1))


@dataclass(frozen=True)
class DiskAlerts:
    """One line for each disk that fills up. ``alarms`` make the cluster degraded, ``warnings`` do not yet."""

    warnings: tuple[str, ...]
    alarms: tuple[str, ...]


def disk_alerts(disks: Iterable[Disk]) -> DiskAlerts:
    """Judge each disk once, however many servers share it."""
    groups: list[list[Disk]] = []
    for disk in disks:
        same = next((group for group in groups if group[0].is_same_as(disk)), None)
        if same is None:
            groups.append([disk])
        else:
            same.append(disk)
    return DiskAlerts(
        warnings=tuple(_line(group) for group in groups if WARNED_PART <= group[0].used_part < ALARMED_PART),
        alarms=tuple(_line(group) for group in groups if group[0].used_part >= ALARMED_PART),
    )


def _line(group: Sequence[Disk]) -> str:
    disk = group[0]
    holders = [one.holder for one in group]
    more = f" and {len(holders) - 4} more" if len(holders) > 4 else ""
    consequence = " PostgreSQL stops when it is full." if disk.used_part >= ALARMED_PART else ""
    # Rounded down: 94.9 % must not be shown as 95 %.
    used = f"{int(100 * disk.used_part)} % full: {size(disk.available_bytes)} of {size(disk.total_bytes)} are free"
    return f"The disk of {', '.join(holders[:4])}{more} is {used}.{consequence} {_WAY_OUT}"


_WAY_OUT = (
    "Free some space, or enlarge the disk: docker system df -v shows the sizes of images and volumes, citus-cluster "
    "status the size of each table; replication slots may keep WAL: SELECT slot_name, active, wal_status FROM "
    "pg_replication_slots."
)
