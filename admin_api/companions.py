"""The last status of the companions: it is read again when it is old, and delays no request."""

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
"""An answer so many intervals old is no longer shown in place of the one that does not come."""


@dataclass(frozen=True)
class _Answer:
    statuses: tuple[CompanionStatus, ...]
    at: float


class CompanionWatch:
    """Asks as the files say now; everybody who wants to know at the same time shares one question."""

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
        """Return the state of each wanted companion, at most a few seconds old, after ``within_s`` at the latest.

        Raises ConfigurationError.
        """
        await self._follow(self._configuration.cluster().components)
        if not self._companions.wanted:
            return ()
        if self._answer is None or self._age_s(self._answer) >= self._settings.companion_interval_s:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(), name="companions")
            # A request that ends must not end the question of the others.
            await asyncio.wait({self._asking}, timeout=within_s)
        answer = self._answer
        if answer is None or self._age_s(answer) >= _STALE_INTERVALS * self._settings.companion_interval_s:
            return self._judged([_unknown(service, within_s) for service in self._companions.wanted])
        return self._judged(answer.statuses)

    async def close(self) -> None:
        """End the question that is under way, and close all connections."""
        await _close(self._companions, self._asking)

    async def _follow(self, targets: tuple[Target, ...]) -> None:
        if targets == self._targets:
            return
        before, asking = self._companions, self._asking
        # All of it before the first await: another request may come in between.
        self._companions = self._made(targets)
        self._targets, self._since, self._answer, self._asking = targets, time.monotonic(), None, None
        await _close(before, asking)

    def _made(self, targets: Sequence[Target]) -> Companions:
        return Companions(targets, self._configuration.password_of, doubt=_doubt)

    async def _ask(self) -> None:
        companions = self._companions
        statuses = await companions.ask_all(self._settings.companion_timeout_s)
        if companions is self._companions:
            self._answer = _Answer(statuses, time.monotonic())
            self._were_well |= {status.service for status in statuses if status.condition is Condition.OK}

    def _judged(self, statuses: Sequence[CompanionStatus]) -> tuple[CompanionStatus, ...]:
        """Who has not been well yet is starting, for as long as that may take."""
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
    """Whether one does not answer, or, of several servers, some: a replica that is still copying, a joining node."""
    several = COMPONENTS[status.service].several
    return status.condition is Condition.DOWN or (several and status.condition is Condition.DEGRADED)


async def _close(companions: Companions, asking: asyncio.Task[None] | None) -> None:
    if asking:
        asking.cancel()
        await asyncio.wait({asking})
    await companions.close()


async def _doubt(address: NodeAddress) -> str | None:
    """A service whose container runs is in the API's own network; its name may mean something elsewhere too."""
    if await asyncio.to_thread(is_own, address.host):
        return None
    return f"not asked: {address.host} is not in the cluster's network, so its container does not run"


def _unknown(service: ComponentName, within_s: float) -> CompanionStatus:
    return CompanionStatus(service, Condition.DOWN, f"no answer within {within_s:g} s", {})
