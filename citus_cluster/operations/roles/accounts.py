"""Ordinary roles: create a role on every node, change its password, and list all roles with their problems.

A role needs a row in ``pg_dist_authinfo`` on each node, and its password is kept like the others, in
generated/secrets/.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from citus_cluster.errors import AuthenticationError, CitusClusterError, RoleError, UsageError, VerificationError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.model.citus.role_limits import Limit, merged_limits, parse_limits
from citus_cluster.model.citus.roles import (
    Access,
    Holding,
    NodeRoles,
    RoleRecord,
    RoleStatus,
    excess_on_objects,
    merged,
    missing_on_objects,
    narrowed,
    wanted_defaults,
)
from citus_cluster.model.documents import Documented, as_data
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.pooling import POOLER_ROLE
from citus_cluster.model.units import count
from citus_cluster.operations.roles import limits as role_limits
from citus_cluster.operations.roles.cluster import (
    ALONE,
    ChangeReport,
    Cluster,
    active_nodes,
    look,
    refuse_names,
    refuse_torn,
)
from citus_cluster.operations.roles.passwords import (
    CONNECT_TIMEOUT_S,
    CredentialStore,
    first_password,
    keep_password,
    new_password,
    opens,
    right_password,
)
from citus_cluster.runtime.citus import grants as citus_grants
from citus_cluster.runtime.citus import ownership as citus_ownership
from citus_cluster.runtime.citus import pooling as citus_pooling
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.citus.reader import has_reader_role
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, connect, translated
from citus_cluster.runtime.store import secrets

LIST_BUDGET_S = 15.0
"""After this time no further node is asked; the state of the remaining nodes is unknown."""


@dataclass(frozen=True)
class RoleResultDocument:
    """The result of a change of a role."""

    role: str
    access: Access
    schemas: tuple[str, ...]
    limits: Mapping[str, str | None] | None
    changed: tuple[str, ...]
    password_file: str | None
    dsn: str = field(repr=False)


@dataclass(frozen=True)
class RoleResult:
    """The result of a change of a role. ``changed`` describes the changes; it is empty if there were none.

    ``is_random``: the password was generated just now.
    """

    record: RoleRecord
    changed: tuple[str, ...]
    password_file: str | None
    connection: ConnectionInfo = field(repr=False)
    limits: Mapping[str, str | None] | None = None
    is_random: bool = False

    def as_dict(self, *, show_secrets: bool = False) -> Mapping[str, object]:
        """Return the document; it contains the password only with ``show_secrets``."""
        document = RoleResultDocument(
            role=self.record.name,
            access=self.record.access,
            schemas=self.record.schemas,
            limits=self.limits,
            changed=self.changed,
            password_file=self.password_file,
            dsn=self.connection.dsn(masked=not show_secrets),
        )
        return dict(as_data(document))


@dataclass(frozen=True)
class RoleList(Documented):
    """All roles that may log in, and those recorded; ``silent`` says which nodes did not answer, and why."""

    roles: tuple[RoleStatus, ...]
    silent: tuple[str, ...]


async def create(
    conn: Connection,
    credentials: CredentialStore,
    name: str,
    emit: Emit,
    *,
    access: Access | None = None,
    schemas: Sequence[str] | None = None,
    limits: Sequence[str] = (),
    given: str | None = None,
) -> RoleResult:
    """Create a role, or add what is missing after an earlier run or on a node; running it again repairs the role.

    If ``access`` and ``schemas`` are None, the recorded values stay (for a new role: write, public); ``limits`` are
    ``NAME=VALUE``, others stay; ``given`` is a password. Raises UsageError, ImmutableError (a different password),
    RoleError (a role that is not managed here, or may not log in), and WorkerUnreachableError with the names of nodes
    that are down; nothing was changed then.
    """
    refuse_names(credentials, name, schemas or (), given)
    asked, problems = parse_limits(limits)
    if problems:
        raise UsageError("; ".join(problems) + ".")
    report = ChangeReport(name, emit)
    report.begin(f"checking role {name}")
    async with translated(f"creating role {name}"), writer_lock(conn, wait_s=WAIT_FOR_LOCK_S):
        cluster = await look(conn)
        role, record = cluster.roles.get(name), cluster.records.get(name)
        await refuse_foreign(credentials, cluster, name, given)
        wanted = merged(name, record, access, schemas)
        wanted = replace(wanted, limits=merged_limits(wanted.limits, asked, is_new=role is None and record is None))
        await refuse_missing_schemas(conn, wanted)
        await citus_roles.create_record(conn)
        if role is None:
            password = first_password(credentials, name, given)
            if credentials.keep(name, password):
                report(f"password kept in {secrets.role_password(name)}")
            await citus_roles.create_role(conn, wanted, password)
            report(f"role {name} created on {count(len(cluster.nodes), 'node')}")
            await _allow_connecting(conn, name, report)
        else:
            await _allow_connecting(conn, name, report)
            password = await right_password(conn, credentials, name, given)
            await keep_password(conn, credentials, name, password, report)
        before = record
        if record is not None and (narrower := narrowed(record, wanted)) != record:
            # Recorded last: from the record, a later run knows what to revoke.
            await _grant(conn, cluster, narrower, record, report)
            await citus_roles.keep_record(conn, narrower)
            before = narrower
        if role is not None and wanted != before:
            # Recorded first, for the same reason.
            await citus_roles.keep_record(conn, wanted)
        await _grant(conn, cluster, wanted, before, report)
        if role is not None and wanted != record:
            report(f"role {name}: {wanted.access} in {', '.join(wanted.schemas)}")
        await role_limits.limit(conn, cluster, wanted, report, emit)
        await copy_authinfo(conn, cluster, name, report)
        effective = role_limits.in_force(wanted)
    await _verify(credentials.connection(name, password), cluster)
    report.end(f"role {name} is up to date on {count(len(cluster.nodes), 'node')}")
    is_random = role is None and given is None
    return replace(_result(credentials, wanted, password, report), limits=effective, is_random=is_random)


async def set_password(
    conn: Connection, credentials: CredentialStore, name: str, emit: Emit, *, given: str | None = None
) -> RoleResult:
    """Change the password of a managed role on every node; it is random unless ``given``. Open sessions stay. Raises as
    :func:`create`.
    """
    refuse_names(credentials, name, (), given)
    report = ChangeReport(name, emit)
    report.begin(f"changing the password of role {name}")
    async with (
        translated(f"changing the password of role {name}"),
        writer_lock(conn, wait_s=WAIT_FOR_LOCK_S),
    ):
        cluster = await look(conn)
        record = await find_managed(credentials, cluster, name)
        password = given or new_password(credentials)
        # Change the server first: its own row then has the password, from which a later run can read it.
        await citus_roles.change_password(conn, name, password)
        report(f"password of role {name} changed on {count(len(cluster.nodes), 'node')}")
        await copy_authinfo(conn, cluster, name, report)
        await keep_password(conn, credentials, name, password, report)
    await _verify(credentials.connection(name, password), cluster)
    return replace(_result(credentials, record, password, report), is_random=given is None)


async def find_managed(credentials: CredentialStore, cluster: Cluster, name: str) -> RoleRecord:
    """Return the record of a role that can be changed. Raises RoleError."""
    record = cluster.records.get(name)
    if name not in cluster.roles or record is None:
        raise RoleError(
            f"Role {name!r} does not exist, or was not created by citus-cluster.",
            hint=f"Create it: citus-cluster roles create {name}. List all roles: citus-cluster roles list",
        )
    await refuse_foreign(credentials, cluster, name, None)
    return record


async def list_roles(conn: Connection, credentials: CredentialStore) -> RoleList:
    """List the roles, and what is missing on which node. Nodes are asked one by one, in bounded time."""
    deadline = time.monotonic() + LIST_BUDGET_S
    async with translated("reading the roles"):
        nodes = await active_nodes(conn)
        records = {record.name: record for record in await citus_roles.read_records(conn)}
        roles = await citus_roles.read_roles(conn)
        owner_roles = await citus_ownership.read_owner_roles(conn)
        known: dict[NodeAddress, NodeRoles] = {}
        silent = []
        for node in nodes:
            if time.monotonic() > deadline:
                silent.append(f"{node.address} was not asked: other nodes took too long to answer")
                continue
            try:
                known[node.address] = await citus_roles.node_roles(conn, node)
            except CitusClusterError as error:
                if conn.closed:
                    raise
                silent.append(error.message)
        ordinary = {name for name, role in roles.items() if role.can_login and not role.is_superuser}
        if await citus_pooling.has_pooler_role(conn):
            ordinary.discard(POOLER_ROLE)
        if await has_reader_role(conn):
            ordinary.discard(READER_ROLE)
        found = []
        for name in sorted(ordinary | set(records)):
            record = records.get(name)
            holdings: tuple[Holding, ...] = ()
            if record and name in roles:
                holdings = await citus_grants.read_holdings(conn, name, record.schemas)
            lacking = missing_on_objects(record, holdings) if record else {}
            here = {node: known[node.address] for node in nodes if node.address in known}
            own = next((found for node, found in here.items() if node.is_coordinator), None)
            limits = role_limits.found_limits(own, name) if own else None
            found.append(
                RoleStatus(
                    name,
                    record,
                    exists=name in roles,
                    can_login=name in roles and roles[name].can_login,
                    missing_on=_missing_on(name, nodes, known) if name in roles else (),
                    ungranted=tuple(f"{one.schema}.{one.name}" for one in lacking),
                    password_file=credentials.password_file(name),
                    forgotten=bool(record and credentials.root and not credentials.password_file(name)),
                    owner_of=None if record else owner_roles.get(name),
                    limits={one.value: limits.value(one) for one in Limit} if limits else {},
                    unlimited_on=role_limits.other_limits(record, here),
                )
            )
        return RoleList(tuple(found), tuple(silent))


def _missing_on(
    name: str, nodes: Sequence[RegisteredNode], known: Mapping[NodeAddress, NodeRoles]
) -> tuple[NodeAddress, ...]:
    """Return the nodes without the role, without its row, or with a row that differs from the coordinator's."""
    if nodes == (ALONE,):
        return ()  # the coordinator has no other node to connect to
    own = known[nodes[0].address].digests.get(name) if nodes[0].address in known else None
    return tuple(
        address
        for address, here in known.items()
        if name not in here.roles or name not in here.digests or here.digests[name] != own
    )


