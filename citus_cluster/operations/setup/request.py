"""The request of a set-up, and the resulting specification: a file, the given values, and detected values."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from citus_cluster.errors import EngineUnavailableError, SpecError, UsageError
from citus_cluster.model import components
from citus_cluster.model.identity import known_workers, removed_workers
from citus_cluster.model.images import known_pg_major
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.names import volume_name
from citus_cluster.model.sharing import with_earlier_shares, with_shares
from citus_cluster.model.spec import API_VERSION, ClusterSpec, grown_workers
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.model.yaml_text import load_yaml
from citus_cluster.operations.directory import read_spec, read_spec_text
from citus_cluster.runtime import host
from citus_cluster.runtime.docker.engine import Engine
from citus_cluster.runtime.store.files import Manifest


@dataclass(frozen=True)
class SetupRequest:
    """The user's request.

    ``values`` holds what was given, by dotted path of the specification (``ports.citus``), and ``origins`` the name
    under which it was given (``--port``). ``redetect`` requests that memory and processors are detected again.
    ``removed_workers`` are workers, by service or address, that have left the cluster, as the caller has verified.
    ``retune`` divides the memory again among all wanted services.
    """

    root: Path
    spec_file: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)
    redetect: frozenset[str] = frozenset()
    replace_edited: bool = False
    removed_workers: frozenset[str] = frozenset()
    retune: bool = False

    @cached_property
    def spec_text(self) -> str | None:
        """Content of ``spec_file``, read once, because it may be a pipe. Raises UsageError."""
        return read_spec_text(self.spec_file, from_pipe=True) if self.spec_file else None


class HostResources:
    """The engine, asked only when a value is really missing, or this machine if there is none."""

    def __init__(self, connect: Callable[[], Engine]) -> None:
        self._connect = connect
        self._engine: Engine | None = None
        self._asked = False
        self.missing: EngineUnavailableError | None = None

    @property
    def engine(self) -> Engine | None:
        if not self._asked:
            self._asked = True
            try:
                self._engine = self._connect()
            except EngineUnavailableError as error:
                self.missing = error
        return self._engine

    def memory_mb(self) -> int:
        return self.engine.info().memory_mb if self.engine else host.memory_mb()

    def cpus(self) -> int:
        return self.engine.info().cpus if self.engine else host.cpus()


def merged_spec(request: SetupRequest, previous: Manifest | None, resources: HostResources) -> ClusterSpec:
    """Apply the given values to the specification."""
    own = request.root / SPEC_FILE
    source = request.spec_file or (own if own.exists() else None)
    name = "" if source is None else source.name if source.is_file() else str(source)
    if request.spec_text is not None:
        data: Any = load_yaml(request.spec_text, name)
    else:
        data = read_spec(source, name) if source else {"apiVersion": API_VERSION}
    if data is None:
        data = {}
    if not isinstance(data, dict):
        return parse_spec(data, source=name)
    data = copy.deepcopy(data)
    for path, value in request.values.items():
        if path == "workers" and isinstance(value, int):
            current = data.get("workers", list(known_workers(previous.identity)) if previous else None)
            if isinstance(current, int | list):
                value = grown_workers(current, value, taken_numbers(previous, resources))
        _put(data, path.split("."), value)
    _mark_given(data, request)
    origins = {path: origin for path, origin in request.origins.items() if path in request.values}
    return parse_spec(data, origins=origins, source=name)


def taken_numbers(previous: Manifest | None, resources: HostResources) -> frozenset[int]:
    """Return numbers of removed workers whose volumes still exist, or may exist if no engine can be asked."""
    removed = removed_workers(previous.identity) if previous else {}
    if previous is None or not removed or resources.engine is None:
        return frozenset(removed)
    project = previous.identity["name"]
    volumes = resources.engine.project_volumes(project)
    return frozenset(number for number, service in removed.items() if volume_name(project, service) in volumes)


def _put(data: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        if not isinstance(inner, dict):
            inner = data[key] = {}
        data = inner
    if value is None:
        data.pop(keys[-1], None)
    else:
        data[keys[-1]] = value


def _mark_given(data: dict[str, Any], request: SetupRequest) -> None:
    """Mark given values as no longer 'detected', and drop values that must be detected again."""
    resources = data.get("resources")
    if not isinstance(resources, dict):
        return
    for name in request.redetect:
        resources.pop(name, None)
    given = {path.removeprefix("resources.") for path in request.values}
    detected = resources.get("detected")
    if isinstance(detected, list):
        resources["detected"] = [item for item in detected if item not in given | request.redetect]


def resolved_spec(spec: ClusterSpec, request: SetupRequest, host_resources: HostResources) -> ClusterSpec:
    """Fill in saved values, so that they never change unasked: detected values, services, ports."""
    _refuse_other_major(spec, host_resources)
    resources = spec.resources
    saved = _saved_detection(request) if request.spec_file else {}
    if resources.shared is None and request.spec_file and (own := saved_spec(request.root)):
        resources = resources.model_copy(update={"shared": own.resources.shared})
    updates: dict[str, Any] = {}
    detected: list[str] = [*resources.detected]
    for name, detect in (("memory_mb", host_resources.memory_mb), ("cpus", host_resources.cpus)):
        if getattr(resources, name) is None:
            updates[name] = saved[name] if name in saved and name not in request.redetect else detect()
            detected.append(name)
    if updates:
        resources = resources.model_copy(update={**updates, "detected": sorted(set(detected))})
    for component in components.wanted(spec):
        spec = component.completed(spec)
    return spec.model_copy(update={"resources": resources, "services": list(spec.wanted)})


def shared_spec(
    spec: ClusterSpec, request: SetupRequest, previous: Manifest | None, limits: Mapping[str, int], major: int
) -> ClusterSpec:
    """Fill in how the memory is shared; ``limits``: the memory of the services in MB, as generated last.

    Raises DoesNotFitError.
    """
    known = None if previous is None else known_workers(previous.identity)
    if previous and spec.resources.shared is None and (earlier := saved_spec(request.root)):
        earlier = earlier.model_copy(update={"workers": list(known or ())})
        spec = with_earlier_shares(spec, earlier, limits, int(previous.identity.get("pg_major", major)))
    return with_shares(spec, known=known, retune=request.retune)


def _refuse_other_major(spec: ClusterSpec, host_resources: HostResources) -> None:
    """Inspect local images whose names do not contain their PostgreSQL major."""
    for component in components.wanted(spec):
        image = component.image(spec)
        if component.pg_major is None or image is None or component.tells_major(image) or host_resources.engine is None:
            continue
        major = host_resources.engine.image_pg_major(image)
        if major not in {None, component.pg_major}:
            raise SpecError(f"{component.image_major_problem(image, major or 0)}; nothing was written.")


def saved_spec(root: Path) -> ClusterSpec | None:
    """Return the directory's own specification; None if there is none."""
    own = root / SPEC_FILE
    return parse_spec(read_spec(own, SPEC_FILE)) if own.exists() else None


