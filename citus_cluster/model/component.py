"""What a component declares about itself, as data; code that loops over components knows none of them by name.

A component is what the user switches on with ``--services``. It has one or more services, which are one container
each. Nothing here, and nothing that a component declares, reads a file, a clock or a socket.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.spec import ClusterSpec, Images, Ports, option_of
from citus_cluster.model.tuning.budget import Part
from citus_cluster.model.tuning.parameters import Checked
from citus_cluster.model.tuning.servers import Setting, Tuning

SECRETS_FOLDER = "generated/secrets"
ROLES_FOLDER = f"{SECRETS_FOLDER}/roles"
"""The passwords of ordinary roles."""
JOURNAL_FOLDER = "generated/journal"
FENCED = "fenced"
"""The health check of a server that must not serve until a person decides begins with this text."""


class Reread(StrEnum):
    """When a server reads a file again."""

    START = "start"
    """Only at its start: ``up`` recreates the container if the file has changed."""
    RELOAD = "reload"
    """At a reload, which ``up`` requests."""
    ALWAYS = "always"
    """By itself, or whenever a script runs; also files with the hash of a secret (see ``Service.restart_files``)."""


@dataclass(frozen=True)
class ConfigFile:
    """A file that a service mounts, rendered from a template of config/; scripts (``.sh``) are copied as they are.

    Templates get ``topology``, ``service``, its ``facts``, ``groups`` (its settings, grouped), ``digests`` (SHA-256 of
    each secret by name). A component may write a file itself (``Component.text``); it then has no template. Or it is a
    copy of a file of the user (``copy_of``, relative to the cluster's directory), which contains no secret.
    ``verbatim``: the template is copied as it is, like a script.
    """

    name: str
    template: str = ""
    reread: Reread = Reread.START
    copy_of: str = ""
    verbatim: bool = False


@dataclass(frozen=True)
class Secret:
    """A password or token in generated/secrets/.

    ``opens_data``: the data in a volume were created with it, so another one locks the user out.
    ``read_without_root``: a process without root reads it in a container. ``for_admin_api``: the admin API uses it to
    query the service, or to create the account. ``reads_admin_api``: it is the service's own token for reading the
    admin API. ``folder`` is the folder of the file, below the cluster's directory.
    """

    name: str
    opens_data: bool = True
    read_without_root: bool = False
    for_admin_api: bool = True
    reads_admin_api: bool = False
    folder: str = SECRETS_FOLDER

    @property
    def path(self) -> str:
        """Path below the cluster's directory."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True)
class Account:
    """An ordinary account of an application on a server of another component, which ``up`` creates.

    It has a place of its own, called as it is: a schema in the administration's database, a Cassandra keyspace, or
    the keys of Redis that begin with ``name:``. ``creates_databases``: it creates databases instead.
    """

    server: ComponentName
    name: str
    secret: Secret
    creates_databases: bool = False


@dataclass(frozen=True)
class Login:
    """The login of this tool on one of our PostgreSQL servers."""

    user: str
    database: str
    secret: Secret


@dataclass(frozen=True)
class AsksPostgres:
    """Ready for its health check once a session opens, which also reloads changed settings."""


@dataclass(frozen=True)
class AsksTcp:
    """Ready for its health check once it sends any answer to ``question``."""

    question: bytes


@dataclass(frozen=True)
class AsksHttp:
    """Ready for its health check once ``GET path`` returns status 200."""

    path: str = "/health"


Knock = AsksPostgres | AsksTcp | AsksHttp
"""A cheap check whether a server answers at all."""


@dataclass(frozen=True)
class Service:
    """One container.

    ``config`` is the folder below generated/config that it mounts at /etc/citus-cluster, if it has ``files``;
    ``template`` the one of compose_templates/.
    ``data`` is where its own volume (``<name>-data``) is mounted, None if it keeps nothing; ``volumes`` names others.
    ``port`` is the one in the network. ``image`` is None if one is built (see ``Component.context``). ``initdb``: it
    runs the scripts of initdb/ at its first start. ``synchronous``: a commit on it waits for another server.
    ``keeps_journal``: it changes the cluster, and records this in a folder of JOURNAL_FOLDER, which it may write.
    ``restart_files`` (in ``config``) and ``restart_secrets`` are read only at its start and are in no label: ``up``
    restarts a container that is older than they are, because ``restart_reason`` was changed. ``patience_s`` is the
    additional time that it may take to become ready.
    """

    name: str
    component: ComponentName
    container_name: str
    image: str | None
    publish_on: tuple[str, ...]
    host_port: int
    port: int
    memory_mb: int
    template: str
    config: str
    files: tuple[ConfigFile, ...]
    knock: Knock
    platform: str | None = None
    data: str | None = None
    volumes: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    login: Login | None = None
    settings: tuple[Setting, ...] = ()
    shm_mb: int = 0
    initdb: bool = False
    synchronous: bool = False
    keeps_journal: bool = False
    restart_files: tuple[str, ...] = ()
    restart_secrets: tuple[Secret, ...] = ()
    restart_reason: str = "a password"
    patience_s: float = 0.0
    facts: Any = field(default=None)


@dataclass(frozen=True)
class Sign:
    """What a line of a log or of a health check means, and what to do about it.

    ``is_symptom``: another line may name the reason.
    """

    pattern: str
    meaning: str
    hint: str
    is_symptom: bool = False


@dataclass(frozen=True)
class Place:
    """The user's place: the address of published ports, and the path to the directory, empty or ending in ``/``."""

    host: str
    folder: str


class Component:
    """What every component has; a module of ``components`` overrides what differs.

    ``owns`` matches the names of its services, also of those that a specification no longer has; ``more_volumes`` are
    those that are not called ``<service>-data``. ``companion``: a component beside Citus.
    """

    name: ClassVar[ComponentName]
    owns: ClassVar[re.Pattern[str]]
    companion: ClassVar[bool] = True
    needs: ClassVar[tuple[ComponentName, ...]] = ()
    """The components that it requires. Citus means the coordinator in this directory."""
    accounts: ClassVar[tuple[Account, ...]] = ()
    """Its accounts on servers of other components, each used only if that component is wanted."""
    secrets: ClassVar[tuple[Secret, ...]] = ()
    """The secrets that a set-up generates. The first one is used to read the status of its services, and to prepare
    what it needs on the coordinator."""
    more_volumes: ClassVar[tuple[str, ...]] = ()
    signs: ClassVar[tuple[Sign, ...]] = ()
    context: ClassVar[str | None] = None
    """The folder from which its image is built if the user names no image: below generated/, a copy of the program's
    folder of this name."""
    pg_major: ClassVar[int | None] = None
    """The PostgreSQL major version that its image must have, because its data belong to that version."""
    settle_together: ClassVar[bool] = False
    """``up`` waits for its services together, and checks their common status afterwards."""
    several: ClassVar[bool] = False
    """It has, or may have, several servers: if some do not answer, it is degraded, not down."""
    start_factor: ClassVar[float] = 1.0
    """The factor for the time that its first start may take."""

    @property
    def port_option(self) -> str:
        """Option of the set-up for its host ports."""
        return option_of(Ports, self.name.key)

    @property
    def image_option(self) -> str:
        """Option of the set-up for its image."""
        return option_of(Images, self.name.key)

    @classmethod
    def context_folder(cls) -> str | None:
        """Path of its build context below the cluster's directory; None if it builds no image."""
        return None if cls.context is None else f"generated/{cls.context}"

    @property
    def password(self) -> Secret | None:
        """The first of its secrets; None for a component that has none."""
        return self.secrets[0] if self.secrets else None

    def keeps(self, project: str, volume: str) -> bool:
        """Return whether a volume has a name that this component uses in a project."""
        own = volume.removeprefix(f"{project}_")
        if own == volume:
            return False
        service = own.removesuffix("-data")
        return own in self.more_volumes or (service != own and self.owns.fullmatch(service) is not None)

    def part(self, spec: ClusterSpec) -> Part:
        """Return its part of the memory."""
        raise NotImplementedError

    def ports(self, spec: ClusterSpec) -> Sequence[tuple[str, int]]:
        """Return each service with its host port."""
        raise NotImplementedError

    def services(self, spec: ClusterSpec, tuning: Tuning, others: Sequence[Service]) -> tuple[Service, ...]:
        """Return its services in the order in which they start; ``others`` are those of the components before it."""
        raise NotImplementedError

    def completed(self, spec: ClusterSpec) -> ClusterSpec:
        """Fill in values that are decided once, and saved."""
        return spec

    def image(self, spec: ClusterSpec) -> str | None:
        """Return the image that its containers run, None if one is built."""
        raise NotImplementedError

    def tells_major(self, image: str) -> bool:
        """Return whether the name of an image shows its PostgreSQL major version."""
        return False

    def image_major_problem(self, image: str, major: int) -> str:
        """Return why its containers cannot run an image of another PostgreSQL major version."""
        raise NotImplementedError

    def check_settings(self, spec: ClusterSpec, citus_pg_major: int) -> Iterator[Checked]:
        """Check the user's settings of its servers."""
        yield from ()

    def problems(self, spec: ClusterSpec) -> Iterator[str]:
        """Yield contradictions in a specification whose single values are valid."""
        yield from ()

    def warnings(self, spec: ClusterSpec) -> Iterator[str]:
        """Yield warnings about values that may surprise; called for every component, wanted or not."""
        yield from ()

    def notes(self, asked: ClusterSpec, spec: ClusterSpec) -> Iterator[str]:
        """Yield the values that were chosen for the user; ``asked`` is the specification before that."""
        yield from ()

    def loss_of(self, gone: Sequence[str], project: str) -> tuple[str, str] | None:
        """Return which data of removed services would be lost, and what to do; None if none are."""
        return None

    def access(self, services: Sequence[Service], place: Place) -> Iterable[tuple[str, str]]:
        """Yield each service with the command that opens a session on it from the user's machine."""
        return ()

    def copy_problem(self, file: ConfigFile, text: str) -> str | None:
        """Return what is wrong with the content of a file of the user that a container gets a copy of."""
        return None

    def text(self, file: ConfigFile, topology: Any, digests: Mapping[str, str]) -> str:
        """Return the text of a file that has no template, because it depends on the whole ``topology``."""
        raise NotImplementedError
