"""The latest status of the companions: it is read again when it is too old, and does not delay requests."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from admin_api.configuration import Configuration
from admin_api.settings import Settings
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.operations.companions import Companions
from citus_cluster.runtime.own_network import is_own

_STALE_INTERVALS = 6
"""After this number of intervals, an old answer is no longer used if no new one arrives."""


@dataclass(frozen=True)
class _Answer:
    statuses: tuple[CompanionStatus, ...]
    at: float


class CompanionWatch:
    """Reads the status of the companions in the current configuration; simultaneous requests share one query."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        self._settings = settings
        self._configuration = configuration
        self._targets: tuple[Target, ...] = ()
        self._companions = self._made(self._targets)
        self._since = time.monotonic()
        self._answer: _Answer | None = None
        self._asking: asyncio.Task[None] | None = None
        self._were_well: set[ComponentName] = set()

    async def known(self, *, within_s: float) -> tuple[CompanionStatus, ...]:
        """Return the status of each wanted companion, at most a few seconds old, within ``within_s``.

        Raises ConfigurationError.
        """
        await self._follow(self._configuration.cluster().components)
        if not self._companions.wanted:
            return ()
        if self._answer is None or self._age_s(self._answer) >= self._settings.companion_interval_s:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(), name="companions")
            # A request that ends must not cancel the query for the others.
            await asyncio.wait({self._asking}, timeout=within_s)
        answer = self._answer
        if answer is None or self._age_s(answer) >= _STALE_INTERVALS * self._settings.companion_interval_s:
            return self._judged([_unknown(service, within_s) for service in self._companions.wanted])
        return self._judged(answer.statuses)

    async def close(self) -> None:
        """Cancel the running query, and close all connections."""
        await _close(self._companions, self._asking)

    async def _follow(self, targets: tuple[Target, ...]) -> None:
        if targets == self._targets:
            return
        before, asking = self._companions, self._asking
        # All of this comes before the first await, because another request may run in between.
        self._companions = self._made(targets)
        self._targets, self._since, self._answer, self._asking = targets, time.monotonic(), None, None
        await _close(before, asking)

    def _made(self, targets: Sequence[Target]) -> Companions:
        return Companions(targets, self._configuration.password_of, doubt=doubt)

    async def _ask(self) -> None:
        companions = self._companions
        statuses = await companions.ask_all(self._settings.companion_timeout_s)
        if companions is self._companions:
            self._answer = _Answer(statuses, time.monotonic())
            self._were_well |= {status.service for status in statuses if status.condition is Condition.OK}

    def _judged(self, statuses: Sequence[CompanionStatus]) -> tuple[CompanionStatus, ...]:
        """Report a companion as starting until it has been healthy once, for as long as a start may take."""
        age_s = time.monotonic() - self._since
        return tuple(
            replace(status, condition=Condition.STARTING)
            if _is_silent(status)
            and status.service not in self._were_well
            and age_s < self._settings.start_s(status.service)
            else status
            for status in statuses
        )

    def _age_s(self, answer: _Answer) -> float:
        return time.monotonic() - answer.at


def _is_silent(status: CompanionStatus) -> bool:
    """Whether the server, or one of several servers, does not answer: a replica that is copying, a joining node."""
    several = COMPONENTS[status.service].several
    return status.condition is Condition.DOWN or (several and status.condition is Condition.DEGRADED)


async def _close(companions: Companions, asking: asyncio.Task[None] | None) -> None:
    if asking:
        asking.cancel()
        await asyncio.wait({asking})
    await companions.close()


async def doubt(address: NodeAddress) -> str | None:
    """Return why an address may not be ours: a running container is in the API's network, but its name may resolve
    elsewhere too.
    """
    if await asyncio.to_thread(is_own, address.host):
        return None
    return f"not asked: {address.host} is not in the cluster's network, so its container does not run"


def _unknown(service: ComponentName, within_s: float) -> CompanionStatus:
    return CompanionStatus(service, Condition.DOWN, f"no answer within {within_s:g} s", {})
