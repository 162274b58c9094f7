"""As whom Citus copies shards, and what that lets the roles of a cluster do: put into words."""

from collections.abc import Sequence
from dataclasses import dataclass

from citus_cluster.model.citus.nodes import NodeAddress


@dataclass(frozen=True)
class ForeignCode:
    """What a table runs for each row that is copied into it, and would run as the superuser.

    ``what`` is the part of the table, ``calls`` the function, or the type to which its owner may add a check. ``owner``
    is None for a function of the superuser that an ordinary role chose, and that may run what it is given.
    """

    table: str
    what: str
    calls: str
    owner: str | None

    def __str__(self) -> str:
        why = f"which belongs to role {self.owner}" if self.owner else "which does whatever its caller may do"
        return f"{self.what} of {self.table} uses {self.calls}, {why}"


@dataclass(frozen=True)
class Owner:
    """A role that owns tables that move. ``copies`` are those whose rows are copied as this role."""

    role: str
    can_login: bool
    statement_timeout: str | None
    tables: tuple[str, ...]
    copies: tuple[str, ...]


TRUST_HINT = (
    "Drop what is listed; or let one ordinary role own all tables that are colocated, so that their shards are copied "
    "as that role; or read the functions and give them to the superuser. --trust-functions (trust_functions in the "
    "API) copies the shards anyway: whoever owns the functions can then become superuser on the nodes that get shards."
)


def new_node_hint(worker: NodeAddress) -> str:
    """Say what to do where a worker is not registered, since reference tables carry code of ordinary roles."""
    return (
        "Drop what is listed, or read the functions and give them to the superuser. citus-cluster nodes add --host "
        f"{worker.host} --port {worker.port} --trust-functions (trust_functions in the API) registers the worker "
        "anyway: whoever owns the functions can become superuser there."
    )


def missing_logins(owners: Sequence[Owner]) -> tuple[str, ...]:
    """One line for each owner as whom Citus cannot connect to make the tables on another node."""
    return tuple(
        f"{_some(owner.tables)} belong to role {owner.role}, which may not log in"
        for owner in owners
        if not owner.can_login
    )


def short_timeouts(owners: Sequence[Owner]) -> tuple[str, ...]:
    """One line for each owner whose own settings end a copy that takes long."""
    return tuple(
        f"{_some(owner.copies)} are copied as role {owner.role}, whose statement_timeout of {owner.statement_timeout} "
        "ends the copy of a shard that takes longer; ALTER ROLE ... RESET statement_timeout; prevents it"
        for owner in owners
        if owner.copies and owner.statement_timeout not in (None, "0")
    )


def _some(tables: Sequence[str], most: int = 5) -> str:
    more = len(tables) - most
    return ", ".join(tables[:most]) + (f" and {more} more" if more > 0 else "")
