"""The disks below the servers of this directory, measured in their containers."""

import asyncio
from collections.abc import Mapping

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.disks import Disk
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread
from citus_cluster.runtime.docker.project import Project

_TIMEOUT_S = 4.0


async def local_disks(directory: Directory, project: Project) -> Mapping[str, Disk]:
    """Ask each running container for the file system of its data, by service. Skips containers that do not answer."""
    topology = directory.topology
    folders = {service.name: service.data for service in topology.services if service.data}
    try:
        engine, containers = await project.look()
    except CitusClusterError:
        return {}  # problems of the engine are reported with the services
    running = [one for one in containers if one.state == "running" and one.service in folders]
    found = await asyncio.gather(*(_disk(engine, one, folders[one.service or ""]) for one in running))
    return {disk.holder: disk for disk in found if disk}


async def _disk(engine: Engine, container: Container, folder: str) -> Disk | None:
    # Total blocks, blocks available to non-root users, and the block size.
    command = ["stat", "-f", "-c", "%b %a %S", folder]
    try:
        probe = await in_thread(engine.execute, container, command, timeout_s=_TIMEOUT_S)
        blocks, available, size_bytes = (int(part) for part in probe.output.split())
    except (CitusClusterError, ValueError):
        return None
    return Disk(container.service or container.name, blocks * size_bytes, available * size_bytes)
