"""The checks before a table is distributed say what Citus does: each case is planned, and tried on real servers.

Both majors agreed on all cases when these were written; here, the newest one suffices, because 140 cases take long.
A case that Citus refuses has a finding that blocks, and after the statements of the findings, Citus accepts it. A case
that Citus accepts has none.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sql_declared import plan
from sql_servers import WORKERS, Servers, register

from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.change import AnyChange
from citus_cluster.operations.tables import alteration, distribution

pytestmark = pytest.mark.cluster

# The default of 32 shards for each table would take most of the time.
DROP = (
    "SET client_min_messages TO error",
    "SET citus.shard_count TO 4",
    'DROP TABLE IF EXISTS t, o, p, c, "<t> ""q""" CASCADE',
    "DROP FUNCTION IF EXISTS touch() CASCADE",
    "DROP SEQUENCE IF EXISTS s CASCADE",
    "DROP COLLATION IF EXISTS loose CASCADE",
    "DROP DOMAIN IF EXISTS positive CASCADE",
    "DROP TYPE IF EXISTS pair, mood CASCADE",
)
TOUCH = "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'"
REF = ("CREATE TABLE o (id int PRIMARY KEY)", "SELECT create_reference_table('o')")
DIST = ("CREATE TABLE o (id int PRIMARY KEY)", "SELECT create_distributed_table('o', 'id', shard_count => 4)")
PARTITIONED = "CREATE TABLE t (k int, d date, id int) PARTITION BY RANGE (d)"
P = "CREATE TABLE p PARTITION OF t FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"

ADD = "SELECT citus_add_local_table_to_metadata('t')"

