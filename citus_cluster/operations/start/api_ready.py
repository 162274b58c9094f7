"""The admin API at a start: wait until it is healthy, and restart one that stays unhealthy in a verified cluster."""

import asyncio
import time
from collections.abc import Iterable

from citus_cluster.model.component import AsksHttp
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.topology import Topology
from citus_cluster.operations.start.readiness import ContainerCache, wait_until_ready
from citus_cluster.runtime.docker.engine import Container, HealthProbe, in_thread
from citus_cluster.runtime.probes.http_health import probe_http

KNOCK_TIMEOUT_S = 2.0
PATIENCE_S = 15.0
"""A working API becomes healthy much earlier: it checks the cluster every second, and connects within three."""
_STOP_S = 10
"""It ends within five seconds of SIGTERM, unless it hangs."""


class ApiWait:
    """Waits for the admin API of a topology, if it has one.

    ``before`` are the containers before the start. ``deadline`` is in terms of time.monotonic().
    """

    def __init__(
        self,
        topology: Topology,
        containers: ContainerCache,
        before: Iterable[Container],
        emit: Emit,
        *,
        deadline: float,
        timeout_s: float,
    ) -> None:
        self._topology = topology
        self._api = next(iter(topology.of(ComponentName.ADMIN_API)), None)
        self._containers = containers
        self._ran_before = {(one.id, one.started_at) for one in before if one.state == "running"}
        self._emit = emit
        self._deadline = deadline
        self._timeout_s = timeout_s
        self._reason = "it does not answer"

    async def ready(self) -> None:
        """Wait until it reports that the cluster is healthy. Raises ServiceFailedError."""
        if api := self._api:
            knocks = {api.name: self._knock}
            await wait_until_ready(
                self._containers, knocks, self._emit, deadline=self._deadline, timeout_s=self._timeout_s
            )

    async def ready_beside_verified(self, waiting: asyncio.Task[None]) -> None:
        """Continue ``waiting``, the task of :meth:`ready`, after the verification of the cluster.

        A container that ran before this start and stays unhealthy is restarted once. Raises ServiceFailedError.
        """
        left_s = max(0.0, self._deadline - time.monotonic())
        await asyncio.wait({waiting}, timeout=min(PATIENCE_S, left_s))
        api = self._api
        container = await self._containers.container(api.name) if api and not waiting.done() else None
        if container is None or (container.id, container.started_at) not in self._ran_before:
            await waiting
            return
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        message = f"restarting {container.service}: the cluster is verified, but it still reports: {self._reason}"
        self._emit(Event(f"restart:{container.service}", EventKind.WARNING, message))
        await in_thread(self._containers.engine.restart, container, _STOP_S)
        await self.ready()

    async def _knock(self) -> HealthProbe:
        api = self._api
        assert api is not None  # noqa: S101 - only an existing API is probed
        assert isinstance(api.knock, AsksHttp)  # noqa: S101 - as it declares
        host, path = self._topology.connect_host, api.knock.path
        answer = await in_thread(probe_http, host, api.host_port, path, timeout_s=KNOCK_TIMEOUT_S)
        self._reason = answer.output or self._reason
        return answer
