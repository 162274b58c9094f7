"""Where a service finds its servers and passwords."""

from pathlib import Path

import pytest
from service_kit.cluster import Address, Cluster, NotConfiguredError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text("version: 1\n")
    (tmp_path / ".env").write_text("PG14_PRIMARY_PORT=5432\nPOSTGRES_DB=postgres\n")
    secrets = tmp_path / "generated" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "example_password").write_text("s3cret\n")
    return tmp_path


def cluster(mounted: Path, **environment: str) -> Cluster:
    return Cluster(environment, mounted)


def test_a_directory_is_named_or_the_current_one_or_above(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster(tmp_path / "none", CLUSTER_DIR=str(directory)).directory == directory
    below = directory / "examples" / "users"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert cluster(tmp_path / "none").directory == directory


def test_without_the_environment_the_published_ports_count(directory: Path, tmp_path: Path) -> None:
    one = cluster(tmp_path / "none", CLUSTER_DIR=str(directory))
    assert one.address("PRIMARY", "PG14_PRIMARY_PORT") == Address("127.0.0.1", 5432)
    assert one.value("DATABASE", "POSTGRES_DB") == "postgres"
    assert one.secret("example_password") == "s3cret"


def test_the_environment_wins(directory: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "example_password").write_text("other")
    one = cluster(mounted, CLUSTER_DIR=str(directory), PRIMARY="pg14-primary:5432", REPLICA="[::1]:5433")
    assert one.address("PRIMARY", "PG14_PRIMARY_PORT") == Address("pg14-primary", 5432)
    assert one.address("REPLICA", "PG14_REPLICA_PORT") == Address("::1", 5433)
    assert one.secret("example_password") == "other"


def test_what_is_missing_is_said_with_the_way_out(directory: Path, tmp_path: Path) -> None:
    one = cluster(tmp_path / "none", CLUSTER_DIR=str(directory), PRIMARY="here")
    with pytest.raises(NotConfiguredError, match="CLUSTER_DIR"):
        one.value("REDIS", "REDIS_PORT")
    with pytest.raises(NotConfiguredError, match="--services=all,examples"):
        one.secret("no_password")
    with pytest.raises(NotConfiguredError, match="HOST:PORT"):
        one.address("PRIMARY", "PG14_PRIMARY_PORT")
