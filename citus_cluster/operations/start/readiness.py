"""Waiting until services are ready, by probing them; reports at once if one cannot become ready, and why.

Docker's own health checks run at an interval of seconds, which would dominate the start. So a service is first probed
cheaply on its published port, and once it answers, its health check runs in it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from citus_cluster.errors import AuthenticationError, EngineUnavailableError, ServiceFailedError
from citus_cluster.model.component import FENCED
from citus_cluster.model.plan.causes import last_reason, probable_cause
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.containers import last_log_lines
from citus_cluster.runtime.docker.engine import Container, Engine, HealthProbe, in_thread
from citus_cluster.runtime.docker.project import Project

POLL_S = 0.2
_LOOK_EVERY_S = 0.5
# If the port cannot be reached from here (a remote engine), only the health check decides.
_PROBE_ANYWAY_EVERY_S = 5.0
_PROBE_AGAIN_AFTER_S = 0.5
_RESTARTS_TOLERATED = 1

Knock = Callable[[], Awaitable[HealthProbe]]
"""A cheap check from here whether a service answers. Raises AuthenticationError if the password is wrong."""


class _CrashedError(Exception):
    """A container that cannot become ready by waiting."""


@dataclass(frozen=True)
class Failure:
    """A service that is not ready: the state of its container, and the output of its health check and its log."""

    service: str
    container_name: str
    condition: str
    health: str
    log_lines: tuple[str, ...]
    exit_code: int = 0
    oom_killed: bool = False

    def lines(self) -> tuple[str, ...]:
        found = [f"{self.service}: {self.condition}"]
        found += [f"{self.service} health: {line}" for line in self.health.splitlines()]
        return (*found, *(f"{self.service} log: {line}" for line in self.log_lines))


class ContainerCache:
    """Inspects a project's containers, at most twice a second for all callers."""

    def __init__(self, engine: Engine, project: str, before: Iterable[Container]) -> None:
        self.engine = engine
        self._project = Project(project, engine)
        self._restarts = {container.id: container.restart_count for container in before}

    async def container(self, service: str) -> Container | None:
        _, found = await self._project.look(max_age_s=_LOOK_EVERY_S)
        return next((container for container in found if container.service == service), None)

    def restarts(self, container: Container) -> int:
        """Return how often Docker has restarted it since the watch began."""
        return container.restart_count - self._restarts.get(container.id, 0)


