"""The services beside Citus over HTTP: asked in time and not too often, and none hides another."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from api_support import Api, ApiFiles
from cluster_support import require_images
from fastapi import FastAPI
from generated_cluster import GeneratedCluster
from waiting import eventually

from admin_api.app import create_app
from admin_api.settings import Settings
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName

Run = Callable[[FastAPI], Api]

PASSWORD = "pä'ss \"w$rd\\ #%"
SERVICES = ["pg14", "redis", "cassandra"]


def want(files: ApiFiles, coordinator: NodeAddress, *components: Target) -> None:
    """Write the configuration as the generator does, with a password for each companion."""
    files.write_cluster(ApiConfig("citus", "postgres", "testdb", coordinator, coordinator, (), components))
    for service in SERVICES:
        password = files.folder / f"{service}_password"
        if not password.exists():
            password.write_text(PASSWORD)


def all_at(address: NodeAddress) -> tuple[Target, ...]:
    names = {ComponentName.PG14: "pg14-primary", ComponentName.REDIS: "redis", ComponentName.CASSANDRA: "cassandra"}
    return tuple(Target(component, {name: address}) for component, name in names.items())


def redis_at(address: NodeAddress) -> Target:
    return Target(ComponentName.REDIS, {"redis": address})


def alone(files: ApiFiles, **changes: object) -> Settings:
    """Settings for an API whose coordinator is away, and of which that is no matter here."""
    return files.settings(reconciler=False, connect_timeout_s=0.3, health_timeout_s=0.3, **changes)


def services(api: Api) -> dict[str, dict[str, Any]]:
    """Return the companions by name, of an answer that is always 200."""
    answer = api.client.get("/api/v1/services", headers=api.read)
    assert answer.status_code == 200, answer.text
    return {one["service"]: one for one in answer.json()["companions"]}


@contextmanager
def silent_server() -> Iterator[tuple[NodeAddress, list[socket.socket]]]:
    """A server that takes every connection and never answers; and the connections that it took."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield NodeAddress("127.0.0.1", listener.getsockname()[1]), taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def test_without_companions_there_is_nothing_to_tell(away: Api) -> None:
    assert services(away) == {}
    assert away.client.get("/health").json()["companions"] == []


def test_all_that_are_away_are_told_and_citus_too(files: ApiFiles, run_api: Run, nobody: NodeAddress) -> None:
    want(files, nobody, *all_at(nobody))
    api = run_api(create_app(alone(files, companion_start_s=0)))
    found = services(api)
    assert list(found) == SERVICES
    for one in found.values():
        assert one["condition"] == "down"
        assert one["reason"]
    citus = api.client.get("/api/v1/services", headers=api.read).json()["citus"]
    assert (citus["condition"], citus["coordinator"]["answers"]) == ("starting", False)
    health = api.client.get("/health")
    assert health.status_code == 503
    for name in SERVICES:
        assert f"{name} is down" in health.json()["reason"]
    assert PASSWORD not in health.text


def test_who_never_answered_is_starting_at_first(files: ApiFiles, run_api: Run, nobody: NodeAddress) -> None:
    want(files, nobody, *all_at(nobody))
    api = run_api(create_app(alone(files, companion_start_s=60)))
    assert {one["condition"] for one in services(api).values()} == {"starting"}


def test_silent_companions_hold_up_nobody_and_are_asked_seldom(files: ApiFiles, run_api: Run) -> None:
    with silent_server() as (address, taken):
        want(files, address, redis_at(address))
        settings = alone(files, companion_timeout_s=0.5, companion_interval_s=1, companion_start_s=0)
        api = run_api(create_app(settings))
        services(api)  # the first request also loads the driver
        before, began = len(taken), time.monotonic()
        while time.monotonic() - began < 2 * settings.companion_interval_s:
            asked = time.monotonic()
            health = api.client.get("/health").json()
            assert time.monotonic() - asked < 1
            assert health["companions"][0]["reason"]
        questions = 1 + (time.monotonic() - began) / settings.companion_interval_s
        # The API asks the same server as its coordinator: count the connections that brought Redis' protocol.
        redis_like = [one for one in taken[before:] if one.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b"*"]
        assert 0 < len(redis_like) <= 2 * questions
        assert services(api)["redis"] == {
            "service": "redis",
            "condition": "down",
            "reason": f"{address} did not answer within 0.5 s",
            "summary": "",
        }


def test_a_missing_password_is_the_reason_of_one_alone(files: ApiFiles, run_api: Run, nobody: NodeAddress) -> None:
    want(files, nobody, *all_at(nobody))
    (files.folder / "redis_password").unlink()
    api = run_api(create_app(alone(files, companion_start_s=0)))
    found = services(api)
    assert "redis_password cannot be read" in found["redis"]["reason"]
    assert "redis_password" not in found["pg14"]["reason"]


