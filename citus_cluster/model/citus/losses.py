"""Shards that the coordinator's catalog places on a node and that are missing there, and how to recover."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.documents import Documented

_SHOWN = 3
_DOCUMENT = 'docs/operations.md, "A worker whose data are gone",'


@dataclass(frozen=True)
class LossDocument:
    """The number of shards that are missing on a node, by table, and the roles that are missing there."""

    missing_shards: int
    tables: Mapping[str, int]
    emptied: bool
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Loss(Documented):
    """Shards that are placed on a node and do not exist there.

    ``shards``: the ids of the missing shards by table. ``placed``: the number of shards that the catalog places there.
    ``reference``: the reference tables among them, which other nodes have too. ``emptied``: the server does not know
    the cluster, so its data directory is a new one. ``roles``: the roles that are missing on such a server.
    """

    address: NodeAddress
    placed: int
    shards: Mapping[str, tuple[int, ...]]
    reference: frozenset[str] = frozenset()
    emptied: bool = False
    roles: tuple[str, ...] = ()
    is_coordinator: bool = False
    copies: Mapping[int, tuple[NodeAddress, ...]] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Number of shards that are missing."""
        return sum(len(ids) for ids in self.shards.values())

    @property
    def lost(self) -> tuple[str, ...]:
        """Tables that have lost rows: no other node has a copy of one of their shards."""
        return tuple(
            table
            for table, ids in self.shards.items()
            if table not in self.reference and not all(self.copies.get(shard_id) for shard_id in ids)
        )

    @property
    def copied(self) -> tuple[str, ...]:
        """Tables of which another node has every shard that is missing here."""
        return tuple(table for table in self.shards if table not in self.reference and table not in self.lost)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            tables = _some([f"{table} ({_some(list(map(str, ids)))})" for table, ids in self.shards.items()])
            verb = "does" if self.missing == 1 else "do"
            parts.append(f"{self.missing} of the {self.placed} shards placed there {verb} not exist: {tables}")
        if self.emptied:
            parts.append("the server no longer knows the cluster")
        if self.roles:
            parts.append(f"{'roles are' if len(self.roles) > 1 else 'a role is'} missing: {_some(self.roles)}")
        text = f"{self.address} has lost {'its ' if self.emptied else ''}data: {'; '.join(parts)}."
        if self.copied:
            holders = {
                str(holder) for table in self.copied for one in self.shards[table] for holder in self.copies[one]
            }
            have = "has a copy" if len(holders) == 1 else "have copies"
            text += f" No row of {_some(self.copied)} is lost: {_some(sorted(holders))} {have}."
        return text

    @property
    def statements(self) -> tuple[str, ...]:
        """SQL for the coordinator that gives up the lost rows; each statement was tested on Citus 13.2 and 14.0.

        One transaction disables and activates the worker, which then gets the node list, the tables, the roles and
        the copies of reference tables again. Citus does this once no table needs the missing shards.
        """
        steps = [f"DROP TABLE {', '.join(self.lost)};"] if self.lost else []
        node = f"'{self.address.host}', {self.address.port}"
        partly = not self.emptied and self.copied and not self.lost and not self.reference
        if partly or self.is_coordinator:
            return (*steps, *(step for table in self.copied for one in self.shards[table] for step in self._copy(one)))
        steps += [
            "BEGIN;",
            f"SELECT citus_disable_node({node}, synchronous := true);",
            f"SELECT citus_activate_node({node});",
            "COMMIT;",
            "SELECT replicate_reference_tables();",
        ]
        # Disabling a node also removes its copies from the catalog.
        for table in self.copied:
            factor = 1 + max(len(self.copies[one]) for one in self.shards[table])
            name = table.replace("'", "''")
            steps.append(f"SELECT replicate_table_shards('{name}', {factor}, shard_transfer_mode := 'block_writes');")
        return tuple(steps)

    def _copy(self, shard_id: int) -> tuple[str, ...]:
        """SQL that copies one shard of a replicated table; Citus refuses while the catalog lists a copy there."""
        source = self.copies[shard_id][0]
        address = f"'{self.address.host}', {self.address.port}"
        group = f"(SELECT groupid FROM pg_dist_node WHERE (nodename, nodeport) = ({address}))"  # noqa: S608 # of the catalog
        return (
            f"SELECT run_command_on_all_nodes($$DELETE FROM pg_dist_placement WHERE shardid = {shard_id} "  # noqa: S608
            f"AND groupid = {group}$$);",
            f"SELECT citus_copy_shard_placement({shard_id}, '{source.host}', {source.port}, {address}, "
            "transfer_mode := 'block_writes');",
        )

    @property
    def way_out(self) -> str:
        """What to do next."""
        if self.copied and not (self.lost or self.emptied or self.reference):
            return (
                "No row is lost, so drop no table. To restore the missing copies, run in psql on the coordinator: "
                f"{' '.join(self.statements)} Then run citus-cluster up."
            )
        expendable = "If you do not need the lost rows, or have a dump of them, run" if self.lost else "Otherwise run"
        roles = "".join(f"citus-cluster roles create {role} (with its --access), " for role in self.roles)
        roles += "and " if self.roles else ""
        return (
            f"If a backup of the volume of {self.address} exists, stop the node, restore the volume, and run "
            f"citus-cluster up. {expendable} in psql on the coordinator: "
            f"{' '.join(self.statements)} Then run {roles}citus-cluster up. {_DOCUMENT} also describes how to keep the "
            "rows of the other shards."
        )

    def document(self) -> LossDocument:
        tables = {table: len(ids) for table, ids in self.shards.items()}
        return LossDocument(self.missing, tables, self.emptied, self.roles)


def _some(parts: Sequence[str]) -> str:
    """List the first few, and count the others."""
    return ", ".join(parts[:_SHOWN]) + (f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else "")