def _saved_detection(request: SetupRequest) -> dict[str, int]:
    """Return the values detected earlier for this directory, if the run uses another file."""
    own = saved_spec(request.root)
    if own is None:
        return {}
    resources = own.resources
    values = {name: getattr(resources, name) for name in resources.detected}
    return {name: value for name, value in values.items() if value is not None}


def pg_major(spec: ClusterSpec, previous: Manifest | None, host_resources: HostResources) -> int:
    """Return the PostgreSQL major of the Citus image, from its name, the specification, an earlier run or the image."""
    image = spec.images.citus
    known = known_pg_major(image)
    if spec.images.pg_major is not None:
        if known is not None and known != spec.images.pg_major:
            raise SpecError(
                f"{image} runs PostgreSQL {known}, not {spec.images.pg_major}; nothing was written.",
                hint="Omit --pg-major (images.pg_major); it is only for images whose names do not contain the major "
                "version.",
            )
        return spec.images.pg_major
    if known is not None:
        return known
    if previous and previous.identity.get("image") == image:
        return int(previous.identity["pg_major"])
    probed = host_resources.engine.image_pg_major(image) if host_resources.engine else None
    if probed is None:
        raise UsageError(
            f"The PostgreSQL major version of {image} is unknown: its name does not contain it, and the image "
            "is not on this machine.",
            hint="Set it, for example --pg-major 17, or pull the image first (docker pull).",
        )
    return probed
