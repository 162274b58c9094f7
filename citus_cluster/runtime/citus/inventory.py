"""The nodes, tables and roles of a cluster with their properties, from the coordinator's own catalog."""

from citus_cluster.model.citus.inventory import Inventory
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.citus.tables import read_tables
from citus_cluster.runtime.postgres import Connection, bounded

_PLACEMENTS = "SELECT groupid, count(*) FROM pg_dist_placement GROUP BY 1"
_SHARDS = "SELECT logicalrelid::oid, count(*) FROM pg_dist_shard GROUP BY 1"
_ROLES = """
SELECT rolname, rolcanlogin, rolsuper, rolconnlimit, rolvaliduntil::text,
       (SELECT string_agg(roleid::regrole::text, ', ' ORDER BY 1) FROM pg_auth_members WHERE member = pg_roles.oid)
FROM pg_roles WHERE rolname !~ '^(pg_|citus_shard_)' ORDER BY 1
"""


async def read_inventory(conn: Connection) -> Inventory:
    """Return the nodes with their number of shards, the tables that Citus knows, and the roles."""
    registry = await read_registry(conn)
    tables = await read_tables(conn)
    async with bounded(conn, QUICK_S):
        placements: dict[int, int] = dict(await (await conn.execute(_PLACEMENTS)).fetchall())
        shards: dict[int, int] = dict(await (await conn.execute(_SHARDS)).fetchall())
        roles = await (await conn.execute(_ROLES)).fetchall()
    found: dict[str, dict[str, object]] = {}
    for node in registry.nodes:
        found[f"node {node.node_id}"] = {
            "name": str(node.address),
            "role": node.role,
            "is_active": node.is_active,
            "in_maintenance": node.in_maintenance,
            "should_have_shards": node.should_have_shards,
            "shards": placements.get(node.group_id, 0),
        }
    for table in tables:
        found[f"table {table.name}"] = {
            "name": table.name,
            "kind": table.type,
            "distribution_column": table.distribution_column,
            "colocation_id": table.colocation_id,
            "shards": shards.get(table.oid, 0),
        }
    for name, can_login, is_superuser, limit, valid_until, member_of in roles:
        found[f"role {name}"] = {
            "name": name,
            "can_login": can_login,
            "is_superuser": is_superuser,
            "connection_limit": None if limit < 0 else limit,
            "valid_until": valid_until,
            "member_of": member_of,
        }
    return found
