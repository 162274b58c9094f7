"""How a kind of server is asked how it is; a component that needs a probe has it here, under its name.

A probe connects when it is first asked, keeps its connection, and finds a server that came back.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus
from citus_cluster.model.companion_target import Target

Doubt = Callable[[NodeAddress], Awaitable[str | None]]
"""Why what listens at an address may not be ours, and is sent no password; None where it is ours."""


class Probe(Protocol):
    """Asks the services of one component."""

    async def ask(self, timeout_s: float) -> CompanionStatus:
        """Ask, and judge the answers. Never raises because a server is down, and ends in time."""

    async def close(self) -> None:
        """Close what is open; it may be asked again."""


Factory = Callable[[Target, str, Doubt], Probe]
"""Makes a probe from what is asked, the password, and the doubt whether it is ours."""
