"""Declared changes of ordinary roles. The commands ``roles`` have options of their own, and run the same functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, SecretStr

from citus_cluster.errors import CitusClusterError, RoleError, UsageError, WorkerUnreachableError
from citus_cluster.model.citus.role_limits import parse_limits
from citus_cluster.model.citus.roles import Access, merged
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.plan.preview import Finding, Preview, blocks, warns
from citus_cluster.model.units import count
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.roles import accounts
from citus_cluster.operations.roles import drop as dropping
from citus_cluster.operations.roles.accounts import RoleResult
from citus_cluster.operations.roles.cluster import look, refuse_names
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.postgres import Connection, translated
from citus_cluster.runtime.store import files

Name = Annotated[str, Field(min_length=1, max_length=63, description="Name of the role.", examples=["app"])]
Given = Annotated[
    SecretStr | None, Field(description="Password of the role. By default it is random.", examples=["at-least-8-chars"])
]
Shown = Annotated[
    bool,
    Field(description="Show a random password once, in the answer of this request. It is in no record."),
]


@parameters
class NewRole:
    """An ordinary role to create, or to repair."""

    name: Name
    access: Annotated[
        Access | None,
        Field(description="Access to tables: read, write, or create. Unchanged by default; write for a new role."),
    ] = None
    schema: Annotated[
        tuple[str, ...],
        Field(description="Schemas that the role may use, beside those that it has; public for a new role."),
    ] = ()
    limit: Annotated[
        tuple[str, ...],
        Field(
            description="Limits as NAME=VALUE: connections, statement_timeout, temp_file_limit.",
            examples=[["connections=20"]],
        ),
    ] = ()
    password: Given = None
    show_password: Shown = False


@parameters
class NewPassword:
    """A role that gets another password."""

    name: Name
    password: Given = None
    show_password: Shown = False


@parameters
class Dropping:
    """A role to drop."""

    name: Name
    reassign: Annotated[
        bool, Field(description="First give its objects to roles that own only objects of dropped roles.")
    ] = False
    reassign_also: Annotated[
        tuple[str, ...],
        Field(description="Also give these objects, which may behave differently with another owner."),
    ] = ()
    disconnect: Annotated[bool, Field(description="End the role's sessions first.")] = False


@dataclass(frozen=True)
class ChangedRole(Documented):
    """The result of a change of a role. The document has no password; ``once`` has one that was made just now."""

    made: RoleResult
    show_password: bool = False

    def document(self) -> object:
        return self.made.as_dict()

    @property
    def once(self) -> Mapping[str, str] | None:
        """Return what is shown only in the answer of the request that made it."""
        if not (self.show_password and self.made.is_random):
            return None
        connection = self.made.connection
        return {"password": connection.password, "dsn": connection.dsn(masked=False)}


@dataclass(frozen=True)
class DroppedRole(Documented):
    """The role that no longer exists, and what was changed."""

    role: str
    changed: tuple[str, ...]


def _credentials(cluster: Cluster, *, shown: bool = False) -> CredentialStore:
    return CredentialStore(cluster.info, cluster.root, shown)


def _text(given: SecretStr | None) -> str | None:
    return given.get_secret_value() if given else None


def _blocked(error: CitusClusterError) -> Finding:
    details = (
        f" ({'; '.join(error.details)})" if error.details and not isinstance(error, WorkerUnreachableError) else ""
    )
    return blocks(error.message + details, error.hint)


async def _plan_creation(cluster: Cluster, wanted: NewRole) -> Preview:
    credentials, given = _credentials(cluster, shown=wanted.show_password), _text(wanted.password)
    refuse_names(credentials, wanted.name, wanted.schema, given)
    if problems := parse_limits(wanted.limit)[1]:
        raise UsageError("; ".join(problems) + ".")

    async def work(conn: Connection) -> Preview:
        async with translated(f"checking role {wanted.name}"):
            try:
                found = await look(conn)
                await accounts.refuse_foreign(credentials, found, wanted.name, given)
                record = found.records.get(wanted.name)
                await accounts.refuse_missing_schemas(
                    conn, merged(wanted.name, record, wanted.access, wanted.schema or None)
                )
            except (RoleError, WorkerUnreachableError) as error:
                return Preview((f"Create role {wanted.name}, or add what it lacks.",), (_blocked(error),))
            if wanted.name in found.roles:
                step = f"Add what role {wanted.name} lacks: access, limits, and credentials on each node."
                return Preview((step,))
            step = f"Create role {wanted.name} on {count(len(found.nodes), 'node')}, with its access and credentials."
            return Preview((step,), _password_findings(credentials, wanted.name, given))

    return await cluster.on_coordinator(work)


def _password_findings(credentials: CredentialStore, name: str, given: str | None) -> tuple[Finding, ...]:
    if given is not None or credentials.root is not None:
        return ()
    if credentials.shown:
        return (warns("The random password is shown once, in the answer of this request. Keep it: nobody else does."),)
    return (
        blocks(
            "A random password cannot be kept without the cluster's directory. Give a password, or ask for it to be "
            "shown once (show_password).",
            f"citus-cluster roles create {name}",
        ),
    )


async def _create(cluster: Cluster, wanted: NewRole, preview: Preview, emit: Emit) -> ChangedRole:
    credentials = _credentials(cluster, shown=wanted.show_password)
    with files.locked(credentials.root):
        made = await cluster.on_coordinator(
            lambda conn: accounts.create(
                conn,
                credentials,
                wanted.name,
                emit,
                access=wanted.access,
                schemas=wanted.schema or None,
                limits=wanted.limit,
                given=_text(wanted.password),
            )
        )
    return ChangedRole(made, wanted.show_password)


async def _plan_password(cluster: Cluster, wanted: NewPassword) -> Preview:
    credentials, given = _credentials(cluster, shown=wanted.show_password), _text(wanted.password)
    refuse_names(credentials, wanted.name, (), given)

    async def work(conn: Connection) -> Preview:
        step = f"Change the password of role {wanted.name} on every node. Open sessions stay."
        async with translated(f"checking role {wanted.name}"):
            try:
                await accounts.find_managed(credentials, await look(conn), wanted.name)
            except (RoleError, WorkerUnreachableError) as error:
                return Preview((step,), (_blocked(error),))
        return Preview((step,), _password_findings(credentials, wanted.name, given))

    return await cluster.on_coordinator(work)


async def _set_password(cluster: Cluster, wanted: NewPassword, preview: Preview, emit: Emit) -> ChangedRole:
    credentials = _credentials(cluster, shown=wanted.show_password)
    with files.locked(credentials.root):
        made = await cluster.on_coordinator(
            lambda conn: accounts.set_password(conn, credentials, wanted.name, emit, given=_text(wanted.password))
        )
    return ChangedRole(made, wanted.show_password)


async def _plan_drop(cluster: Cluster, wanted: Dropping) -> Preview:
    credentials = _credentials(cluster)
    refuse_names(credentials, wanted.name, (), None)

    async def work(conn: Connection) -> Preview:
        drop = f"Drop role {wanted.name}, with its privileges, and its credentials on every node. Tables stay."
        async with translated(f"checking role {wanted.name}"):
            try:
                found = await look(conn)
                if wanted.name not in {*found.roles, *found.records}:
                    return Preview(())
                if wanted.name not in found.roles:
                    return Preview((f"Remove what is left of role {wanted.name}: its record and its credentials.",))
                handover = await dropping.check(
                    conn,
                    found,
                    wanted.name,
                    reassign=wanted.reassign or bool(wanted.reassign_also),
                    named=wanted.reassign_also,
                    disconnect=wanted.disconnect,
                )
            except (RoleError, WorkerUnreachableError) as error:
                return Preview((drop,), (_blocked(error),))
        steps = [f"End the sessions of role {wanted.name}."] if wanted.disconnect else []
        for one, new_owner in handover.new_owners.items() if handover else ():
            steps.append(f"Give {one.name} to {new_owner}.")
        return Preview((*steps, drop))

    return await cluster.on_coordinator(work)


async def _drop(cluster: Cluster, wanted: Dropping, preview: Preview, emit: Emit) -> DroppedRole:
    credentials = _credentials(cluster)
    with files.locked(credentials.root):
        changed = await cluster.on_coordinator(
            lambda conn: dropping.drop(
                conn,
                credentials,
                wanted.name,
                emit,
                reassign=wanted.reassign or bool(wanted.reassign_also),
                named=wanted.reassign_also,
                disconnect=wanted.disconnect,
            )
        )
    return DroppedRole(wanted.name, changed)


def _scope(wanted: Any) -> str:
    return f"role {wanted.name}"


CREATE = Change(
    name="roles-create",
    summary="Create an ordinary role that works on every node. Running it again repairs the role.",
    path="roles",
    command="roles create",
    parameters=NewRole,
    plan=_plan_creation,
    run=_create,
    scope=_scope,
    shows_once=lambda wanted: wanted.show_password,
    creates=lambda result: any("created on" in line for line in result["changed"]),
)

PASSWORD = Change(
    name="roles-password",
    summary="Change the password of a role on every node.",
    path="roles/password",
    command="roles password",
    parameters=NewPassword,
    plan=_plan_password,
    run=_set_password,
    scope=_scope,
    shows_once=lambda wanted: wanted.show_password,
)

DROP = Change(
    name="roles-drop",
    summary="Drop a role with its privileges and its credentials on every node. Tables stay.",
    path="roles/drop",
    command="roles drop",
    parameters=Dropping,
    plan=_plan_drop,
    run=_drop,
    scope=_scope,
    asks=True,
)