async def wait_until_ready(
    containers: ContainerCache,
    knocks: Mapping[str, Knock],
    emit: Emit,
    *,
    deadline: float,
    timeout_s: float,
    until: Callable[[HealthProbe], bool] = lambda probe: probe.ok,
) -> None:
    """Wait until each service answers its probe, and then passes its own health check, according to ``until``.

    ``deadline`` is in terms of time.monotonic(), ``timeout_s`` for the message. Raises ServiceFailedError,
    at once for a container that has ended or keeps restarting, with health output, log, and probable cause.
    """
    if not knocks:
        return
    tasks = {
        service: asyncio.create_task(_become_ready(containers, service, knocks[service], emit, until))
        for service in knocks
    }
    try:
        left_s = max(0.0, deadline - time.monotonic())
        await asyncio.wait(tasks.values(), timeout=left_s, return_when=asyncio.FIRST_EXCEPTION)
        errors = {service: task.exception() for service, task in tasks.items() if task.done()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    for error in errors.values():
        if error is not None and not isinstance(error, _CrashedError | AuthenticationError):
            raise error
    crashed = [service for service, error in errors.items() if error is not None]
    late = [service for service in tasks if service not in errors]
    if crashed or late:
        said = {service: str(error) for service, error in errors.items() if isinstance(error, AuthenticationError)}
        raise await _failed(containers, crashed or late, said, emit, timeout_s=None if crashed else timeout_s)


async def _become_ready(
    containers: ContainerCache, service: str, knock: Knock, emit: Emit, until: Callable[[HealthProbe], bool]
) -> None:
    started = time.monotonic()
    probed_at = started
    warned = 0
    step = f"ready:{service}"
    emit(Event(step, EventKind.STARTED, f"waiting for {service}"))
    while True:
        container = await containers.container(service)
        if container is not None:
            _refuse_crashed(containers, container)
            if containers.restarts(container) > warned:
                warned = containers.restarts(container)
                message = f"{service} ended with exit status {container.exit_code}, and was started again"
                emit(Event(step, EventKind.WARNING, message))
        if container is not None and container.state == "running":
            answer = await knock()
            since_s = time.monotonic() - probed_at
            if (
                answer.ok and since_s > _PROBE_AGAIN_AFTER_S * (probed_at > started)
            ) or since_s > _PROBE_ANYWAY_EVERY_S:
                probe = await in_thread(containers.engine.run_health_check, container)
                if probe.output.startswith(FENCED):
                    raise _CrashedError
                if until(probe):
                    seconds = round(time.monotonic() - started, 2)
                    emit(Event(step, EventKind.DONE, f"{service} is ready", {"seconds": seconds}))
                    return
                probed_at = time.monotonic()
                emit(
                    Event(
                        step,
                        EventKind.PROGRESS,
                        f"waiting for {service}: {last_reason(probe.output) or 'its health check fails'}",
                    )
                )
        await asyncio.sleep(POLL_S)


def _refuse_crashed(containers: ContainerCache, container: Container) -> None:
    if container.state in {"exited", "dead", "paused"} or containers.restarts(container) > _RESTARTS_TOLERATED:
        raise _CrashedError


async def _failed(
    containers: ContainerCache, services: Sequence[str], said: Mapping[str, str], emit: Emit, *, timeout_s: float | None
) -> ServiceFailedError:
    """Examine the services that are not ready, and combine all findings in one error."""
    failures = await asyncio.gather(*(_examine(containers, service, said.get(service, "")) for service in services))
    for failure in failures:
        emit(Event(f"ready:{failure.service}", EventKind.FAILED, f"{failure.service}: {failure.condition}"))
    first = failures[0]
    text = "\n".join((first.condition, first.health, *first.log_lines))
    cause = probable_cause(text, exit_code=first.exit_code, oom_killed=first.oom_killed)
    names = ", ".join(services)
    what = f"{names} did not become ready within {timeout_s:g} s" if timeout_s else f"{names} cannot start"
    why = f": {cause.text}" if cause else f": {first.condition}"
    return ServiceFailedError(
        f"{what}{why}.",
        details=[line for failure in failures for line in failure.lines()],
        hint=" ".join(
            [*([cause.hint] if cause else []), f"To see the complete log: docker logs {first.container_name}"]
        ),
    )


async def _examine(containers: ContainerCache, service: str, said: str) -> Failure:
    container = await containers.container(service)
    if container is None:
        return Failure(service, service, "it has no container", said, ())
    health = ""
    if container.state == "running":
        try:
            health = (await in_thread(containers.engine.run_health_check, container, 3.0)).output
        except EngineUnavailableError as error:
            health = error.message
    # A container that keeps restarting may not have written anything since its last start.
    keeps_ending = containers.restarts(container) > _RESTARTS_TOLERATED
    log_lines = await last_log_lines(containers.engine, container, earlier=keeps_ending)
    return Failure(
        service=service,
        container_name=container.name,
        condition=condition(container, containers.restarts(container)),
        health="\n".join(dict.fromkeys(part for part in (said, health or container.health_output) if part)),
        log_lines=log_lines,
        exit_code=container.exit_code,
        oom_killed=container.oom_killed,
    )


def condition(container: Container, restarts: int) -> str:
    """Describe the state of a container."""
    ended = f"exit status {container.exit_code}" + (", out of memory" if container.oom_killed else "")
    reason = f": {container.error}" if container.error else ""
    if restarts > 0:
        times = "once" if restarts == 1 else f"{restarts} times"
        return f"it was restarted {times}, last after {ended}{reason}"
    if container.state in {"exited", "dead"}:
        return f"its container ended with {ended}{reason}"
    if container.state == "running":
        return "its container runs, but its health check fails"
    if container.state == "paused":
        return f"its container is paused; to resume it: docker unpause {container.name}"
    return f"its container is {container.state}{reason}"
