"""What components need on a running coordinator: each ``up`` creates what is missing, and so does the admin API.

``status`` and the admin API report what is missing.

The API imports this module, so it does not need a generated directory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.component import Account
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.plan.events import Emit
from citus_cluster.operations.accounts import SecretOf, account_lacks, make_on_coordinator
from citus_cluster.operations.pooling import let_pooler_ask, why_pooler_cannot_ask
from citus_cluster.runtime.citus.lock import WAIT_FOR_LOCK_S
from citus_cluster.runtime.postgres import Connection


class _Prepare(Protocol):
    """Creates what one component needs, with the component's password. Returns whether anything was missing."""

    async def __call__(self, conn: Connection, password: str, emit: Emit, *, wait_for_lock_s: float) -> bool: ...


class _Look(Protocol):
    """Returns what is wrong with it, and how to repair it; None if it is correct."""

    async def __call__(self, conn: Connection, password: str) -> str | None: ...


@dataclass(frozen=True)
class Need:
    """What one component needs: how to create it, and how to check it."""

    prepare: _Prepare
    look: _Look


NEEDED: Mapping[ComponentName, Need] = {ComponentName.PGBOUNCER: Need(let_pooler_ask, why_pooler_cannot_ask)}
"""The needs of each component that has any."""


def needs_coordinator(component: ComponentName) -> bool:
    """Return whether a component needs anything of the coordinator."""
    return component in NEEDED or any(one.server is ComponentName.CITUS for one in COMPONENTS[component].accounts)


async def prepare_coordinator(
    conn: Connection,
    components: Iterable[ComponentName],
    secret_of: SecretOf,
    emit: Emit,
    *,
    wait_for_lock_s: float = WAIT_FOR_LOCK_S,
) -> Mapping[ComponentName, CitusClusterError]:
    """Create what these components need on the coordinator. Returns the errors; one error does not stop the others.

    ``conn`` is a superuser's connection to the coordinator.
    """
    failures = {}
    for component in components:
        try:
            if component in NEEDED:
                password = _password(component, secret_of)
                await NEEDED[component].prepare(conn, password, emit, wait_for_lock_s=wait_for_lock_s)
            for account in _accounts(component):
                password = secret_of(account.secret)
                await make_on_coordinator(conn, account, password, emit, wait_for_lock_s=wait_for_lock_s)
        except CitusClusterError as error:
            failures[component] = error
    return failures


async def lacks_on_coordinator(
    conn: Connection, components: Iterable[ComponentName], secret_of: SecretOf
) -> Mapping[ComponentName, str]:
    """Return what is wrong on the coordinator for these components, and how to repair it. Changes nothing.

    Arguments as in :func:`prepare_coordinator`. Raises CitusClusterError.
    """
    lacks: dict[ComponentName, str] = {}
    for component in components:
        found = [await NEEDED[component].look(conn, _password(component, secret_of))] if component in NEEDED else []
        found += [await account_lacks(conn, one, secret_of(one.secret)) for one in _accounts(component)]
        if reason := "; ".join(filter(None, found)):
            lacks[component] = reason
    return lacks


def _accounts(component: ComponentName) -> list[Account]:
    return [one for one in COMPONENTS[component].accounts if one.server is ComponentName.CITUS]


def _password(component: ComponentName, secret_of: SecretOf) -> str:
    secret = COMPONENTS[component].password
    return secret_of(secret) if secret else ""