DISTRIBUTED: Mapping[str, tuple[str, ...]] = {
    "plain": ("CREATE TABLE t (k int)",),
    "primary key": ("CREATE TABLE t (id int PRIMARY KEY, k int)",),
    "primary key with it": ("CREATE TABLE t (id int, k int, PRIMARY KEY (id, k))",),
    "unique constraint": ("CREATE TABLE t (id int, k int, UNIQUE (id))",),
    "unique index": ("CREATE TABLE t (id int, k int)", "CREATE UNIQUE INDEX ON t (id)"),
    "unique index that includes it": ("CREATE TABLE t (id int, k int)", "CREATE UNIQUE INDEX ON t (id) INCLUDE (k)"),
    "unique expression": ("CREATE TABLE t (id int, k int)", "CREATE UNIQUE INDEX ON t ((k + 1))"),
    "partial unique index": ("CREATE TABLE t (id int, k int)", "CREATE UNIQUE INDEX ON t (id) WHERE id > 0"),
    "exclusion": ("CREATE TABLE t (id int, k int, EXCLUDE USING btree (id WITH =))",),
    "exclusion with it": ("CREATE TABLE t (id int, k int, EXCLUDE USING btree (id WITH =, k WITH =))",),
    "exclusion without equality": ("CREATE TABLE t (k int4range, EXCLUDE USING gist (k WITH &&))",),
    "stored generated": ("CREATE TABLE t (id int, k int GENERATED ALWAYS AS (id + 1) STORED)",),
    "another column is generated": ("CREATE TABLE t (k int, id int GENERATED ALWAYS AS (k + 1) STORED)",),
    "negative scale": ("CREATE TABLE t (k numeric(5, -2))",),
    "numeric": ("CREATE TABLE t (k numeric(5, 2))",),
    "point": ("CREATE TABLE t (k point)",),
    "money": ("CREATE TABLE t (k money)",),
    "json": ("CREATE TABLE t (k json)",),
    "bit": ("CREATE TABLE t (k bit(3))",),
    "tsvector": ("CREATE TABLE t (k tsvector)",),
    "jsonb": ("CREATE TABLE t (k jsonb)",),
    "varchar": ("CREATE TABLE t (k varchar(20))",),
    "array": ("CREATE TABLE t (k int[])",),
    "range": ("CREATE TABLE t (k int4range)",),
    "multirange": ("CREATE TABLE t (k int4multirange)",),
    "uuid": ("CREATE TABLE t (k uuid)",),
    "composite": ("CREATE TYPE pair AS (a int, b text)", "CREATE TABLE t (k pair)"),
    "enum": ("CREATE TYPE mood AS ENUM ('good', 'bad')", "CREATE TABLE t (k mood)"),
    "domain": ("CREATE DOMAIN positive AS int CHECK (value > 0)", "CREATE TABLE t (k positive)"),
    "collation": (
        "CREATE COLLATION loose (provider = icu, locale = 'und', deterministic = false)",
        "CREATE TABLE t (k text COLLATE loose)",
    ),
    "trigger": (
        "CREATE TABLE t (k int)",
        TOUCH,
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch()",
    ),
    "constraint trigger": (
        "CREATE TABLE t (k int)",
        TOUCH,
        "CREATE CONSTRAINT TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch()",
    ),
    "rule": ("CREATE TABLE t (k int)", "CREATE RULE r AS ON INSERT TO t DO ALSO NOTIFY x"),
    "view": ("CREATE TABLE t (k int)", "CREATE VIEW v AS SELECT * FROM t"),
    "inherits": ("CREATE TABLE p (k int)", "CREATE TABLE t () INHERITS (p)"),
    "is inherited": ("CREATE TABLE t (k int)", "CREATE TABLE c () INHERITS (t)"),
    "policy with subquery": ("CREATE TABLE t (k int)", "CREATE POLICY y ON t USING (k IN (SELECT 1))"),
    "policy": (
        "CREATE TABLE t (k int)",
        "CREATE POLICY y ON t USING (k > 1)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t FORCE ROW LEVEL SECURITY",
        "INSERT INTO t VALUES (1)",
    ),
    "unlogged": ("CREATE UNLOGGED TABLE t (k int)", "INSERT INTO t VALUES (1)"),
    "is a partition": (
        "CREATE TABLE p (k int, d date) PARTITION BY RANGE (d)",
        "CREATE TABLE t PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    ),
    "partitions": (PARTITIONED, P, "INSERT INTO t VALUES (1, '2026-01-02')"),
    "nested partitions": (PARTITIONED, f"{P} PARTITION BY RANGE (d)"),
    "key of a partition": (PARTITIONED, P, "ALTER TABLE p ADD PRIMARY KEY (id)"),
    "key of all partitions": (PARTITIONED, P, "ALTER TABLE t ADD PRIMARY KEY (id, d)"),
    "trigger of a partition": (
        PARTITIONED,
        P,
        TOUCH,
        "CREATE TRIGGER g BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION touch()",
    ),
    "foreign key of a partition": (PARTITIONED, P, *REF[:1], "ALTER TABLE p ADD FOREIGN KEY (id) REFERENCES o"),
    "foreign key to a local table": (*REF[:1], "CREATE TABLE t (k int, o int REFERENCES o)"),
    "foreign key to a reference table": (*REF, "CREATE TABLE t (k int, o int REFERENCES o)"),
    "set null by a reference table": (*REF, "CREATE TABLE t (k int REFERENCES o ON DELETE SET NULL)"),
    "cascade by a reference table": (*REF, "CREATE TABLE t (k int REFERENCES o ON DELETE CASCADE)"),
    "foreign key between other columns": (*DIST, "CREATE TABLE t (k int, o int REFERENCES o)"),
    "foreign key to a citus local table": (
        *REF[:1],
        "SELECT citus_add_local_table_to_metadata('o')",
        "CREATE TABLE t (k int, o int REFERENCES o)",
    ),
    "foreign key to itself": ("CREATE TABLE t (k int PRIMARY KEY, o int REFERENCES t)",),
    "foreign key to itself by its column": (
        "CREATE TABLE t (k int, p int, q int, PRIMARY KEY (k, p), FOREIGN KEY (k, q) REFERENCES t (k, p))",
    ),
    "a local table points to it": ("CREATE TABLE t (k int PRIMARY KEY)", "CREATE TABLE o (id int REFERENCES t)"),
    "a reference table points to it": (
        "CREATE TABLE t (k int PRIMARY KEY)",
        "CREATE TABLE o (id int PRIMARY KEY REFERENCES t)",
        "SELECT create_reference_table('o')",
    ),
    "a citus local table points to it": (
        "CREATE TABLE t (k int PRIMARY KEY)",
        "CREATE TABLE o (id int REFERENCES t)",
        "SELECT citus_add_local_table_to_metadata('o', true)",
    ),
    "identity": ("CREATE TABLE t (k int, id bigint GENERATED ALWAYS AS IDENTITY)",),
    "small identity": ("CREATE TABLE t (k int GENERATED BY DEFAULT AS IDENTITY)",),
    "serial": ("CREATE TABLE t (k int, id serial)", "INSERT INTO t VALUES (1)"),
    "no value": ("CREATE TABLE t (k int)", "INSERT INTO t VALUES (NULL)"),
    "citus local": ("CREATE TABLE t (k int)", ADD, "INSERT INTO t VALUES (1)"),
    "citus local with identity": ("CREATE TABLE t (k int, id bigint GENERATED ALWAYS AS IDENTITY)", ADD),
    "citus local with a key to a reference table": (*REF, "CREATE TABLE t (k int, o int REFERENCES o)", ADD),
    "citus local with a function of its rows": (
        "CREATE TABLE t (k int)",
        ADD,
        "CREATE FUNCTION touch() RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM t'",
    ),
    "distributed": ("CREATE TABLE t (k int)", "SELECT create_distributed_table('t', 'k')"),
    "is a reference table": ("CREATE TABLE t (k int)", "SELECT create_reference_table('t')"),
}
REFERENCES: Mapping[str, tuple[str, ...]] = {
    name: DISTRIBUTED[name]
    for name in (
        "plain",
        "primary key",
        "exclusion",
        "stored generated",
        "point",
        "trigger",
        "inherits",
        "is inherited",
        "policy with subquery",
        "unlogged",
        "is a partition",
        "foreign key to a local table",
        "foreign key to a reference table",
        "foreign key between other columns",
        "foreign key to a citus local table",
        "foreign key to itself",
        "a local table points to it",
        "a reference table points to it",
        "serial",
        "no value",
        "citus local",
        "citus local with identity",
        "citus local with a key to a reference table",
        "distributed",
    )
} | {
    "a distributed table points to it": (
        *REF[:1],
        "CREATE TABLE t (k int PRIMARY KEY)",
        "CREATE TABLE c (id int)",
        "SELECT create_distributed_table('c', 'id')",
    ),
    "cascade by a local table": (*REF[:1], "CREATE TABLE t (k int, o int REFERENCES o ON DELETE CASCADE)"),
    "cascade by a citus local table": (
        *REF[:1],
        "SELECT citus_add_local_table_to_metadata('o')",
        "CREATE TABLE t (k int, o int REFERENCES o ON DELETE CASCADE)",
    ),
}
UNMENDED = {
    "identity",
    "citus local with identity",
    "clustered",
    "is a partition",
    "reference table",
    "reference table of a local table",
}
"""Citus has no statement for it."""
DROPPED_WITH_IT = {
    "function that returns its rows",
    "column of its row type",
    "citus local with a function of its rows",
}
"""Citus accepts it, and drops these objects with their data, so the plan does not."""
ACCEPTED_AGAIN = {"distributed", "local"}
"""Citus refuses what is already there; the plan has nothing to do."""


@contextmanager
def tried(session: "psycopg.Connection[Any]") -> Iterator[None]:
    with session.transaction(force_rollback=True):
        yield


def refused(session: "psycopg.Connection[Any]", *statements: str) -> str | None:
    """Run statements in a transaction that is rolled back. Returns the error, if any."""
    try:
        with tried(session):
            for statement in statements:
                session.execute(statement.encode())
    except psycopg.Error as error:
        return str(error).splitlines()[0]
    return None


def fixes_of(preview: Preview) -> list[str]:
    """Return the statements one by one, as psql sends them."""
    fixes = [one.fix for one in preview.blocking if one.fix and not one.fix.startswith("citus-cluster")]
    return [statement for fix in fixes for statement in fix.split("; ")]


def compare(
    cluster: Servers, cases: Mapping[str, tuple[str, ...]], change: AnyChange, statement: str, **given: object
) -> list[str]:
    """Return every case where the plan and Citus do not agree."""
    wrong = []
    # One session for all cases, because Citus connects to the workers anew for each session.
    with cluster.session() as session:
        for name, setup in cases.items():
            for command in (*DROP, *setup):
                session.execute(command.encode())
            preview = plan(cluster, change, **given)
            error = refused(session, statement)
            if error and not preview.blocking and not (name in ACCEPTED_AGAIN and not preview.steps):
                wrong.append(f"{name}: Citus refuses, the plan does not: {error}")
            elif not error and preview.blocking and name not in DROPPED_WITH_IT:
                wrong.append(f"{name}: Citus accepts, the plan does not: {preview.blocking[0].message}")
            elif error and (fixes := fixes_of(preview)):
                # A statement that distributes another table is the fix and the change at once.
                done = any(fix.startswith("SELECT create_distributed_table") for fix in fixes)
                still = refused(session, *fixes, *(() if done else (statement,)))
                if still:
                    wrong.append(f"{name}: {fixes} does not mend it: {still}")
            elif error and preview.blocking and name not in UNMENDED and not any(one.fix for one in preview.blocking):
                wrong.append(f"{name}: no statement mends: {preview.blocking[0].message}")
        for command in DROP:
            session.execute(command.encode())
    return wrong


@pytest.mark.usefixtures("only_newest")
def test_what_prevents_a_distribution_is_found_with_what_mends_it(cluster: Servers) -> None:
    register(cluster, *WORKERS[:2])
    statement = "SELECT create_distributed_table('t', 'k')"
    assert compare(cluster, DISTRIBUTED, distribution.DISTRIBUTE, statement, table="t", column="k") == []


@pytest.mark.usefixtures("only_newest")
def test_what_prevents_a_reference_table_is_found_with_what_mends_it(cluster: Servers) -> None:
    register(cluster, *WORKERS[:2])
    statement = "SELECT create_reference_table('t')"
    assert compare(cluster, REFERENCES, distribution.REFERENCE, statement, table="t") == []


T = (
    "CREATE TABLE t (k int PRIMARY KEY, x int)",
    "SELECT create_distributed_table('t', 'k', colocate_with => 'none', shard_count => 4)",
)
RECREATED: Mapping[str, tuple[str, ...]] = {
    "plain": T,
    "view": (*T, "CREATE VIEW v AS SELECT * FROM t"),
    "materialized view": (*T, "CREATE MATERIALIZED VIEW v AS SELECT * FROM t"),
    "function that returns its rows": (
        *T,
        "CREATE FUNCTION touch() RETURNS SETOF t LANGUAGE sql AS 'SELECT * FROM t'",
    ),
    "column of its row type": (*T, "CREATE TABLE c (a int, b t)"),
    "identity": (
        "CREATE TABLE t (k int, id bigint GENERATED ALWAYS AS IDENTITY)",
        "SELECT create_distributed_table('t', 'k')",
    ),
    "generated column": (
        "CREATE TABLE t (k int, id int GENERATED ALWAYS AS (k + 1) STORED)",
        "SELECT create_distributed_table('t', 'k')",
    ),
    "serial": ("CREATE TABLE t (k serial PRIMARY KEY)", "SELECT create_distributed_table('t', 'k')"),
    "foreign key to a reference table": (
        *REF,
        "CREATE TABLE t (k int PRIMARY KEY, x int REFERENCES o)",
        "SELECT create_distributed_table('t', 'k')",
    ),
    "foreign key to a colocated table": (
        *DIST,
        "CREATE TABLE t (k int PRIMARY KEY REFERENCES o)",
        "SELECT create_distributed_table('t', 'k', colocate_with => 'o')",
    ),
    "a colocated table points to it": (
        *T,
        "CREATE TABLE o (k int REFERENCES t)",
        "SELECT create_distributed_table('o', 'k', colocate_with => 't')",
    ),
    "partitions": (PARTITIONED, P, "SELECT create_distributed_table('t', 'k')"),
    "is a partition": (
        "CREATE TABLE p (k int, d date) PARTITION BY RANGE (d)",
        "CREATE TABLE t PARTITION OF p FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
        "SELECT create_distributed_table('p', 'k')",
    ),
    "reference table": ("CREATE TABLE t (k int PRIMARY KEY)", "SELECT create_reference_table('t')"),
    "reference table of a local table": (
        "CREATE TABLE t (k int PRIMARY KEY)",
        "SELECT create_reference_table('t')",
        "CREATE TABLE o (k int REFERENCES t)",
    ),
    "citus local": ("CREATE TABLE t (k int)", "SELECT citus_add_local_table_to_metadata('t')"),
    "local": ("CREATE TABLE t (k int)",),
    "unlogged": ("CREATE UNLOGGED TABLE t (k int)", "SELECT create_distributed_table('t', 'k')"),
    "colocated": (*T, "CREATE TABLE o (k int)", "SELECT create_distributed_table('o', 'k', colocate_with => 't')"),
    "comment and rule": (*T, "COMMENT ON TABLE t IS 'x'", "CREATE RULE r AS ON INSERT TO t DO ALSO NOTIFY x"),
}


@pytest.mark.usefixtures("only_newest")
def test_what_prevents_that_a_table_is_created_again_is_found(cluster: Servers) -> None:
    register(cluster, *WORKERS[:2])
    clustered = {"clustered": (T[0], "CLUSTER t USING t_pkey", T[1])}
    altered = "SELECT alter_distributed_table('t', shard_count => 6, cascade_to_colocated => false)"
    undistributed = "SELECT undistribute_table('t')"
    found = compare(cluster, RECREATED, alteration.UNDISTRIBUTE, undistributed, table="t")
    cases = {**RECREATED, **clustered}
    found += compare(cluster, cases, alteration.ALTER, altered, table="t", shard_count=6, alone=True)
    assert found == []
