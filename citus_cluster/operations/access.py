"""How to connect to a running cluster: commands to paste after the start."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from citus_cluster.model.component import Place
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.sharing import has_room_for_a_worker
from citus_cluster.model.topology import Topology
from citus_cluster.operations.directory import Directory
from citus_cluster.runtime.postgres import ConnectionInfo
from citus_cluster.runtime.store.secrets import ADMIN_TOKEN, SUPERUSER_PASSWORD


@dataclass(frozen=True)
class AccessDocument:
    """Commands and addresses; ``dsn`` may contain the password."""

    psql_in_container: str | None
    psql_on_host: str | None
    dsn: str | None = field(repr=False)
    admin_api_url: str | None
    admin_api_token_file: str | None
    admin_api_request: str | None
    companions_access: Mapping[str, str]
    next_commands: tuple[str, ...]


@dataclass(frozen=True)
class Access:
    """Commands and addresses; only ``dsn(show_secrets=True)`` contains the password.

    ``companions`` maps each other service to the command that opens a session on it from this machine, ``addresses``
    maps every service to its HOST:PORT for this machine.
    """

    psql_in_container: str | None
    psql_on_host: str | None
    admin_api_url: str | None
    admin_api_token_file: str | None
    companions: Mapping[str, str]
    addresses: Mapping[str, str]
    next_commands: tuple[str, ...]
    connection: ConnectionInfo | None = field(repr=False)

    def dsn(self, *, show_secrets: bool = False) -> str | None:
        return self.connection.dsn(masked=not show_secrets) if self.connection else None

    @property
    def admin_api_request(self) -> str | None:
        """An example request for the admin API, to be pasted."""
        if self.admin_api_url is None:
            return None
        token = f'-H "Authorization: Bearer $(cat {self.admin_api_token_file})"'
        return f"curl {token} {self.admin_api_url}/api/v1/nodes/active"

    def document(self, *, show_secrets: bool = False) -> AccessDocument:
        """Return the document; the password is in it only with ``show_secrets``."""
        return AccessDocument(
            psql_in_container=self.psql_in_container,
            psql_on_host=self.psql_on_host,
            dsn=self.dsn(show_secrets=show_secrets),
            admin_api_url=self.admin_api_url,
            admin_api_token_file=self.admin_api_token_file,
            admin_api_request=self.admin_api_request,
            companions_access=self.companions,
            next_commands=self.next_commands,
        )


def access(directory: Directory, drained: Sequence[str] = ()) -> Access:
    """Build the commands for one directory, with paths relative to the user's directory.

    ``drained`` names workers that are about to leave.
    """
    topology = directory.topology
    node = topology.service(topology.coordinator.service) if topology.coordinator else None
    api = next(iter(topology.of(ComponentName.ADMIN_API)), None)
    user, database = quote(topology.user), quote(topology.database)
    folder = "" if directory.root == Path.cwd() else quote(f"{directory.root}/")
    host = f"[{topology.connect_host}]" if ":" in topology.connect_host else topology.connect_host
    return Access(
        psql_in_container=f"docker exec -it {node.container_name} psql -U {user} -d {database}" if node else None,
        psql_on_host=f'PGPASSWORD="$(cat {folder}{SUPERUSER_PASSWORD})" '
        f"psql -h {topology.connect_host} -p {node.host_port} -U {user} -d {database}"
        if node
        else None,
        admin_api_url=f"http://{host}:{api.host_port}" if api else None,
        admin_api_token_file=f"{folder}{ADMIN_TOKEN}" if api else None,
        companions=dict(_companions(topology, Place(topology.connect_host, folder))),
        addresses={service.name: f"{host}:{service.host_port}" for service in topology.services},
        next_commands=_next_commands(directory, drained),
        connection=directory.coordinator() if node else None,
    )


def _companions(topology: Topology, place: Place) -> Iterator[tuple[str, str]]:
    for component in topology.components:
        yield from COMPONENTS[component].access(topology.of(component), place)


def _next_commands(directory: Directory, drained: Sequence[str]) -> tuple[str, ...]:
    topology = directory.topology
    if topology.coordinator is None:
        return tuple(
            f"python add_worker.py --host {worker.address.host} --port {worker.address.port}"
            for worker in topology.workers
        )
    retune = "" if has_room_for_a_worker(directory.spec) else " --retune"
    grow = f"python setup_citus_cluster.py --workers={len(topology.workers) + 1}{retune} --yes --up"
    # If they still hold shards, it continues; otherwise it prints the next step.
    leave = f"citus-cluster nodes drain {' '.join(map(quote, drained))} --wait"
    following = (leave,) if drained else (grow, "citus-cluster rebalance start --wait")
    return ("citus-cluster status", *following, "citus-cluster down")
