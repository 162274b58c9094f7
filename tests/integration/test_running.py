"""A cluster that runs: what its commands show, what breaks, and what else lives on the same engine."""

import asyncio
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import yaml
from cluster_support import oldest_image
from generated_cluster import GeneratedCluster
from terminal import on_terminal
from up_support import Events, bring_up, override, state_of, take_down

from citus_cluster.errors import (
    ExitStatus,
    PreflightError,
    ServiceFailedError,
    SettingRefusedError,
)
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.plan.events import EventKind
from citus_cluster.operations.access import access
from citus_cluster.operations.directory import load
from citus_cluster.operations.start.preflight import preflight
from citus_cluster.operations.start.unwanted import stop_departed, stop_unwanted
from citus_cluster.operations.status.report import State
from citus_cluster.runtime.docker.engine import Engine

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    """A cluster with two workers; each test leaves it running and whole."""
    cluster = GeneratedCluster(tmp_path_factory.mktemp("shared"), oldest_image())
    try:
        cluster.create("--workers=2", "--services=citus")
        bring_up(cluster)
        yield cluster
    finally:
        cluster.remove()


def test_a_container_of_an_override_file_is_started_and_left_alone(shared: GeneratedCluster) -> None:
    text = f"image: {shared.image}\n    command: [sleep, '600']\n    entrypoint: []"
    override(shared, "mine", text)
    try:
        assert bring_up(shared).changed == ("mine",)
        (shared.root / "docker-compose.override.yml").unlink()
        assert bring_up(shared).changed == ()
        state = shared.docker("inspect", "-f", "{{.State.Status}}", f"{shared.name}-mine-1").out.strip()
        assert state == "running"
    finally:
        (shared.root / "docker-compose.override.yml").unlink(missing_ok=True)
        shared.docker("rm", "-f", "-v", f"{shared.name}-mine-1")


def test_an_older_compose_file_is_refused_and_no_worker_is_stopped(shared: GeneratedCluster) -> None:
    path = shared.root / "docker-compose.yml"
    current = path.read_text()
    older = yaml.safe_load(current)
    del older["services"]["citus-worker2"]
    path.write_text(yaml.safe_dump(older, sort_keys=False))
    with pytest.raises(PreflightError) as caught:
        bring_up(shared)
    (finding,) = caught.value.details
    assert "services.citus-worker2 is missing" in finding and "--force" in finding
    refused = shared.setup("--yes", check=False)
    assert refused.status != 0 and "--force" in refused.err
    assert _states(shared) == {"running"}
    shared.setup("--force")
    assert path.read_text() == current
    assert bring_up(shared).changed == ()

    older["services"]["citus-worker2"] = yaml.safe_load(current)["services"]["citus-worker2"]
    older["services"]["citus-worker2"]["labels"]["mine"] = "added"
    path.write_text(yaml.safe_dump(older, sort_keys=False))
    try:
        assert bring_up(shared).changed == ("citus-worker2",)
    finally:
        shared.setup("--force")
        bring_up(shared)


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
    bring_up(shared)


