"""A start on an engine and a cluster in memory: what is made, waited for, reported, and left alone."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fake_engine
import pytest
import virtual_time
from fake_citus import ONE, TWO
from fake_engine import HEALTHY, Host
from setup_support import set_up

from citus_cluster.errors import (
    AuthenticationError,
    ConsentNeededError,
    EngineUnavailableError,
    MismatchError,
    NotRegisteredError,
    PreflightError,
    ServiceFailedError,
    SettingRefusedError,
    UnreachableError,
)
from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.nodes import Outcome
from citus_cluster.model.plan.events import Event, EventKind
from citus_cluster.model.tuning.parameters import UnusedSetting
from citus_cluster.operations.start import preparation
from citus_cluster.operations.start.up import UpResult, up
from citus_cluster.runtime.docker.compose import ComposeError
from citus_cluster.runtime.docker.engine import HealthProbe
from citus_cluster.runtime.ports import PortState

NODES = ("citus-coordinator", "citus-worker1", "citus-worker2")
REDIS = "redis"


class Run:
    """Starts of a directory, with what they reported and when."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.events: list[tuple[float, Event]] = []
        self.citus: list[UpResult] = []
        self.questions: list[str] = []
        self.says = True

    def __call__(self, **more: Any) -> UpResult:
        def agree(question: str) -> bool:
            self.questions.append(question)
            return self.says

        async def work() -> UpResult:
            began = virtual_time.clock()
            return await up(
                self.host.directory,
                lambda event: self.events.append((virtual_time.clock() - began, event)),
                on_citus=self.citus.append,
                agree=agree,
                **{"timeout_s": 60, **more},
            )

        return virtual_time.run(work())

    def told(self, step: str, *kinds: EventKind) -> list[str]:
        wanted = kinds or tuple(EventKind)
        return [event.message for _, event in self.events if event.step.startswith(step) and event.kind in wanted]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster of two workers and nothing else; not to be changed."""
    root = tmp_path_factory.mktemp("nodes")
    set_up(root, {"workers": 2, "services": ["citus"]})
    return root


@pytest.fixture(scope="module")
def shared_more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster with the admin API and Redis; not to be changed."""
    root = tmp_path_factory.mktemp("more")
    set_up(root, {"workers": 2, "services": ["citus", "admin-api", "redis"]})
    return root


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, shared: Path) -> Host:
    return fake_engine.in_place(monkeypatch, shared, ONE, TWO, registered=False)


@pytest.fixture
def run(host: Host) -> Run:
    return Run(host)


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch, shared_more: Path) -> Run:
    return Run(fake_engine.in_place(monkeypatch, shared_more, ONE, TWO, registered=False))


def test_a_first_start_makes_registers_and_verifies_everything(run: Run) -> None:
    result = run()
    assert result.changed == NODES
    assert [node.outcome for node in result.nodes] == [Outcome.ADDED, Outcome.ADDED]
    assert (result.verified, result.reloaded, result.companions, result.warnings) == (True, (), (), ())
    assert run.host.asked == [()]
    assert run.citus[0].nodes == result.nodes
    steps = [event.step for _, event in run.events if event.kind is EventKind.DONE]
    assert steps[:2] == ["preflight", "start"]
    assert steps[-1] == "verify"
    assert run.told("start", EventKind.PROGRESS) == ["starting: Container citus-coordinator  Started"]


def test_a_second_start_changes_nothing(run: Run) -> None:
    run()
    again = run()
    assert (again.changed, again.reloaded, again.verified) == ((), (), True)
    assert [node.outcome for node in again.nodes] == [Outcome.ALREADY, Outcome.ALREADY]
    assert run.host.engine.done == []


def test_only_what_was_made_or_started_counts_as_changed(run: Run) -> None:
    run.host.run()
    run.host.engine.change("citus-worker1", state="exited")
    assert run().changed == ("citus-worker1",)


def test_nothing_is_started_where_something_prevents_it(run: Run) -> None:
    run.host.taken_ports = {5434: PortState.TAKEN}
    with pytest.raises(PreflightError, match="1 problem prevents the start; nothing was started") as caught:
        run()
    assert "port 5434" in caught.value.details[0]
    assert (run.host.asked, run.told("preflight", EventKind.DONE)) == ([], [])


