"""Privileges of ordinary roles: reading, granting and revoking them. Citus propagates each to every node.

Citus does not propagate default privileges, which is not necessary: tables are created on the coordinator, and keep
their privileges when they are distributed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from psycopg import sql

from citus_cluster.model.citus.roles import Defaults, Holding, Kind
from citus_cluster.runtime.citus.roles import changing
from citus_cluster.runtime.citus.server import QUICK_S
from citus_cluster.runtime.postgres import Connection, bounded

_BATCH = 50
"""Objects in one statement: Citus changes every shard of each, in one transaction."""
_WORDS = {Kind.TABLES: sql.SQL("TABLE"), Kind.SEQUENCES: sql.SQL("SEQUENCE"), Kind.SCHEMAS: sql.SQL("SCHEMA")}
_KINDS = {Kind.TABLES: sql.SQL("TABLES"), Kind.SEQUENCES: sql.SQL("SEQUENCES")}
# Only these are used; in SQL they are unquoted.
_PRIVILEGES = {name: sql.SQL(name) for name in ("SELECT", "INSERT", "UPDATE", "DELETE", "USAGE", "CREATE")}


async def read_holdings(conn: Connection, role: str, schemas: Sequence[str]) -> tuple[Holding, ...]:
    """Return the privileges of a role by object: the schemas, and every table, view and sequence in them.

    Objects of extensions and shards are skipped.
    """
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            """
            WITH holder AS (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
            SELECT 'SCHEMAS' AS kind, nspname, nspname, nspowner = holder.oid,
                   ARRAY(SELECT privilege_type FROM aclexplode(nspacl) WHERE grantee = holder.oid)
            FROM pg_namespace, holder WHERE nspname = ANY (%(schemas)s)
            UNION ALL
            SELECT CASE relkind WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END, nspname, relname, relowner = holder.oid,
                   ARRAY(SELECT privilege_type FROM aclexplode(relacl) WHERE grantee = holder.oid)
            FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace, holder
            WHERE nspname = ANY (%(schemas)s) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
              AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid
                              AND refclassid = 'pg_extension'::regclass AND deptype = 'e')
              AND NOT relation_is_a_known_shard(pg_class.oid)
            ORDER BY 1, 2, 3
            """,
            {"role": role, "schemas": list(schemas)},
        )
        return tuple(
            Holding(Kind(kind), str(schema), str(name), frozenset(privileges), owned)
            for kind, schema, name, owned, privileges in await cursor.fetchall()
        )


async def may_connect(conn: Connection, role: str) -> bool:
    """Return whether the role itself, not only PUBLIC, was granted CONNECT to this database."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            "SELECT 1 FROM pg_database CROSS JOIN aclexplode(datacl) JOIN pg_roles ON pg_roles.oid = grantee "
            "WHERE datname = current_database() AND rolname = %s AND privilege_type = 'CONNECT'",
            [role],
        )
        return await cursor.fetchone() is not None


async def read_defaults(conn: Connection) -> Mapping[Defaults, frozenset[str]]:
    """Return the default privileges of roles on tables and sequences, by schema."""
    async with bounded(conn, QUICK_S):
        cursor = await conn.execute(
            """
            SELECT creator.rolname, nspname, CASE defaclobjtype WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END,
                   getter.rolname, array_agg(privilege_type)
            FROM pg_default_acl JOIN pg_namespace ON pg_namespace.oid = defaclnamespace
            JOIN pg_roles AS creator ON creator.oid = defaclrole
            CROSS JOIN aclexplode(defaclacl) JOIN pg_roles AS getter ON getter.oid = grantee
            WHERE defaclobjtype IN ('r', 'S') GROUP BY 1, 2, 3, 4
            """
        )
        return {
            Defaults(str(creator), str(schema), Kind(kind), str(role)): frozenset(privileges)
            for creator, schema, kind, role, privileges in await cursor.fetchall()
        }


async def allow_connecting(conn: Connection, role: str) -> None:
    """Grant CONNECT to this database."""
    async with changing(conn):
        statement = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
        await conn.execute(statement.format(sql.Identifier(conn.info.dbname), sql.Identifier(role)))


async def grant(conn: Connection, role: str, wanted: Mapping[Holding, frozenset[str]]) -> None:
    """Grant privileges on objects, some in each transaction."""
    await _change(conn, sql.SQL("GRANT {} ON {} {} TO {}"), role, wanted)


async def revoke(conn: Connection, role: str, surplus: Mapping[Holding, frozenset[str]]) -> None:
    """Revoke privileges on objects, some in each transaction."""
    await _change(conn, sql.SQL("REVOKE {} ON {} {} FROM {}"), role, surplus)


async def _change(conn: Connection, form: sql.SQL, role: str, changes: Mapping[Holding, frozenset[str]]) -> None:
    alike: dict[tuple[Kind, frozenset[str]], list[Holding]] = defaultdict(list)
    for holding, privileges in changes.items():
        alike[holding.kind, privileges].append(holding)
    for (kind, privileges), holdings in alike.items():
        for start in range(0, len(holdings), _BATCH):
            names = sql.SQL(", ").join(_name(one) for one in holdings[start : start + _BATCH])
            async with changing(conn):
                await conn.execute(form.format(_list(privileges), _WORDS[kind], names, sql.Identifier(role)))


async def grant_defaults(conn: Connection, wanted: Mapping[Defaults, frozenset[str]]) -> None:
    """Grant default privileges."""
    await _change_defaults(conn, sql.SQL("GRANT {} ON {} TO {}"), wanted)


async def revoke_defaults(conn: Connection, surplus: Mapping[Defaults, frozenset[str]]) -> None:
    """Revoke default privileges."""
    await _change_defaults(conn, sql.SQL("REVOKE {} ON {} FROM {}"), surplus)


async def _change_defaults(conn: Connection, form: sql.SQL, changes: Mapping[Defaults, frozenset[str]]) -> None:
    async with changing(conn):
        for one, privileges in changes.items():
            change = form.format(_list(privileges), _KINDS[one.kind], sql.Identifier(one.role))
            statement = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} {}")
            await conn.execute(statement.format(sql.Identifier(one.creator), sql.Identifier(one.schema), change))


def _name(holding: Holding) -> sql.Identifier:
    parts = (holding.name,) if holding.kind is Kind.SCHEMAS else (holding.schema, holding.name)
    return sql.Identifier(*parts)


def _list(privileges: Iterable[str]) -> sql.Composed:
    return sql.SQL(", ").join(_PRIVILEGES[name] for name in sorted(privileges))