def _result(credentials: CredentialStore, record: RoleRecord, password: str, report: ChangeReport) -> RoleResult:
    return RoleResult(
        record,
        tuple(report.changed),
        credentials.password_file(record.name),
        credentials.connection(record.name, password),
    )


async def refuse_foreign(credentials: CredentialStore, cluster: Cluster, name: str, given: str | None) -> None:
    """Raise RoleError for a role that exists, but is not managed here or cannot be changed."""
    role = cluster.roles.get(name)
    if role is None:
        return
    if role.is_superuser:
        raise RoleError(f"Role {name!r} is a superuser.", hint="Choose another name.")
    if not role.can_login:
        raise RoleError(
            f"Role {name!r} may not log in: login was revoked, or a drop was interrupted.",
            hint=f'To allow login, run on the coordinator: ALTER ROLE "{name}" LOGIN; To drop the role: '
            f"citus-cluster roles drop {name}",
        )
    if name not in cluster.records and not (given and await opens(credentials.connection(name, given))):
        raise RoleError(
            f"Role {name!r} exists, but was not created by citus-cluster; it was not changed.",
            hint="Choose another name. To let citus-cluster manage the role, give its password with --password-file.",
        )
    refuse_torn(cluster, name)


async def refuse_missing_schemas(conn: Connection, wanted: RoleRecord) -> None:
    """Raise UsageError for a schema that does not exist."""
    missing = await citus_roles.missing_schemas(conn, wanted.schemas)
    if missing:
        names = ", ".join(repr(schema) for schema in missing)
        raise UsageError(
            f"Schema {names} does not exist in database {conn.info.dbname!r}.",
            hint="Create it first, or name other schemas with --schema.",
        )


