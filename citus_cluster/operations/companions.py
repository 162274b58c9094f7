"""The status of the companions, read from all at once; a failure of one never hides the rest.

The command line and the admin API both use this module, so it needs neither an engine nor a generated directory.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName
from citus_cluster.runtime.probes import Doubt, Probe
from citus_cluster.runtime.probes.registry import PROBES

logger = logging.getLogger(__name__)
_GRACE_S = 0.5
"""Each driver has its own time limit, and reports more details than a plain time-out."""

Ask = Callable[[float], Awaitable[CompanionStatus]]
PasswordOf = Callable[[ComponentName], str]


class Companions:
    """Reads the status of the companions while it is open; each probe keeps its connection, which ``close`` closes."""

    def __init__(
        self,
        targets: Sequence[Target],
        password_of: PasswordOf,
        *,
        doubt: Doubt,
        instead: Mapping[ComponentName, Ask] | None = None,
    ) -> None:
        """Does not connect yet. ``password_of`` may raise CitusClusterError: that companion is then down.

        ``doubt`` is for servers that accept passwords only in cleartext. ``instead`` replaces a probe if the containers
        can be inspected too.
        """
        self._targets = {target.component: target for target in targets}
        self._password_of = password_of
        self._doubt = doubt
        self._instead = instead or {}
        self._probes: dict[ComponentName, Probe] = {}

    @property
    def wanted(self) -> tuple[ComponentName, ...]:
        """The companions, in the order of their answers."""
        return tuple(self._targets)

    async def ask_all(
        self, timeout_s: float, only: Collection[ComponentName] | None = None
    ) -> tuple[CompanionStatus, ...]:
        """Read the status of all, or ``only`` these. Takes little more than ``timeout_s``; a failure does not raise."""
        wanted = [component for component in self.wanted if only is None or component in only]
        asks = {component: self._instead.get(component, self._ask(component)) for component in wanted}
        return tuple(await asyncio.gather(*(_asked(component, asks[component], timeout_s) for component in wanted)))

    async def close(self) -> None:
        """Close every connection. A later call opens them again."""
        probes = tuple(self._probes.values())
        self._probes = {}
        for outcome in await asyncio.gather(*(probe.close() for probe in probes), return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.warning("a connection did not close: %s", outcome)

    def _ask(self, component: ComponentName) -> Ask:
        async def ask(timeout_s: float) -> CompanionStatus:
            if component not in self._probes:
                target = self._targets[component]
                self._probes[component] = PROBES[component](target, self._password_of(component), self._doubt)
            return await self._probes[component].ask(timeout_s)

        return ask


async def _asked(component: ComponentName, ask: Ask, timeout_s: float) -> CompanionStatus:
    """Read the status of one, and turn every error into its status."""
    try:
        async with asyncio.timeout(timeout_s + _GRACE_S):
            return await ask(timeout_s)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except CitusClusterError as error:
        reason = error.message
    except Exception as error:
        # A bug in our code or in a driver; the others are still shown.
        logger.exception("%s could not be asked", component.value)
        reason = f"it could not be asked ({type(error).__name__})"
    return CompanionStatus(component, Condition.DOWN, reason, {})