def test_status_opens_one_engine_and_looks_at_each_container_once(
    shared: GeneratedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    send = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        path = re.sub(r"^/v[\d.]+|\?.*", "", request.path_url or "")
        asked[re.sub(r"[0-9a-f]{64}", "ID", path)] += 1
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    assert state_of(shared).state is State.OK
    looks = {path: times for path, times in asked.items() if "exec" not in path}
    assert looks == {"/version": 1, "/containers/json": 1, "/containers/ID/json": 3}


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
    assert above.splitlines()[-1] == "✓ the cluster is verified", repr(screen.raw[-6000:])
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


def test_a_health_check_that_is_cut_off_is_no_crash_to_the_server(shared: GeneratedCluster) -> None:
    """As the engine does on a busy machine: it ends the check, whose children then belong to the server."""
    check = "sh /etc/citus-cluster/healthcheck.sh postgres postgres"
    cut_off = f"{check} & check=$!; sleep 1; kill -TERM $check; sleep 1; kill -KILL $check; wait $check"
    with shared.connect(0) as waiting, shared.connect(0) as session:
        waiting.execute("BEGIN")
        waiting.execute("LOCK TABLE pg_dist_authinfo")  # the check hangs until its own time-out
        shared.docker("exec", shared.container("citus-coordinator"), "sh", "-c", cut_off, check=False)
        time.sleep(5)
        assert session.execute("SELECT 1").fetchone() == (1,), "no session was ended"
        waiting.execute("ROLLBACK")


def test_a_killed_worker_shows_in_the_status_and_up_repairs_it(shared: GeneratedCluster) -> None:
    assert state_of(shared).state is State.OK
    shown = shared.cli("status").out
    assert f"127.0.0.1:{shared.base_port}" in shown and "citus-cluster psql" in shown
    shared.docker("kill", shared.container("citus-worker1"))
    assert "database system is ready" in shared.cli("logs", "worker1").out  # of a container that has ended
    assert len(shared.cli("logs", "citus-worker1", "--tail=3").out.splitlines()) == 3
    found = state_of(shared)
    assert found.state is State.DEGRADED
    worker = next(service for service in found.services if service.service == "citus-worker1")
    assert (worker.state, worker.ok) == ("exited", False)
    assert any("citus-worker1" in problem for problem in found.problems)

    assert bring_up(shared).changed == ("citus-worker1",)
    repaired = state_of(shared)
    assert (repaired.state, repaired.problems) == (State.OK, ())


def test_a_paused_worker_is_named_with_the_way_out(shared: GeneratedCluster) -> None:
    worker = shared.container("citus-worker2")
    shared.docker("pause", worker)
    try:
        started = time.monotonic()
        found = state_of(shared)
        assert found.state is State.DEGRADED
        assert time.monotonic() - started < 40
        with pytest.raises(ServiceFailedError, match=r"paused") as caught:
            bring_up(shared)
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
        assert not [problem for problem in state_of(shared).problems if slot in problem]
        for _ in range(4):
            shared.sql("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()", 1)
        shared.sql("CHECKPOINT", 1)
        (problem,) = [problem for problem in state_of(shared).problems if slot in problem]
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
    found = state_of(shared)
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
    found = state_of(shared)
    assert found.state is State.DOWN
    assert found.overview is None
    assert found.as_dict()["nodes"] is None
    assert bring_up(shared).changed == ("citus-coordinator",)


def test_changed_settings_are_reloaded_where_they_changed(shared: GeneratedCluster) -> None:
    before = shared.sql("SHOW work_mem", 1)
    shared.setup("--workers=2", "--yes")  # nothing changes
    assert bring_up(shared).reloaded == ()
    spec = shared.root / "cluster.yaml"
    spec.write_text(spec.read_text() + "settings:\n  worker: {work_mem: 5123kB}\n")
    shared.setup("--yes", "--force")
    result = bring_up(shared)
    assert (result.changed, result.reloaded) == ((), ("citus-worker1", "citus-worker2"))
    assert shared.sql("SHOW work_mem", 1) == [("5123kB",)] != before
    assert bring_up(shared).reloaded == ()


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
                bring_up(shared, events=events)
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
    assert bring_up(shared, events=events).verified
    assert not [event for event in events if event.step.startswith("settings:")]
    assert shared.sql("SHOW timezone", 1) == [(zone,)]


def test_the_engine_going_away_is_a_state_not_an_error(
    shared: GeneratedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    found = state_of(shared)
    assert found.state is State.DEGRADED  # the coordinator still answers
    assert {service.state for service in found.services} == {"unknown"}
    assert any("Docker engine" in problem for problem in found.problems)
    with pytest.raises(PreflightError) as caught:
        bring_up(shared)
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
                bring_up(fresh)
        finally:
            fresh.docker("rm", "-f", "-v", name)
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
        for attempt in (lambda: bring_up(fresh), lambda: take_down(fresh, volumes=True)):
            with pytest.raises(PreflightError) as caught:
                attempt()
            assert any(str(shared.root) in line for line in caught.value.details)
    finally:
        (fresh.root / "docker-compose.yml").unlink()  # the fixture must not take the other cluster down
    assert state_of(shared).state is State.OK
