"""Ordinary roles: their access, the grants that it needs, and what a node stores to connect as them.

A role that this tool created is recorded on the coordinator, with its access and its schemas.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.documents import Documented
from citus_cluster.model.names import user_problem

DEFAULT_SCHEMA = "public"
_ROLE = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
_SCHEMAS_THAT_CANNOT_BE = frozenset({"pg_catalog", "information_schema", "pg_toast", "citus", "citus_internal"})


class Access(StrEnum):
    """What a role may do in its schemas; each value includes the ones before it."""

    READ = "read"
    WRITE = "write"
    CREATE = "create"
    """Also create tables, functions, types and so on of its own."""

    @property
    def on_tables(self) -> frozenset[str]:
        return frozenset({"SELECT"} if self is Access.READ else {"SELECT", "INSERT", "UPDATE", "DELETE"})

    @property
    def on_sequences(self) -> frozenset[str]:
        return frozenset({"SELECT"} if self is Access.READ else {"SELECT", "USAGE"})

    @property
    def on_schemas(self) -> frozenset[str]:
        return frozenset({"USAGE", "CREATE"} if self is Access.CREATE else {"USAGE"})

    def covers(self, other: "Access") -> bool:
        """Return whether this includes everything that ``other`` includes."""
        return list(Access).index(self) >= list(Access).index(other)


class Kind(StrEnum):
    """Kinds of objects that privileges are granted on; the values are SQL's plurals."""

    TABLES = "TABLES"
    SEQUENCES = "SEQUENCES"
    SCHEMAS = "SCHEMAS"

    def wanted(self, access: Access) -> frozenset[str]:
        return {Kind.TABLES: access.on_tables, Kind.SEQUENCES: access.on_sequences, Kind.SCHEMAS: access.on_schemas}[
            self
        ]


@dataclass(frozen=True)
class RoleRecord:
    """What is wanted of one role."""

    name: str
    access: Access
    schemas: tuple[str, ...]
    limits: Mapping[str, str] | None = None
    """Limits that differ from the default, by name; None for a role whose limits this tool does not set."""


@dataclass(frozen=True)
class FoundRole:
    """One role of the server."""

    name: str
    can_login: bool
    is_superuser: bool


@dataclass(frozen=True)
class Holding:
    """Privileges that a role was granted on one object; ``owned`` if it is the owner and needs none."""

    kind: Kind
    schema: str
    name: str
    privileges: frozenset[str]
    owned: bool = False


@dataclass(frozen=True)
class Defaults:
    """Privileges that ``role`` gets on what ``creator`` will create in a schema."""

    creator: str
    schema: str
    kind: Kind
    role: str


def role_problem(name: str, superuser: str) -> str | None:
    """Check a role's name, which is also a file name: no capitals, which SQL and some file systems fold."""
    if name == superuser:
        return f"{name!r} is the superuser of this cluster, not an ordinary role"
    if not _ROLE.fullmatch(name):
        return (
            f"{name!r} is not a valid role name: use at most 63 lowercase letters, digits, '_' and '-', and begin with "
            "a letter or '_'"
        )
    return user_problem(name)


def schema_problem(name: str) -> str | None:
    """Refuse schemas that belong to PostgreSQL, Citus or this tool, and what no server accepts as a name."""
    if name in _SCHEMAS_THAT_CANNOT_BE or name.startswith("pg_") or name == "citus_cluster" or not name:
        return f"{name!r} is a system schema"
    if "\x00" in name:
        return f"{name!r} is not a name in PostgreSQL"
    return None


def merged(name: str, recorded: RoleRecord | None, access: Access | None, schemas: Sequence[str] | None) -> RoleRecord:
    """Merge the record and the request; schemas are only added, and limits stay."""
    known = recorded.schemas if recorded else ()
    asked = tuple(schemas) if schemas else () if recorded else (DEFAULT_SCHEMA,)
    return RoleRecord(
        name,
        access or (recorded.access if recorded else Access.WRITE),
        tuple(dict.fromkeys((*known, *asked))),
        recorded.limits if recorded else None,
    )


def narrowed(recorded: RoleRecord, wanted: RoleRecord) -> RoleRecord:
    """Return the record once privileges beyond the wanted ones are revoked, and before any are granted."""
    return recorded if wanted.access.covers(recorded.access) else replace(recorded, access=wanted.access)


