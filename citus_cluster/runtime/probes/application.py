"""The status of an application that answers HTTP: what it says itself."""

import asyncio

from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.runtime.probes import Doubt
from citus_cluster.runtime.probes.http_health import read_health

_CONDITIONS = {"ok": Condition.OK, "degraded": Condition.DEGRADED}


class ApplicationProbe:
    """One server; it gets no password."""

    def __init__(self, target: Target, _password: str, _doubt: Doubt, *, path: str = "/health") -> None:
        self._component = target.component
        self._path = path
        (self._address,) = target.addresses.values()

    async def ask(self, timeout_s: float) -> CompanionStatus:
        """Ask. Never raises because the server is down, and ends in time."""
        answer = await asyncio.to_thread(
            read_health, self._address.host, self._address.port, self._path, timeout_s=timeout_s
        )
        condition = _CONDITIONS.get(answer.status, Condition.OK) if answer.ok else Condition.DOWN
        summary = "serves requests" if condition is Condition.OK else ""
        return CompanionStatus(self._component, condition, answer.reason, {}, summary)

    async def close(self) -> None:
        """Do nothing: no connection stays open."""
