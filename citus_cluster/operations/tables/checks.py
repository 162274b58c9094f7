"""What the changes of tables check alike before they run: the facts about a table, and the nodes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from citus_cluster.errors import LockedError, UntrustedCodeError
from citus_cluster.model.citus.table_facts import ServerFacts, TableFacts
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Finding
from citus_cluster.runtime.citus import movers as citus_movers
from citus_cluster.runtime.citus import nodes as citus_nodes
from citus_cluster.runtime.citus import probe as citus_probe
from citus_cluster.runtime.citus import relations as citus_relations
from citus_cluster.runtime.citus import shards as citus_shards
from citus_cluster.runtime.citus import table_changes as citus_changes
from citus_cluster.runtime.citus import table_facts as citus_facts
from citus_cluster.runtime.postgres import Connection

_ATTEMPTS_TO_HOLD = 5


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


def refusing_untrusted(
    conn: Connection, find: Callable[[], Awaitable[Sequence[int]]], *, trusted: bool
) -> citus_changes.Guard:
    """Return a guard that looks for such code again, after it has locked the tables that ``find`` returns.

    Who owns a table may have changed it since the plan, and cannot change it any more while it is copied.
    """

    async def guard() -> None:
        if trusted:
            return
        for _ in range(_ATTEMPTS_TO_HOLD):
            oids = await find()
            is_held = await citus_movers.hold_definitions(conn, oids)
            if is_held and set(await find()) <= set(oids):
                break
        else:
            raise LockedError("Nothing was changed: the tables change all the time.", hint="Try again.")
        found = tuple(map(str, await citus_movers.foreign_code_of_tables(conn, oids)))
        if found:
            raise UntrustedCodeError(
                f"Nothing was changed: this would run as the superuser while rows are copied: {'; '.join(found)}.",
                hint="It was added after the plan was made. Review it; --trust-functions (trust_functions in the API) "
                "allows it.",
                details=found,
            )

    return guard


def among(*oids: int) -> Callable[[], Awaitable[Sequence[int]]]:
    """Return a function that returns these tables, for a guard of tables that stay the same."""

    async def find() -> Sequence[int]:
        return oids

    return find


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
