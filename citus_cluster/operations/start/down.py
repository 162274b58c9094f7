"""Taking a cluster down. Its data stay unless its volumes are removed too."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from citus_cluster.errors import CitusClusterError, ServiceFailedError
from citus_cluster.model.components import owner_of
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.units import count
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.start.preflight import compose_of, project_findings, refusal
from citus_cluster.runtime.docker import compose
from citus_cluster.runtime.docker.compose import ComposeError
from citus_cluster.runtime.docker.engine import Engine, hung_engine_hint, in_thread

_STAYS = "removed the containers; the network stays for the next start"
# A server has two minutes to stop; a slow engine stops them one after the other.
_TIMEOUT_S = 600.0


async def down(directory: Directory, emit: Emit, *, volumes: bool = False) -> None:
    """Stop and remove the containers and networks of this directory's cluster, of all profiles.

    Objects of the project that are in none of its Compose files may belong to another file, which the user gave to
    Compose with ``-f``: they are kept, and named in a warning. ``volumes`` removes them too, and every named volume of
    the project with all data; the caller must ask the user. Idempotent. Raises EngineUnavailableError, PreflightError
    for a project of the same name from another directory, ComposeError, ServiceFailedError if Compose does not return.
    """
    project = directory.topology.name
    engine = await in_thread(Engine.connect)
    await compose.version()
    containers = await in_thread(engine.project_containers, project)
    if others := list(project_findings(directory.root, containers)):
        raise refusal(others, "nothing was removed", prevented="removal")
    config = await compose_of(directory).config(all_profiles=True)
    foreign = [container for container in containers if container.service not in config["services"]]
    # Of a service that may no longer be in cluster.yaml.
    left = [] if volumes else [container for container in foreign if owner_of(container.service or "") is None]
    for container in foreign:
        if container not in left:
            # No longer in our files or the user's: Compose would keep it, and so the network.
            await in_thread(engine.stop, container)
            await in_thread(engine.remove, container)
            message = f"removing {container.name}: {container.service} is no longer in the Compose files"
            emit(Event(f"down:{container.service}", EventKind.DONE, message))
    emit(Event("down", EventKind.STARTED, "stopping and removing the containers"))
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await compose_of(directory).down(
                lambda line: emit(Event("down", EventKind.PROGRESS, f"removing: {line}")), volumes=volumes
            )
    except TimeoutError:
        message = f"docker compose down did not return within {_TIMEOUT_S:.0f} s."
        raise ServiceFailedError(message, hint=hung_engine_hint()) from None
    except ComposeError as error:
        # Observed with Docker 20.10: an endpoint without a container holds the network.
        alive = {container.id for container in await in_thread(engine.project_containers, project)}
        if alive - {container.id for container in left} or "has active endpoints" not in error.message:
            raise
        emit(Event("down:network", EventKind.WARNING, f"{_STAYS}: {error.message.rpartition(': ')[2]}"))
    in_files = {network["name"] for network in config.get("networks", {}).values()}
    networks = []
    for network in await in_thread(engine.project_networks, project):
        if volumes or (network in in_files and not left):
            # Of a file that no longer exists; the cluster's own network is left only if the engine did not release it.
            with suppress(CitusClusterError):
                await in_thread(engine.remove_network, network)
        else:
            networks.append(network)
    if left or networks:
        emit(Event("down:left", EventKind.WARNING, _what_is_left([container.name for container in left], networks)))
    if not volumes:
        kept = await in_thread(engine.project_volumes, project)
        data = f"; the data stay in {count(len(kept), 'volume')}" if kept else ""
        emit(Event("down", EventKind.DONE, f"{project} is down{data}", {"volumes_kept": list(kept)}))
        return
    for volume in await in_thread(engine.project_volumes, project):
        await in_thread(engine.remove_volume, volume)
    emit(Event("down", EventKind.DONE, f"{project} is down, and its volumes were removed"))


def _what_is_left(containers: Sequence[str], networks: Sequence[str]) -> str:
    commands = [f"docker rm -f {' '.join(containers)}"] if containers else []
    commands += [f"docker network rm {' '.join(networks)}"] if networks else []
    named = ", ".join((*containers, *(f"the network {network}" for network in networks)))
    stays = "stays" if len(containers) + len(networks) == 1 else "stay"
    of_file = (
        "it is in no Compose file of this directory"
        if stays == "stays"
        else "objects in no Compose file of this directory are kept, with the networks that they use"
    )
    return f"{named} {stays}: {of_file}. If you no longer need it: {' && '.join(commands)}"
