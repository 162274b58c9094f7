"""Lists of tables, schemas and shards, and the place of a key, on real servers."""

from collections.abc import Iterator
from typing import Any

import pytest
from sql_declared import read
from sql_servers import COORDINATOR, WORKERS, Servers, register

from citus_cluster.errors import NotFoundError, UntrustedCodeError, UsageError
from citus_cluster.model.citus.shards import ShardState
from citus_cluster.operations.shards import views as shards
from citus_cluster.operations.tables import views as tables
from citus_cluster.runtime.citus import shards as citus_shards

pytestmark = pytest.mark.cluster

FIRST, SECOND, _ = WORKERS
ODD = '"Sales Ü"."it\'s a ""quote"""'
LONG = f'"{"x" * 63}"'


@pytest.fixture
def stocked(cluster: Servers) -> Iterator[Servers]:
    """Two workers, and a table of each kind, some with names that need quoting."""
    register(cluster, FIRST, SECOND)
    drop = (
        "SET client_min_messages TO error",
        'DROP SCHEMA IF EXISTS "Sales Ü", tenant_a CASCADE',
        f'DROP TABLE IF EXISTS notes, things, local_ref, countries, orders, "<script>", keys, {LONG} CASCADE',
        "DROP TABLE IF EXISTS codes, logs",
        "DROP TYPE IF EXISTS pair",
        "DROP DOMAIN IF EXISTS code",
    )
    cluster.sql(
        COORDINATOR.host,
        *drop,
        "CREATE TABLE orders (id bigint PRIMARY KEY, payload text)",
        "SELECT create_distributed_table('orders', 'id', shard_count => 4)",
        "INSERT INTO orders SELECT id, repeat('x', 100) FROM generate_series(1, 2000) AS id",
        'CREATE TABLE "<script>" (id bigint PRIMARY KEY)',
        "SELECT create_distributed_table('\"<script>\"', 'id', colocate_with => 'orders')",
        "CREATE TABLE countries (id int PRIMARY KEY)",
        "SELECT create_reference_table('countries')",
        "CREATE TABLE local_ref (id int REFERENCES countries (id))",
        f"CREATE TABLE {LONG} (id int)",
        "CREATE TABLE notes (id int)",
        'CREATE SCHEMA "Sales Ü"',
        f"CREATE TABLE {ODD} (d date NOT NULL, k uuid) PARTITION BY RANGE (d)",
        f"""CREATE TABLE "Sales Ü".p1 PARTITION OF {ODD} FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')""",
        f"""SELECT create_distributed_table('{ODD.replace("'", "''")}', 'k', shard_count => 4)""",
        "SET citus.enable_schema_based_sharding TO on",
        "CREATE SCHEMA tenant_a",
        "CREATE TABLE tenant_a.things (id int PRIMARY KEY)",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE TABLE keys (key pair, day date)",
        "SELECT create_distributed_table('keys', 'key', shard_count => 4, colocate_with => 'none')",
        "CREATE DOMAIN code AS char(3) CHECK (VALUE <> '')",
        "CREATE TABLE codes (code code)",
        "SELECT create_distributed_table('codes', 'code', shard_count => 4, colocate_with => 'none')",
    )
    try:
        yield cluster
    finally:
        cluster.sql(COORDINATOR.host, *drop)


def test_every_table_is_listed_with_its_kind_and_size(stocked: Servers) -> None:
    found = {row.table: row for row in read(stocked, tables.TABLES)}
    assert {name: row.kind for name, row in found.items()} == {
        "orders": "distributed",
        '"<script>"': "distributed",
        ODD: "distributed",
        '"Sales Ü".p1': "distributed",
        "keys": "distributed",
        "codes": "distributed",
        "countries": "reference",
        "local_ref": "citus-local",
        "tenant_a.things": "schema",
        "notes": "local",
        LONG.strip('"'): "local",
    }
    orders = found["orders"]
    assert (orders.distribution_column, orders.shards, orders.identity) == ("id", 4, True)
    assert orders.colocation_id == found['"<script>"'].colocation_id
    (row,) = stocked.sql(COORDINATOR.host, "SELECT citus_total_relation_size('orders')")
    assert row == (orders.bytes,)
    assert (found[ODD].partitions, found[ODD].identity) == (1, None)
    assert found['"Sales Ü".p1'].partition_of == ODD
    (row,) = stocked.sql(
        COORDINATOR.host, "SELECT sum(shard_size) FROM citus_shards WHERE table_name::text = 'countries'"
    )
    assert row == (found["countries"].bytes,)
    assert found["notes"].owner == "postgres"