def test_what_one_lacks_on_the_coordinator_is_told(files: ApiFiles, run_api: Run) -> None:
    class Well:
        async def known(self, *, within_s: float) -> tuple[CompanionStatus, ...]:
            return (CompanionStatus(ComponentName.PGBOUNCER, Condition.OK, None, {}),)

    app = create_app(alone(files))
    api = run_api(app)
    app.state.parts.companions = Well()
    assert services(api)["pgbouncer"]["condition"] == "ok"
    app.state.parts.reconciler.unprepared = {ComponentName.PGBOUNCER: "The name is taken."}
    found = services(api)["pgbouncer"]
    assert (found["condition"], found["reason"]) == ("degraded", "The name is taken.")
    assert "pgbouncer is degraded: The name is taken." in api.client.get("/health").json()["reason"]


def test_companions_come_and_go_with_the_configuration(files: ApiFiles, run_api: Run, nobody: NodeAddress) -> None:
    api = run_api(create_app(alone(files)))
    assert services(api) == {}
    want(files, nobody, redis_at(nobody))
    assert list(services(api)) == ["redis"]
    want(files, nobody)
    assert services(api) == {}


def test_a_configuration_that_cannot_be_read_is_a_problem(files: ApiFiles, run_api: Run) -> None:
    api = run_api(create_app(alone(files)))
    files.replace("cluster.json", "{}")
    answer = api.client.get("/api/v1/services", headers=api.read)
    assert answer.status_code == 503
    assert answer.json()["code"] == "configuration"
    assert api.client.get("/health").json()["companions"] == []


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_images("postgres:14", "redis:7")
    one = GeneratedCluster(tmp_path_factory.mktemp("services"), "citusdata/citus:13.2.0")
    try:
        one.create("--services=pg14,redis", "--yes")
        one.compose("up", "-d", "--wait")
        yield one
    finally:
        one.remove()


@pytest.fixture
def watched(real: GeneratedCluster, tmp_path: Path) -> ApiFiles:
    """Files for an API that takes the primary of the pair for the coordinator, so that all can be well."""
    here = NodeAddress("127.0.0.1", real.pg14_port)
    redis = redis_at(NodeAddress("127.0.0.1", real.redis_port))
    config = ApiConfig("citus", "postgres", "testdb", here, here, (), (redis,))
    files = ApiFiles.write(tmp_path, config, password=real.secret("pg14_password"))
    (tmp_path / "redis_password").write_text(real.secret("redis_password"))
    return files


def quick(files: ApiFiles, **changes: object) -> FastAPI:
    return create_app(files.settings(reconciler=False, companion_interval_s=0.2, **changes))


@pytest.mark.cluster
def test_redis_says_how_it_is(real: GeneratedCluster, watched: ApiFiles, run_api: Run) -> None:
    api = run_api(quick(watched))
    eventually(lambda: services(api)["redis"]["condition"] == "ok")
    found = services(api)["redis"]
    assert found["version"].startswith("7.")
    assert found["append_only_file"] is found["last_write_ok"] is found["last_rewrite_ok"] is True
    assert 0 < found["used_memory_bytes"] < found["max_memory_bytes"] == 48 * 1024 * 1024
    assert found["maxmemory_policy"] == "noeviction"
    assert found["reason"] is None
    assert "of 48 MB" in found["summary"]
    eventually(lambda: api.client.get("/health").json()["status"] == "ok")
    citus = api.client.get("/api/v1/services", headers=api.read).json()["citus"]
    assert (citus["condition"], citus["reason"]) == ("ok", None)
    assert real.secret("redis_password") not in str(found)


@pytest.mark.cluster
def test_redis_goes_and_comes_back_and_citus_stays_well(
    real: GeneratedCluster, watched: ApiFiles, run_api: Run
) -> None:
    api = run_api(quick(watched))
    eventually(lambda: services(api)["redis"]["condition"] == "ok")
    real.docker("kill", real.container("redis"))
    eventually(lambda: services(api)["redis"]["condition"] == "down")
    health = api.client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "degraded"
    assert health.json()["reason"].startswith("redis is down: 127.0.0.1:")
    assert health.json()["coordinator"]["answers"] is True
    real.docker("start", real.container("redis"))
    eventually(lambda: services(api)["redis"]["condition"] == "ok")
    assert api.client.get("/health").json()["status"] == "ok"


@pytest.mark.cluster
def test_a_wrong_password_is_named_and_not_shown(watched: ApiFiles, run_api: Run) -> None:
    (watched.folder / "redis_password").write_text("not-the-password")
    api = run_api(quick(watched, companion_start_s=0))
    found = services(api)["redis"]
    assert found["condition"] == "down"
    assert "refuses the password" in found["reason"]
    assert "not-the-password" not in str(found)


@pytest.mark.cluster
def test_a_redis_that_does_not_do_all_it_should_is_degraded(
    real: GeneratedCluster, watched: ApiFiles, run_api: Run
) -> None:
    api = run_api(quick(watched))
    with redis.Redis(port=real.redis_port, password=real.secret("redis_password")) as session:
        before = session.config_get("maxmemory", "appendonly")
        for setting, value, word in (
            ("maxmemory", "300kb", "writes are refused"),
            ("appendonly", "no", "append-only file is off"),
        ):
            session.config_set(setting, value)
            try:
                eventually(lambda: services(api)["redis"]["condition"] == "degraded")
                assert word in services(api)["redis"]["reason"]
                assert api.client.get("/health").status_code == 200
            finally:
                session.config_set(setting, before[setting])
            eventually(lambda: services(api)["redis"]["condition"] == "ok")
