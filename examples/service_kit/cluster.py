"""Where the servers and passwords are: in a container, from its environment; otherwise, from the cluster's directory.

An environment variable wins over the directory. A password is a file: ``/run/secrets/NAME`` in a container,
``generated/secrets/`` (or ``roles/`` in it) in the cluster's directory.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from dotenv import dotenv_values

_MOUNTED_SECRETS = Path("/run/secrets")


class NotConfiguredError(Exception):
    """A value is in neither place. The message says what to do."""


@dataclass(frozen=True)
class Address:
    """A host name or address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Cluster:
    """The cluster that a service runs against."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    mounted_secrets: Path = _MOUNTED_SECRETS

    @cached_property
    def directory(self) -> Path | None:
        """The directory of the cluster: CLUSTER_DIR, or the current one or a parent of it; None if there is none."""
        if asked := self.environment.get("CLUSTER_DIR"):
            return Path(asked)
        here = Path.cwd()
        return next((one for one in (here, *here.parents) if (one / "cluster.yaml").is_file()), None)

    @cached_property
    def _published(self) -> Mapping[str, str | None]:
        return dotenv_values(self.directory / ".env") if self.directory else {}

    def value(self, name: str, published: str, default: str | None = None) -> str:
        """Give the environment variable ``name``, or the entry ``published`` of the cluster's ``.env``.

        Raises NotConfiguredError if there is neither, nor a default.
        """
        found = self.environment.get(name) or self._published.get(published) or default
        if found is None:
            raise NotConfiguredError(
                f"{published} is not in {self.directory / '.env' if self.directory else 'the environment'}. Set "
                f"CLUSTER_DIR to the directory of a cluster that has this service, or set {name}."
            )
        return found

    def address(self, name: str, published_port: str) -> Address:
        """Give the address in the variable ``name`` (``HOST:PORT``), or the published port on this machine."""
        if given := self.environment.get(name):
            host, _, port = given.rpartition(":")
            if not (host and port.isdigit()):
                raise NotConfiguredError(f"{name} is {given!r}, but must be HOST:PORT.")
            return Address(host.strip("[]"), int(port))
        return Address("127.0.0.1", int(self.value(name, published_port)))

    def secret(self, name: str) -> str:
        """Give the secret ``name``. Raises NotConfiguredError if it cannot be read."""
        folders = [self.mounted_secrets]
        if self.directory:
            # Passwords of ordinary roles, and all others.
            folders += [self.directory / "generated" / "secrets" / one for one in ("roles", ".")]
        for folder in folders:
            try:
                return (folder / name).read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise NotConfiguredError(f"{folder / name} cannot be read: {error.strerror}.") from error
        raise NotConfiguredError(
            f"There is no secret {name} in {' or '.join(map(str, folders))}. Set CLUSTER_DIR to the directory of a "
            "cluster that runs this example (python setup_citus_cluster.py --services=all,examples --up)."
        )
