"""The Compose command line, always with this directory's own files and project, independent of the environment."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from citus_cluster.errors import CitusClusterError, PreflightError
from citus_cluster.model.layout import COMPOSE_FILE, OVERRIDE_FILES

MINIMUM_VERSION = (2, 20, 2)

_DROPPED_PREFIXES = ("COMPOSE_", "POSTGRES_", "CITUS_CLUSTER_")
_KEPT_LINES = 20


def override_file(root: Path) -> str | None:
    """Return the name of the override file that Compose uses in ``root``: the first that exists."""
    return next((name for name in OVERRIDE_FILES if (root / name).exists()), None)


class ComposeError(CitusClusterError):
    """A Compose command failed; ``argv``, ``status`` and the last lines of its output are kept."""

    code = "compose-failed"

    def __init__(self, argv: Sequence[str], status: int, output: Sequence[str]) -> None:
        self.argv = tuple(argv)
        self.status = status
        reason = _reason(output)
        super().__init__(
            f"docker compose {_verb(argv)} failed (exit status {status}): {reason}",
            hint="The command was: " + " ".join(argv),
            details=tuple(output),
        )


class ComposeMissingError(PreflightError):
    """Docker Compose is missing or too old."""

    code = "compose-missing"


def parse_version(text: str) -> tuple[int, ...] | None:
    """Read ``2.40.3-3`` or ``v2.20.2``; None for anything else."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text.strip())
    return tuple(int(part or 0) for part in found.groups()) if found else None


