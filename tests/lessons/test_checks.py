"""Every check of the course as a test, named after the row that it shows; those with servers share one cluster."""

import os
from collections.abc import Iterator
from functools import cache

import psycopg
import pytest
import redis
from cluster_support import oldest_image, require_engine, require_images, skip_or_fail
from generated_cluster import GeneratedCluster

from lessons.check import Check, all_checks
from lessons.cluster import LessonsError, Servers

SERVERS = {"redis", "postgresql"}
"""What a cluster has; other needs are programs."""


def parameter(one: Check) -> object:
    needs_engine = SERVERS & set(one.needs) or "docker" in one.needs
    return pytest.param(one, id=one.identifier, marks=[pytest.mark.cluster] if needs_engine else [])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A cluster with Redis and a coordinator; its role for the lessons is created as for a user."""
    require_images("redis:7")
    one = GeneratedCluster(tmp_path_factory.mktemp("lessons"), oldest_image())
    try:
        one.create("--services=citus,redis", "--workers=1", "--up")
        yield Servers({**without_servers(), "CLUSTER_DIR": str(one.root)})
    finally:
        one.remove()


def without_servers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}


@cache
def no_cluster() -> Servers:
    return Servers(without_servers() | {"CLUSTER_DIR": "/nonexistent"})


@pytest.mark.parametrize("one", [parameter(one) for one in all_checks()])
def test_check(one: Check, request: pytest.FixtureRequest) -> None:
    if "docker" in one.needs:
        require_engine()
    servers = request.getfixturevalue("cluster") if SERVERS & set(one.needs) else no_cluster()
    for need in one.needs:
        if reason := servers.missing(need):
            if need in {*SERVERS, "docker"}:
                skip_or_fail(reason)
            pytest.skip(reason)  # a program that people install, such as jq
    seen = one.run(servers)
    assert seen.passed, f"{one.step}\nexpected: {one.expected}\nseen: {seen.text}"


@pytest.mark.cluster
def test_the_role_of_the_lessons_has_a_schema_of_its_own_and_no_more(cluster: Servers) -> None:
    assert cluster.database_url
    with psycopg.connect(cluster.database_url) as connection:
        connection.execute("CREATE TABLE place (id int)")
        place = connection.execute("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'place'")
        assert place.fetchall() == [("lessons",)]
        rights = connection.execute("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = USER")
        assert rights.fetchall() == [(False, False, False)]
        connection.rollback()


@pytest.mark.cluster
def test_keys_of_somebody_else_are_left_alone(cluster: Servers) -> None:
    """Database 14 stands for a database 15 that somebody uses."""
    assert cluster.redis_url
    other = cluster.redis_url.removesuffix("15") + "14"
    with redis.Redis.from_url(other) as client:
        client.set("theirs", "1")
        with pytest.raises(LessonsError, match="holds 1 keys that are not theirs"):
            _ = Servers({"REDIS_URL": other}).redis_url
        client.set("lessons", "yes")
        assert Servers({"REDIS_URL": other}).redis_url == other
        assert client.get("theirs") == b"1"


def test_checks_have_names_of_their_own() -> None:
    names = [one.identifier for one in all_checks()]
    assert sorted(names) == sorted(set(names))
