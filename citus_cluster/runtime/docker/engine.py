"""The Docker engine: its resources, its containers, and their health checks and logs.

The only module that imports the Docker SDK, and only when an engine is needed: the import costs 80 ms.
Every call blocks; coroutines go through :func:`in_thread`.
"""

import asyncio
import io
import os
import platform
import re
import socket
import tarfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from citus_cluster.errors import CitusClusterError, EngineUnavailableError
from citus_cluster.model.components import is_our_volume
from citus_cluster.model.plan.changes import digest

if TYPE_CHECKING:
    from docker.api import APIClient

CLUSTER_LABEL = "io.citus-cluster.cluster"
"""Set on every container of our Compose file, but not on containers of a user's own file."""

_PROJECT_LABEL = "com.docker.compose.project"
_CALL_TIMEOUT_S = 15
_PROBE_TIMEOUT_S = 10.0
_DEFAULT_STOP_TIMEOUT_S = 10
_THREADS = 40  # one probe for each of 16 nodes, and some threads to inspect the containers at the same time
_MB = 1024 * 1024

_P = ParamSpec("_P")
_T = TypeVar("_T")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="docker")


async def in_thread(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run a blocking call in a pool that is large enough to probe every container at once.

    asyncio's own has as few as five threads on a small machine.
    """
    return await asyncio.get_running_loop().run_in_executor(_pool(), lambda: function(*args, **kwargs))


@dataclass(frozen=True)
class EngineInfo:
    """The engine's own data. ``storage_root`` is None if it is not on a disk of this machine."""

    version: str
    memory_mb: int
    cpus: int
    architecture: str
    storage_root: Path | None


@dataclass(frozen=True)
class Container:
    """One container at the last inspection.

    ``state`` is Docker's term (created, running, paused, restarting, exited, dead), as is ``health`` (starting,
    healthy, unhealthy; None without a health check), ``ports`` the (address, port) that it publishes while it runs,
    ``open_ports`` those that the engine listens on for it now.
    """

    id: str
    name: str
    project: str | None
    service: str | None
    state: str
    health: str | None
    health_output: str
    health_test: tuple[str, ...] = field(repr=False)
    exit_code: int
    oom_killed: bool
    error: str
    started_at: str
    restart_count: int
    working_dir: str | None
    ours: bool
    ports: tuple[tuple[str, int], ...]
    open_ports: tuple[tuple[str, int], ...] = ()
    finished_at: str = ""
    image: str = ""
    """The image's name when the container was created."""
    stop_timeout_s: int = _DEFAULT_STOP_TIMEOUT_S
    """How long the engine waits for the container to stop before a kill: ``stop_grace_period`` in a Compose file."""


@dataclass(frozen=True)
class HealthProbe:
    """The result of a health check that has just run, with its ``output``."""

    ok: bool
    output: str


class Engine:
    """A connection to a Docker engine; any number of threads may use it at once."""

    def __init__(self, api: "APIClient", host: str) -> None:
        self._api = api
        self.host = host
        # Without an explicit close, no connection stays open either.
        self._finalizer = weakref.finalize(self, api.close)

    @classmethod
    def connect(cls, timeout_s: float = 5) -> "Engine":
        """Connect like the docker command: to DOCKER_HOST, the current context, or the default socket.

        Raises EngineUnavailableError, with a hint.
        """
        import docker
        from docker.context import ContextAPI

        host = os.environ.get("DOCKER_HOST", "")
        try:
            if not host:
                host = str(ContextAPI.kwargs_from_context().get("base_url") or "unix:///var/run/docker.sock")
            if host.startswith("unix://"):
                _knock(host.removeprefix("unix://"), timeout_s)
            client = docker.from_env(
                timeout=timeout_s,  # type: ignore[arg-type] # requests accepts fractions too
                max_pool_size=_THREADS,
                use_ssh_client=host.startswith("ssh://"),
            )
        except Exception as error:  # a damaged context raises a plain Exception, a wrong host many others
            raise _unavailable(host, error) from error
        client.api.timeout = _CALL_TIMEOUT_S
        return cls(client.api, host)

    def close(self) -> None:
        self._finalizer()

    @property
    def is_local(self) -> bool:
        """Return whether the engine publishes its ports on this machine."""
        return self.host.startswith(("unix://", "npipe://", "http+unix://")) or bool(
            re.match(r"(tcp|https?)://(127\.|localhost|\[::1\])", self.host)
        )

    def info(self) -> EngineInfo:
        with _translated("reading its properties"):
            facts: Mapping[str, Any] = self._api.info()
        root = Path(str(facts.get("DockerRootDir") or "/var/lib/docker"))
        # Docker Desktop names a path inside its virtual machine.
        here = self.is_local and platform.system() == "Linux" and "Desktop" not in str(facts.get("OperatingSystem"))
        return EngineInfo(
            version=str(facts.get("ServerVersion", "")),
            memory_mb=int(facts.get("MemTotal", 0)) // _MB,
            cpus=int(facts.get("NCPU", 1)),
            architecture=str(facts.get("Architecture", "")),
            storage_root=root if here and root.exists() else None,
        )

    def project_volumes(self, project: str) -> tuple[str, ...]:
        """Names of a project's volumes: by Compose's label, and by the names in our Compose file."""
        with _translated("listing volumes"):
            found = self._api.volumes().get("Volumes") or []
        found_names = {str(volume["Name"]): volume.get("Labels") or {} for volume in found}
        return tuple(
            sorted(
                name
                for name, labels in found_names.items()
                if labels.get(_PROJECT_LABEL) == project or is_our_volume(project, name)
            )
        )

    def remove_volume(self, name: str) -> None:
        with _translated(f"removing the volume {name}"):
            self._api.remove_volume(name)

    def project_networks(self, project: str) -> tuple[str, ...]:
        """Names of a project's networks."""
        with _translated("listing networks"):
            found = self._api.networks(filters={"label": f"{_PROJECT_LABEL}={project}"})
        return tuple(sorted(str(network["Name"]) for network in found))

    def remove_network(self, name: str) -> None:
        with _translated(f"removing the network {name}"):
            self._api.remove_network(name)

    def has_image(self, name: str) -> bool:
        return self._image(name) is not None

    def image_pg_major(self, name: str) -> int | None:
        """Return PG_MAJOR of an image's environment, which the official images set; None if the image is missing."""
        image = self._image(name)
        for entry in ((image or {}).get("Config") or {}).get("Env") or []:
            if entry.startswith("PG_MAJOR="):
                return int(entry.partition("=")[2].split(".")[0])
        return None

    def pull(self, name: str, platform_name: str | None, on_progress: Callable[[str], None]) -> None:
        """Pull an image; raises CitusClusterError with the registry's reason."""
        layers: dict[str, tuple[int, int]] = {}
        with _translated(f"pulling {name}"):
            for line in self._api.pull(name, stream=True, decode=True, platform=platform_name):
                if line.get("error"):
                    raise CitusClusterError(f"{name} cannot be pulled: {line['error']}")
                detail = line.get("progressDetail") or {}
                if line.get("status") == "Downloading" and detail.get("total"):
                    layers[line["id"]] = (int(detail["current"]), int(detail["total"]))
                    done, total = (sum(column) // _MB for column in zip(*layers.values(), strict=True))
                    on_progress(f"{name}: {done} of {total} MB")

    def project_containers(self, project: str) -> tuple[Container, ...]:
        """Return every container of a Compose project, running or not, by service name."""
        return self._containers({"label": f"{_PROJECT_LABEL}={project}"})

    def containers_named(self, names: Sequence[str]) -> tuple[Container, ...]:
        """Return the containers of any project with one of these names."""
        wanted = set(names)
        if not wanted:
            return ()
        found = self._containers({"name": [f"^/{re.escape(name)}$" for name in sorted(wanted)]})
        return tuple(container for container in found if container.name in wanted)

    def published_ports(self) -> Mapping[int, str]:
        """Host port -> name of the running container that publishes it."""
        with _translated("listing containers"):
            found = self._api.containers()
        return {
            int(port["PublicPort"]): _name(item["Names"][0])
            for item in found
            for port in item.get("Ports") or []
            if port.get("PublicPort")
        }

    def logs(self, container: Container, tail: int, *, earlier: bool = False) -> str:
        """Return the last lines that a container wrote since its last start; with ``earlier``, before it too.

        Earlier lines have other causes, unless the container keeps ending. Empty if its log cannot be read.
        """
        import docker.errors
        import requests

        try:
            since = 0.0 if earlier else datetime.fromisoformat(container.started_at).timestamp()
            text: bytes = self._api.logs(container.id, tail=tail, since=max(since, 1.0))
        except (docker.errors.DockerException, requests.RequestException):
            return ""  # the logging driver does not support reading, or the container or the engine is gone
        return text.decode(errors="replace").strip()

    def run_health_check(self, container: Container, timeout_s: float = _PROBE_TIMEOUT_S) -> HealthProbe:
        """Run a container's own health check now, without waiting for Docker's interval."""
        match container.health_test:
            case ("CMD", *arguments) if arguments:
                command = arguments
            case ("CMD-SHELL", script):
                command = ["/bin/sh", "-c", script]
            case _:
                return HealthProbe(container.state == "running", "it has no health check")
        try:
            with _translated(f"probing {container.name}"):
                return self._execute(container.id, command, time.monotonic() + timeout_s)
        except TimeoutError:
            return HealthProbe(False, f"the health check did not end within {timeout_s:g} s")
        except EngineUnavailableError:
            raise
        except CitusClusterError as error:
            return HealthProbe(False, error.message)

    def execute(self, container: Container, command: Sequence[str], *, timeout_s: float) -> HealthProbe:
        """Run a command in a running container. Raises CitusClusterError, also when it takes too long."""
        try:
            with _translated(f"running {command[0]} in {container.name}"):
                return self._execute(container.id, command, time.monotonic() + timeout_s)
        except TimeoutError:
            raise CitusClusterError(
                f"{command[0]} in {container.name} did not end within {timeout_s:g} s.",
                hint="Check whether the machine is overloaded, or the container is paused: docker stats",
            ) from None

    def read_file(self, container: Container, path: str) -> bytes | None:
        """Return the content of one file of a container, running or not, or of its volumes; None if it is missing."""
        import docker.errors

        with _translated(f"reading {path} of {container.name}"):
            try:
                stream, _ = self._api.get_archive(container.id, path)
            except docker.errors.NotFound:
                return None
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                # Empty if the file was removed after the engine had found it.
                member = archive.next()
                file = archive.extractfile(member) if member else None
                return file.read() if file else None

    def has_stale_mount(self, container: Container, path: str, content: bytes) -> bool:
        """Return whether a running container certainly has different content than ``content`` at ``path``.

        This happens if its mounted folder was replaced by another of the same name: a mount follows the folder, not the
        name. False if this is unknown (no answer, an image without sha256sum).
        """
        try:
            with _translated(f"looking into {container.name}"):
                probe = self._execute(container.id, ["sha256sum", path], time.monotonic() + _PROBE_TIMEOUT_S)
        except TimeoutError:
            return False
        if probe.ok:
            return not probe.output.startswith(digest(content))
        return path in probe.output and "No such file" in probe.output

    def restart(self, container: Container, timeout_s: int | None = None) -> None:
        """Restart a container, which resolves its mounts again. By default, the time limit is the container's own."""
        with _translated(f"restarting {container.name}"):
            self._api.restart(container.id, timeout=container.stop_timeout_s if timeout_s is None else timeout_s)

    def rename(self, container: Container, name: str) -> None:
        with _translated(f"renaming {container.name}"):
            self._api.rename(container.id, name)

    def start(self, container: Container) -> None:
        with _translated(f"starting {container.name}"):
            self._api.start(container.id)

    def stop(self, container: Container, timeout_s: int | None = None) -> None:
        """Stop a container. The default time limit is the container's own."""
        with _translated(f"stopping {container.name}"):
            # By default, the SDK waits for the answer for less time than a container may take to stop.
            self._api.stop(container.id, timeout=container.stop_timeout_s if timeout_s is None else timeout_s)

    def remove(self, container: Container) -> None:
        """Remove a stopped container; its named volumes stay."""
        with _translated(f"removing {container.name}"):
            self._api.remove_container(container.id)

    def _image(self, name: str) -> Mapping[str, Any] | None:
        import docker.errors

        with _translated(f"looking for the image {name}"):
            try:
                found: Mapping[str, Any] = self._api.inspect_image(name)  # type: ignore[no-untyped-call]
            except docker.errors.NotFound:
                return None
        return found

    def _containers(self, filters: Mapping[str, object]) -> tuple[Container, ...]:
        import docker.errors

        found = []
        with _translated("looking at containers"):
            for item in self._api.containers(all=True, filters=filters):
                try:
                    facts = self._api.inspect_container(item["Id"])
                except docker.errors.NotFound:
                    continue  # removed between the two calls
                if facts["Config"]["Labels"].get("com.docker.compose.oneoff") != "True":
                    found.append(_container(facts))
        return tuple(sorted(found, key=lambda container: (container.service or "", container.name)))

    def _execute(self, container_id: str, command: Sequence[str], deadline: float) -> HealthProbe:
        execution = self._api.exec_create(container_id, list(command))["Id"]
        stream: Any = self._api.exec_start(execution, socket=True)
        connection: socket.socket = getattr(stream, "_sock", stream)
        try:
            output = _read_frames(connection, deadline)
        finally:
            stream.close()
            connection.close()  # the stream above is only a view of it, and does not close it
        while True:
            status = self._api.exec_inspect(execution)["ExitCode"]
            if status is not None:
                return HealthProbe(status == 0, output)
            # The stream ends shortly before the engine has recorded the status.
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)


def exec_argv(container: Container, command: Sequence[str], *, terminal: bool) -> tuple[str, ...]:
    """Return the command line that runs a program in a container; with ``terminal`` it is interactive."""
    return ("docker", "exec", "-it" if terminal else "-i", container.name, *command)


def _read_frames(connection: socket.socket, deadline: float) -> str:
    """Read an attached stream to its end; the SDK's own reading has no time limit.

    Frames have a header of eight bytes, the last four of which hold the length.
    """
    data = b""
    while True:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        part = connection.recv(65536)
        if not part:
            break
        data += part
    text = b""
    while len(data) > 8:
        end = 8 + int.from_bytes(data[4:8], "big")
        text += data[8:end]
        data = data[end:]
    return text.decode(errors="replace").strip()


def _container(facts: Mapping[str, Any]) -> Container:
    state, config, host = facts["State"], facts["Config"], facts.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    health = state.get("Health") or {}
    log = health.get("Log") or []
    network = facts.get("NetworkSettings") or {}
    return Container(
        id=str(facts["Id"]),
        name=_name(facts["Name"]),
        project=labels.get(_PROJECT_LABEL),
        service=labels.get("com.docker.compose.service"),
        state=str(state.get("Status", "unknown")),
        health=health.get("Status") or None,
        health_output=str(log[-1].get("Output", "")).strip() if log else "",
        health_test=tuple((config.get("Healthcheck") or {}).get("Test") or ()),
        exit_code=int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        started_at=str(state.get("StartedAt", "")),
        finished_at=str(state.get("FinishedAt", "")),
        restart_count=int(facts.get("RestartCount", 0)),
        working_dir=labels.get("com.docker.compose.project.working_dir"),
        ours=CLUSTER_LABEL in labels,
        ports=_bindings(host.get("PortBindings")),
        open_ports=_bindings(network.get("Ports")),
        image=str(config.get("Image", "")),
        stop_timeout_s=_DEFAULT_STOP_TIMEOUT_S if config.get("StopTimeout") is None else int(config["StopTimeout"]),
    )


def _bindings(ports: Mapping[str, Any] | None) -> tuple[tuple[str, int], ...]:
    return tuple(
        (str(binding.get("HostIp") or "0.0.0.0"), int(binding["HostPort"]))  # noqa: S104 - Docker's meaning
        for group in (ports or {}).values()
        for binding in group or []
        if str(binding.get("HostPort", "")).isdigit()
    )


def _name(name: str) -> str:
    return name.removeprefix("/")


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ours; ``doing`` completes "while"."""
    import docker.errors
    import requests

    try:
        yield
    except docker.errors.APIError as error:
        reason = str(error.explanation or error).strip()
        raise CitusClusterError(f"The Docker engine refused the request while {doing}: {reason}") from error
    except (docker.errors.DockerException, requests.RequestException) as error:
        if "timed out" in str(error):
            message = f"The Docker engine does not answer while {doing}."
            raise EngineUnavailableError(message, hint=hung_engine_hint()) from error
        raise EngineUnavailableError(
            f"The connection to the Docker engine was lost while {doing}: {error}",
            hint="Check whether it still runs: docker info",
        ) from error


def _knock(path: str, timeout_s: float) -> None:
    """Connect to the socket once, because its error is clearer than the SDK's."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(timeout_s)
        probe.connect(path)


def hung_engine_hint() -> str:
    """Return what to do about an engine that runs but does not answer.

    Engines before 23.0 can lock up permanently: https://github.com/moby/moby/issues/46661.
    """
    way = "sudo systemctl restart docker" if platform.system() == "Linux" else "Docker Desktop, Troubleshoot, Restart"
    return (
        f"If docker network ls hangs too, restart the engine ({way}), then run the command again; the data are kept. "
        "Engines before 23.0 (see docker version) can lock up when several containers stop at once: update them."
    )


def _unavailable(host: str, error: Exception) -> EngineUnavailableError:
    """Distinguish the common causes, which have different solutions."""
    text = str(error)
    where = f" at {host}" if host else ""
    if os.environ.get("DOCKER_HOST"):
        way = f"DOCKER_HOST is set to {host!r}. Unset it to use the engine of this machine, or correct it."
    elif platform.system() == "Linux":
        way = "Start it: sudo systemctl start docker. To install it: https://docs.docker.com/engine/install/"
    else:
        way = "Start Docker Desktop, or install it: https://docs.docker.com/desktop/"
    if "Permission denied" in text or "PermissionError" in text:
        return EngineUnavailableError(
            f"You may not use the Docker engine{where}: permission denied.",
            hint="Add yourself to the group: sudo usermod -aG docker $USER, then log in again.",
        )
    if "No such file" in text or "FileNotFoundError" in text:
        return EngineUnavailableError(f"There is no Docker engine{where}: its socket does not exist.", hint=way)
    if "Connection refused" in text or "ConnectionRefusedError" in text:
        return EngineUnavailableError(f"The Docker engine{where} is not running: connection refused.", hint=way)
    if "timed out" in text or "Timeout" in text:
        return EngineUnavailableError(f"The Docker engine{where} does not answer.", hint=hung_engine_hint())
    return EngineUnavailableError(f"The Docker engine{where} cannot be reached: {text}", hint=way)
