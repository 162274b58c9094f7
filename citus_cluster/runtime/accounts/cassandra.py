"""A role of an application in Cassandra, with a keyspace of its own."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from citus_cluster.errors import RoleError, UnreachableError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import Account
from citus_cluster.model.components.cassandra import USER
from citus_cluster.runtime.accounts import AccountLogin
from citus_cluster.runtime.cassandra import cluster_at
from citus_cluster.runtime.probes import Doubt

if TYPE_CHECKING:
    from cassandra.cluster import Session

_TIMEOUT_S = 10.0
_COPIES = 3
"""The usual number of copies of a row in production; fewer if there are fewer nodes."""


async def make_in_cassandra(
    target: Target, password: str, logins: Sequence[AccountLogin], doubt: Doubt
) -> list[Account]:
    """Make roles and keyspaces; see MakeAccounts."""
    nodes = [*target.addresses.values()]
    if reason := await doubt(nodes[0]):
        raise UnreachableError(
            f"The roles of the examples in Cassandra were not checked: {reason}.",
            hint="citus-cluster status says how Cassandra is. Then run citus-cluster up again.",
        )
    made = [
        await asyncio.to_thread(_make_role, nodes[0], password, one.account.name, one.password, nodes=len(nodes))
        for one in logins
    ]
    return [one.account for one, changed in zip(logins, made, strict=True) if changed]


def _make_role(address: NodeAddress, superuser_password: str, name: str, password: str, *, nodes: int) -> bool:
    """Create what is missing of the role, its keyspace and its rights on that. Returns whether anything was.

    ``nodes`` is the number of nodes of the ring. Blocks. Raises RoleError for a role of this name with another
    password, UnreachableError.
    """
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    if _may_use(address, name, password):
        return False
    cluster = cluster_at(address, USER, superuser_password, _TIMEOUT_S)
    try:
        session = cluster.connect()
        exists = session.execute("SELECT role FROM system_auth.roles WHERE role = %s", [name]).one() is not None
        if exists and not _opens(address, name, password):
            raise RoleError(
                f"Role {name!r} exists in Cassandra with another password than in generated/secrets; it was not "
                "changed.",
                hint=f"If it belongs to the example, drop it (DROP ROLE {name} in cqlsh) and run citus-cluster up "
                "again; its keyspace stays.",
            )
        _make(session, name, password, nodes)
    except (NoHostAvailable, DriverException) as error:
        raise UnreachableError(
            f"Cassandra on {address} did not create role {name!r}: {(str(error).splitlines() or [''])[0]}",
            hint="Run citus-cluster up again once citus-cluster status shows that Cassandra is ready.",
        ) from error
    finally:
        with suppress(Exception):
            cluster.shutdown()
    return True


def _make(session: "Session", name: str, password: str, nodes: int) -> None:
    (data_center,) = session.execute("SELECT data_center FROM system.local").one()
    session.execute(
        f'CREATE KEYSPACE IF NOT EXISTS "{name}" WITH replication = '
        f"{{'class': 'NetworkTopologyStrategy', '{data_center}': {min(nodes, _COPIES)}}}"
    )
    quoted = password.replace("'", "''")
    session.execute(f"CREATE ROLE IF NOT EXISTS \"{name}\" WITH PASSWORD = '{quoted}' AND LOGIN = true")
    session.execute(f'GRANT ALL PERMISSIONS ON KEYSPACE "{name}" TO "{name}"')


def _opens(address: NodeAddress, name: str, password: str) -> bool:
    return _asked(address, name, password, "SELECT key FROM system.local")


def _may_use(address: NodeAddress, name: str, password: str) -> bool:
    """Return whether the role logs in, and finds its keyspace and its rights there."""
    return _asked(address, name, password, f'LIST ALL PERMISSIONS ON KEYSPACE "{name}" OF "{name}"')


def _asked(address: NodeAddress, name: str, password: str, question: str) -> bool:
    from cassandra import DriverException
    from cassandra.cluster import NoHostAvailable

    cluster = cluster_at(address, name, password, _TIMEOUT_S)
    try:
        found: Any = cluster.connect().execute(question).all()
    except (NoHostAvailable, DriverException):
        return False
    finally:
        with suppress(Exception):
            cluster.shutdown()
    return bool(found)