def test_what_may_go_wrong_later_is_told_and_is_in_the_result(run: Run) -> None:
    wanted_mb = sum(service.memory_mb for service in run.host.directory.topology.services)
    run.host.engine.facts = replace(run.host.engine.facts, memory_mb=wanted_mb - 1)
    (warning,) = run().warnings
    assert warning.id == "memory-overcommitted"
    assert run.told("preflight:memory-overcommitted", EventKind.WARNING) == [str(warning)]


def test_workers_of_another_servers_coordinator_are_only_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus"], "coordinator": False, "advertise": "10.0.0.1"})
    result = Run(fake_engine.in_place(monkeypatch, tmp_path))()
    assert (result.changed, result.nodes, result.verified) == (("citus-worker1",), (), False)


# What keeps a service from becoming ready


def test_a_service_is_ready_once_its_own_check_passes(run: Run) -> None:
    answers = [HealthProbe(False, "FATAL: it is starting"), HealthProbe(False, ""), HEALTHY]
    run.host.engine.health["citus-worker1"] = lambda: answers.pop(0) if len(answers) > 1 else answers[0]
    run()
    assert run.told("ready:citus-worker1", EventKind.PROGRESS)[0].startswith("waiting for citus-worker1: ")
    assert run.told("ready:citus-worker1", EventKind.PROGRESS)[1].endswith("its health check fails")
    assert run.told("ready:citus-worker1", EventKind.DONE) == ["citus-worker1 is ready"]


def test_a_service_that_never_gets_ready_is_given_up_in_time(run: Run) -> None:
    run.host.engine.health["citus-worker1"] = HealthProbe(False, "it is slow")
    run.host.engine.log["citus-worker1"] = "first line\nlast line"
    with pytest.raises(ServiceFailedError, match="citus-worker1 did not become ready within 20 s") as caught:
        run(timeout_s=20)
    assert caught.value.details == (
        "citus-worker1: its container runs, but its health check fails",
        "citus-worker1 health: it is slow",
        "citus-worker1 log: first line",
        "citus-worker1 log: last line",
    )
    assert "docker logs citus-worker1" in (caught.value.hint or "")
    assert 20 <= run.events[-1][0] < 22
    assert run.citus == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"state": "exited", "exit_code": 1}, "its container ended with exit status 1"),
        ({"state": "dead", "exit_code": 1}, "its container ended with exit status 1"),
        ({"restart_count": 2, "exit_code": 1}, "it was restarted 2 times, last after exit status 1"),
    ],
)
def test_a_service_that_crashes_is_told_at_once(run: Run, values: dict[str, Any], told: str) -> None:
    whole = run.host.run

    def crash(*services: str, **more: Any) -> None:
        whole(*services, **{**more, **(values if services == ("citus-worker1",) else {})})

    run.host.run = crash  # type: ignore[method-assign]
    with pytest.raises(ServiceFailedError, match="citus-worker1 cannot start") as caught:
        run(timeout_s=1000)
    assert caught.value.details[0] == f"citus-worker1: {told}"
    assert run.events[-1][0] < 5
    assert run.told("ready:citus-worker1", EventKind.FAILED)


def test_a_container_that_keeps_restarting_shows_its_earlier_log(run: Run) -> None:
    run.host.run()
    run.host.engine.change("citus-worker1", restart_count=0)
    run.host.engine.health["citus-worker1"] = lambda: (
        run.host.engine.change("citus-worker1", restart_count=3) or HealthProbe(False, "")  # type: ignore[func-returns-value]
    )
    with pytest.raises(ServiceFailedError) as caught:
        run()
    assert any("(earlier)" in line for line in caught.value.details)


def test_a_service_that_was_restarted_once_is_warned_of(run: Run) -> None:
    answers = [1, 1, 1]

    def check() -> HealthProbe:
        if answers:
            answers.pop()
            run.host.engine.change("citus-worker1", restart_count=1, exit_code=137)
            return HealthProbe(False, "")
        return HEALTHY

    run.host.engine.health["citus-worker1"] = check
    run()
    assert run.told("ready:citus-worker1", EventKind.WARNING) == [
        "citus-worker1 ended with exit status 137, and was started again"
    ]


def test_a_wrong_password_is_not_waited_for(run: Run) -> None:
    run.host.refused["citus-worker1"] = AuthenticationError("It refused the password.")
    with pytest.raises(ServiceFailedError, match="citus-worker1 cannot start") as caught:
        run(timeout_s=1000)
    assert any("It refused the password." in line for line in caught.value.details)