def parse_env_names(text: str) -> frozenset[str]:
    """Names that an .env file defines."""
    return frozenset(re.findall(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=", text, re.MULTILINE))


def clean_environment(environment: Mapping[str, str], defined: Iterable[str]) -> dict[str, str]:
    """Remove variables that would redirect Compose: its own, and those that .env defines."""
    dropped = frozenset(defined)
    kept = {
        name: value
        for name, value in environment.items()
        if name not in dropped and not name.startswith(_DROPPED_PREFIXES)
    }
    # Containers outside the file are handled one by one (operations.up), not by a warning.
    return {**kept, "COMPOSE_IGNORE_ORPHANS": "1"}


@dataclass(frozen=True)
class Compose:
    """Compose for the project in one directory. ``profiles`` are the active ones."""

    root: Path
    project: str
    profiles: tuple[str, ...]

    def argv(self, *arguments: str, profiles: Sequence[str] | None = None) -> tuple[str, ...]:
        """Return the complete command line of one Compose command."""
        root = self.root.resolve()
        files = [name for name in (COMPOSE_FILE, override_file(root)) if name]
        return (
            *("docker", "compose", "--ansi", "never", "-p", self.project, "--project-directory", str(root)),
            *(part for name in files for part in ("-f", str(root / name))),
            *("--env-file", str(root / ".env")),
            *(part for profile in profiles or self.profiles for part in ("--profile", profile)),
            *arguments,
        )

    async def config(self, *, all_profiles: bool = False) -> Mapping[str, Any]:
        """Check the files and return them merged and resolved by Compose. Raises ComposeError."""
        output = await self._run(self.argv("config", "--format", "json", profiles=("*",) if all_profiles else None))
        data: Mapping[str, Any] = json.loads(output)
        return data

    async def build(self, services: Sequence[str], on_line: Callable[[str], None]) -> None:
        await self._run(self.argv("build", *services), on_line)

    async def up(self, on_line: Callable[[str], None], services: Sequence[str] = ()) -> None:
        """Create and start missing or changed services, and return without waiting for their health.

        Without ``services``, all of them.
        """
        await self._run(self.argv("up", "-d", "--quiet-pull", *services), on_line)

    async def down(self, on_line: Callable[[str], None], *, volumes: bool) -> None:
        """Remove the containers and networks of all profiles; with ``volumes`` also the volumes of the files."""
        await self._run(self.argv("down", *(["--volumes"] if volumes else []), profiles=("*",)), on_line)

    def become(self, *arguments: str) -> NoReturn:
        """Replace this process with a Compose command, with its streams. Never returns."""
        become(self.argv(*arguments, profiles=("*",)), self._environment())

    def read_lines(self, *arguments: str) -> Iterator[str]:
        """Run a Compose command and yield each line of its output at once; its errors go to stderr.

        Raises ComposeError if it fails.
        """
        argv = self.argv(*arguments, profiles=("*",))
        with subprocess.Popen(  # noqa: S603 - no shell, and our own arguments
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self._environment(), errors="replace", text=True
        ) as process:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            try:
                for line in process.stdout:
                    yield line.rstrip("\n")
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise ComposeError(argv, process.returncode, ())

    async def _run(self, argv: Sequence[str], on_line: Callable[[str], None] = lambda line: None) -> str:
        """Run a command, report each line of its progress, and return its standard output. Raises ComposeError."""
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.root,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        assert process.stdout is not None and process.stderr is not None  # noqa: S101 - both are pipes
        lines: list[str] = []

        async def follow(stream: asyncio.StreamReader) -> None:
            async for raw in stream:
                line = raw.decode(errors="replace").strip()
                if line:
                    lines.append(line)
                    on_line(line)

        try:
            output, _ = await asyncio.gather(process.stdout.read(), follow(process.stderr))
            status = await process.wait()
        except BaseException:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            raise
        if status:
            raise ComposeError(argv, status, lines[-_KEPT_LINES:])
        return output.decode(errors="replace")

    def _environment(self) -> dict[str, str]:
        try:
            defined = parse_env_names((self.root / ".env").read_text(encoding="utf-8"))
        except OSError:
            defined = frozenset()
        return clean_environment(os.environ, defined)


def become(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process with a program, with its streams, signals and exit status. Never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], list(argv), os.environ if environment is None else environment)  # noqa: S606 - no shell
    except FileNotFoundError:
        raise _docker_missing() from None


async def version() -> str:
    """Return the version of Compose, such as ``2.40.3``. Raises ComposeMissingError, which names alternatives."""
    if shutil.which("docker") is None:
        raise _docker_missing()
    text = await _output("docker", "compose", "version", "--short")
    found = parse_version(text or "")
    if text is None or found is None:
        raise ComposeMissingError(
            f"docker compose does not work here{await _instead()}.",
            hint="Install Compose v2, the plugin: https://docs.docker.com/compose/install/linux/",
        )
    if found < MINIMUM_VERSION:
        raise ComposeMissingError(
            f"Docker Compose {text} is too old: {'.'.join(map(str, MINIMUM_VERSION))} or newer is needed.",
            hint="Update it: https://docs.docker.com/compose/install/linux/",
        )
    return text


def _docker_missing() -> ComposeMissingError:
    return ComposeMissingError(
        "The command docker is not installed here (or not in PATH).",
        hint="Install Docker with Compose: https://docs.docker.com/engine/install/",
    )


async def _instead() -> str:
    if shutil.which("docker-compose") is None:
        return ""
    text = await _output("docker-compose", "version", "--short")
    found = parse_version(text or "")
    if found and found[0] < 2:
        return f"; only docker-compose {text} exists, which is Compose v1, unmaintained since 2023"
    return f"; docker-compose {text or ''} exists, but not as a plugin of docker"


async def _output(*argv: str) -> str | None:
    """Standard output of a short command; None if it fails."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace").strip() if process.returncode == 0 else None


def _verb(argv: Sequence[str]) -> str:
    verbs = ("config", "build", "up", "down")
    return next((word for word in argv if word in verbs), "")


def _reason(output: Sequence[str]) -> str:
    """Return the line with the cause: the last error, or the last line."""
    errors = [line for line in output if re.match(r"(?i)error|failed|.*: error", line)]
    return (errors or list(output) or ["it printed nothing"])[-1]
