"""Starting, watching and stopping real clusters, made by the project's own generator."""

import asyncio
import ipaddress
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import yaml
from cluster_support import citus_images, require_engine, skip_or_fail
from generated_cluster import GeneratedCluster
from terminal import on_terminal

from citus_cluster.errors import (
    ConsentNeededError,
    ExitStatus,
    MismatchError,
    PreflightError,
    ServiceFailedError,
    SettingRefusedError,
)
from citus_cluster.model.events import Event, EventKind
from citus_cluster.model.nodes import NodeAddress, Outcome
from citus_cluster.model.registration import RegisteredNode
from citus_cluster.operations.access import access
from citus_cluster.operations.directory import load
from citus_cluster.operations.down import down
from citus_cluster.operations.extension import never, update_extensions
from citus_cluster.operations.preflight import preflight
from citus_cluster.operations.status import State, Status, status
from citus_cluster.operations.unwanted import stop_departed, stop_unwanted
from citus_cluster.operations.up import UpResult, up
from citus_cluster.runtime.engine import Engine

pytestmark = pytest.mark.cluster


def _image() -> str:
    require_engine()
    images = citus_images()
    if not images:
        skip_or_fail("the engine has no image citusdata/citus")
    return images[min(images)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """A cluster with two workers; each test leaves it running and whole."""
    cluster = GeneratedCluster(tmp_path_factory.mktemp("shared"), _image())
    try:
        cluster.create("--workers=2", "--services=citus")
        _up(cluster)
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[GeneratedCluster]:
    """A directory of its own, in which nothing is generated yet."""
    cluster = GeneratedCluster(tmp_path / "cluster", _image())
    cluster.root.mkdir()
    try:
        yield cluster
    finally:
        cluster.remove()


class Events(list[Event]):
    """Keeps what an operation reports."""

    def of(self, step: str) -> list[EventKind]:
        return [event.kind for event in self if event.step == step]


def _up(cluster: GeneratedCluster, *, timeout_s: float = 120, events: Events | None = None) -> UpResult:
    seen = Events() if events is None else events
    return asyncio.run(up(load(cluster.root), seen.append, timeout_s=timeout_s))


def _status(cluster: GeneratedCluster) -> Status:
    return asyncio.run(status(load(cluster.root)))


def _down(cluster: GeneratedCluster, *, volumes: bool = False) -> None:
    asyncio.run(down(load(cluster.root), Events().append, volumes=volumes))


def _override(cluster: GeneratedCluster, service: str, text: str) -> None:
    (cluster.root / "docker-compose.override.yml").write_text(f"services:\n  {service}:\n    {text}\n")


def test_from_nothing_to_a_verified_cluster_and_again(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=2", "--services=citus")
    events = Events()
    first = _up(fresh, events=events)
    assert first.verified
    assert first.changed == ("citus-coordinator", "citus-worker1", "citus-worker2")
    assert {node.outcome for node in first.nodes} == {Outcome.ADDED}
    assert fresh.active_workers() == ["citus-worker1", "citus-worker2"]
    for service in first.changed:
        assert events.of(f"ready:{service}")[-1] is EventKind.DONE

    again = _up(fresh)
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
    result = _up(fresh)
    assert result.changed == ()
    assert fresh.active_workers() == ["citus-worker1"]


def test_the_admin_api_is_ready_too_and_is_stopped_once_it_is_not_wanted(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1")
    result = _up(fresh, timeout_s=180)
    assert "admin-api" in result.changed
    assert result.access.admin_api_url == f"http://127.0.0.1:{fresh.admin_port}"
    found = _status(fresh)
    assert (found.state, found.problems) == (State.OK, ())
    assert "admin-api" in {service.service for service in found.services}

    # It hangs: its container runs on, and nothing but a restart helps.
    fresh.docker("kill", "--signal=STOP", fresh.container("admin-api"))
    events = Events()
    assert _up(fresh, timeout_s=180, events=events).changed == ("admin-api",)
    assert events.of("restart:admin-api") == [EventKind.WARNING]
    assert events.of("ready:admin-api")[-1] is EventKind.DONE

    fresh.setup("--services=citus", "--yes")
    _up(fresh)
    assert fresh.docker("inspect", "-f", "{{.State.Status}}", fresh.container("admin-api")).out.strip() == "exited"
    _down(fresh)
    assert fresh.docker("ps", "-aq", "--filter", f"name={fresh.name}").out == ""


def test_a_container_of_an_override_file_is_started_and_left_alone(shared: GeneratedCluster) -> None:
    text = f"image: {shared.image}\n    command: [sleep, '600']\n    entrypoint: []"
    _override(shared, "mine", text)
    try:
        assert _up(shared).changed == ("mine",)
        (shared.root / "docker-compose.override.yml").unlink()
        assert _up(shared).changed == ()
        state = shared.docker("inspect", "-f", "{{.State.Status}}", f"{shared.name}-mine-1").out.strip()
        assert state == "running"
    finally:
        (shared.root / "docker-compose.override.yml").unlink(missing_ok=True)
        shared.docker("rm", "-f", f"{shared.name}-mine-1")


def test_an_older_compose_file_is_refused_and_no_worker_is_stopped(shared: GeneratedCluster) -> None:
    path = shared.root / "docker-compose.yml"
    current = path.read_text()
    older = yaml.safe_load(current)
    del older["services"]["citus-worker2"]
    path.write_text(yaml.safe_dump(older, sort_keys=False))
    with pytest.raises(PreflightError) as caught:
        _up(shared)
    (finding,) = caught.value.details
    assert "services.citus-worker2 is missing" in finding and "--force" in finding
    refused = shared.setup("--yes", check=False)
    assert refused.status != 0 and "--force" in refused.err
    assert _states(shared) == {"running"}
    shared.setup("--force")
    assert path.read_text() == current
    assert _up(shared).changed == ()

    older["services"]["citus-worker2"] = yaml.safe_load(current)["services"]["citus-worker2"]
    older["services"]["citus-worker2"]["labels"]["mine"] = "added"
    path.write_text(yaml.safe_dump(older, sort_keys=False))
    try:
        assert _up(shared).changed == ("citus-worker2",)
    finally:
        shared.setup("--force")
        _up(shared)


def test_nodes_of_cluster_yaml_run_on_whatever_is_wanted(shared: GeneratedCluster) -> None:
    directory, engine, events = load(shared.root), Engine.connect(), Events()
    asyncio.run(stop_unwanted(directory, engine, engine.project_containers(shared.name), {}, events.append))
    assert _states(shared) == {"running"}
    assert events.of("stop:citus-worker1") == [EventKind.WARNING]

    # Removed from cluster.yaml, but a member again by plain SQL.
    manifest = replace(
        directory.manifest, identity={**directory.manifest.identity, "removed": {"citus-worker2": "citus-worker2:5432"}}
    )
    directory = replace(directory, manifest=manifest)
    listed = RegisteredNode(3, 2, NodeAddress("citus-worker2"), True, "primary", True)
    events = Events()
    asyncio.run(stop_departed(directory, engine, [listed], events.append))
    assert _states(shared) == {"running"}
    assert events.of("stop:citus-worker2") == [EventKind.WARNING]
    asyncio.run(stop_departed(directory, engine, [], events.append))
    assert _states(shared) == {"running", "exited"}
    _up(shared)


def _states(cluster: GeneratedCluster) -> set[str]:
    return {container.state for container in Engine.connect().project_containers(cluster.name)}


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_what_to_paste_is_whole_on_the_terminal(shared: GeneratedCluster, columns: int) -> None:
    screen = on_terminal(
        [sys.executable, "-m", "citus_cluster", "up"],
        columns=columns,
        cwd=shared.root,
        environment=shared.environment() | {"TERM": "xterm-256color"},
    )
    assert screen.status == 0, screen.text
    found = access(load(shared.root))
    # Which program it is depends on where the command is pasted.
    commands = [re.sub(r"^(python setup_citus_cluster.py|citus-cluster)", "", text) for text in found.next_commands]
    secret = "$(cat generated/secrets/superuser_password)"
    wanted = [found.psql_in_container or "", secret, found.dsn() or "", *commands]
    above, _, block = screen.text.partition(f"Cluster {shared.name} runs, 2 workers registered and verified")
    assert above.splitlines()[-1] == "✓ the cluster is verified"
    assert not [text for text in wanted if text not in block], screen.text
    assert block.splitlines()[-1].endswith("citus-cluster down"), screen.text


def test_psql_runs_in_the_container_of_a_node(shared: GeneratedCluster) -> None:
    assert "2" in shared.cli("psql", "-c", "SELECT 1 + 1").out
    program = f"{sys.executable} -m citus_cluster"
    piped = shared.run("bash", "-c", f"echo 'SELECT 40 + 2; SELECT current_user' | {program} psql worker1")
    assert "42" in piped.out and shared.user in piped.out
    failed = shared.cli("psql", "citus-worker1", "-c", "SELECT * FROM nothing_here", check=False)
    assert failed.status == 1 and 'relation "nothing_here" does not exist' in failed.err
    unknown = shared.cli("psql", "citus-worker", check=False)
    assert unknown.status == 2 and "Did you mean citus-worker" in unknown.err
    screen = on_terminal(
        [sys.executable, "-m", "citus_cluster", "psql"],
        columns=80,
        cwd=shared.root,
        environment=shared.environment() | {"TERM": "xterm-256color"},
        typed=[("=# ", "SELECT 6 * 7 AS answer;\n"), ("1 row", "\\q\n")],
    )
    assert screen.status == 0 and any(row.strip() == "42" for row in screen.rows), screen.text


def test_what_a_client_writes_into_a_log_does_not_reach_the_terminal_raw(shared: GeneratedCluster) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn):
        shared.sql('SELECT "\x1b]52;c;b3du\x07 into the log"')
    screen = on_terminal(
        [sys.executable, "-m", "citus_cluster", "logs", "coordinator", "--tail=20"],
        columns=200,
        cwd=shared.root,
        environment=shared.environment() | {"TERM": "xterm-256color"},
    )
    assert "into the log" in screen.text
    assert "]52;c;" in screen.text  # shown, not obeyed


def test_a_killed_worker_shows_in_the_status_and_up_repairs_it(shared: GeneratedCluster) -> None:
    assert _status(shared).state is State.OK
    shown = shared.cli("status").out
    assert f"127.0.0.1:{shared.base_port}" in shown and "citus-cluster psql" in shown
    shared.docker("kill", shared.container("citus-worker1"))
    assert "database system is ready" in shared.cli("logs", "worker1").out  # of a container that has ended
    assert len(shared.cli("logs", "citus-worker1", "--tail=3").out.splitlines()) == 3
    found = _status(shared)
    assert found.state is State.DEGRADED
    worker = next(service for service in found.services if service.service == "citus-worker1")
    assert (worker.state, worker.ok) == ("exited", False)
    assert any("citus-worker1" in problem for problem in found.problems)

    assert _up(shared).changed == ("citus-worker1",)
    repaired = _status(shared)
    assert (repaired.state, repaired.problems) == (State.OK, ())


def test_a_paused_worker_is_named_with_the_way_out(shared: GeneratedCluster) -> None:
    worker = shared.container("citus-worker2")
    shared.docker("pause", worker)
    try:
        started = time.monotonic()
        found = _status(shared)
        assert found.state is State.DEGRADED
        assert time.monotonic() - started < 40
        with pytest.raises(ServiceFailedError, match=r"paused") as caught:
            _up(shared)
        assert caught.value.hint and f"docker unpause {worker}" in caught.value.hint
    finally:
        shared.docker("unpause", worker)


def test_every_node_gives_up_an_address_that_is_gone(shared: GeneratedCluster) -> None:
    """Citus connects without a time limit when it cancels a query; the kernel's default is six tries, 70 s and more."""
    for service in ("citus-coordinator", "citus-worker1", "citus-worker2"):
        tries = shared.docker("exec", shared.container(service), "cat", "/proc/sys/net/ipv4/tcp_syn_retries").out
        assert tries.strip() == "2"


def test_a_move_whose_slot_is_lost_is_named(shared: GeneratedCluster) -> None:
    """Citus itself waits for two hours. The slot of a move that hangs, on a worker that wrote much meanwhile."""
    assert shared.sql("SHOW max_slot_wal_keep_size", 1) == [("8GB",)]
    slot = "citus_shard_move_slot_7_10_1"
    shared.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'", 1)
    try:
        shared.sql("SELECT pg_reload_conf()", 1)
        shared.sql(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')", 1)
        assert not [problem for problem in _status(shared).problems if slot in problem]
        for _ in range(4):
            shared.sql("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()", 1)
        shared.sql("CHECKPOINT", 1)
        (problem,) = [problem for problem in _status(shared).problems if slot in problem]
        assert problem.startswith("citus-worker1:5432: the replication slot")
        assert "citus-cluster rebalance stop" in problem
    finally:
        shared.sql(f"SELECT pg_drop_replication_slot('{slot}')", 1)
        shared.sql("ALTER SYSTEM RESET max_slot_wal_keep_size", 1)
        shared.sql("SELECT pg_reload_conf()", 1)


def test_every_log_is_bounded_and_every_disk_measured(shared: GeneratedCluster) -> None:
    for service in ("citus-coordinator", "citus-worker1"):
        log = shared.docker("inspect", "-f", "{{json .HostConfig.LogConfig}}", shared.container(service)).json()
        assert log == {"Type": "json-file", "Config": {"max-file": "5", "max-size": "20m"}}
    found = _status(shared)
    assert found.overview
    for service in ("citus-coordinator", "citus-worker1", "citus-worker2"):
        (measured,) = [disk for disk in found.disks if disk.holder == service]
        command = ("df", "--block-size=1", "--output=size", "/var/lib/postgresql/data")
        df = shared.docker("exec", shared.container(service), *command).out.split()
        assert measured.total_bytes == int(df[-1])
        (told,) = [node.disk for node in found.overview.nodes if node.address.host == service]
        assert told and told.total_bytes == measured.total_bytes


def test_a_stopped_coordinator_is_a_cluster_that_is_down(shared: GeneratedCluster) -> None:
    shared.docker("kill", shared.container("citus-coordinator"))
    found = _status(shared)
    assert found.state is State.DOWN
    assert found.overview is None
    assert found.as_dict()["nodes"] is None
    assert _up(shared).changed == ("citus-coordinator",)


def test_changed_settings_are_reloaded_where_they_changed(shared: GeneratedCluster) -> None:
    before = shared.sql("SHOW work_mem", 1)
    shared.setup("--workers=2", "--yes")  # nothing changes
    assert _up(shared).reloaded == ()
    spec = shared.root / "cluster.yaml"
    spec.write_text(spec.read_text() + "settings:\n  worker: {work_mem: 5123kB}\n")
    shared.setup("--yes", "--force")
    result = _up(shared)
    assert (result.changed, result.reloaded) == ((), ("citus-worker1", "citus-worker2"))
    assert shared.sql("SHOW work_mem", 1) == [("5123kB",)] != before
    assert _up(shared).reloaded == ()


def test_a_setting_that_servers_refuse_on_reload_fails_until_it_is_mended(shared: GeneratedCluster) -> None:
    """Only the server knows that there is no such time zone; its next start would fail."""
    spec = shared.root / "cluster.yaml"
    before = spec.read_text()
    ((zone,),) = shared.sql("SHOW timezone", 1)
    spec.write_text(before.partition("settings:\n")[0] + "settings:\n  worker: {timezone: Mars/Base}\n")
    shared.sql("ALTER SYSTEM SET max_connections = 77")
    shared.sql("SELECT pg_reload_conf()")
    try:
        shared.setup("--yes", "--force")
        events = Events()
        for _ in range(2):  # the second run reloads nothing
            with pytest.raises(SettingRefusedError, match="the old value stays in force") as caught:
                _up(shared, events=events)
            assert [line.partition(" (")[0] for line in caught.value.details] == [
                "citus-worker1: timezone = 'Mars/Base'",
                "citus-worker2: timezone = 'Mars/Base'",
            ]
            assert "postgresql.conf line " in caught.value.details[0]
            assert caught.value.details[0].endswith(f"still in force: {zone!r}")
        warned = [event.message for event in events if event.kind is EventKind.WARNING]
        assert any("citus-coordinator uses this setting only after a restart" in one for one in warned)
        assert any("max_connections = '77' (postgresql.auto.conf line" in one for one in warned)
    finally:
        shared.sql("ALTER SYSTEM RESET max_connections")
        shared.sql("SELECT pg_reload_conf()")
        spec.write_text(before)
        shared.setup("--yes", "--force")
    events = Events()
    assert _up(shared, events=events).verified
    assert not [event for event in events if event.step.startswith("settings:")]
    assert shared.sql("SHOW timezone", 1) == [(zone,)]


def test_the_engine_going_away_is_a_state_not_an_error(
    shared: GeneratedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    found = _status(shared)
    assert found.state is State.DEGRADED  # the coordinator still answers
    assert {service.state for service in found.services} == {"unknown"}
    assert any("Docker engine" in problem for problem in found.problems)
    with pytest.raises(PreflightError) as caught:
        _up(shared)
    assert "Docker engine" in caught.value.details[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ports_are_named_with_their_holders_all_at_once(fresh: GeneratedCluster, shared: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", fresh.base_port))
        holder.listen()
        name = f"{fresh.name}-holder"
        publish = f"127.0.0.1:{fresh.base_port + 1}:80"
        fresh.docker("run", "-d", "--rm", "--name", name, "-p", publish, "--entrypoint", "sleep", fresh.image, "600")
        try:
            with pytest.raises(PreflightError) as caught:
                _up(fresh)
        finally:
            fresh.docker("rm", "-f", name)
    assert caught.value.exit_status is ExitStatus.PREFLIGHT
    coordinator, worker = caught.value.details
    assert f"port {fresh.base_port} on 127.0.0.1 is in use by" in coordinator
    assert f"(process {os.getpid()})" in coordinator
    assert f"in use by container {name}" in worker
    assert fresh.docker("ps", "-aq", "--filter", f"name={fresh.name}").out == ""


def test_the_same_name_from_another_directory_is_refused(fresh: GeneratedCluster, shared: GeneratedCluster) -> None:
    fresh.name = shared.name
    password = fresh.root / "password"
    password.write_text("of another cluster")
    fresh.create("--workers=1", "--services=citus", f"--password-file={password}")
    directory = load(fresh.root)
    try:
        found = asyncio.run(preflight(directory))
        assert "other-directory" in {finding.id for finding in found.errors}
        assert any(str(shared.root) in finding.message for finding in found.errors)
        for attempt in (lambda: _up(fresh), lambda: _down(fresh, volumes=True)):
            with pytest.raises(PreflightError) as caught:
                attempt()
            assert any(str(shared.root) in line for line in caught.value.details)
    finally:
        (fresh.root / "docker-compose.yml").unlink()  # the fixture must not take the other cluster down
    assert _status(shared).state is State.OK


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
        _up(fresh)
    (finding,) = caught.value.details
    assert fresh.image in finding and f"docker pull {fresh.image}" in finding and "--citus-image" in finding


def test_a_service_that_cannot_start_is_told_at_once_with_log_and_cause(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    # The third time it says nothing, as on a busy machine: why it ended is what it wrote before.
    server = "docker-entrypoint.sh postgres -c config_file=/etc/citus-cluster/postgresql.conf -c shared_buffers=plenty"
    count = "if [ -e /tmp/twice ]; then sleep 30; elif [ -e /tmp/once ]; then touch /tmp/twice; fi; touch /tmp/once"
    _override(fresh, "citus-worker1", f"command: [sh, -c, '{count}; exec {server}']")
    started = time.monotonic()
    with pytest.raises(ServiceFailedError, match=r"citus-worker1 cannot start: .*settings") as caught:
        _up(fresh)
    assert time.monotonic() - started < 60
    assert any("shared_buffers" in line and "log:" in line for line in caught.value.details)
    assert caught.value.hint and f"docker logs {fresh.container('citus-worker1')}" in caught.value.hint

    (fresh.root / "docker-compose.override.yml").unlink()
    fresh.compose("--profile", "*", "down", "--volumes")
    _override(fresh, "citus-worker1", "healthcheck: {test: [CMD-SHELL, 'echo not yet; exit 1']}")
    with pytest.raises(ServiceFailedError, match=r"citus-worker1 did not become ready within 12 s") as late:
        _up(fresh, timeout_s=12)
    assert "citus-worker1 health: not yet" in late.value.details
    assert "citus-coordinator" not in late.value.message

    (fresh.root / "docker-compose.override.yml").unlink()
    assert _up(fresh).verified


def test_a_password_unlike_that_of_the_data_is_told_at_once(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    _up(fresh)
    _down(fresh)
    secret = fresh.root / "generated/secrets/superuser_password"
    kept = secret.read_bytes()
    secret.write_bytes(b"another one")
    started = time.monotonic()
    with pytest.raises(ServiceFailedError, match="another password"):
        _up(fresh)
    assert time.monotonic() - started < 30
    secret.write_bytes(kept)
    assert _up(fresh).verified


def test_down_keeps_the_data_and_with_volumes_removes_this_projects_alone(fresh: GeneratedCluster) -> None:
    fresh.create("--workers=1", "--services=citus")
    stranger = f"{fresh.name}2_citus-worker1-data"
    names = ("--format", "{{.Names}}")
    fresh.docker("volume", "create", stranger)
    try:
        _up(fresh)
        fresh.sql("CREATE TABLE kept (id int PRIMARY KEY)")
        fresh.sql("SELECT create_distributed_table('kept', 'id')")
        fresh.sql("INSERT INTO kept SELECT generate_series(1, 1000)")
        fresh.cli("down")
        assert fresh.docker("ps", "-aq", "--filter", f"name={fresh.name}").out == ""
        taken_down = fresh.cli("status", check=False)
        title, what, way = taken_down.out.splitlines()
        assert (taken_down.status, title) == (1, f"Cluster {fresh.name}: down")
        assert "was taken down at 20" in what and "its data stay" in what
        assert way == "Start it: citus-cluster up"
        _down(fresh)  # once more: nothing to do
        _up(fresh)
        assert fresh.sql("SELECT count(*), sum(id) FROM kept") == [(1000, 500500)]

        override = fresh.root / "docker-compose.override.yml"
        mine = {"image": fresh.image, "entrypoint": ["sleep", "600"], "networks": ["default", "extra"]}
        mine["volumes"] = ["scratch:/scratch"]
        override.write_text(
            json.dumps({"services": {"mine": mine}, "networks": {"extra": {}}, "volumes": {"scratch": {}}})
        )
        assert _up(fresh).changed == ("mine",)
        override.unlink()
        taken_down = fresh.cli("down")
        name = fresh.docker(
            "ps", "-a", "--filter", f"label=com.docker.compose.project={fresh.name}", *names
        ).out.strip()
        assert "mine" in name, "another file may have it"
        assert f"docker rm -f {name} && docker network rm {fresh.name}_default {fresh.name}_extra" in taken_down.err
        _up(fresh)
        _down(fresh, volumes=True)
        assert Engine.connect().project_volumes(fresh.name) == ()
        assert Engine.connect().project_containers(fresh.name) == ()
        assert fresh.docker("network", "ls", "-q", "--filter", f"name={fresh.name}").out == ""
        assert stranger in fresh.docker("volume", "ls", "-q").out.split()
    finally:
        fresh.docker("volume", "rm", stranger)


def _install_older_extension(cluster: GeneratedCluster, number: int, version: str = "13.0-1") -> None:
    """Bring a node to where it is after its image was replaced: a new library, and the extension of an older Citus."""
    with cluster.connect(number) as connection:
        connection.execute("SET citus.enable_ddl_propagation = off")
        connection.execute("DROP EXTENSION citus CASCADE")
    with cluster.connect(number) as connection:
        connection.execute("SET citus.enable_version_checks = off")
        connection.execute(f"CREATE EXTENSION citus VERSION '{version}'".encode())
        connection.execute(
            "INSERT INTO pg_dist_authinfo VALUES (0, current_user, %s)", [f"password={cluster.password}"]
        )


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
        _up(fresh)
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
    seen = _status(fresh)
    assert (seen.state, seen.problems) == (State.OK, ())
    assert seen.overview and {node.extension and node.extension.is_behind for node in seen.overview.nodes} == {False}
    assert _up(fresh).verified  # nobody is asked, nothing is left to do


def test_a_host_of_workers_alone_says_how_to_register_them(fresh: GeneratedCluster) -> None:
    subnet = fresh.docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}").out.strip()
    gateway = str(ipaddress.ip_network(subnet)[1])  # an address of this machine that no other machine reaches
    fresh.create("--no-coordinator", "--workers=1", f"--advertise={gateway}", "--services=citus")
    result = _up(fresh)
    assert not result.verified
    assert result.access.dsn() is None
    assert result.access.next_commands == (f"python add_worker.py --host {gateway} --port {fresh.base_port + 1}",)
    assert _status(fresh).state is State.OK
