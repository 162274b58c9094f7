"""Facts from an image's name: the PostgreSQL major, the platform, and the location of its data."""

import re
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_CITUS_IMAGE = "citusdata/citus:13.2.0"
DEFAULT_PG14_IMAGE = "postgres:14"
DEFAULT_REDIS_IMAGE = "redis:7"
DEFAULT_CASSANDRA_IMAGE = "cassandra:5"
DEFAULT_PGBOUNCER_IMAGE = "ghcr.io/cloudnative-pg/pgbouncer:1.26.1"

DEFAULT_MONITORING_IMAGE = "prom/prometheus:v3.5.3"
"""A release with long-term support."""

PAIR_PG_MAJOR = 14
"""The PostgreSQL major of the primary and replica beside Citus."""
_REDIS_LEAST = 7
_CASSANDRA_MAJOR = 5
_PGBOUNCER_LEAST = (1, 24)
_PROMETHEUS_LEAST = 3

# Read from citusdata/docker: each Citus release is built on the newest PostgreSQL that it supports.
_PG_MAJOR_OF_CITUS_MAJOR = {11: 15, 12: 16, 13: 17, 14: 18}
# The grammar of github.com/distribution/reference: host and port, path, tag, digest.
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
        """The platform that Docker on Apple Silicon needs, because official Citus images exist only for x86-64."""
        return "linux/amd64" if _OFFICIAL_CITUS.search(self.name) else None

    @property
    def data_mount(self) -> str:
        """Mount point of the data volume.

        From PostgreSQL 18 on, the official images keep each major's data in a folder of its own
        below /var/lib/postgresql (github.com/docker-library/postgres/pull/1259).
        """
        return "/var/lib/postgresql" if self.pg_major >= 18 else "/var/lib/postgresql/data"


def reference_problem(name: str) -> str | None:
    """Return why the name is not valid: an image must be pinned, by a tag or by a digest."""
    if not _REFERENCE.fullmatch(name):
        return f"{name!r} is not the name of an image"
    if "@" not in name and ":" not in name.rsplit("/", 1)[-1]:
        return f"{name!r} has no tag, so the image could change: add one, such as {name}:1.0"
    return None


def tag_version(name: str) -> tuple[int, ...]:
    """Version in an image's tag: (7, 2) of ``redis:7.2-alpine``; empty if the tag does not begin with a version."""
    found = re.search(r":(\d+(?:\.\d+)*)(?:-[^/:]*)?$", name.partition("@")[0])
    return tuple(map(int, found[1].split("."))) if found else ()


class ReleaseChange(StrEnum):
    """What another image means for Citus' extension: ``13.0.3`` to ``13.2.0`` is newer, to ``13.0.4`` the same."""

    SAME = "same"
    NEWER = "newer"
    OLDER = "older"
    UNKNOWN = "unknown"


def release_change(before: str, after: str) -> ReleaseChange:
    """Compare two images of Citus by major and minor version, as far as their tags in one repository show them."""
    if before == after:
        return ReleaseChange.SAME
    old, new = (tag_version(name)[:2] for name in (before, after))
    if _repository(before) != _repository(after) or len(old) < 2 or len(new) < 2:
        return ReleaseChange.UNKNOWN
    if old == new:
        return ReleaseChange.SAME
    return ReleaseChange.NEWER if old < new else ReleaseChange.OLDER


def _repository(name: str) -> str:
    return name.partition("@")[0].rsplit(":", 1)[0]


def official_major(name: str, repository: str) -> int | None:
    """Major in the tag of an official image such as ``redis:7.2-alpine``, of any registry; None for any other."""
    if not re.search(rf"(?:^|/){repository}:[^/]+$", name.partition("@")[0]):
        return None
    return tag_version(name)[0] if tag_version(name) else None


_PRODUCTS = {
    "postgres": "PostgreSQL without Citus",
    "redis": "Redis",
    "cassandra": "Cassandra",
    "pgbouncer": "PgBouncer",
    "prometheus": "Prometheus",
}


def _other_product(name: str, own: str) -> str | None:
    """Return why an image is clearly that of another product, such as ``redis:7`` for Cassandra."""
    repository = _repository(name).rsplit("/", 1)[-1]
    if repository in _PRODUCTS and repository != own:
        return f"{name!r} is an image of {_PRODUCTS[repository]}: use one of {own.capitalize()}"
    return None


def citus_image_problem(name: str) -> str | None:
    return _other_product(name, "citus") or reference_problem(name)


def pg14_image_problem(name: str) -> str | None:
    """Return why an image is unsuitable for the pair: plain PostgreSQL 14, so that Citus cannot affect its data."""
    if re.search(r"citus", name.partition("@")[0].rsplit(":", 1)[0], re.IGNORECASE):
        return (
            f"{name!r} is an image with Citus, but the PostgreSQL 14 pair is plain PostgreSQL: use postgres:14, "
            "or create distributed tables in the Citus cluster"
        )
    if problem := _other_product(name, "postgres"):
        return problem
    major = official_major(name, "postgres")
    if major is not None and major != PAIR_PG_MAJOR:
        return pg14_major_problem(name, major)
    return reference_problem(name)


def pg14_major_problem(name: str, major: int) -> str:
    """Return why the pair cannot use an image of another major version, and how to proceed."""
    return (
        f"{name!r} runs PostgreSQL {major}, which does not start on data of PostgreSQL {PAIR_PG_MAJOR}: "
        f"use postgres:14; to move the data to PostgreSQL {major}, pg_dump here and pg_restore there, or pg_upgrade"
    )


def redis_image_problem(name: str) -> str | None:
    if problem := _other_product(name, "redis"):
        return problem
    major = official_major(name, "redis")
    if major is not None and major < _REDIS_LEAST:
        return (
            f"{name!r} is Redis {major}, whose append-only file has another format: use redis:{_REDIS_LEAST} or newer"
        )
    return reference_problem(name)


def cassandra_image_problem(name: str) -> str | None:
    if problem := _other_product(name, "cassandra"):
        return problem
    major = official_major(name, "cassandra")
    if major is not None and major != _CASSANDRA_MAJOR:
        return (
            f"{name!r} is Cassandra {major}, but the settings are for Cassandra {_CASSANDRA_MAJOR}: use cassandra:5; "
            "to upgrade data of Cassandra 4, run nodetool drain there and nodetool upgradesstables here, which "
            "is irreversible"
        )
    return reference_problem(name)


def pgbouncer_image_problem(name: str) -> str | None:
    if problem := _other_product(name, "pgbouncer"):
        return problem
    version = tag_version(name)
    if _repository(name).endswith("pgbouncer") and version and version < _PGBOUNCER_LEAST:
        return f"{name!r} is PgBouncer before 1.24, which cannot limit the clients of a database: use 1.24 or newer"
    return reference_problem(name)


def monitoring_image_problem(name: str) -> str | None:
    if problem := _other_product(name, "prometheus"):
        return problem
    found = re.search(r"(?:^|/)prometheus:v?(\d+)", name.partition("@")[0])
    if found and int(found[1]) < _PROMETHEUS_LEAST:
        return f"{name!r} is Prometheus {found[1]}, but the settings are for Prometheus 3: use prom/prometheus:v3.5.3"
    return reference_problem(name)


def known_pg_major(name: str) -> int | None:
    """PostgreSQL major of an official Citus image; None for any other."""
    found = _OFFICIAL_CITUS.search(name)
    if not found:
        return None
    stated = found["pg"] or found["pg2"]
    return int(stated) if stated else _PG_MAJOR_OF_CITUS_MAJOR.get(int(found["major"]))