# Credentials and privileges


async def copy_authinfo(conn: Connection, cluster: Cluster, name: str, report: ChangeReport) -> None:
    """Copy the coordinator's row to every worker, and report only the workers that did not have it."""
    own = (await citus_roles.node_roles(conn, cluster.nodes[0])).digests.get(name)
    for node in cluster.workers:
        if cluster.known[node.address].digests.get(name) != own:
            await citus_probe.copy_role_passwords(conn, node.address)
            report(f"credentials of role {name} copied to {node.address}")


async def _verify(info: ConnectionInfo, cluster: Cluster) -> None:
    """Connect as the role, also from the coordinator to every worker."""
    try:
        opened = await connect(info, timeout_s=CONNECT_TIMEOUT_S)
    except AuthenticationError as error:
        raise VerificationError(
            error.message,
            hint="The password may have been changed meanwhile. To check again: citus-cluster roles create "
            f"{info.user}. To set "
            f"another password: citus-cluster roles password {info.user}",
        ) from error
    async with opened as conn:
        bad = []
        for node in cluster.workers:
            async with translated(f"connecting to {node.address} as role {info.user}"):
                if not await citus_probe.coordinator_reaches(conn, node.address):
                    bad.append(str(node.address))
    if bad:
        raise VerificationError(
            f"The coordinator cannot connect to {', '.join(bad)} as role {info.user!r}.",
            hint="Check the logs there, then run the command again.",
            details=bad,
        )


