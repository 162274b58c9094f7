"""What an image's name tells: the PostgreSQL major, the platform, and where its data lives."""

import re
from dataclasses import dataclass

DEFAULT_CITUS_IMAGE = "citusdata/citus:13.2.0"

# Read from citusdata/docker: each Citus release is built on the newest PostgreSQL that it supports.
_PG_MAJOR_OF_CITUS_MAJOR = {11: 15, 12: 16, 13: 17, 14: 18}
# As github.com/distribution/reference reads it: host and port, path, tag, digest.
_PART = "[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
_OFFICIAL_CITUS = re.compile(
    r"(?:^|/)citusdata/citus:(?P<major>\d+)(?:\.\d+)*(?:-(?:alpine|postgres-(?P<pg>\d+)|pg(?P<pg2>\d+)))?$"
)


@dataclass(frozen=True)
class Image:
    """A container image of PostgreSQL with the facts that the generated files depend on."""

    name: str
    pg_major: int

    @property
    def platform(self) -> str | None:
        """Official Citus images exist for x86-64 only, so Docker on Apple Silicon must be told."""
        return "linux/amd64" if _OFFICIAL_CITUS.search(self.name) else None

    @property
    def data_mount(self) -> str:
        """Mount point of the data volume.

        From PostgreSQL 18 on, the official images keep each major's data in a folder of its own
        below /var/lib/postgresql (github.com/docker-library/postgres/pull/1259).
        """
        return "/var/lib/postgresql" if self.pg_major >= 18 else "/var/lib/postgresql/data"


def reference_problem(name: str) -> str | None:
    """An image must be pinned: by a tag, or by a digest."""
    if not _REFERENCE.fullmatch(name):
        return f"{name!r} is not the name of an image"
    if "@" not in name and ":" not in name.rsplit("/", 1)[-1]:
        return f"{name!r} has no tag, so it would change under the cluster: name one, such as {name}:1.0"
    return None


def known_pg_major(name: str) -> int | None:
    """PostgreSQL major of an official Citus image; None for any other."""
    found = _OFFICIAL_CITUS.search(name)
    if not found:
        return None
    stated = found["pg"] or found["pg2"]
    return int(stated) if stated else _PG_MAJOR_OF_CITUS_MAJOR.get(int(found["major"]))
