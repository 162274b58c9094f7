"""A newer Citus in the image: the update of the extension on every node, once all of them run the new library."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from citus_cluster.errors import CitusClusterError, ConsentNeededError, MismatchError
from citus_cluster.model.citus.extension import ExtensionVersions
from citus_cluster.model.citus.nodes import Node
from citus_cluster.model.images import ReleaseChange, release_change, tag_version
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.citus.extension import (
    extension_versions,
    finish_upgrade,
    library_serves,
    update_extension,
)
from citus_cluster.runtime.docker.engine import Container
from citus_cluster.runtime.postgres import Connection, connect, translated

T = TypeVar("T")
CONNECT_TIMEOUT_S = 10.0
Agree = Callable[[str], bool]
"""Asks for consent, with the question as text."""


def never(question: str) -> bool:
    """Never agree."""
    return False


def agree_once(agree: Agree) -> Agree:
    """Return an ``agree`` that does not ask again after consent was given."""
    agreed = False

    def ask(question: str) -> bool:
        nonlocal agreed
        agreed = agreed or agree(question)
        return agreed

    return ask


async def refuse_or_ask(directory: Directory, containers: Iterable[Container], agree: Agree) -> None:
    """Compare the images of the nodes' containers with the wanted one, before a container is replaced.

    This works only for names with version tags; for others, ``update_extensions`` asks the servers. Raises
    MismatchError, ConsentNeededError.
    """
    wanted = directory.topology.citus_image.name
    nodes = {node.service for node in directory.topology.nodes}
    for container in containers:
        if container.service not in nodes:
            continue
        change = release_change(container.image, wanted)
        if change is ReleaseChange.OLDER:
            # An older image is allowed as long as the extension was not updated.
            versions = await _versions_now(directory)
            release = tag_version(wanted)
            if versions and versions.is_newer_than(release) and not versions.is_served_by(release):
                raise downgrade(f"The cluster has data of Citus {versions.installed}", wanted)
            return
        if change is ReleaseChange.NEWER:
            versions = await _versions_now(directory)
            if versions and versions.is_served_by(tag_version(wanted)):
                return
            require_consent(agree, f"{container.image} → {wanted}")
            return


async def _versions_now(directory: Directory) -> ExtensionVersions | None:
    """Return the versions of the first node of this directory, None if it does not answer."""
    try:
        return await _on(directory, directory.topology.nodes[0], "reading the version of Citus", extension_versions)
    except CitusClusterError:
        return None


async def update_extensions(directory: Directory, agree: Agree, emit: Emit, *, asked_for: bool = False) -> bool:
    """Update the extension of every node of this directory to the image's version. Returns whether one was updated.

    All nodes answer and run the new library by then. If it works with the current data, nothing is updated unless
    ``asked_for``, and a warning names the update. The coordinator comes first, as in Citus' documentation. Each node is
    checked separately, so the next run continues after a killed one. Raises MismatchError if the image is too old for
    the data, ConsentNeededError if it is too new and ``agree`` returns False.
    """
    behind: list[tuple[Node, ExtensionVersions]] = []
    serves = True
    for node in directory.topology.nodes:
        versions, fits = await _on(directory, node, "reading the version of Citus", _look)
        if versions is None:
            continue
        if versions.is_ahead and not fits:
            raise downgrade(f"{node.service} has data of Citus {versions.installed}", versions.available)
        if versions.is_ahead:
            message = (
                f"{node.service} has data of Citus {versions.installed}, but its image has the older Citus "
                f"{versions.available}. They work together; an even older image would not."
            )
            emit(Event(f"extension:{node.service}", EventKind.WARNING, message))
        if versions.is_behind:
            behind.append((node, versions))
            serves = serves and fits
    if not behind:
        return False
    listed = ", ".join(f"{node.service} {versions.installed} → {versions.available}" for node, versions in behind)
    if serves and not asked_for:
        message = (
            f"Citus' extension is older than the image ({listed}). They work together. To update it, make a backup "
            "first, then run: citus-cluster up --upgrade-citus. The update cannot be undone."
        )
        emit(Event("extension", EventKind.WARNING, message))
        return False
    require_consent(agree, listed)
    for node, versions in behind:
        step = f"extension:{node.service}"
        emit(Event(step, EventKind.STARTED, f"updating Citus' extension on {node.service} to {versions.available}"))
        await _on(directory, node, "updating the extension citus", update_extension)
        message = f"{node.service}: updated the extension citus from {versions.installed} to {versions.available}"
        emit(Event(step, EventKind.DONE, message))
    if directory.topology.coordinator:
        await _on(directory, directory.topology.coordinator, "finishing the upgrade of Citus", finish_upgrade)
    return True


async def _look(conn: Connection) -> tuple[ExtensionVersions | None, bool]:
    """Return the versions of a node, and whether its library serves the data; None without the extension."""
    versions = await extension_versions(conn)
    return versions, versions is None or await library_serves(conn)


async def _on(directory: Directory, node: Node, doing: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    conn = await connect(directory.connection(directory.topology.service(node.service)), timeout_s=CONNECT_TIMEOUT_S)
    async with conn, translated(f"{doing} on {node.service}", server=node.service):
        return await work(conn)


def require_consent(agree: Agree, what: str) -> None:
    """Ask the question about the backup. Raises ConsentNeededError."""
    question = (
        f"A newer Citus: {what}. The update of its extension (ALTER EXTENSION citus UPDATE) cannot be undone. Do you "
        "have a backup, and do you want to update?"
    )
    if not agree(question):
        raise ConsentNeededError(
            f"Citus' extension must be updated ({what}), which needs your consent.",
            hint="The update cannot be undone: make a backup first (pg_dump, or the volumes of all nodes, taken while "
            "the cluster is down). Then agree: citus-cluster up --upgrade-citus. Or set the earlier image again. "
            "Queries on distributed tables may fail until then.",
        )


def downgrade(what: str, image: str) -> MismatchError:
    """Return the error for an image that is older than the data."""
    return MismatchError(
        f"{what}, but the image has the older Citus {image}; an older Citus cannot serve data of a newer one.",
        hint="Set the newer image again (python setup_citus_cluster.py --citus-image=… --yes), or restore a backup of "
        "the older version.",
    )