def test_where_the_port_cannot_be_reached_the_check_decides(run: Run) -> None:
    run.host.refused["citus-worker1"] = UnreachableError("Connection refused.")

    def check() -> HealthProbe:
        run.host.refused.clear()
        return HEALTHY

    run.host.engine.health["citus-worker1"] = check
    run()
    (moment,) = [at for at, event in run.events if event.step == "ready:citus-worker1" and event.kind is EventKind.DONE]
    assert 5 < moment < 7


def test_an_error_that_is_not_the_services_is_not_hidden(run: Run) -> None:
    def lose() -> HealthProbe:
        raise EngineUnavailableError("The engine is gone.")

    run.host.engine.health["citus-worker1"] = lose
    with pytest.raises(EngineUnavailableError):
        run()


def test_a_paused_node_is_not_started_around(run: Run) -> None:
    run.host.run()
    run.host.engine.change("citus-worker1", state="paused")
    with pytest.raises(ServiceFailedError, match="citus-worker1 is paused") as caught:
        run()
    assert caught.value.hint == "Resume it: docker unpause citus-worker1"
    assert run.host.asked == []


def test_a_paused_container_of_the_user_is_none_of_ours(run: Run) -> None:
    run.host.run()
    run.host.engine.add("mine", state="paused", ours=False)
    run()


# Compose


def test_a_compose_that_hangs_is_given_up_in_time(run: Run) -> None:
    run.host.compose_seconds = 1000
    with pytest.raises(ServiceFailedError, match="docker compose up did not return within 60 s"):
        run()


def test_why_compose_failed_is_said(run: Run) -> None:
    run.host.compose_failure = ComposeError(("docker", "compose", "up"), 1, ["Error: no space left on device"])
    with pytest.raises(ServiceFailedError) as caught:
        run()
    assert caught.value.message.startswith("The containers could not be started: ")
    assert caught.value.details == ("Error: no space left on device",)
    assert len(run.told("start", EventKind.FAILED)) == 1


def test_images_that_are_missing_are_pulled_before_the_clock_starts(run: Run) -> None:
    run.host.engine.images = set()
    image = run.host.services["citus-worker1"]["image"]
    run()
    platform = run.host.services["citus-worker1"].get("platform")
    assert run.host.engine.done == [f"pull {image}" + (f" for {platform}" if platform else "")]
    assert run.told(f"image:{image}", EventKind.DONE) == [f"pulled {image}"]


def test_an_image_that_cannot_be_pulled_starts_nothing(run: Run) -> None:
    run.host.engine.images = set()
    run.host.engine.pull_failure = ServiceFailedError("There is no such image.")
    with pytest.raises(PreflightError) as caught:
        run()
    (detail,) = caught.value.details
    assert "is missing. There is no such image." in detail and "--citus-image" in detail
    assert run.host.asked == []


def test_the_api_is_built_where_its_image_is_missing(more: Run) -> None:
    image = more.host.services["admin-api"]["image"]
    more.host.engine.images = {service["image"] for service in more.host.services.values()} - {image}
    more()
    assert more.host.engine.done == ["build admin-api"]
    assert more.told("build:admin-api") == ["building admin-api", "building admin-api: #1 building", "built admin-api"]


def test_a_build_that_fails_starts_nothing(more: Run) -> None:
    more.host.engine.images = {service["image"] for service in more.host.services.values() if "build" not in service}
    more.host.compose_failure = ComposeError(("docker", "compose", "build"), 1, ["a", "b", "c", "no network"])
    with pytest.raises(PreflightError) as caught:
        more()
    assert "could not be built: b; c; no network." in caught.value.details[0]
    assert more.host.asked == []


# Containers of earlier starts


def test_a_container_that_a_killed_start_left_gets_its_name_again(run: Run) -> None:
    run.host.run()
    run.host.engine.change("citus-worker1", name="0a1b2c_citus-worker1")
    run()
    assert run.host.engine.done == ["rename 0a1b2c_citus-worker1 to citus-worker1"]
    assert run.told("rename:citus-worker1")[0].startswith("renamed the container citus-worker1 back")


def test_a_name_that_is_taken_and_names_of_others_are_left(run: Run) -> None:
    run.host.run()
    run.host.engine.change("citus-worker1", name="0a_citus-worker1")
    run.host.engine.add("mine", name="citus-worker1", ours=False)
    run.host.engine.change("citus-worker2", name="my-own-name")
    run()
    assert run.host.engine.done == []


