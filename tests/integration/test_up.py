"""Starting, updating and taking down real clusters, made by the project's own generator."""

import asyncio
import ipaddress
import json
import os
import time
from collections.abc import Iterator

import psycopg
import pytest
from cluster_support import oldest_image
from generated_cluster import GeneratedCluster
from up_support import Events, bring_up, override, state_of, take_down

from citus_cluster.errors import (
    ConsentNeededError,
    MismatchError,
    PreflightError,
    ServiceFailedError,
)
from citus_cluster.model.citus.nodes import Outcome
from citus_cluster.model.plan.events import EventKind
from citus_cluster.operations.directory import load
from citus_cluster.operations.start import api_ready
from citus_cluster.operations.start.extension import never, update_extensions
from citus_cluster.operations.start.preflight import preflight
from citus_cluster.operations.start.up import up
from citus_cluster.operations.status.report import State
from citus_cluster.runtime.docker.engine import Engine

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """One worker, verified; the last test that uses it removes its volumes."""
    one = GeneratedCluster(tmp_path_factory.mktemp("shared"), oldest_image())
    try:
        one.create("--workers=1", "--services=citus")
        bring_up(one)
        yield one
    finally:
        one.remove()


def test_from_nothing_to_a_verified_cluster_and_again(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=2", "--services=citus")
    events = Events()
    first = bring_up(fresh, events=events)
    assert first.verified
    assert first.changed == ("citus-coordinator", "citus-worker1", "citus-worker2")
    assert {node.outcome for node in first.nodes} == {Outcome.ADDED}
    assert fresh.active_workers() == ["citus-worker1", "citus-worker2"]
    for service in first.changed:
        assert events.of(f"ready:{service}")[-1] is EventKind.DONE
    libraries = [fresh.sql("SELECT current_setting('output_plugin_libraries', true)", node)[0][0] for node in (0, 1, 2)]
    assert all(one is None or "citus" in one for one in libraries)

    again = bring_up(fresh)
    assert (again.changed, again.reloaded) == ((), ())
    assert {node.outcome for node in again.nodes} == {Outcome.ALREADY}
    assert again.verified

    masked, open_ = json.dumps(again.as_dict()), json.dumps(again.as_dict(show_secrets=True))
    assert fresh.password not in masked
    assert fresh.password in open_
    assert again.access.psql_in_container == f"docker exec -it {fresh.name}-coordinator psql -U postgres -d postgres"


def test_what_plain_compose_has_started_is_left_alone(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    fresh.compose("up", "-d")
    result = bring_up(fresh)
    assert result.changed == ()
    assert fresh.active_workers() == ["citus-worker1"]


def test_the_admin_api_is_ready_too_and_is_stopped_once_it_is_not_wanted(
    fresh: GeneratedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.create("--workers=1")
    result = bring_up(fresh, timeout_s=180)
    assert "admin-api" in result.changed
    assert result.access.admin_api_url == f"http://127.0.0.1:{fresh.admin_port}"
    found = state_of(fresh)
    assert (found.state, found.problems) == (State.OK, ())
    assert "admin-api" in {service.service for service in found.services}

    # It hangs: its container runs on, and nothing but a restart helps.
    fresh.docker("kill", "--signal=STOP", fresh.container("admin-api"))
    monkeypatch.setattr(api_ready, "PATIENCE_S", 3.0)
    monkeypatch.setattr(api_ready, "_STOP_S", 1)
    events = Events()
    assert bring_up(fresh, timeout_s=180, events=events).changed == ("admin-api",)
    assert events.of("restart:admin-api") == [EventKind.WARNING]
    assert events.of("ready:admin-api")[-1] is EventKind.DONE

    fresh.setup("--services=citus", "--yes")
    bring_up(fresh)
    assert fresh.docker("inspect", "-f", "{{.State.Status}}", fresh.container("admin-api")).out.strip() == "exited"
    take_down(fresh)
    assert fresh.docker("ps", "-aq", "--filter", f"name={fresh.name}").out == ""


def test_a_copy_that_lost_its_modes_is_told_so(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    (fresh.root / "generated/config/worker/postgresql.conf").chmod(0o600)
    (fresh.root / "generated/secrets").chmod(0o755)
    (fresh.root / "generated/config/coordinator/pg_hba.conf").unlink()
    found = asyncio.run(preflight(load(fresh.root)))
    assert {finding.id for finding in found.errors} == {"config-unreadable", "files-missing"}
    assert "secret-modes" in {finding.id for finding in found.warnings}


def test_an_image_that_is_nowhere_is_named_with_the_ways_to_get_it(fresh: GeneratedCluster) -> None:
    fresh.image = "127.0.0.1:1/nobody/citus:9.9.9"
    fresh.create("--workers=1", "--services=citus", "--pg-major=17")
    with pytest.raises(PreflightError) as caught:
        bring_up(fresh)
    (finding,) = caught.value.details
    assert fresh.image in finding and f"docker pull {fresh.image}" in finding and "--citus-image" in finding


def test_a_service_that_cannot_start_is_told_at_once_with_log_and_cause(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    # The third time it says nothing, as on a busy machine: why it ended is what it wrote before.
    server = "docker-entrypoint.sh postgres -c config_file=/etc/citus-cluster/postgresql.conf -c shared_buffers=plenty"
    count = "if [ -e /tmp/twice ]; then sleep 30; elif [ -e /tmp/once ]; then touch /tmp/twice; fi; touch /tmp/once"
    override(fresh, "citus-worker1", f"command: [sh, -c, '{count}; exec {server}']")
    started = time.monotonic()
    with pytest.raises(ServiceFailedError, match=r"citus-worker1 cannot start: .*settings") as caught:
        bring_up(fresh)
    assert time.monotonic() - started < 60
    assert any("shared_buffers" in line and "log:" in line for line in caught.value.details)
    assert caught.value.hint and f"docker logs {fresh.container('citus-worker1')}" in caught.value.hint

    (fresh.root / "docker-compose.override.yml").unlink()
    # It sleeps, and takes no other signal.
    fresh.docker("kill", fresh.container("citus-worker1"), check=False)
    fresh.compose("--profile", "*", "down", "--volumes")
    override(fresh, "citus-worker1", "healthcheck: {test: [CMD-SHELL, 'echo not yet; exit 1']}")
    with pytest.raises(ServiceFailedError, match=r"citus-worker1 did not become ready within 12 s") as late:
        bring_up(fresh, timeout_s=12)
    assert "citus-worker1 health: not yet" in late.value.details
    assert "citus-coordinator" not in late.value.message

    (fresh.root / "docker-compose.override.yml").unlink()
    assert bring_up(fresh).verified


def test_a_password_unlike_that_of_the_data_is_told_at_once(shared: GeneratedCluster) -> None:
    take_down(shared)
    secret = shared.root / "generated/secrets/superuser_password"
    kept = secret.read_bytes()
    secret.write_bytes(b"another one")
    started = time.monotonic()
    with pytest.raises(ServiceFailedError, match="another password"):
        bring_up(shared)
    assert time.monotonic() - started < 30
    secret.write_bytes(kept)
    assert bring_up(shared).verified


def test_down_keeps_the_data_and_with_volumes_removes_this_projects_alone(shared: GeneratedCluster) -> None:
    stranger = f"{shared.name}2_citus-worker1-data"
    names = ("--format", "{{.Names}}")
    shared.docker("volume", "create", stranger)
    try:
        bring_up(shared)
        shared.sql("CREATE TABLE kept (id int PRIMARY KEY)")
        shared.sql("SELECT create_distributed_table('kept', 'id')")
        shared.sql("INSERT INTO kept SELECT generate_series(1, 1000)")
        shared.cli("down")
        assert shared.docker("ps", "-aq", "--filter", f"name={shared.name}").out == ""
        taken_down = shared.cli("status", check=False)
        title, what, way = taken_down.out.splitlines()
        assert (taken_down.status, title) == (1, f"Cluster {shared.name}: down")
        user = os.environ.get("USER") or os.getuid()
        assert "was taken down at 20" in what and f" by {user}; its data stay" in what
        assert way == "Start it again: citus-cluster up"
        take_down(shared)  # once more: nothing to do
        bring_up(shared)
        assert shared.sql("SELECT count(*), sum(id) FROM kept") == [(1000, 500500)]

        override = shared.root / "docker-compose.override.yml"
        # The sleep ignores the signal to end.
        mine = {"image": shared.image, "entrypoint": ["sleep", "600"], "networks": ["default", "extra"]}
        mine["stop_grace_period"] = "1s"
        mine["volumes"] = ["scratch:/scratch"]
        override.write_text(
            json.dumps({"services": {"mine": mine}, "networks": {"extra": {}}, "volumes": {"scratch": {}}})
        )
        assert bring_up(shared).changed == ("mine",)
        waits_s = {one.service: one.stop_timeout_s for one in Engine.connect().project_containers(shared.name)}
        assert waits_s == {"citus-coordinator": 120, "citus-worker1": 120, "mine": 1}
        override.unlink()
        taken_down = shared.cli("down")
        name = shared.docker(
            "ps", "-a", "--filter", f"label=com.docker.compose.project={shared.name}", *names
        ).out.strip()
        assert "mine" in name, "another file may have it"
        assert f"docker rm -f {name} && docker network rm {shared.name}_default {shared.name}_extra" in taken_down.err
        bring_up(shared)
        take_down(shared, volumes=True)
        assert Engine.connect().project_volumes(shared.name) == ()
        assert Engine.connect().project_containers(shared.name) == ()
        assert shared.docker("network", "ls", "-q", "--filter", f"name={shared.name}").out == ""
        assert stranger in shared.docker("volume", "ls", "-q").out.split()
    finally:
        shared.docker("volume", "rm", stranger)


def _install_older_extension(cluster: GeneratedCluster, number: int, version: str = "13.0-1") -> None:
    """Bring a node to where it is after its image was replaced: a new library, and the extension of an older Citus."""
    with cluster.connect(number) as connection:
        connection.execute("SET citus.enable_ddl_propagation = off")
        connection.execute("DROP EXTENSION IF EXISTS citus CASCADE")
    with cluster.connect(number) as connection:
        connection.execute("SET citus.enable_version_checks = off")
        connection.execute(f"CREATE EXTENSION citus VERSION '{version}'".encode())
        connection.execute(
            "INSERT INTO pg_dist_authinfo VALUES (0, current_user, %s)", [f"password={cluster.password}"]
        )


def _expect_a_missing_extension_to_be_named(cluster: GeneratedCluster) -> None:
    """As on a node whose first start was interrupted: its image runs the init script only once."""
    with cluster.connect(1) as connection:
        connection.execute("SET citus.enable_ddl_propagation = off")
        connection.execute("DROP EXTENSION citus CASCADE")
    engine = Engine.connect()
    (worker,) = (one for one in engine.project_containers(cluster.name) if one.service == "citus-worker1")
    assert engine.run_health_check(worker).output == "the extension citus is missing in this database"


def _expect_neighbours_to_work(cluster: GeneratedCluster) -> None:
    """Library and extension that are one minor version apart need no update, and no consent."""
    directory, version = load(cluster.root), "SELECT extversion FROM pg_extension WHERE extname = 'citus'"
    for number in (0, 1):
        _install_older_extension(cluster, number, "13.1-1")
    events = Events()
    assert not asyncio.run(update_extensions(directory, never, events.append))
    assert events.of("extension") == [EventKind.WARNING]
    assert cluster.sql(version, 0) == cluster.sql(version, 1) == [("13.1-1",)]
    with pytest.raises(ConsentNeededError):
        asyncio.run(update_extensions(directory, never, events.append, asked_for=True))

    newer = "UPDATE pg_extension SET extversion = '13.{}-1' WHERE extname = 'citus'"
    for number in (0, 1):
        cluster.sql(newer.format(3), number)
    events = Events()
    assert not asyncio.run(update_extensions(directory, never, events.append))
    assert events.of("extension:citus-coordinator") == events.of("extension:citus-worker1") == [EventKind.WARNING]
    cluster.sql(newer.format(4), 1)
    with pytest.raises(MismatchError, match=r"citus-worker1 has data of Citus 13\.4-1"):
        asyncio.run(update_extensions(directory, never, events.append))


def test_an_older_extension_is_told_and_updated_once_agreed_to(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    fresh.compose("up", "-d", "--wait")
    _expect_a_missing_extension_to_be_named(fresh)
    _expect_neighbours_to_work(fresh)
    for number in (0, 1):
        _install_older_extension(fresh, number)
    with pytest.raises(psycopg.Error, match="loaded Citus library version differs"):
        fresh.sql("SELECT citus_set_coordinator_host('citus-coordinator')")

    engine = Engine.connect()
    for container in engine.project_containers(fresh.name):
        probe = engine.run_health_check(container)
        assert not probe.ok and "loaded Citus library version differs" in probe.output
    with pytest.raises(ConsentNeededError, match=r"citus-coordinator 13\.0-1 → .*, citus-worker1 13\.0-1 → ") as caught:
        bring_up(fresh)
    assert caught.value.hint and "backup" in caught.value.hint and "--upgrade-citus" in caught.value.hint
    version = "SELECT extversion FROM pg_extension WHERE extname = 'citus'"
    assert fresh.sql(version, 0) == fresh.sql(version, 1) == [("13.0-1",)]

    # As if the run that was agreed to had been killed after the first node.
    fresh.sql("ALTER EXTENSION citus UPDATE", 0)
    events = Events()
    directory = load(fresh.root)
    result = asyncio.run(up(directory, events.append, timeout_s=120, agree=lambda question: "backup" in question))
    assert result.verified
    assert events.of("extension:citus-coordinator") == []
    assert events.of("extension:citus-worker1") == [EventKind.STARTED, EventKind.DONE]
    assert fresh.sql(version, 0) == fresh.sql(version, 1) != [("13.0-1",)]
    seen = state_of(fresh)
    assert (seen.state, seen.problems) == (State.OK, ())
    assert seen.overview and {node.extension and node.extension.is_behind for node in seen.overview.nodes} == {False}
    assert bring_up(fresh).verified  # nobody is asked, nothing is left to do


def test_a_host_of_workers_alone_says_how_to_register_them(fresh: GeneratedCluster) -> None:
    subnet = fresh.docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}").out.strip()
    gateway = str(ipaddress.ip_network(subnet)[1])  # an address of this machine that no other machine reaches
    fresh.create("--no-coordinator", "--workers=1", f"--advertise={gateway}", "--services=citus")
    result = bring_up(fresh)
    assert not result.verified
    assert result.access.dsn() is None
    assert result.access.next_commands == (f"python add_worker.py --host {gateway} --port {fresh.base_port + 1}",)
    assert state_of(fresh).state is State.OK
