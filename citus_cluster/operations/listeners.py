"""Who listens on a published port of this machine: a container of ours, or whoever was faster.

While a container does not run, every user of the machine may listen on its port and be taken for it. Redis and
Cassandra know passwords in clear alone, so the engine is asked first: where it listens for a container of ours, nobody
else can.
"""

from collections.abc import Sequence

from citus_cluster.errors import EngineUnavailableError
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.engine import Container, Engine, in_thread


class Listeners:
    """Tells the addresses of a directory's containers apart from others."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    async def doubt(self, address: NodeAddress) -> str | None:
        """Say why what listens at ``address`` may not be ours; None where a container of ours does, at this moment."""
        try:
            engine = await in_thread(Engine.connect)
            containers = await in_thread(engine.project_containers, self._directory.topology.name)
        except EngineUnavailableError:
            return (
                f"not asked: without a Docker engine nobody can tell whether {address} is ours, and the password would "
                "go out in clear"
            )
        if not engine.is_local:
            return (
                f"not asked: the Docker engine is on another machine ({engine.host}), so {address} is not its port, "
                "and the password would go out in clear"
            )
        return why_not_ours(address, containers)


def why_not_ours(address: NodeAddress, containers: Sequence[Container]) -> str | None:
    """Say why none of ``containers`` listens at ``address`` of this machine."""
    everywhere = "::" if ":" in address.host else "0.0.0.0"  # noqa: S104 - only compared
    for one in containers:
        places = {host for host, port in one.open_ports if port == address.port}
        if one.ours and one.state in {"running", "paused"} and places & {address.host, everywhere}:
            return None
    return f"not asked: its container does not run, so whatever listens on {address} is another program"