def test_schemas_are_listed_with_the_node_of_a_tenant(stocked: Servers) -> None:
    found = {row.schema: row for row in read(stocked, tables.SCHEMAS)}
    assert set(found) == {"public", '"Sales Ü"', "tenant_a"}
    tenant = found["tenant_a"]
    assert (tenant.distributed, tenant.tables) == (True, 1)
    assert tenant.node in {str(FIRST), str(SECOND)}
    assert (found["public"].distributed, found["public"].node, found["public"].tables) == (False, None, 8)


def test_every_placement_is_listed_and_the_sizes_agree_with_citus(stocked: Servers) -> None:
    rows = read(stocked, shards.LIST)
    expected = stocked.sql(
        COORDINATOR.host,
        "SELECT shardid, nodename || ':' || nodeport, shard_size FROM citus_shards ORDER BY 1, 2",
    )
    assert sorted((row.shard_id, row.node, row.bytes) for row in rows) == expected
    assert {row.state for row in rows} == {ShardState.ACTIVE}
    assert len({row.placement_id for row in rows}) == len(rows)
    cells = read(stocked, shards.GROUPS)
    assert sum(cell.bytes for cell in cells) == sum(row.bytes for row in rows)
    assert sum(cell.shards for cell in cells) == len(rows)
    assert any(cell.tables == ("orders", '"<script>"') for cell in cells)


def test_a_node_that_is_silent_or_lacks_a_shard_hides_no_other_row(stocked: Servers) -> None:
    (lost,) = stocked.sql(
        COORDINATOR.host,
        "SELECT shardid FROM citus_shards WHERE table_name = 'orders'::regclass AND nodename = 'citus-worker1' LIMIT 1",
    )[0]
    stocked.sql(FIRST.host, "SET citus.enable_manual_changes_to_shards TO on", f"DROP TABLE orders_{lost}")
    with stocked.paused(SECOND.host):
        rows = read(stocked, shards.LIST)
        sizes = {row.table: row.bytes for row in read(stocked, tables.TABLES)}
    states = {row.shard_id: row.state for row in rows if row.table == "orders"}
    assert states[lost] is ShardState.MISSING
    assert {row.state for row in rows if row.node == str(SECOND)} == {ShardState.UNKNOWN}
    assert {row.state for row in rows if row.node == str(COORDINATOR)} == {ShardState.ACTIVE}
    assert sizes["orders"] is None
    assert sizes["notes"] == 0


@pytest.mark.parametrize(
    ("table", "value", "column"),
    [
        ("orders", "42", "id"),
        ("public.orders", "-7", "id"),
        ("ORDERS", "42", "id"),
        ('"<script>"', "42", "id"),
        (ODD, "0f8fad5b-d9cb-469f-a165-70867728950e", "k"),
        ("keys", "(1,a)", "key"),
        ("codes", "de", "code"),
    ],
)
def test_a_key_is_where_citus_would_put_it(stocked: Servers, table: str, value: str, column: str) -> None:
    found = read(stocked, shards.WHERE, table=table, value=value)
    quoted = table.replace("'", "''")
    (shard, name, node) = stocked.sql(
        COORDINATOR.host,
        f"SELECT shardid, shard_name(logicalrelid, shardid), nodename FROM pg_dist_shard "
        "JOIN pg_dist_placement USING (shardid) JOIN pg_dist_node USING (groupid) "
        f"WHERE shardid = get_shard_id_for_distribution_column('{quoted}', '{value}'::text)",
    )[0]
    (place,) = found.locations
    assert (found.shard_id, found.distribution_column, place.table, place.host) == (shard, column, name, node)
    assert place.port == 5432
    size = stocked.sql(place.host, f"SELECT pg_total_relation_size('{str(name).replace(chr(39), chr(39) * 2)}')")
    assert size == [(place.bytes,)]