def missing_on_objects(record: RoleRecord, holdings: Iterable[Holding]) -> Mapping[Holding, frozenset[str]]:
    """Return the privileges that the role lacks, by object."""
    lacking = {one: one.kind.wanted(record.access) - one.privileges for one in holdings if not one.owned}
    return {one: privileges for one, privileges in lacking.items() if privileges}


def excess_on_objects(record: RoleRecord, holdings: Iterable[Holding]) -> Mapping[Holding, frozenset[str]]:
    """Return the privileges of a wider access than the role's, by object; others were granted by hand and stay."""
    surplus = {
        one: (one.kind.wanted(Access.CREATE) & one.privileges) - one.kind.wanted(record.access)
        for one in holdings
        if not one.owned
    }
    return {one: privileges for one, privileges in surplus.items() if privileges}


def wanted_defaults(records: Sequence[RoleRecord], superuser: str) -> Mapping[Defaults, frozenset[str]]:
    """Return the privileges on future objects of the superuser and of every role that may create tables."""
    wanted = {}
    for record in records:
        for schema in record.schemas:
            makers = [one.name for one in records if one.access is Access.CREATE and schema in one.schemas]
            for creator in (superuser, *makers):
                for kind in (Kind.TABLES, Kind.SEQUENCES):
                    if creator != record.name:
                        wanted[Defaults(creator, schema, kind, record.name)] = kind.wanted(record.access)
    return wanted


def authinfo(password: str) -> str:
    """Return the text for ``pg_dist_authinfo``: a libpq connection string, in which \\ and ' are escaped."""
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    return f"password='{escaped}'"


@dataclass(frozen=True)
class NodeRoles:
    """What one node has: the digest of each role's row in ``pg_dist_authinfo``, its roles, and their limits.

    A role's limits are its CONNECTION LIMIT and its settings (``name=value``).
    """

    digests: Mapping[str, str]
    roles: frozenset[str]
    limits: Mapping[str, tuple[int, tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class RoleDocument:
    """One role: its settings, and what it lacks."""

    role: str
    managed: bool
    owner_of: str | None
    access: Access | None
    schemas: tuple[str, ...] | None
    limits: Mapping[str, str | None]
    exists: bool
    can_login: bool
    missing_on: tuple[str, ...]
    ungranted: tuple[str, ...]
    password_file: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class RoleStatus(Documented):
    """One role as ``roles list`` shows it.

    ``record``: None for a role that was created with SQL. ``password_file``: None if this directory has none.
    ``missing_on``: nodes where it does not exist, or that cannot connect as it. ``ungranted``: objects on which it
    lacks privileges of its access. ``exists``: False if only its record is left. ``forgotten``: True if its password
    should be in this directory, but is not. ``owner_of``: the schema whose owner role it is. ``limits``: those on the
    coordinator. ``unlimited_on``: the nodes with other limits than the wanted ones.
    """

    name: str
    record: RoleRecord | None
    exists: bool
    can_login: bool
    missing_on: tuple[NodeAddress, ...]
    ungranted: tuple[str, ...]
    password_file: str | None
    forgotten: bool = False
    owner_of: str | None = None
    limits: Mapping[str, str | None] = field(default_factory=dict)
    unlimited_on: tuple[NodeAddress, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        if not self.exists:
            return ("it is recorded, but the role does not exist",)
        found = [] if self.can_login else ["it may not log in (NOLOGIN)"]
        if self.missing_on:
            found.append("its credentials are missing on " + ", ".join(map(str, self.missing_on)))
        if self.unlimited_on:
            where = ", ".join(map(str, self.unlimited_on))
            found.append(f"its limits differ on {where}; to set them again: citus-cluster roles create {self.name}")
        if self.ungranted:
            more = f" and {len(self.ungranted) - 3} more" if len(self.ungranted) > 3 else ""
            found.append(f"it lacks privileges on {', '.join(self.ungranted[:3])}{more}")
        if self.forgotten:
            found.append(f"its password file is missing; to write it again: citus-cluster roles create {self.name}")
        return tuple(found)

    def document(self) -> RoleDocument:
        return RoleDocument(
            role=self.name,
            managed=self.record is not None,
            owner_of=self.owner_of,
            access=self.record.access if self.record else None,
            schemas=self.record.schemas if self.record else None,
            limits=self.limits,
            exists=self.exists,
            can_login=self.can_login,
            missing_on=tuple(map(str, self.missing_on)),
            ungranted=self.ungranted,
            password_file=self.password_file,
            problems=self.problems,
        )
