import pytest

from citus_cluster.model.images import (
    DEFAULT_CITUS_IMAGE,
    Image,
    known_pg_major,
    monitoring_image_problem,
    pgbouncer_image_problem,
    reference_problem,
)


@pytest.mark.parametrize(
    ("name", "major"),
    [
        (DEFAULT_CITUS_IMAGE, 17),
        ("citusdata/citus:14.0.1", 18),
        ("citusdata/citus:12.1", 16),
        ("citusdata/citus:13", 17),
        ("citusdata/citus:13.2.0-alpine", 17),
        ("citusdata/citus:13.2.0-pg16", 16),
        ("citusdata/citus:13.2.0-postgres-15", 15),
        ("docker.io/citusdata/citus:14.0.1", 18),
        ("registry.example.org:5000/citusdata/citus:13.2.0", 17),
    ],
)
def test_official_images_tell_their_postgresql(name: str, major: int) -> None:
    assert known_pg_major(name) == major
    assert Image(name, major).platform == "linux/amd64"


@pytest.mark.parametrize(
    "name",
    ["mycitus:13.2.0", "citusdata/citus:latest", "citusdata/citus:99.0", "xcitusdata/citus:13.2.0", "citusdata/citus"],
)
def test_other_images_do_not(name: str) -> None:
    assert known_pg_major(name) is None


def test_images_of_ones_own_run_on_any_platform() -> None:
    assert Image("mycitus:13.2.0", 17).platform is None


@pytest.mark.parametrize(
    ("major", "mount"),
    [(14, "/var/lib/postgresql/data"), (17, "/var/lib/postgresql/data"), (18, "/var/lib/postgresql")],
)
def test_the_mount_point_follows_the_major(major: int, mount: str) -> None:
    assert Image("x:1", major).data_mount == mount


@pytest.mark.parametrize(
    "name",
    ["citus:1", "a/b/c:v1.2-RC_3", "Host.example:5000/a/b:1", f"citus@sha256:{'0' * 64}", f"a:1@sha256:{'f' * 64}"],
)
def test_pinned_references(name: str) -> None:
    assert reference_problem(name) is None


@pytest.mark.parametrize("name", ["citus", "a/b", "host:5000/a/b"])
def test_a_missing_tag_is_told(name: str) -> None:
    assert "has no tag" in (reference_problem(name) or "")


@pytest.mark.parametrize(
    "name", ["", "citus:", ":1", "a//b:1", "a b:1", "UPPER:1", "a:1\n", "a:b:c", "a@sha256:12", "-a:1"]
)
def test_what_is_no_reference(name: str) -> None:
    assert "not the name of an image" in (reference_problem(name) or "")


@pytest.mark.parametrize("tag", ["1.24", "1.24.0", "1.26.1", "latest", "2.0-debian"])
def test_pgbouncer_that_can_limit_the_clients_of_a_database(tag: str) -> None:
    assert pgbouncer_image_problem(f"ghcr.io/cloudnative-pg/pgbouncer:{tag}") is None


def test_an_older_pgbouncer_is_refused() -> None:
    assert "use 1.24 or newer" in str(pgbouncer_image_problem("ghcr.io/cloudnative-pg/pgbouncer:1.23.1"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("prom/prometheus:v3.5.3", None),
        ("registry.example.org/prometheus:v3.9.0-distroless", None),
        ("prom/prometheus:v2.53.0", "is Prometheus 2, but the settings are for Prometheus 3"),
        ("prom/prometheus", "has no tag"),
        ("redis:7", "is an image of Redis"),
    ],
)
def test_monitoring_runs_prometheus_3(name: str, problem: str | None) -> None:
    told = monitoring_image_problem(name)
    assert problem in told if problem and told else told is problem
