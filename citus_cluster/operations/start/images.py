"""The images of a start: which are available, and pulling or building the others."""

import asyncio
from collections.abc import Mapping, Sequence, Set
from typing import Any

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.components import owner_of
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.operations.directory import Directory
from citus_cluster.operations.start.preflight import Finding, Severity, compose_of, refusal
from citus_cluster.runtime.docker.compose import ComposeError
from citus_cluster.runtime.docker.engine import Engine, in_thread


async def late_companions(
    directory: Directory, engine: Engine, services: Mapping[str, Mapping[str, Any]]
) -> frozenset[str]:
    """Companions whose image is missing: Citus does not wait until it is pulled."""
    names = [one.name for one in directory.topology.companions if one.name in services]
    here = await asyncio.gather(*(in_thread(engine.has_image, str(services[name]["image"])) for name in names))
    return frozenset(name for name, there in zip(names, here, strict=True) if not there)


async def get_images(
    directory: Directory, engine: Engine, names: Set[str], services: Mapping[str, Mapping[str, Any]], emit: Emit
) -> None:
    """Pull or build the missing images of these services. Raises PreflightError, which names every failed image."""
    wanted = {name: str(services[name]["image"]) for name in sorted(names) if "image" in services[name]}
    here = await asyncio.gather(*(in_thread(engine.has_image, image) for image in wanted.values()))
    missing = {name: image for (name, image), there in zip(wanted.items(), here, strict=True) if not there}
    builds = [name for name in missing if "build" in services[name]]
    pulls = {image: name for name, image in missing.items() if name not in builds}
    findings = [
        await _pull(engine, image, services[name].get("platform"), _image_flag(name), emit)
        for image, name in pulls.items()
    ]
    if builds:
        findings.append(await _build(directory, builds, emit))
    if failed := [finding for finding in findings if finding]:
        raise refusal(failed)


def _image_flag(service: str) -> str:
    owner = owner_of(service)
    return owner.image_option if owner else "--citus-image"


async def _pull(engine: Engine, image: str, platform: str | None, flag: str, emit: Emit) -> Finding | None:
    step = f"image:{image}"
    loop = asyncio.get_running_loop()
    emit(Event(step, EventKind.STARTED, f"pulling {image}"))

    def report(message: str) -> None:
        loop.call_soon_threadsafe(emit, Event(step, EventKind.PROGRESS, message))

    try:
        await in_thread(engine.pull, image, platform, report)
    except CitusClusterError as error:
        emit(Event(step, EventKind.FAILED, error.message))
        hint = (
            f"Pull it by hand (docker pull {image}), copy it from another machine (docker save {image} | docker load), "
            f"or use another image: {flag}."
        )
        return Finding("image-missing", Severity.ERROR, f"The image {image} is missing. {error.message}", hint)
    emit(Event(step, EventKind.DONE, f"pulled {image}"))
    return None


async def _build(directory: Directory, services: Sequence[str], emit: Emit) -> Finding | None:
    names = ", ".join(services)
    step = f"build:{names}"
    emit(Event(step, EventKind.STARTED, f"building {names}"))
    try:
        await compose_of(directory).build(
            services, lambda line: emit(Event(step, EventKind.PROGRESS, f"building {names}: {line[:120]}"))
        )
    except ComposeError as error:
        emit(Event(step, EventKind.FAILED, error.message))
        last = "; ".join(error.details[-3:])
        return Finding(
            "image-missing",
            Severity.ERROR,
            f"The image of {names} could not be built: {last}.",
            "The build needs its base image and the package index. To see all output: docker compose build "
            f"{' '.join(services)}. To omit the service: --services citus",
        )
    emit(Event(step, EventKind.DONE, f"built {names}"))
    return None
