"""Components with more details if the engine is available, and the functions that read them.

A probe reads the answers of servers over the network. The containers have more: the chosen primary, or the ring.
"""

from collections.abc import Awaitable, Callable, Mapping

from citus_cluster.model.companion_status import CompanionStatus
from citus_cluster.model.component_name import ComponentName
from citus_cluster.operations.companions import Ask
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.pair import status as pg14_status
from citus_cluster.runtime.docker.engine import Engine
from citus_cluster.runtime.docker.project import Project

_AT_REST: Mapping[ComponentName, Callable[[Directory, Engine], Awaitable[tuple[str, ...]]]] = {
    ComponentName.PG14: pg14_status.problems_at_rest,
}


async def problems_at_rest(component: ComponentName, directory: Directory, engine: Engine) -> tuple[str, ...]:
    """Return the problems of a component whose services are all ready."""
    return await _AT_REST[component](directory, engine) if component in _AT_REST else ()


def asks(directory: Directory, project: Project) -> Mapping[ComponentName, Ask]:
    """Return the functions that replace a probe."""

    async def ask_pair(timeout_s: float) -> CompanionStatus:
        return (await pg14_status.status(directory, project=project, timeout_s=timeout_s)).companion_status()

    return {ComponentName.PG14: ask_pair}
