"""The roles that Citus copies shards as, and what other roles could do through that: texts for people."""

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
    "Drop the listed objects; or let one ordinary role own all colocated tables, so that Citus copies their shards as "
    "that role; or review the functions and make the superuser their owner. --trust-functions (trust_functions in the "
    "API) copies the shards anyway: the owners of the functions can then become superuser on the nodes that get shards."
)


def new_node_hint(worker: NodeAddress) -> str:
    """Return what to do if a worker is not registered because reference tables run code of ordinary roles."""
    return (
        "Drop the listed objects, or review the functions and make the superuser their owner. citus-cluster nodes add "
        f"--host {worker.host} --port {worker.port} --trust-functions (trust_functions in the API) registers the "
        "worker anyway: the owners of the functions can then become superuser there."
    )


def missing_logins(owners: Sequence[Owner]) -> tuple[str, ...]:
    """Return one line for each owner that Citus cannot connect as to create the tables on another node."""
    return tuple(
        f"{_some(owner.tables)} belong to role {owner.role}, which may not log in"
        for owner in owners
        if not owner.can_login
    )


def short_timeouts(owners: Sequence[Owner]) -> tuple[str, ...]:
    """Return one line for each owner whose own settings cancel a copy that takes long."""
    return tuple(
        f"{_some(owner.copies)} are copied as role {owner.role}, whose statement_timeout of {owner.statement_timeout} "
        "cancels the copy of a shard that takes longer; ALTER ROLE ... RESET statement_timeout; prevents this"
        for owner in owners
        if owner.copies and owner.statement_timeout not in (None, "0")
    )


def _some(tables: Sequence[str], most: int = 5) -> str:
    more = len(tables) - most
    return ", ".join(tables[:most]) + (f" and {more} more" if more > 0 else "")
