"""The status of a cluster in memory: what counts as a problem, what is asked again, and what to do about it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_engine
import pytest
import virtual_time
from fake_citus import COORDINATOR, ONE, TWO, FakeConnection
from fake_engine import HEALTHY, Host
from setup_support import set_up

from citus_cluster.errors import EngineUnavailableError, UnreachableError
from citus_cluster.model.citus.extension import OUTDATED, ExtensionVersions
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.disks import Disk
from citus_cluster.operations.status import overview as overview_module
from citus_cluster.operations.status.report import State, Status, status
from citus_cluster.runtime.docker.engine import HealthProbe
from citus_cluster.runtime.store import journal

NODES = ("citus-coordinator", "citus-worker1", "citus-worker2")
WELL = CompanionStatus(ComponentName.REDIS, Condition.OK, None, {"version": "7.2"}, "7.2")
LATE = replace(WELL, condition=Condition.DOWN, reason="no answer within 5 s")
RING = "UN  172.18.0.9  90.5 KiB  16  100.0%  0b5f4c9e-1f6a-4b43-9d9b-7e2f2d1c3a10  rack1\n"


class Probes:
    """Stands for the probes of all companions: the answers to come, the last for good, and how long each had."""

    def __init__(self) -> None:
        self.answers: list[CompanionStatus | Exception] = [WELL]
        self.asked: list[float] = []
        self.closed = 0

    def __call__(self, target: Any, password: str, doubt: Any) -> "Probes":
        self.target, self.password, self.doubt = target, password, doubt
        return self

    async def ask(self, timeout_s: float) -> CompanionStatus:
        self.asked.append(timeout_s)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def close(self) -> None:
        self.closed += 1


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    found = Probes()
    known = dict.fromkeys((ComponentName.REDIS, ComponentName.CASSANDRA), found)
    monkeypatch.setattr("citus_cluster.operations.companions.PROBES", known)
    return found


def running(monkeypatch: pytest.MonkeyPatch, root: Path, *workers: NodeAddress) -> Host:
    host = fake_engine.in_place(monkeypatch, root, *workers)
    host.run()
    return host


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nodes")
    set_up(root, {"workers": 2, "services": ["citus"]})
    return root


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("redis")
    set_up(root, {"workers": 1, "services": ["citus", "redis"]})
    return root


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, shared: Path) -> Host:
    return running(monkeypatch, shared, ONE, TWO)


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch, shared_redis: Path, probes: Probes) -> Host:
    return running(monkeypatch, shared_redis, ONE)


def look(host: Host) -> Status:
    return virtual_time.run(status(host.directory))


def test_a_sound_cluster_has_no_problem_and_needs_nothing(host: Host) -> None:
    found = look(host)
    assert (found.state, found.problems, found.warnings, found.advice) == (State.OK, (), (), ())
    assert [(one.service, one.ok, one.reason) for one in found.services] == [(name, True, None) for name in NODES]
    assert found.overview and [node.address for node in found.overview.nodes] == [COORDINATOR, ONE, TWO]
    assert (found.companions, found.ring, found.disks) == ((), None, ())
    assert found.access and found.access.addresses["citus-coordinator"] == "127.0.0.1:5434"


# Containers


def test_a_service_without_a_container_is_missing(host: Host) -> None:
    host.engine.containers.pop()
    found = look(host)
    assert found.state is State.DEGRADED
    assert found.services[2].state == "missing"
    assert found.problems == ("citus-worker2: missing (it has no container)",)
    assert found.advice == ("Start the stopped services: citus-cluster up",)


@pytest.mark.parametrize(
    ("values", "log", "reason"),
    [
        ({"exit_code": 0}, "FATAL: out of memory", "exit status 0"),
        ({"exit_code": 130}, "", "exit status 130"),
        ({"exit_code": 137}, "", "exit status 137"),
        ({"exit_code": 143}, "FATAL:  could not write to file: No space left on device", "exit status 143"),
        ({"exit_code": 1}, "nothing that is known", "exit status 1"),
    ],
)
def test_the_end_of_a_container_is_told_and_a_stop_from_outside_is_no_crash(
    host: Host, values: dict[str, Any], log: str, reason: str
) -> None:
    host.engine.change("citus-worker2", state="exited", **values)
    host.engine.log["citus-worker2"] = log
    assert look(host).services[2].reason == reason


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ({"exit_code": 1}, "FATAL:  could not write to file: No space left on device"),
        ({"exit_code": 137, "oom_killed": True}, ""),
        ({"exit_code": 1, "state": "restarting"}, "FATAL:  could not write to file: No space left on device"),
    ],
)
def test_a_crash_is_told_with_its_cause(host: Host, values: dict[str, Any], log: str) -> None:
    host.engine.change("citus-worker2", **{"state": "exited", **values})
    host.engine.log["citus-worker2"] = log
    reason = look(host).services[2].reason or ""
    assert reason.startswith(f"exit status {values['exit_code']}: ")


@pytest.mark.parametrize("state", ["paused", "created"])
def test_a_container_that_has_not_ended_has_no_end_to_tell(host: Host, state: str) -> None:
    host.engine.change("citus-worker2", state=state, exit_code=1)
    found = look(host)
    assert (found.services[2].health, found.services[2].reason) == (None, None)
    assert found.problems[0] == f"citus-worker2: {state}"
    assert bool(found.advice) and ("docker unpause citus-worker2" in found.advice[0]) is (state == "paused")


def test_a_check_that_docker_has_not_made_yet_is_made_now(host: Host) -> None:
    host.engine.change("citus-worker2", health="starting")
    assert look(host).state is State.OK
    host.engine.health["citus-worker2"] = HealthProbe(False, "it is slow")
    found = look(host)
    assert (found.services[2].health, found.services[2].reason) == ("starting", "it is slow")
    assert found.problems == ("citus-worker2: running, but starting (it is slow)",)


def test_a_check_that_fails_in_silence_shows_what_docker_saw(host: Host) -> None:
    host.engine.change("citus-worker2", health="unhealthy", health_output="of the last check")
    host.engine.health["citus-worker2"] = HealthProbe(False, "")
    assert look(host).services[2].reason == "of the last check"


def test_a_check_without_an_answer_in_time_is_made_again(host: Host) -> None:
    answers = [HealthProbe(False, "the health check did not end within 10 s"), HEALTHY]
    host.engine.change("citus-worker2", health="unhealthy")
    host.engine.health["citus-worker2"] = lambda: answers.pop(0)
    assert look(host).services[2].ok
    assert answers == []


def test_without_an_engine_nothing_is_known_of_containers_but_the_nodes_are_asked(host: Host) -> None:
    host.engine.failure = EngineUnavailableError("There is no Docker engine.")
    found = look(host)
    assert {one.state for one in found.services} == {"unknown"}
    assert found.problems[0] == "There is no Docker engine."
    assert found.overview and found.state is State.DEGRADED


def test_containers_of_another_directory_are_a_problem(host: Host) -> None:
    host.engine.change("citus-worker2", working_dir="/elsewhere")
    assert "created from another directory: /elsewhere" in look(host).problems[0]


# After `down`


def taken_down(host: Host, **line: Any) -> None:
    host.engine.containers = []
    file = host.root / journal.JOURNAL_FILE
    file.unlink(missing_ok=True)
    journal.append(file, {"time": "noon", "operation": "down", "result": "done", **line})


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    set_up(tmp_path, {"workers": 1, "services": ["citus"]})
    return fake_engine.in_place(monkeypatch, tmp_path, ONE)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"by": {"user": "ann"}, "parameters": {"volumes": False}}, "by ann; its data stay in their volumes."),
        ({"by": {"user": "ann"}, "parameters": {"volumes": True}}, "by ann; its volumes were removed."),
        # As earlier versions wrote it.
        ({"user": "bob", "arguments": ["down"]}, "by bob; its data stay in their volumes."),
        ({"user": "bob", "arguments": ["down", "--volumes"]}, "by bob; its volumes were removed."),
    ],
)
def test_a_cluster_that_was_taken_down_has_no_other_problem(gone: Host, line: dict[str, Any], told: str) -> None:
    taken_down(gone, **line)
    found = look(gone)
    assert found.problems == (f"The cluster was taken down at noon {told}",)
    assert (found.state, found.advice) == (State.DOWN, ("Start it again: citus-cluster up",))
    assert {one.state for one in found.services} == {"missing"}


@pytest.mark.parametrize("line", [{"result": "failed"}, {"operation": "up"}])
def test_a_cluster_that_nobody_took_down_is_missing(gone: Host, line: dict[str, Any]) -> None:
    taken_down(gone, **line)
    assert "missing" in look(gone).problems[0]


def test_a_cluster_that_runs_again_was_not_taken_down(gone: Host) -> None:
    taken_down(gone)
    gone.run()
    assert look(gone).state is State.OK


def test_without_an_engine_nobody_knows_whether_it_is_still_down(gone: Host) -> None:
    taken_down(gone)
    gone.engine.failure = EngineUnavailableError("There is no Docker engine.")
    assert look(gone).problems[0] == "There is no Docker engine."


# Nodes


def test_a_coordinator_that_does_not_answer_is_the_end_of_the_cluster(host: Host) -> None:
    host.refused["citus-coordinator"] = UnreachableError("Cannot connect.")
    found = look(host)
    assert (found.state, found.overview) == (State.DOWN, None)
    assert found.problems == ("Cannot connect.",)
    assert host.dialled.count("citus-coordinator") == 1, "a refusal counts at once"


def test_a_coordinator_that_did_not_answer_in_time_is_asked_again_if_it_runs(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    async def connect(info: Any, *, timeout_s: float) -> Any:
        limits.append(timeout_s)
        raise UnreachableError(f"It did not answer within {timeout_s:g} s.")

    monkeypatch.setattr("citus_cluster.operations.status.report.connect", connect)
    assert look(host).problems == ("It did not answer within 9 s.",)
    host.engine.change("citus-coordinator", state="exited")
    assert "It did not answer within 3 s." in look(host).problems
    assert limits == [3, 9, 3]


def test_an_overview_that_hangs_is_given_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("citus_cluster.operations.status.report.overview", hang)
    assert look(host).problems == ("the coordinator did not answer within 25 s",)


def test_workers_are_compared_with_cluster_yaml(host: Host) -> None:
    host.citus.change(TWO, is_active=False)
    host.citus.register(NodeAddress("citus-worker7"))
    host.citus.register(NodeAddress("10.0.0.9"))
    found = look(host)
    assert found.problems == (
        "citus-worker2:5432 is in cluster.yaml, but not an active node",
        "citus-worker7:5432 is registered, but not in cluster.yaml",
    )
    assert (found.not_registered, found.not_desired) == ((TWO,), (NodeAddress("citus-worker7"),))


def test_a_node_that_does_not_answer_is_one_problem_with_the_way_to_look(host: Host) -> None:
    host.citus.servers[TWO].silence = "it hangs"
    found = look(host)
    assert found.problems == ("citus-worker2:5432 does not answer the coordinator: it hangs.",)
    assert found.advice == ("See why citus-worker2:5432 does not answer: docker compose logs citus-worker2",)


def test_a_node_whose_library_does_not_fit_is_told_with_the_update(host: Host) -> None:
    host.citus.servers[TWO].silence = OUTDATED
    host.citus.answers[ONE] = {"extension": ExtensionVersions("13.0-1", "13.2-1")}
    found = look(host)
    assert found.problems[0].startswith("citus-worker2:5432 does not serve queries: ")
    assert "citus-cluster up, which runs ALTER EXTENSION" in found.advice[0]
    assert "citus-worker1:5432 has version 13.0-1, but its image has 13.2-1" in found.advice[1]


def test_lost_data_and_lost_slots_are_problems(host: Host) -> None:
    host.citus.place("orders", {101: [ONE]})
    host.citus.missing[host.citus.node(ONE).group_id] = {101}
    host.citus.answers[TWO] = {"lost_slots": ("slot1",)}
    found = look(host)
    assert "citus-worker2:5432: the replication slot slot1 of a move is lost" in found.problems[0]
    assert "citus-worker1:5432 has lost data" in found.problems[1]
    assert found.advice[0].startswith("If a backup of the volume of citus-worker1:5432 exists")


def test_the_problems_of_a_rebalance_are_the_clusters(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    from citus_cluster.model.citus.rebalance_plan import Move

    host.citus.place("orders", {101: [ONE]})
    host.citus.moves = [Move("orders", 101, 1000, ONE, TWO)]
    host.citus.run_job(7)
    host.citus.tasks[7] = [replace(task, state="error", message="ERROR:  no space") for task in host.citus.tasks[7]]
    (problem,) = look(host).problems
    assert problem.startswith("moving shard 101 of orders to citus-worker2:5432 failed: no space")


# Disks


def test_the_disks_of_containers_and_of_other_servers_are_judged(host: Host) -> None:
    far = NodeAddress("10.0.0.9")
    host.citus.register(far)
    host.citus.answers = {
        far: {"disk": Disk("10.0.0.9:5432", 100, 1)},
        ONE: {"disk": Disk("citus-worker1:5432", 100, 1)},
    }
    host.engine.outputs = {"citus-worker1": HealthProbe(True, "1000 100 4096")}
    found = look(host)
    assert found.disks == (
        Disk("citus-worker1", 4_096_000, 409_600),
        Disk("10.0.0.9:5432", 100, 1),
    )
    assert found.warnings[0].startswith("The disk of citus-worker1 is 90 % full")
    assert found.problems[0].startswith("The disk of 10.0.0.9:5432 is 99 % full")
    assert found.state is State.DEGRADED


@pytest.mark.parametrize("output", ["", "a b c", "1 2"])
def test_a_container_that_does_not_tell_its_disk_is_left_out(host: Host, output: str) -> None:
    host.engine.outputs = {"citus-worker1": HealthProbe(True, output)}
    host.engine.change("citus-worker2", state="paused")
    assert look(host).disks == ()


# Companions


def test_a_companion_is_asked_at_its_port_with_its_password(more: Host, probes: Probes) -> None:
    found = look(more)
    assert (found.state, found.companions) == (State.OK, (WELL,))
    assert list(probes.target.addresses.values()) == [NodeAddress("127.0.0.1", 6379)]
    assert probes.password == (more.root / "generated/secrets/redis_password").read_text()
    assert (probes.asked, probes.closed) == ([5.0], 1)


def test_a_companion_that_is_down_is_a_problem(more: Host, probes: Probes) -> None:
    probes.answers = [replace(WELL, condition=Condition.DOWN, reason="connection refused")]
    found = look(more)
    assert found.problems == ("redis: connection refused",)
    assert found.state is State.DEGRADED


def test_one_without_an_answer_in_time_is_asked_again_with_more_time(more: Host, probes: Probes) -> None:
    probes.answers = [LATE, WELL]
    assert look(more).companions == (WELL,)
    assert probes.asked == [5.0, 15.0]


def test_one_that_answers_never_but_passes_its_check_is_unknown_and_no_problem(more: Host, probes: Probes) -> None:
    probes.answers = [LATE]
    found = look(more)
    (companion,) = found.companions
    assert companion.condition is Condition.UNKNOWN
    assert companion.reason == "no answer within 5 s, in two attempts; its health check passes"
    assert (found.problems, found.state) == ((), State.OK)


def test_one_whose_check_fails_too_is_down(more: Host, probes: Probes) -> None:
    probes.answers = [LATE]
    more.engine.health["redis"] = HealthProbe(False, "it hangs")
    assert look(more).problems == ("redis: no answer within 5 s",)


def test_one_whose_container_does_not_run_is_not_asked_again(more: Host, probes: Probes) -> None:
    probes.answers = [LATE]
    more.engine.change("redis", state="exited", exit_code=137)
    found = look(more)
    assert len(probes.asked) == 1
    assert found.companions[0].reason == "its container is exited (exit status 137)"
    assert found.problems == ("redis: exited (exit status 137)",)


def test_one_that_starts_is_no_problem_of_its_own(more: Host, probes: Probes) -> None:
    probes.answers = [replace(WELL, condition=Condition.DOWN, reason="connection refused")]
    more.engine.change("redis", health="starting")
    more.engine.health["redis"] = HealthProbe(False, "it loads its data")
    found = look(more)
    assert (found.companions[0].condition, found.companions[0].reason) == (Condition.STARTING, "it loads its data")
    assert found.problems == ("redis: running, but starting (it loads its data)",)


def test_a_probe_that_fails_hides_nothing_else(more: Host, probes: Probes) -> None:
    probes.answers = [ZeroDivisionError("a defect")]
    found = look(more)
    assert found.problems == ("redis: it could not be asked (ZeroDivisionError)",)
    assert found.overview


# Cassandra's ring


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, probes: Probes) -> Host:
    set_up(tmp_path, {"services": ["cassandra"], "cassandra.nodes": 2})
    probes.answers = [replace(WELL, service=ComponentName.CASSANDRA)]
    return running(monkeypatch, tmp_path)


def test_the_ring_is_told_by_the_first_node_that_knows_it(ring: Host) -> None:
    first, second = [one.service for one in ring.engine.containers]
    assert first and second
    ring.engine.outputs = {second: HealthProbe(True, RING)}
    found = look(ring)
    assert found.state is State.OK
    assert found.ring and [(node.address, node.up) for node in found.ring] == [("172.18.0.9", True)]
    ring.engine.outputs = {}
    assert look(ring).ring is None


def test_only_nodes_that_run_are_asked_for_the_ring(ring: Host) -> None:
    for container in ring.engine.containers:
        ring.engine.outputs[container.service or ""] = HealthProbe(True, RING)
        ring.engine.change(container.service or "", state="paused")
    assert look(ring).ring is None


def test_without_citus_the_cluster_is_down_once_no_service_is_well(ring: Host) -> None:
    for container in ring.engine.containers:
        assert look(ring).state is not State.DOWN
        ring.engine.change(container.service or "", state="exited")
    assert look(ring).state is State.DOWN


# The overview


def test_an_overview_counts_shards_and_sizes(host: Host) -> None:
    host.citus.place("orders", {101: [ONE], 102: [TWO]})
    host.citus.place("countries", {201: [COORDINATOR, ONE, TWO]}, "reference")
    found = look(host).overview
    assert found
    assert [(table.name, table.shard_count, table.size_bytes) for table in found.tables] == [
        ("countries", 1, 3000),
        ("orders", 2, 2000),
    ]
    assert [(node.shard_count, node.reference_count, node.shard_bytes) for node in found.nodes] == [
        (1, 1, 1000),
        (2, 1, 2000),
        (2, 1, 2000),
    ]
    assert [node.role for node in found.nodes] == ["coordinator", "worker", "worker"]
    assert [(node.postgres_version, node.citus_version) for node in found.nodes] == [("17.6", "13.2.0")] * 3


def test_what_a_silent_node_holds_has_no_known_size(host: Host) -> None:
    host.citus.place("orders", {101: [ONE], 102: [TWO]})
    host.citus.place("items", {301: [ONE]})
    host.citus.servers[TWO].silence = "it hangs"
    found = look(host).overview
    assert found
    assert {table.name: table.size_bytes for table in found.tables} == {"items": 1000, "orders": None}
    assert (found.nodes[2].shard_bytes, found.nodes[2].postgres_version, found.nodes[2].shard_count) == (None, None, 1)
    assert found.nodes[2].reason and "it hangs" in found.nodes[2].reason


def test_a_standby_is_shown_as_one_and_counts_no_size_twice(host: Host) -> None:
    host.citus.place("orders", {102: [TWO]})
    host.citus.register(NodeAddress("10.0.0.9"), role="secondary", group_id=host.citus.node(TWO).group_id)
    found = look(host).overview
    assert found
    assert found.nodes[3].role == "worker secondary"
    assert found.tables[0].size_bytes == 1000


def test_nodes_are_not_asked_for_ever(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*_: object, **__: object) -> Any:
        await asyncio.sleep(16)
        raise UnreachableError("It did not answer the coordinator.")

    monkeypatch.setattr("citus_cluster.runtime.citus.tables.ask_node", slow)
    monkeypatch.setattr(overview_module, "AT_ONCE", 1)
    found = virtual_time.run(overview_module.overview(host.citus.connection))
    assert [node.reason for node in found.nodes] == [
        "It did not answer the coordinator.",
        "not asked, because other nodes took too long to answer",
        "not asked, because other nodes took too long to answer",
    ]


@pytest.mark.parametrize("sessions", [0, 1])
def test_several_nodes_are_asked_at_once_where_sessions_are_free(
    host: Host, monkeypatch: pytest.MonkeyPatch, sessions: int
) -> None:
    opened: list[Any] = []
    whole = host.citus.ask_node
    asked_with: set[int] = set()

    async def ask(conn: Any, *more: Any, **named: Any) -> Any:
        asked_with.add(id(conn))
        await asyncio.sleep(1)
        return await whole(conn, *more)

    async def open_session() -> Any:
        if len(opened) >= sessions:
            raise UnreachableError("All connections are in use.")
        opened.append(FakeConnection())
        return opened[-1]

    monkeypatch.setattr("citus_cluster.runtime.citus.tables.ask_node", ask)
    found = virtual_time.run(overview_module.overview(host.citus.connection, open_session))
    assert [node.reason for node in found.nodes] == [None, None, None]
    assert len(asked_with) == 1 + sessions
    assert all(session.closed for session in opened)
