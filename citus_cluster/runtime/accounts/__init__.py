"""Accounts of applications on servers beside Citus, one module for each kind of server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import Account
from citus_cluster.runtime.probes import Doubt


@dataclass(frozen=True)
class AccountLogin:
    """An account with its password."""

    account: Account
    password: str = field(repr=False)


class MakeAccounts(Protocol):
    """Creates or repairs accounts on the servers of ``target``; ``password`` is that of the administration.

    ``doubt`` is asked before a password is sent in cleartext. Returns the accounts that had to change. Raises RoleError
    for one that was not made here, UnreachableError.
    """

    async def __call__(
        self, target: Target, password: str, logins: Sequence[AccountLogin], doubt: Doubt, /
    ) -> list[Account]: ...