def test_a_container_whose_folder_was_replaced_is_restarted_once_that_is_certain(run: Run) -> None:
    run.host.run()
    run.host.engine.stale = {"citus-worker1": [True], "citus-worker2": [True, False]}
    run()
    assert run.host.engine.done == ["restart citus-worker1"]
    assert run.told("remount") == ["restarting citus-worker1: the folder that it mounts was replaced"]


def test_a_container_that_this_start_made_is_not_disturbed(run: Run) -> None:
    run.host.engine.stale = {name: [True] for name in NODES}
    run()
    assert run.host.engine.done == []


@pytest.mark.parametrize(
    ("started_at", "restarts"),
    [("2000-01-01T00:00:00+00:00", True), ("2100-01-01T00:00:00+00:00", True), ("now", False)],
)
def test_what_reads_a_password_at_its_start_is_restarted_after_a_change(
    more: Run, started_at: str, restarts: bool
) -> None:
    """A start in the future proves that the clock was set back, so nothing is known."""
    at = datetime.now(UTC).isoformat() if started_at == "now" else started_at
    more.host.run(started_at=at)
    more()
    assert (f"restart {REDIS}" in more.host.engine.done) is restarts
    assert ("restart citus-worker1" in more.host.engine.done) is False
    if restarts:
        assert more.told(f"password:{REDIS}")[0].startswith(f"restarting {REDIS}: ")


# Settings


def test_servers_that_read_changed_settings_again_are_told_once(run: Run) -> None:
    run.host.run()
    run.host.reloads = {"citus-worker1"}
    assert run().reloaded == ("citus-worker1",)
    assert run.told("reload") == ["citus-worker1 has reloaded its changed settings"]


def test_a_server_that_was_just_made_has_reloaded_nothing(run: Run) -> None:
    run.host.reloads = {"citus-worker1"}
    assert run().reloaded == ()


def unused(*, needs_restart: bool) -> UnusedSetting:
    return UnusedSetting("postgresql.conf", 7, "work_mem", "x", "invalid value", "4MB", needs_restart=needs_restart)


def test_a_setting_that_a_server_refused_is_an_error_and_one_that_waits_is_not(run: Run) -> None:
    run.host.unused = {"citus-worker1": (unused(needs_restart=True),)}
    run()
    (told,) = run.told("settings:citus-worker1", EventKind.WARNING)
    assert "only after a restart (docker compose restart citus-worker1)" in told
    run.host.unused = {name: (unused(needs_restart=False),) for name in NODES[:2]}
    with pytest.raises(SettingRefusedError, match=r"^citus-coordinator, citus-worker1 refused 2 settings") as caught:
        run()
    assert len(caught.value.details) == 2


# Registration


def test_a_worker_that_an_operator_removed_stays_out_with_the_way_back(run: Run) -> None:
    run.host.citus.recorded = {TWO}
    result = run()
    assert [node.outcome for node in result.nodes] == [Outcome.ADDED, Outcome.WITHDRAWN]
    (told,) = run.told("register:citus-worker2", EventKind.WARNING)
    assert "add_worker.py --host citus-worker2 --port 5432" in told and "nodes remove citus-worker2" in told


def test_a_worker_that_does_not_register_is_waited_for_half_a_minute(run: Run) -> None:
    run.host.citus.servers[TWO].silence = "it is paused"
    with pytest.raises(NotRegisteredError):
        run(timeout_s=300)
    assert 30 <= run.events[-1][0] < 35


def test_a_drained_worker_is_told_and_named_in_the_next_commands(run: Run) -> None:
    run()
    run.host.citus.change(TWO, should_have_shards=False)
    result = run()
    (told,) = run.told("drained:citus-worker2")
    assert "nodes drain citus-worker2 --undo" in told
    assert "citus-cluster nodes drain citus-worker2 --wait" in result.access.next_commands


# The admin API and the companions


def test_companions_and_the_api_are_started_and_named(more: Run) -> None:
    result = more()
    assert result.companions == (REDIS,)
    assert more.told("ready:admin-api", EventKind.DONE)
    assert more.citus[0].companions == ()


def test_citus_does_not_wait_for_a_companion_that_fails(more: Run) -> None:
    more.host.engine.health[REDIS] = HealthProbe(False, "it is slow")
    with pytest.raises(ServiceFailedError, match="Citus is running") as caught:
        more(timeout_s=20)
    assert len(more.citus) == 1
    assert f"{REDIS} did not become ready" in caught.value.message
    (at_citus,) = [at for at, event in more.events if event.step == "verify" and event.kind is EventKind.DONE]
    assert at_citus < 5


