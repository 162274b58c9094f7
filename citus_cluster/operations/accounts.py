"""Accounts of applications on servers of other components: ``up`` and the admin API make what is missing.

The API imports this module, so it knows nothing of a generated directory.
"""

from collections.abc import Callable, Sequence

from citus_cluster.model.citus.roles import Access
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import Account, Secret
from citus_cluster.model.plan.events import Emit, Event, EventKind, ignore
from citus_cluster.operations.roles import accounts as roles
from citus_cluster.operations.roles.passwords import CredentialStore, opens
from citus_cluster.runtime.accounts import AccountLogin
from citus_cluster.runtime.accounts.registry import MAKERS
from citus_cluster.runtime.citus import roles as citus_roles
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S, writer_lock
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, translated
from citus_cluster.runtime.probes import Doubt

SecretOf = Callable[[Secret], str]
"""Reads a secret. Raises CitusClusterError."""


async def make_on_coordinator(
    conn: Connection, account: Account, password: str, emit: Emit, *, wait_for_lock_s: float = WAIT_FOR_LOCK_S
) -> None:
    """Create or repair an ordinary role with a schema of its name; ``conn`` is a superuser's connection.

    Raises RoleError for a role that was not created by this program, and what :func:`roles.create` raises.
    """
    if await account_lacks(conn, account, password) is None:
        return
    name = account.name
    store = _store(conn)
    async with translated(f"creating schema {name}"):
        async with writer_lock(conn, wait_s=wait_for_lock_s):
            await citus_roles.create_schema(conn, name)
        known = {record.name for record in await citus_roles.read_records(conn)}
    if name in known and not await opens(store.connection(name, password)):
        await roles.set_password(conn, store, name, ignore, given=password)
    await roles.create(conn, store, name, ignore, access=Access.CREATE, schemas=[name], given=password)
    _tell(account, emit)


async def account_lacks(conn: Connection, account: Account, password: str) -> str | None:
    """Return what an account lacks on the coordinator, and what repairs it; None if nothing. Changes nothing."""
    name = account.name
    async with translated(f"looking at role {name}"):
        known = {record.name for record in await citus_roles.read_records(conn)}
        missing = await citus_roles.missing_schemas(conn, [name])
    repair = "run citus-cluster up, which repairs it"
    if name not in known:
        return f"role {name} is missing on the coordinator: {repair}"
    if missing:
        return f"schema {name} is missing on the coordinator: {repair}"
    if not await opens(_store(conn).connection(name, password)):
        return f"role {name} has another password on the coordinator than in {account.secret.path}: {repair}"
    return None


def _store(conn: Connection) -> CredentialStore:
    """Return the login of ``conn``, without files: the passwords of accounts are in theirs already."""
    info = conn.info
    return CredentialStore(ConnectionInfo(info.host, info.port, info.user, info.dbname, info.password), None)


async def make_accounts(
    target: Target, password: str, accounts: Sequence[Account], secret_of: SecretOf, doubt: Doubt, emit: Emit
) -> None:
    """Create or repair the accounts on the servers of a component beside Citus, which are ready.

    ``password`` is that of the administration. Raises RoleError, UnreachableError.
    """
    if accounts and target.component in MAKERS:
        logins = [AccountLogin(account, secret_of(account.secret)) for account in accounts]
        for account in await MAKERS[target.component](target, password, logins, doubt):
            _tell(account, emit)


def _tell(account: Account, emit: Emit) -> None:
    message = f"{account.server} has the account {account.name} now"
    emit(Event(f"account:{account.server}:{account.name}", EventKind.DONE, message))
