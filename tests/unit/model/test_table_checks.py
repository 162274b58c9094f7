"""What prevents a change of a table: pure rules, whose results the tests on real servers compare with Citus."""

from dataclasses import replace

from citus_cluster.model.citus.table_facts import (
    Column,
    Dependent,
    FollowUp,
    ForeignKey,
    ServerFacts,
    Session,
    TableFacts,
    UniqueKey,
)
from citus_cluster.model.citus.tables import TableKind
from citus_cluster.model.plan import table_checks as checks
from citus_cluster.model.plan.preview import Severity

KEY = Column('The "Key"', '"The ""Key"""', "integer", False, "", True, True, False)
ID = Column("id", "id", "bigint", True, "", True, True, False)
TABLE = TableFacts(
    oid=1,
    name='"Odd"."<t>"',
    kind=TableKind.LOCAL,
    relkind="r",
    owner="app",
    schema='"Odd"',
    schema_distributed=False,
    persistence="p",
    colocation_id=0,
    distribution_column=None,
    distribution_type=None,
    shard_count=0,
    partition_of=None,
    partitions=(),
    nested_partitions=(),
    foreign=(),
    parents=(),
    children=(),
    triggers=(('"Odd"."<t>"', '"my trigger"'),),
    policies=(),
    unique_keys=(UniqueKey('"Odd"."<t>"', '"Odd"."<t>_pkey"', '"<t>_pkey"', True, False, ("id",), True),),
    foreign_keys=(),
    columns=(ID, KEY),
    sequences=(),
    views=(),
    colocated=(),
    without_identity=(),
    bytes=0,
)
SERVER = ServerFacts(holders=("w1:5432", "w2:5432"), silent=())
TO_ORDERS = ForeignKey(
    name="fk",
    from_table=TABLE.name,
    to_table="public.orders",
    from_kind=TableKind.LOCAL,
    to_kind=TableKind.DISTRIBUTED,
    to_colocation=7,
    to_column="id",
    pairs=((KEY.name, "id"),),
    on_delete=FollowUp.NO_ACTION,
    on_update=FollowUp.NO_ACTION,
    sets_sequence=False,
)


def test_a_unique_key_gets_the_distribution_column_with_every_name_quoted() -> None:
    (found,) = checks.unique(TABLE, KEY, SERVER)
    assert found.severity is Severity.BLOCKS
    assert found.fix == (
        'ALTER TABLE "Odd"."<t>" DROP CONSTRAINT "<t>_pkey"; '
        'ALTER TABLE "Odd"."<t>" ADD CONSTRAINT "<t>_pkey" PRIMARY KEY (id, "The ""Key""");'
    )
    assert list(checks.unique(TABLE, ID, SERVER)) == []


def test_settings_of_citus_that_allow_unsafe_things_turn_findings_into_warnings() -> None:
    unsafe = replace(SERVER, unsafe_constraints=True, unsafe_triggers=True)
    assert [one.severity for one in checks.unique(TABLE, KEY, unsafe)] == [Severity.WARNS]
    assert [one.severity for one in checks.triggered(TABLE, unsafe)] == [Severity.WARNS]
    (found,) = checks.triggered(TABLE, SERVER)
    assert (found.severity, found.fix) == (Severity.BLOCKS, 'DROP TRIGGER "my trigger" ON "Odd"."<t>";')


def test_a_foreign_key_needs_the_group_of_the_other_table() -> None:
    table = replace(TABLE, foreign_keys=(TO_ORDERS,))
    assert list(checks.keys_of_distributed(table, KEY, 7, together=None)) == []
    (found,) = checks.keys_of_distributed(table, KEY, 8, together="command --colocate-with")
    assert found.fix == "command --colocate-with public.orders"
    table = replace(TABLE, foreign_keys=(replace(TO_ORDERS, to_table='public."$(id) {}"'),))
    (found,) = checks.keys_of_distributed(table, KEY, 8, together="command '{a}' --colocate-with")
    assert found.fix == "command '{a}' --colocate-with 'public.\"$(id) {}\"'"
    (found,) = checks.keys_of_distributed(table, KEY, 7, together=None, concurrently=True)
    assert "--concurrently" in found.message
    assert [one.fix for one in checks.keys_of_distributed(table, ID, 7, together=None)] == [
        'ALTER TABLE "Odd"."<t>" DROP CONSTRAINT fk;'
    ]


def test_sessions_nodes_and_shards_that_matter_are_named() -> None:
    busy = replace(TABLE, bytes=2048, blockers=(Session(42, "report", 9),))
    texts = [one.message for one in checks.waits(busy, "Writes")]
    assert "2.0 kB" in texts[0]
    assert "Session 42 (report)" in texts[1]
    found = list(checks.served(replace(SERVER, silent=("w2 is away",), running_job=5), shard_count=1))
    assert [one.severity for one in found] == [Severity.BLOCKS, Severity.WARNS, Severity.WARNS]
    assert [one.severity for one in checks.served(replace(SERVER, holders=()))] == [Severity.BLOCKS]
    assert not list(checks.served(replace(SERVER, holders=()), places=False))
    (unregistered,) = checks.served(replace(SERVER, holders=(), registered=False), places=False)
    assert (unregistered.severity, unregistered.fix) == (Severity.BLOCKS, "citus-cluster up")


def test_a_plug_in_is_added_to_those_that_are_allowed() -> None:
    (found,) = checks.decodes(replace(SERVER, plugins=("pgoutput", "it's"), user='"Admin"'))
    assert found.fix == "ALTER ROLE \"Admin\" SET output_plugin_libraries = 'pgoutput', 'it''s', 'citus';"
    assert list(checks.decodes(replace(SERVER, plugins=("pgoutput", "citus")))) == []
    assert list(checks.decodes(SERVER)) == []


def test_a_disk_that_is_too_small_for_its_part_is_named() -> None:
    server = replace(SERVER, free_bytes={"w1:5432": 400, "w2:5432": 600})
    (found,) = checks.roomy(server, 1000, nodes=2)
    assert found.message == "w1:5432 has 400 B free, and its part of the rows is about 500 B."
    assert found.severity is Severity.WARNS
    assert list(checks.roomy(server, None, nodes=2)) == list(checks.roomy(server, 700, nodes=2)) == []
    assert len(list(checks.roomy(server, 1000, nodes=1))) == 2


def test_what_is_dropped_with_a_table_that_is_created_again_blocks() -> None:
    table = replace(TABLE, dependents=(Dependent("function f()", "DROP FUNCTION f();"),), rules=("r",), comments=2)
    found = list(checks.recreated(table, alters=True))
    assert [(one.severity, one.fix) for one in found] == [
        (Severity.BLOCKS, "DROP FUNCTION f();"),
        (Severity.WARNS, None),
        (Severity.WARNS, None),
    ]
    clustered = replace(TABLE, is_clustered=True)
    assert len(list(checks.recreated(clustered, alters=True))) == 1
    assert list(checks.recreated(clustered, alters=False)) == []