async def _allow_connecting(conn: Connection, name: str, report: ChangeReport) -> None:
    if not await citus_grants.may_connect(conn, name):
        await citus_grants.allow_connecting(conn, name)
        report(f"CONNECT granted on database {conn.info.dbname}")


async def _grant(
    conn: Connection, cluster: Cluster, wanted: RoleRecord, before: RoleRecord | None, report: ChangeReport
) -> None:
    """Grant what is missing; revoke only if the access was narrowed."""
    holdings = await citus_grants.read_holdings(conn, wanted.name, wanted.schemas)
    missing = missing_on_objects(wanted, holdings)
    if missing:
        await citus_grants.grant(conn, wanted.name, missing)
        report(f"{wanted.access} granted on {_kinds(missing)}")
    here = [one for one in cluster.records.values() if one.name != wanted.name and one.name in cluster.roles]
    defaults = wanted_defaults([*here, wanted], conn.info.user)
    found = await citus_grants.read_defaults(conn)
    lacking = {one: privileges - found.get(one, frozenset()) for one, privileges in defaults.items()}
    lacking = {one: privileges for one, privileges in lacking.items() if privileges}
    if lacking:
        await citus_grants.grant_defaults(conn, lacking)
        report(f"privileges on future tables of {', '.join(sorted({one.creator for one in lacking}))} granted")
    if before is not None and not wanted.access.covers(before.access):
        surplus = excess_on_objects(wanted, holdings)
        await citus_grants.revoke(conn, wanted.name, surplus)
        own = {one: privileges for one, privileges in found.items() if one.role == wanted.name and one in defaults}
        await citus_grants.revoke_defaults(
            conn, {one: p - defaults[one] for one, p in own.items() if p - defaults[one]}
        )
        report(f"privileges beyond {wanted.access} revoked")


def _kinds(changes: Mapping[Holding, frozenset[str]]) -> str:
    counted = Counter(one.kind.value.lower() for one in changes)
    return ", ".join(f"{number} {kind if number > 1 else kind[:-1]}" for kind, number in counted.items())
