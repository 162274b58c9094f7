"""Views of the roles."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from citus_cluster.model.citus.roles import RoleDocument
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.roles.accounts import list_roles
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.operations.view import View


@dataclass(frozen=True)
class RoleRow(RoleDocument):
    """A role that may log in, or is recorded; ``not_asked`` has a line for each node that did not answer."""

    not_asked: tuple[str, ...] = ()


async def _read_roles(cluster: Cluster, _: object) -> Sequence[RoleRow]:
    credentials = CredentialStore(cluster.info, cluster.root)
    found = await cluster.on_coordinator(lambda conn: list_roles(conn, credentials))
    documents = [one.document() for one in found.roles]
    return [
        RoleRow(**{one.name: getattr(document, one.name) for one in fields(document)}, not_asked=found.silent)
        for document in documents
    ]


LIST = View(
    name="roles-list",
    summary="List the roles that may log in, with their access, and the nodes on which credentials are missing.",
    path="roles",
    command="roles list",
    row=RoleRow,
    key="role",
    superuser=True,  # the credentials of roles
    read=_read_roles,
)