def test_a_companion_whose_image_is_missing_holds_up_nobody(more: Run) -> None:
    image = more.host.services[REDIS]["image"]
    more.host.engine.images = {service["image"] for service in more.host.services.values()} - {image}
    more()
    assert more.host.asked[0] == ("admin-api", *NODES)
    assert more.host.asked[1] == (REDIS,)
    assert more.host.engine.done[0].startswith(f"pull {image}")


def test_a_paused_companion_is_left_out_of_composes_work_and_told(more: Run) -> None:
    more.host.run()
    more.host.engine.change(REDIS, state="paused")
    with pytest.raises(
        ServiceFailedError, match=f"its container is paused; to resume it: docker unpause {REDIS}"
    ) as caught:
        more()
    assert more.host.asked == [("admin-api", *NODES)]
    assert "Citus is running" in caught.value.message


def test_an_api_that_ran_before_and_stays_unhealthy_is_restarted_once(more: Run) -> None:
    more.host.run()
    more.host.api = HealthProbe(False, "it sees an old cluster")
    restart = more.host.engine.restart

    def mend(container: Any, timeout_s: int = 120) -> None:
        restart(container, timeout_s)
        more.host.api = HEALTHY

    more.host.engine.restart = mend  # type: ignore[method-assign]
    more.host.engine.health["admin-api"] = lambda: more.host.api
    more()
    assert more.host.engine.done == ["restart admin-api"]
    assert more.told("restart:admin-api", EventKind.WARNING) == [
        "restarting admin-api: the cluster is verified, but it still reports: it sees an old cluster"
    ]


def test_an_api_that_was_just_made_is_only_waited_for(more: Run) -> None:
    more.host.engine.health["admin-api"] = HealthProbe(False, "it is new")
    with pytest.raises(ServiceFailedError, match="admin-api did not become ready"):
        more(timeout_s=40)
    assert more.told("restart") == []


