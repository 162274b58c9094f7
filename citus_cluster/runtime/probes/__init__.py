"""Probes, which read the status of one kind of server each; a component's probe is here, under its name.

A probe connects at the first call, keeps its connection, and reconnects to a server that came back.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus
from citus_cluster.model.companion_target import Target

Doubt = Callable[[NodeAddress], Awaitable[str | None]]
"""Why the listener at an address may not be ours and gets no password; None if it is ours."""


class Probe(Protocol):
    """Reads the status of one component."""

    async def ask(self, timeout_s: float) -> CompanionStatus:
        """Read and judge the status. Never raises because a server is down, and ends in time."""

    async def close(self) -> None:
        """Close the connections. The probe may be called again."""


Factory = Callable[[Target, str, Doubt], Probe]
"""Creates a probe from its targets, the password (empty without one), and the check whether they are ours."""
