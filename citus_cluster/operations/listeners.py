"""Checks whether one of our containers, or another program, listens on a published port of this machine.

While a container does not run, every user of the machine may listen on its port and impersonate it. Redis and Cassandra
accept passwords only in cleartext, so the engine is asked first: if it listens for one of our containers, no other
program can.
"""

from collections.abc import Sequence

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.runtime.docker.engine import Container
from citus_cluster.runtime.docker.project import Project

# After a container has ended, other programs can use its port.
_MAX_AGE_S = 1.0


class Listeners:
    """Distinguishes the addresses of a directory's containers from others, with one query to the engine."""

    def __init__(self, containers: Sequence[Container] | None, reason: str = "") -> None:
        self._containers = containers
        self._reason = reason

    @classmethod
    async def look(cls, project: Project) -> "Listeners":
        """Ask the engine just before the servers are asked. If no engine answers, no port is ours."""
        try:
            engine, containers = await project.look(max_age_s=_MAX_AGE_S)
        except CitusClusterError:
            return cls(None, "no Docker engine can confirm that this is our port")
        if not engine.is_local:
            return cls(None, f"the Docker engine is on another machine ({engine.host}), so this port is not its own")
        return cls(containers)

    async def doubt(self, address: NodeAddress) -> str | None:
        """Return why the listener at ``address`` may not be ours; None if it is one of our containers."""
        if self._containers is None:
            return f"{address} was not asked: {self._reason}, and the password would be sent in cleartext"
        return why_not_ours(address, self._containers)


def why_not_ours(address: NodeAddress, containers: Sequence[Container]) -> str | None:
    """Return why none of ``containers`` listens at ``address`` of this machine."""
    everywhere = "::" if ":" in address.host else "0.0.0.0"  # noqa: S104 - only compared
    for one in containers:
        places = {host for host, port in one.open_ports if port == address.port}
        if one.ours and one.state in {"running", "paused"} and places & {address.host, everywhere}:
            return None
    return f"{address} was not asked: its container does not run, so another program may listen there"