def test_no_code_of_an_ordinary_role_runs_where_a_key_is_looked_up(
    cluster: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(cluster, FIRST, SECOND)
    find_shard = citus_shards._find_shard

    async def swapped(*arguments: Any) -> Any:
        """Give the name of a type that was checked to another one, just before it is used."""
        cluster.sql(
            COORDINATOR.host,
            "ALTER TYPE mood RENAME TO other_mood",
            "CREATE DOMAIN mood AS text CHECK (notice(length(VALUE)))",
        )
        return await find_shard(*arguments)

    drop = (
        "SET client_min_messages TO error",
        "DROP TABLE IF EXISTS deep, flat, plain, moods, seen CASCADE",
        "DROP TYPE IF EXISTS nested, of_mallory, mood, other_mood CASCADE",
        "DROP DOMAIN IF EXISTS mood",
        "DROP DOMAIN IF EXISTS checked",
        "DROP FUNCTION IF EXISTS notice(int)",
        "DROP ROLE IF EXISTS mallory",
    )
    cluster.sql(
        COORDINATOR.host,
        *drop,
        "CREATE ROLE mallory",
        "CREATE TABLE seen (who text)",
        "CREATE FUNCTION notice(int) RETURNS bool LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen VALUES (current_user); RETURN true; END $$",
        "CREATE DOMAIN checked AS int CHECK (notice(VALUE))",
        "CREATE TYPE nested AS (a checked, b int)",
        "CREATE FUNCTION cast_of(text) RETURNS nested LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO seen VALUES ('cast'); RETURN NULL; END $$",
        "CREATE CAST (text AS nested) WITH FUNCTION cast_of(text) AS ASSIGNMENT",
        "CREATE TABLE flat (key checked)",
        "CREATE TABLE deep (key nested)",
        "CREATE TYPE of_mallory AS (a int)",
        "CREATE TABLE plain (key of_mallory)",
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE TABLE moods (key mood)",
        "SELECT create_distributed_table(name, 'key', shard_count => 4, colocate_with => 'none') "
        "FROM unnest(ARRAY['flat', 'deep', 'plain', 'moods']) AS its(name)",
        "ALTER TYPE of_mallory OWNER TO mallory",
        "ALTER TYPE mood OWNER TO mallory",
        "ALTER DOMAIN checked OWNER TO mallory",
        "ALTER FUNCTION notice(int) OWNER TO mallory",
    )
    try:
        (expected,) = cluster.sql(COORDINATOR.host, "SELECT get_shard_id_for_distribution_column('flat', '5')")[0]
        (of_mood,) = cluster.sql(COORDINATOR.host, "SELECT get_shard_id_for_distribution_column('moods', 'good')")[0]
        cluster.sql(COORDINATOR.host, "TRUNCATE seen")
        assert read(cluster, shards.WHERE, table="flat", value="5").shard_id == expected
        with pytest.raises(UntrustedCodeError, match=r"would run the checks of public\.checked as the superuser"):
            read(cluster, shards.WHERE, table="deep", value="(5,1)")
        with pytest.raises(UntrustedCodeError, match=r"public\.of_mallory"):
            read(cluster, shards.WHERE, table="plain", value="(5)")
        monkeypatch.setattr(citus_shards, "_find_shard", swapped)
        assert read(cluster, shards.WHERE, table="moods", value="good").shard_id == of_mood
        assert cluster.sql(COORDINATOR.host, "SELECT * FROM seen") == []
    finally:
        cluster.sql(COORDINATOR.host, *drop)


def test_tables_without_a_distribution_column_are_found_too(stocked: Servers) -> None:
    everywhere = read(stocked, shards.WHERE, table="countries", value="any")
    assert {place.node for place in everywhere.locations} == {str(COORDINATOR), str(FIRST), str(SECOND)}
    (tenant,) = read(stocked, shards.WHERE, table="tenant_a.things", value="any").locations
    assert tenant.host in {FIRST.host, SECOND.host}
    local = read(stocked, shards.WHERE, table="notes", value="any")
    assert (local.shard_id, [place.node for place in local.locations]) == (None, [str(COORDINATOR)])


@pytest.mark.usefixtures("only_newest")
def test_what_is_no_table_or_no_value_is_refused(stocked: Servers) -> None:
    with pytest.raises(UsageError, match="does not fit the distribution column: invalid input syntax for type bigint"):
        read(stocked, shards.WHERE, table="orders", value="abc")
    with pytest.raises(UsageError, match="NUL"):
        read(stocked, shards.WHERE, table="orders", value="4\0")
    stocked.sql(
        COORDINATOR.host, "CREATE TABLE logs (at int)", "SELECT create_distributed_table('logs', 'at', 'append')"
    )
    with pytest.raises(UsageError, match="logs is not divided by hash values"):
        read(stocked, shards.WHERE, table="logs", value="4")
    with pytest.raises(NotFoundError) as missing:
        read(stocked, shards.WHERE, table="Things", value="1")
    assert missing.value.hint == "Is it one of these? tenant_a.things"
    with pytest.raises(UsageError, match="not a table"):
        read(stocked, shards.WHERE, table="orders_pkey", value="1")
    for name in ("pg_class", "pg_dist_node", "citus_cluster.worker"):
        with pytest.raises(UsageError, match="is a system table"):
            read(stocked, shards.WHERE, table=name, value="1")
    for name in ('"open', "a.b.c.d", "other.public.orders", ""):
        with pytest.raises((UsageError, NotFoundError)):
            read(stocked, shards.WHERE, table=name, value="1")
