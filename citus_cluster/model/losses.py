"""What a node has lost of what the coordinator's catalog places there, and what can be done about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from citus_cluster.model.nodes import NodeAddress

_SHOWN = 3
_DOCUMENT = 'docs/operations.md, "A worker whose data are gone",'


@dataclass(frozen=True)
class Loss:
    """Shards that are placed on a node and do not exist there.

    ``shards`` gives the ids of the missing shards by table, ``placed`` how many shards the catalog places there,
    ``reference`` those of the tables of which other nodes have copies. ``emptied``: the server does not know the
    cluster, so its data directory was made anew. ``roles`` are missing there too; they are looked for on such a server.
    """

    address: NodeAddress
    placed: int
    shards: Mapping[str, tuple[int, ...]]
    reference: frozenset[str] = frozenset()
    emptied: bool = False
    roles: tuple[str, ...] = ()
    is_coordinator: bool = False

    @property
    def missing(self) -> int:
        """Number of shards that are missing."""
        return sum(len(ids) for ids in self.shards.values())

    def __str__(self) -> str:
        parts = []
        if self.missing:
            tables = _some([f"{table} ({_some(list(map(str, ids)))})" for table, ids in self.shards.items()])
            verb = "does" if self.missing == 1 else "do"
            parts.append(f"{self.missing} of the {self.placed} shards placed there {verb} not exist: {tables}")
        if self.emptied:
            parts.append("the server no longer knows the cluster")
        if self.roles:
            parts.append(f"it lacks the role{'s' if len(self.roles) > 1 else ''} {_some(self.roles)}")
        return f"{self.address} has lost {'its ' if self.emptied else ''}data: {'; '.join(parts)}."

    @property
    def statements(self) -> tuple[str, ...]:
        """SQL for the coordinator that gives the lost rows up: each was tried on Citus 13.2 and 14.0.

        A worker is disabled and activated in one transaction, which gives it the node list, the tables, the roles and
        the copies of reference tables again; Citus does so once no table needs the shards that it lacks.
        """
        lost = [table for table in self.shards if table not in self.reference]
        steps = [f"DROP TABLE {', '.join(lost)};"] if lost else []
        if not self.is_coordinator:
            node = f"'{self.address.host}', {self.address.port}"
            steps += [
                "BEGIN;",
                f"SELECT citus_disable_node({node}, synchronous := true);",
                f"SELECT citus_activate_node({node});",
                "COMMIT;",
                "SELECT replicate_reference_tables();",
            ]
        return tuple(steps)

    @property
    def way_out(self) -> str:
        """What to do next."""
        roles = "".join(f" citus-cluster roles create {role} (with its --access);" for role in self.roles)
        return (
            f"If a backup of the volume of {self.address} exists, stop the node, restore the volume, and run "
            "citus-cluster up. If the lost rows are expendable, or a dump has them, run in psql on the coordinator: "
            f"{' '.join(self.statements)} Then:{roles} citus-cluster up. {_DOCUMENT} also says how to keep the "
            "rows of the other shards."
        )

    def as_dict(self) -> Mapping[str, object]:
        return {
            "missing_shards": self.missing,
            "tables": {table: len(ids) for table, ids in self.shards.items()},
            "emptied": self.emptied,
            "roles": list(self.roles),
        }


def _some(parts: Sequence[str]) -> str:
    """Name the first few, and count the others."""
    return ", ".join(parts[:_SHOWN]) + (f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else "")