@pytest.mark.parametrize("ready", [True, False])
def test_what_the_components_lack_is_told_at_once_and_is_the_error_when_everything_was_tried(
    more: Run, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    """A service that lacks it may not become ready, and does not know why."""
    if not ready:
        more.host.engine.health[REDIS] = HealthProbe(False, "it lacks something")
    failure = UnreachableError("The coordinator is gone.")

    async def fail(directory: object, emit: object) -> UnreachableError:
        return failure

    monkeypatch.setattr(preparation, "prepare_coordinator_of", fail)
    monkeypatch.setattr("citus_cluster.operations.start.up.prepare_coordinator_of", fail)
    with pytest.raises(UnreachableError, match="The coordinator is gone"):
        more(timeout_s=40)
    assert more.told("prepare", EventKind.WARNING) == ["The coordinator is gone."]
    assert bool(more.told(f"ready:{REDIS}", EventKind.DONE)) is ready


# A newer or older Citus


def behind() -> dict[str, ExtensionVersions | None]:
    return dict.fromkeys(NODES, ExtensionVersions("13.0-1", "13.2-1"))


def test_an_extension_that_the_image_does_not_serve_is_updated_with_consent(run: Run) -> None:
    run.host.versions, run.host.unserving = behind(), set(NODES)
    run()
    assert run.host.updated == [*NODES, "finish on citus-coordinator"]
    assert len(run.questions) == 1
    assert "citus-worker2 13.0-1 → 13.2-1" in run.questions[0]
    assert run.told("extension:citus-worker1", EventKind.DONE) == [
        "citus-worker1: updated the extension citus from 13.0-1 to 13.2-1"
    ]


def test_without_consent_nothing_is_updated(run: Run) -> None:
    run.host.versions, run.host.unserving, run.says = behind(), set(NODES), False
    with pytest.raises(ConsentNeededError, match="must be updated"):
        run()
    assert run.host.updated == []


def test_an_extension_that_works_is_updated_only_on_request(run: Run) -> None:
    run.host.versions = behind()
    run()
    assert (run.host.updated, run.questions) == ([], [])
    assert run.told("extension", EventKind.WARNING)[0].startswith("Citus' extension is older than the image")
    run(upgrade_citus=True)
    assert run.host.updated == [*NODES, "finish on citus-coordinator"]


def test_an_image_that_is_too_old_for_the_data_is_refused(run: Run) -> None:
    run.host.versions = {"citus-worker1": ExtensionVersions("13.2-1", "13.0-1")}
    run()
    assert "has data of Citus 13.2-1, but its image has the older Citus 13.0-1" in run.told("extension")[0]
    run.host.unserving = {"citus-worker1"}
    with pytest.raises(MismatchError, match="citus-worker1 has data of Citus"):
        run()


def test_a_database_without_the_extension_is_left_to_the_init_scripts(run: Run) -> None:
    run.host.versions = dict.fromkeys(NODES)
    run.host.unserving = set(NODES)
    run()
    assert run.host.updated == []


OLDER, NEWER = "citusdata/citus:13.0.3", "citusdata/citus:14.0.1"


def test_a_newer_image_is_asked_about_before_a_container_is_replaced(run: Run) -> None:
    run.host.run(image=OLDER)
    run.host.versions, run.says = behind(), False
    with pytest.raises(ConsentNeededError):
        run()
    assert run.questions == [question for question in run.questions if f"{OLDER} → " in question]
    assert (run.host.asked, len(run.questions)) == ([], 1)


def test_a_newer_image_that_serves_the_data_needs_no_consent_yet(run: Run) -> None:
    run.host.run(image=OLDER)
    run()
    assert run.questions == []


def test_an_older_image_is_refused_before_a_container_is_replaced(run: Run) -> None:
    run.host.run(image=NEWER)
    run.host.versions = dict.fromkeys(NODES, ExtensionVersions("14.0-1", "14.0-1"))
    with pytest.raises(MismatchError, match="The cluster has data of Citus 14"):
        run()
    assert run.host.asked == []
    # Before the extension was updated, the older image still fits.
    run.host.versions = {}
    run()


def test_a_node_that_does_not_run_tells_no_versions_and_a_newer_image_is_asked_about(run: Run) -> None:
    run.host.run(image=OLDER)
    for name in NODES:
        run.host.engine.change(name, state="exited")
    run()
    assert len(run.questions) == 1


def test_containers_of_companions_tell_nothing_of_citus(more: Run) -> None:
    more.host.run()
    more.host.engine.change(REDIS, image=OLDER)
    more()
    assert more.questions == []


# Containers that are no longer wanted


def test_our_own_container_of_no_service_is_stopped_and_the_users_is_not(run: Run) -> None:
    run.host.run()
    run.host.engine.add("redis", working_dir=str(run.host.root))
    run.host.engine.add("mine", ours=False)
    run()
    assert run.host.engine.done == ["stop redis"]
    assert run.told("stop") == ["stopped redis, which is no longer enabled"]


def test_a_container_that_is_stopped_already_is_not_stopped_again(run: Run) -> None:
    run.host.run()
    run.host.engine.add("redis", working_dir=str(run.host.root), state="exited")
    run()
    assert (run.host.engine.done, run.told("stop")) == ([], [])


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """A cluster of one worker that the second has left; both containers are there."""
    set_up(tmp_path, {"workers": 2, "services": ["citus"]})
    set_up(tmp_path, {"workers": 1}, removed_workers=frozenset({"citus-worker2"}))
    run = Run(fake_engine.in_place(monkeypatch, tmp_path, ONE))
    run.host.run()
    run.host.engine.add("citus-worker2", working_dir=str(tmp_path))
    return run


def test_a_worker_that_has_left_is_stopped_once_the_coordinator_knows(removed: Run) -> None:
    removed()
    assert removed.host.engine.done == ["stop citus-worker2"]
    assert "has left the cluster, but its container still exists" in removed.told("stop:citus-worker2")[-1]


def test_a_worker_that_the_node_list_still_names_keeps_running(removed: Run) -> None:
    removed.host.citus.register(TWO)
    removed()
    assert removed.host.engine.done == []
    (told,) = removed.told("stop:citus-worker2", EventKind.WARNING)
    assert "the coordinator's node list names it" in told and "nodes drain citus-worker2:5432" in told


def test_a_node_that_cluster_yaml_names_is_never_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus", "redis"]})
    set_up(tmp_path, {"services": ["redis"]})
    run = Run(fake_engine.in_place(monkeypatch, tmp_path))
    run.host.run()
    run.host.engine.add("citus-worker1", working_dir=str(tmp_path))
    result = run()
    assert run.host.engine.done == []
    (told,) = run.told("stop:citus-worker1", EventKind.WARNING)
    assert "keeps running although it is not enabled" in told
    assert (result.verified, result.companions) == (False, (REDIS,))
