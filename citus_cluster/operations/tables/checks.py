"""What the changes of tables check alike before they run: the facts about a table, and the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

from citus_cluster.model.citus.table_facts import ServerFacts, TableFacts
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding
from citus_cluster.runtime.citus import movers as citus_movers
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.citus import table_facts as citus_facts
from citus_cluster.runtime.postgres import Connection


@dataclass(frozen=True)
class Looked:
    """A table and the cluster as they are now."""

    table: TableFacts
    server: ServerFacts
    sizes: citus_shards.Sizes


async def look(conn: Connection, name: str) -> Looked:
    """Find a table, and read what decides about its changes. Raises NotFoundError and UsageError."""
    found = await citus_relations.find_table(conn, name)
    registry = await citus_nodes.read_registry(conn)
    silent = await citus_probe.silence(conn, registry.nodes)
    server = await citus_facts.read_server(conn, registry, silent)
    sizes = await citus_shards.sizes_by_group(conn, registry.nodes, known=silent)
    return Looked(await citus_facts.read_table(conn, found.oid, sizes=sizes), server, sizes)


async def untrusted(conn: Connection, oids: Sequence[int], *, trusted: bool) -> list[Finding]:
    """Return code of ordinary roles that would run as the superuser while these tables are copied."""
    found = await citus_movers.foreign_code_of_tables(conn, oids)
    return list(checks.untrusted([str(one) for one in found], trusted=trusted))


@dataclass(frozen=True)
class Teller:
    """Reports one step."""

    step: str
    emit: Emit

    def __call__(self, message: str) -> None:
        self.emit(Event(self.step, EventKind.PROGRESS, message))

    def started(self, message: str) -> None:
        self.emit(Event(self.step, EventKind.STARTED, message))

    def done(self, message: str) -> None:
        self.emit(Event(self.step, EventKind.DONE, message))

    def warn(self, message: str) -> None:
        self.emit(Event(self.step, EventKind.WARNING, message))
