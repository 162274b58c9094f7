"""The addresses of the cluster's servers, as the variables that labs read: REDIS_URL and DATABASE_URL.

A variable that is set already wins. Otherwise the values come from the directory of the cluster: CLUSTER_DIR, or the
current directory or a parent of it that has a ``cluster.yaml``.

On Redis the lessons use database 15 and the cluster's own password. On Citus they use a role of their own, ``lessons``,
with a schema of its own; the cluster's own commands create it, so the lessons never read the superuser's password.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import redis
from service_kit.cluster import Cluster, NotConfiguredError

from lessons.catalogue import ROOT

ROLE = "lessons"
REDIS_DATABASE = 15
MARK = "lessons"
"""The key that marks database 15 of Redis as ours."""


class LessonsError(Exception):
    """What a person can correct. The message says what happened, why, and what to do next."""


class UnavailableError(LessonsError):
    """A server is there by its address, and does not answer."""


class Servers:
    """The servers of one cluster; ``environment`` is the caller's."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        self.environment = dict(os.environ if environment is None else environment)
        self._report = report
        self._cluster = Cluster(self.environment)

    @property
    def directory(self) -> Path | None:
        return self._cluster.directory

    @cached_property
    def redis_url(self) -> str | None:
        """URL of database 15 of Redis, with its password; None without a cluster that runs Redis.

        Raises LessonsError if that database holds keys of somebody else, UnavailableError if it does not answer.
        """
        url = self._redis_address()
        if url is not None:
            _claim(url)
        return url

    def _redis_address(self) -> str | None:
        if given := self.environment.get("REDIS_URL"):
            return given
        try:
            address = self._cluster.address("REDIS", "REDIS_PORT")
            password = self._cluster.secret("redis_password")
        except NotConfiguredError:
            return None
        return f"redis://:{quote(password, safe='')}@{address}/{REDIS_DATABASE}"

    @cached_property
    def database_url(self) -> str | None:
        """URL of the coordinator's database as role ``lessons``, which is created if it is missing.

        None without a cluster that has a coordinator. Raises UnavailableError if the role cannot be created.
        """
        if given := self.environment.get("DATABASE_URL"):
            return given
        try:
            address = self._cluster.address("CITUS_COORDINATOR", "CITUS_COORDINATOR_PORT")
            database = self._cluster.value("CITUS_DATABASE", "POSTGRES_DB", "postgres")
        except NotConfiguredError:
            return None
        try:
            password = self._cluster.secret(f"{ROLE}_password")
        except NotConfiguredError:
            self._create_role()
            password = self._cluster.secret(f"{ROLE}_password")
        return f"postgresql://{ROLE}:{quote(password, safe='')}@{address}/{quote(database, safe='')}"

    def variables(self, needs: tuple[str, ...] = ("redis", "postgresql")) -> dict[str, str]:
        """Return the variables of the servers that are needed and known."""
        found = {
            "REDIS_URL": self.redis_url if "redis" in needs else None,
            "DATABASE_URL": self.database_url if "postgresql" in needs else None,
        }
        return {name: value for name, value in found.items() if value}

    def variables_at_hand(self, needs: tuple[str, ...]) -> dict[str, str]:
        """As ``variables``, for a script that shows what happens while a server is away: that is reported only."""
        found: dict[str, str] = {}
        for need in needs:
            try:
                found |= self.variables((need,))
            except UnavailableError as error:
                self._report(str(error))
                if need == "redis" and (address := self._redis_address()):
                    found["REDIS_URL"] = address
        return found

    def missing(self, need: str) -> str | None:
        """Return why a check that needs ``need`` cannot run: ``no Redis …``; None if it can."""
        match need:
            case "redis":
                return None if self.redis_url else "no Redis: no cluster with Redis in CLUSTER_DIR or here (make up)"
            case "postgresql":
                return None if self.database_url else "no Citus: no cluster in CLUSTER_DIR or here (make up)"
            case "docker":
                return None if docker_answers() else "no Docker engine answers"
            case "matplotlib":
                return None if _installed("matplotlib") else "matplotlib is not installed (make lessons installs it)"
            case _:
                return None if shutil.which(need) else f"the command {need} is not installed"

    def _create_role(self) -> None:
        directory = self.directory
        assert directory is not None
        self._report(f"Creating role {ROLE!r} with a schema of its own on the coordinator of {directory}.")
        self._citus_cluster("psql", "-c", f"CREATE SCHEMA IF NOT EXISTS {ROLE}")
        self._citus_cluster("roles", "create", ROLE, "--access", "create", "--schema", ROLE)

    def _citus_cluster(self, *arguments: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), self.environment.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-m", "citus_cluster", *arguments],
            cwd=self.directory,
            env=self.environment | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UnavailableError(
                f"The role of the lessons could not be created: citus-cluster {' '.join(arguments)} ended with "
                f"{done.returncode}:\n{done.stderr.strip()}\nStart the cluster (citus-cluster up), then try again."
            )


def docker_answers() -> bool:
    """Return whether the Docker client is installed, and an engine answers it."""
    return (
        shutil.which("docker") is not None and not subprocess.run(["docker", "version"], capture_output=True).returncode
    )


def _claim(url: str) -> None:
    """Mark the database as ours. Raises LessonsError if it holds keys but no mark, or if Redis does not answer."""
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            if client.exists(MARK):
                return
            if number := client.dbsize():
                raise LessonsError(
                    f"The Redis database of the lessons holds {number} keys that are not theirs: there is no key "
                    f"{MARK!r}. The labs delete and overwrite keys, so they do not run here. Set REDIS_URL to an empty "
                    f"database, or mark this one as theirs: redis-cli -n {REDIS_DATABASE} SET {MARK} yes"
                )
            client.set(MARK, "This database belongs to the lessons of the course in system design.")
    except redis.RedisError as error:
        raise UnavailableError(
            f"Redis does not answer: {error} Start it (citus-cluster up), or set REDIS_URL."
        ) from error
    except ValueError as error:
        raise LessonsError(
            f"REDIS_URL is not a URL of Redis: {error} An example is redis://localhost:6379/15."
        ) from error


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
