"""Requests that change ordinary roles: under the directory's lock, with a journal line without passwords."""

from collections.abc import Sequence

from citus_cluster.model.citus.roles import Access
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.coordinator import OnCoordinator
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.roles import accounts
from citus_cluster.operations.roles import drop as dropping
from citus_cluster.operations.roles.accounts import RoleResult
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.store import files


async def create(
    on_coordinator: OnCoordinator,
    journal: Journal,
    credentials: CredentialStore,
    name: str,
    emit: Emit,
    *,
    access: Access | None = None,
    schemas: Sequence[str] | None = None,
    limits: Sequence[str] = (),
    given: str | None = None,
) -> RoleResult:
    """Create or repair a role; arguments and errors as in ``accounts.create``."""
    asked = {"access": access, "schemas": schemas, "limits": tuple(limits)}
    with (
        files.locked(credentials.root),
        journal.entry("roles-create", role=name, **asked) as entry,
    ):
        made = await on_coordinator(
            lambda conn: accounts.create(
                conn, credentials, name, emit, access=access, schemas=schemas, limits=limits, given=given
            )
        )
        entry.tell(changed=made.changed)
        return made


async def set_password(
    on_coordinator: OnCoordinator,
    journal: Journal,
    credentials: CredentialStore,
    name: str,
    emit: Emit,
    *,
    given: str | None = None,
) -> RoleResult:
    """Change a role's password; arguments and errors as in ``accounts.set_password``."""
    with (
        files.locked(credentials.root),
        journal.entry("roles-password", role=name) as entry,
    ):
        made = await on_coordinator(lambda conn: accounts.set_password(conn, credentials, name, emit, given=given))
        entry.tell(changed=made.changed)
        return made


async def drop(
    on_coordinator: OnCoordinator,
    journal: Journal,
    credentials: CredentialStore,
    name: str,
    emit: Emit,
    *,
    reassign: bool = False,
    named: Sequence[str] = (),
    disconnect: bool = False,
) -> tuple[str, ...]:
    """Drop a role; arguments, result and errors as in ``drop.drop``."""
    asked = {"reassign": reassign, "named": tuple(named), "disconnect": disconnect}
    with (
        files.locked(credentials.root),
        journal.entry("roles-drop", role=name, **asked) as entry,
    ):
        changed = await on_coordinator(
            lambda conn: dropping.drop(
                conn, credentials, name, emit, reassign=reassign, named=named, disconnect=disconnect
            )
        )
        entry.tell(changed=changed)
        return changed
