"""Who listens on a published port of this machine: a container of ours, or whoever was faster.

While a container does not run, every user of the machine may listen on its port and be taken for it. Redis and
Cassandra know passwords in clear alone, so the engine is asked first: where it listens for a container of ours, nobody
else can.
"""

from collections.abc import Sequence

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.runtime.docker.engine import Container
from citus_cluster.runtime.docker.project import Project

# A container that has ended since leaves its port to others.
_MAX_AGE_S = 1.0


class Listeners:
    """Tells the addresses of a directory's containers apart from others, by one look at the engine."""

    def __init__(self, containers: Sequence[Container] | None, reason: str = "") -> None:
        self._containers = containers
        self._reason = reason

    @classmethod
    async def look(cls, project: Project) -> "Listeners":
        """Ask the engine, just before the servers are asked; where none answers, nothing is ours."""
        try:
            engine, containers = await project.look(max_age_s=_MAX_AGE_S)
        except CitusClusterError:
            return cls(None, "no Docker engine says whether this is our port")
        if not engine.is_local:
            return cls(None, f"the Docker engine is on another machine ({engine.host}), so this is not its port")
        return cls(containers)

    async def doubt(self, address: NodeAddress) -> str | None:
        """Say why what listens at ``address`` may not be ours; None where a container of ours does."""
        if self._containers is None:
            return f"{address} was not asked: {self._reason}, and the password would go out in clear"
        return why_not_ours(address, self._containers)


def why_not_ours(address: NodeAddress, containers: Sequence[Container]) -> str | None:
    """Say why none of ``containers`` listens at ``address`` of this machine."""
    everywhere = "::" if ":" in address.host else "0.0.0.0"  # noqa: S104 - only compared
    for one in containers:
        places = {host for host, port in one.open_ports if port == address.port}
        if one.ours and one.state in {"running", "paused"} and places & {address.host, everywhere}:
            return None
    return f"{address} was not asked: its container does not run, so whatever listens there is another program"
