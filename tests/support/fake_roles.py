"""Ordinary roles of a cluster in memory, which replace functions of ``runtime.citus.roles`` and related modules.

Citus propagates a role, its settings and its session limit to every node, but not its row in ``pg_dist_authinfo``.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import fake_citus
import pytest
from fake_citus import FakeCitus, FakeConnection

from citus_cluster.errors import AuthenticationError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.roles import Defaults, FoundRole, Holding, Kind, NodeRoles, RoleRecord
from citus_cluster.runtime import postgres
from citus_cluster.runtime.citus import grants, limits, ownership, pooling, probe, reader, roles
from citus_cluster.runtime.postgres import ConnectionInfo


@dataclass
class Role:
    """One role, on all nodes except those of ``lacking``."""

    password: str
    can_login: bool = True
    is_superuser: bool = False
    lacking: set[NodeAddress] = field(default_factory=set)
    may_connect: bool = False
    granted: dict[tuple[Kind, str], frozenset[str]] = field(default_factory=dict)
    sessions: dict[NodeAddress, int] = field(default_factory=dict)
    connections: dict[NodeAddress, int] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeRoles:
    """The roles of ``cluster``. ``done`` has each change, in order; ``rows`` the passwords that each node stores."""

    cluster: FakeCitus
    roles: dict[str, Role] = field(default_factory=dict)
    rows: dict[NodeAddress, dict[str, str]] = field(default_factory=dict)
    records: dict[str, RoleRecord] = field(default_factory=dict)
    defaults: dict[Defaults, frozenset[str]] = field(default_factory=dict)
    schemas: set[str] = field(default_factory=lambda: {"public", "shop"})
    owned: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    owner_roles: dict[str, str] = field(default_factory=dict)
    databases: tuple[str, ...] = ()
    has_pooler: bool = False
    unreachable: set[NodeAddress] = field(default_factory=set)
    stubborn: bool = False
    """Whether sessions refuse to end."""

    @property
    def done(self) -> list[str]:
        return self.cluster.done

    def _log(self, what: str) -> None:
        self.cluster._log(what)

    def _own_row(self) -> dict[str, str]:
        return self.rows.setdefault(fake_citus.COORDINATOR, {})

    # Roles

    async def read_records(self, conn: Any) -> tuple[RoleRecord, ...]:
        return tuple(self.records.values())

    async def create_record(self, conn: Any) -> None: ...

    async def read_roles(self, conn: Any) -> Mapping[str, FoundRole]:
        return {name: FoundRole(name, role.can_login, role.is_superuser) for name, role in sorted(self.roles.items())}

    async def missing_schemas(self, conn: Any, schemas: Sequence[str]) -> tuple[str, ...]:
        return tuple(schema for schema in schemas if schema not in self.schemas)

    async def create_role(self, conn: Any, record: RoleRecord, password: str) -> None:
        self._log(f"create {record.name}")
        self.roles[record.name] = Role(password)
        self._own_row()[record.name] = password
        self.records[record.name] = record

    async def change_password(self, conn: Any, role: str, password: str) -> None:
        self._log(f"password of {role}")
        self.roles[role].password = self._own_row()[role] = password

    async def keep_row(self, conn: Any, role: str, password: str) -> None:
        self._log(f"row of {role}")
        self._own_row()[role] = password

    async def kept_password(self, conn: Any, role: str) -> str | None:
        return self._own_row().get(role)

    async def keep_record(self, conn: Any, record: RoleRecord) -> None:
        self._log(f"record {record.name}: {record.access}")
        self.records[record.name] = record

    async def node_roles(self, conn: Any, node: RegisteredNode) -> NodeRoles:
        self.cluster._ask(node.address)
        there = {name: role for name, role in self.roles.items() if node.address not in role.lacking}
        return NodeRoles(
            {name: f"digest of {password}" for name, password in self.rows.get(node.address, {}).items()},
            frozenset(there),
            {
                name: (role.connections.get(node.address, -1), tuple(f"{k}={v}" for k, v in role.config.items()))
                for name, role in there.items()
            },
        )

    async def copy_role_passwords(self, conn: Any, node: NodeAddress) -> int:
        self._log(f"credentials to {node.host}")
        self.rows[node] = dict(self._own_row())
        return len(self.rows[node])

    async def session_count(self, conn: Any, node: RegisteredNode, role: str) -> int:
        return self.roles[role].sessions.get(node.address, 0)

    async def end_sessions(self, conn: Any, node: RegisteredNode, role: str) -> int:
        found = self.roles[role].sessions.get(node.address, 0)
        if found:
            self._log(f"end {found} sessions on {node.address.host}")
        if not self.stubborn:
            self.roles[role].sessions.pop(node.address, None)
        return found

    async def remove_row(self, conn: Any, node: NodeAddress, role: str) -> bool:
        return self.rows.get(node, {}).pop(role, None) is not None

    async def remove_own_row(self, conn: Any, role: str) -> bool:
        return self._own_row().pop(role, None) is not None

    async def databases_with(self, conn: Any, role: str) -> tuple[str, ...]:
        return self.databases

    async def refuse_tasks(self, conn: Any, role: str) -> None: ...

    async def forbid_login(self, conn: Any, role: str) -> None:
        self._log(f"no login for {role}")
        self.roles[role].can_login = False

    async def drop_role(self, conn: Any, role: str, *, new_owner: str | None) -> None:
        self._log(f"drop {role}" + (f", the rest to {new_owner}" if new_owner else ""))
        del self.roles[role]
        self.records.pop(role, None)

    async def forget(self, conn: Any, role: str) -> None:
        self._log(f"forget {role}")
        self.records.pop(role, None)

    # Privileges

    async def read_holdings(self, conn: Any, role: str, schemas: Sequence[str]) -> tuple[Holding, ...]:
        granted = self.roles[role].granted
        return tuple(
            Holding(kind, schema, "orders" if kind is Kind.TABLES else schema, granted.get((kind, schema), frozenset()))
            for schema in schemas
            for kind in (Kind.SCHEMAS, Kind.TABLES)
        )

    async def may_connect(self, conn: Any, role: str) -> bool:
        return self.roles[role].may_connect

    async def allow_connecting(self, conn: Any, role: str) -> None:
        self._log(f"connect for {role}")
        self.roles[role].may_connect = True

    async def grant(self, conn: Any, role: str, wanted: Mapping[Holding, frozenset[str]]) -> None:
        self._log(f"grant to {role}")
        for one, privileges in wanted.items():
            key = (one.kind, one.schema)
            self.roles[role].granted[key] = self.roles[role].granted.get(key, frozenset()) | privileges

    async def revoke(self, conn: Any, role: str, surplus: Mapping[Holding, frozenset[str]]) -> None:
        self._log(f"revoke from {role}")
        for one, privileges in surplus.items():
            self.roles[role].granted[one.kind, one.schema] -= privileges

    async def read_defaults(self, conn: Any) -> Mapping[Defaults, frozenset[str]]:
        return dict(self.defaults)

    async def grant_defaults(self, conn: Any, wanted: Mapping[Defaults, frozenset[str]]) -> None:
        self._log("grant defaults")
        for one, privileges in wanted.items():
            self.defaults[one] = self.defaults.get(one, frozenset()) | privileges

    async def revoke_defaults(self, conn: Any, surplus: Mapping[Defaults, frozenset[str]]) -> None:
        for one, privileges in surplus.items():
            self.defaults[one] -= privileges

    async def limit_sessions(self, conn: Any, role: str, limit: int | None) -> None:
        self._log(f"sessions of {role}: {limit}")
        self.roles[role].connections[fake_citus.COORDINATOR] = -1 if limit is None else limit

    async def lift_sessions(self, conn: Any, worker: NodeAddress, roles: Collection[str]) -> tuple[str, ...]:
        self._log(f"no session limit on {worker.host}")
        for role in roles:
            self.roles[role].connections.pop(worker, None)
        return tuple(roles)

    async def set_setting(self, conn: Any, role: str, name: str, value: str | None) -> None:
        self._log(f"{name} of {role}: {value}")
        self.roles[role].config = {key: old for key, old in self.roles[role].config.items() if key != name}
        if value is not None:
            self.roles[role].config[name] = value

    # Owners

    async def owned_objects(self, conn: Any, node: RegisteredNode, role: str) -> tuple[Any, ...]:
        return self.owned.get(role, ())

    async def read_owner_roles(self, conn: Any) -> Mapping[str, str]:
        return self.owner_roles

    async def has_reader_role(self, conn: Any) -> bool:
        return False

    async def has_pooler_role(self, conn: Any) -> bool:
        return self.has_pooler

    # Connections

    async def connect(self, info: ConnectionInfo, *, timeout_s: float) -> FakeConnection:
        role = self.roles.get(info.user)
        if role is None or not role.can_login or role.password != info.password:
            raise AuthenticationError(f"The server refused the password of role {info.user!r}.")
        found = FakeConnection()
        found.info = SimpleNamespace(**{**vars(found.info), "user": info.user})
        return found

    async def coordinator_reaches(self, conn: Any, node: NodeAddress) -> bool:
        return node not in self.unreachable


_DOORS = (
    (roles, "read_records", "create_record", "read_roles", "missing_schemas", "create_role", "change_password"),
    (roles, "keep_row", "kept_password", "keep_record", "node_roles", "session_count", "end_sessions", "remove_row"),
    (roles, "remove_own_row", "databases_with", "refuse_tasks", "forbid_login", "drop_role", "forget"),
    (grants, "read_holdings", "may_connect", "allow_connecting", "grant", "revoke", "read_defaults"),
    (grants, "grant_defaults", "revoke_defaults"),
    (limits, "limit_sessions", "lift_sessions", "set_setting"),
    (ownership, "owned_objects", "read_owner_roles"),
    (pooling, "has_pooler_role"),
    (reader, "has_reader_role"),
    (probe, "copy_role_passwords", "coordinator_reaches"),
    (postgres, "connect"),
)
_PLACES = [
    (place, key, name)
    for module, *names in _DOORS
    for name in names
    for place, key in fake_citus.places_of(getattr(module, name))
]


def in_place(monkeypatch: pytest.MonkeyPatch, *workers: NodeAddress) -> FakeRoles:
    """Make the operations use the roles of a cluster with these workers."""
    found = FakeRoles(fake_citus.in_place(monkeypatch, FakeCitus.of(*workers)))
    for place, key, name in _PLACES:
        monkeypatch.setattr(place, key, getattr(found, name))
    return found
