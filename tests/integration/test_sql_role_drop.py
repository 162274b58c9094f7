"""Dropping ordinary roles on real servers."""

import psycopg
import pytest
from sql_role_support import (
    FIRST,
    ROWS,
    SECOND,
    THIRD,
    Killed,
    ask,
    create,
    drop,
    listed,
    password_file,
    session,
    stop_after,
    works,
)
from sql_servers import COORDINATOR, NASTY_PASSWORD, Servers, on, register

from citus_cluster.errors import LockedError, RoleError
from citus_cluster.model.citus.roles import Access
from citus_cluster.operations.roles import drop as role_drop
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.runtime.citus import rebalance as citus_rebalance
from citus_cluster.runtime.citus import roles as citus_roles

pytestmark = pytest.mark.cluster


def test_a_role_is_dropped_only_when_nothing_is_lost(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, access=Access.CREATE)
    ask(
        cluster,
        credentials,
        "CREATE TABLE mine (id bigserial PRIMARY KEY)",
        "SELECT create_distributed_table('mine', 'id', shard_count => 4)",
    )
    ask(cluster, credentials, "INSERT INTO mine SELECT generate_series(1, 50)", "CREATE VIEW few AS SELECT * FROM mine")
    with pytest.raises(RoleError, match="owns 3 objects") as caught:
        drop(cluster, credentials)
    assert set(caught.value.details) == {
        "table public.mine",
        "sequence public.mine_id_seq",
        "view public.few",
    }
    works(cluster, credentials)
    with session(cluster, SECOND.host, "app", password_file(credentials).read_text()) as opened:
        with pytest.raises(RoleError, match="1 object that may behave differently") as caught:
            drop(cluster, credentials, reassign=True)
        assert caught.value.details == ("view public.few: it reads with the privileges of its owner",)
        with pytest.raises(RoleError, match="has open sessions: 1 on citus-worker2:5432"):
            drop(cluster, credentials, reassign=True, named=["view public.few"])
        works(cluster, credentials)
        drop(cluster, credentials, reassign=True, named=["view public.few"], disconnect=True)
        with pytest.raises(psycopg.OperationalError):
            opened.execute("SELECT 1")
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM mine JOIN few USING (id)") == [(50,)]
    for node in (COORDINATOR, FIRST, SECOND):
        assert cluster.sql(node.host, "SELECT FROM pg_roles WHERE rolname = 'app'") == []
        assert cluster.sql(node.host, ROWS) == [("owner_of_public",)]
    assert not password_file(credentials).exists()
    # A table that a role made on one worker alone, which no other node knows.
    create(cluster, credentials)
    cluster.sql(SECOND.host, "CREATE TABLE lonely (id int)", "ALTER TABLE lonely OWNER TO app")
    try:
        with pytest.raises(RoleError, match="owns 1 object") as caught:
            drop(cluster, credentials)
        assert caught.value.details == ("table public.lonely on citus-worker2:5432",)
        drop(cluster, credentials, reassign=True)
        assert cluster.sql(SECOND.host, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'lonely'") == [
            ("owner_of_public",)
        ]
    finally:
        cluster.sql(SECOND.host, "DROP TABLE lonely")


def test_nothing_of_a_dropped_role_gets_the_superusers_rights(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, access=Access.CREATE)
    create(cluster, credentials, "report", access=Access.READ)
    ask(
        cluster,
        credentials,
        "CREATE VIEW public.secrets AS SELECT * FROM pg_dist_authinfo",
        "CREATE FUNCTION public.who() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'",
        "GRANT SELECT ON secrets TO report",
    )
    # Made on a worker alone, where it is not what the coordinator has.
    cluster.sql(
        FIRST.host,
        "SET citus.enable_ddl_propagation = off",
        "CREATE OR REPLACE FUNCTION public.who() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$SELECT 'other'$$",
    )
    with pytest.raises(RoleError, match="3 objects that may behave differently") as caught:
        drop(cluster, credentials, reassign=True)
    definer = "it runs with the privileges of its owner (SECURITY DEFINER)"
    assert set(caught.value.details) == {
        "view public.secrets: it reads with the privileges of its owner",
        f"function public.who(): {definer}",
        f"function public.who() on citus-worker1:5432: {definer}",
    }
    works(cluster, credentials)  # nothing was changed
    named = [line.partition(": it ")[0] for line in caught.value.details]
    with pytest.raises(RoleError, match="1 object that may behave differently"):
        drop(cluster, credentials, reassign=True, named=named[:2])
    drop(cluster, credentials, reassign=True, named=named)
    assert ask(cluster, credentials, "SELECT public.who()", user="report") == [("owner_of_public",)]
    for reader in ("SELECT * FROM secrets", "SELECT * FROM pg_dist_authinfo"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(cluster, credentials, reader, user="report")
    for node in (COORDINATOR, FIRST, SECOND):
        assert cluster.sql(
            node.host,
            "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles "
            "WHERE rolname = 'owner_of_public'",
        ) == [(False,)]
    assert listed(cluster, credentials)["owner_of_public"].owner_of == "public"
    assert listed(cluster, credentials)["owner_of_public"].problems == ()


@pytest.mark.usefixtures("only_newest")
def test_a_role_stays_while_a_background_job_needs_it(cluster: Servers, credentials: CredentialStore) -> None:
    # Citus starts no task of any job any more once one belongs to a role that is gone. A blocked task stays as it is.
    create(cluster, credentials)
    ((job_id,),) = cluster.sql(
        COORDINATOR.host,
        """
        WITH job AS (
            INSERT INTO pg_dist_background_job (state, job_type, description)
            VALUES ('scheduled', 'rebalance', 'test') RETURNING job_id)
        INSERT INTO pg_dist_background_task (job_id, owner, status, command, message)
        SELECT job_id, 'app'::regrole, 'blocked', 'SELECT 1', '' FROM job RETURNING job_id
        """,
    )
    try:
        with pytest.raises(RoleError, match=f"background job {job_id} .*not done") as caught:
            drop(cluster, credentials)
        assert "citus-cluster rebalance stop" in str(caught.value.hint)
        works(cluster, credentials)  # nothing was changed
        # One that is scheduled while the role is being dropped.
        with pytest.raises(RoleError, match=f"background job {job_id} "):
            on(cluster, lambda conn: citus_roles.drop_role(conn, "app", new_owner=None))
        works(cluster, credentials)
        on(cluster, citus_rebalance.stop)
        drop(cluster, credentials)
    finally:
        cluster.sql(
            COORDINATOR.host,
            f"DELETE FROM pg_dist_background_task WHERE job_id = {job_id}",
            f"DELETE FROM pg_dist_background_job WHERE job_id = {job_id}",
        )


_OWNERS = """
SELECT format('%s.%s', nspname, relname), relowner::regrole::text FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname IN ('public', 'sh"op') AND relkind IN ('r', 'p', 'S')
  AND (relname LIKE 'mine%' OR relname LIKE 'it"ems%' OR relname LIKE 'part%') ORDER BY 1
"""


def test_what_a_dropped_role_leaves_works_and_moves(cluster: Servers, credentials: CredentialStore) -> None:
    cluster.sql(COORDINATOR.host, 'CREATE SCHEMA "sh""op"')
    try:
        create(cluster, credentials, access=Access.CREATE, schemas=["public", 'sh"op'])
        create(cluster, credentials, "writer", schemas=["public", 'sh"op'])
        ask(
            cluster,
            credentials,
            "CREATE TABLE mine (id bigserial PRIMARY KEY, n int)",
            "SELECT create_distributed_table('mine', 'id', shard_count => 4)",
            "CREATE TABLE part (id bigint REFERENCES mine, n int, PRIMARY KEY (id, n)) PARTITION BY RANGE (n)",
            "SELECT create_distributed_table('part', 'id', colocate_with => 'mine')",
            "CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (1000)",
            'CREATE TABLE "sh""op"."it""ems" (id int PRIMARY KEY)',
            """SELECT create_reference_table('"sh""op"."it""ems"')""",
            'CREATE TYPE "sh""op".mood AS ENUM (\'good\')',
            """CREATE FUNCTION "sh""op".twice("sh""op".mood, int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $2'""",
            "GRANT SELECT ON mine TO writer",
        )
        grants = (
            "SELECT grantee, privilege_type, grantor FROM information_schema.role_table_grants "
            "WHERE table_name = 'mine'"
        )
        before = {row[:2] for row in cluster.sql(COORDINATOR.host, grants) if row[0] == "writer"}
        changed = drop(cluster, credentials, reassign=True)
        assert any("given to owner_of_public: " in line and "table public.mine" in line for line in changed)
        assert any('given to owner_of_sh"op: ' in line and '"sh""op"."it""ems"' in line for line in changed)
        after = {row for row in cluster.sql(COORDINATOR.host, grants) if row[0] == "writer"}
        assert after == {(*row, "owner_of_public") for row in before}
        for node in (COORDINATOR, FIRST, SECOND):
            owners = cluster.sql(node.host, "SET citus.override_table_visibility = off", _OWNERS)
            assert len(owners) > 4
            for table, owner in owners:
                expected = '"owner_of_sh""op"' if str(table).startswith('sh"op') else "owner_of_public"
                assert owner == expected, (node, table)
            for kind in ("pg_proc WHERE proname = 'twice'", "pg_type WHERE typname = 'mood'"):
                column = "proowner" if "proc" in kind else "typowner"
                assert cluster.sql(node.host, f"SELECT {column}::regrole::text FROM {kind}") == [('"owner_of_sh""op"',)]
        statements = (
            "INSERT INTO mine (n) SELECT generate_series(1, 50)",
            "INSERT INTO part SELECT id, n FROM mine",  # its foreign key is checked as the owner of the other table
            'INSERT INTO "sh""op"."it""ems" SELECT generate_series(1, 9)',
        )
        ask(cluster, credentials, *statements, user="writer")
        moved = cluster.sql(
            COORDINATOR.host,
            "SELECT citus_move_shard_placement(shardid, nodename, nodeport, CASE nodename WHEN 'citus-worker1' "
            "THEN 'citus-worker2' ELSE 'citus-worker1' END, 5432, shard_transfer_mode => 'force_logical') "
            "FROM (SELECT * FROM citus_shards WHERE table_name = 'mine'::regclass ORDER BY shardid LIMIT 1) AS one",
        )
        assert len(moved) == 1
        register(cluster, FIRST, SECOND, THIRD)
        for node in (COORDINATOR, FIRST, THIRD):
            assert ask(
                cluster, credentials, "SELECT count(*) FROM mine JOIN part USING (id)", user="writer", node=node.host
            ) == [(50,)]
        # The next role's leftovers go to the same owner.
        create(cluster, credentials, access=Access.CREATE)
        ask(cluster, credentials, "CREATE TABLE mine2 (id int)")
        assert not any("owner_of_public made" in line for line in drop(cluster, credentials, reassign=True))
        assert ("public.mine2", "owner_of_public") in cluster.sql(COORDINATOR.host, _OWNERS)
        with pytest.raises(RoleError, match="owns objects of dropped roles in schema 'public'"):
            drop(cluster, credentials, "owner_of_public")
    finally:
        cluster.sql(COORDINATOR.host, "DROP TABLE IF EXISTS part, mine, mine2 CASCADE", 'DROP SCHEMA "sh""op" CASCADE')


_POWERFUL = {
    "CREATE TABLE indexed (id int PRIMARY KEY, n int)": "",
    "CREATE INDEX ON indexed (code(n))": "table public.indexed",
    "CREATE TABLE checked (id int CHECK (code(id) > 0))": "table public.checked",
    "CREATE DOMAIN positive AS int CHECK (code(VALUE) > 0)": "",
    "CREATE TYPE pair AS (one int, two positive)": "",
    "CREATE TABLE of_domain (id positive[])": "table public.of_domain",
    "CREATE TABLE of_pair (id pair)": "table public.of_pair",
    "CREATE TABLE made (a int, b int GENERATED ALWAYS AS (code(a)) STORED)": "table public.made",
    "CREATE TABLE preset (a int DEFAULT code(1))": "table public.preset",
    "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'": "function public.fire()",
    "CREATE TABLE fired (id int)": "",
    "CREATE TRIGGER fire BEFORE INSERT ON fired FOR EACH ROW EXECUTE FUNCTION fire()": "table public.fired",
    "CREATE TABLE ruled (id int)": "",
    "CREATE RULE more AS ON INSERT TO ruled DO ALSO NOTIFY ruled": "table public.ruled",
    "CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one": "materialized view public.kept",
    "CREATE PROCEDURE act() LANGUAGE sql AS 'SELECT 1'": "procedure public.act()",
    "CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = 0)": "aggregate public.total(integer)",
    "CREATE TABLE guarded (id int)": "",
    "CREATE POLICY seen ON guarded USING (code(id) > 0)": "table public.guarded",
    "CREATE TABLE open (id int)": "",
    "GRANT TRIGGER ON open TO PUBLIC": "table public.open",
    # What does the same whoever owns it.
    "CREATE TABLE parent (id bigserial PRIMARY KEY, n int DEFAULT 1 CHECK (n > 0))": "",
    "CREATE TABLE child (id int REFERENCES parent, s text DEFAULT lower('A'))": "",
    "CREATE TYPE range_of_mine AS RANGE (subtype = int)": "",
    "CREATE TABLE ranges (id range_of_mine, at timestamptz DEFAULT now())": "",
    "CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)": "",
    "CREATE STATISTICS of_parent ON id, n FROM parent": "",
    "SELECT lo_create(4711)": "",
}


@pytest.mark.usefixtures("only_newest")
def test_what_may_do_more_with_another_owner_must_be_named(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, access=Access.CREATE)
    ask(
        cluster,
        credentials,
        "CREATE FUNCTION code(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
        *_POWERFUL,
    )
    with pytest.raises(RoleError, match="objects that may behave differently") as caught:
        drop(cluster, credentials, reassign=True)
    names = {line.partition(": it ")[0] for line in caught.value.details}
    assert names == {name for name in _POWERFUL.values() if name}
    plan = on(cluster, lambda conn: role_drop.plan_reassignment(conn, credentials, "app"))
    assert plan
    assert set(plan.new_owners.values()) == {"owner_of_public"}
    assert cluster.sql(COORDINATOR.host, "SELECT FROM pg_roles WHERE rolname = 'owner_of_public'") == []
    for stop in range(1, 20):  # killed after each step, the same command ends it
        try:
            drop(cluster, credentials, emit=stop_after(stop), reassign=True, named=sorted(names))
        except Killed:
            continue
        break
    assert stop > 2
    assert cluster.sql(COORDINATOR.host, "SELECT lomowner::regrole::text FROM pg_largeobject_metadata") == [
        ("owner_of_public",)
    ]
    assert cluster.sql(COORDINATOR.host, "SELECT FROM pg_roles WHERE rolname = 'app'") == []


@pytest.mark.usefixtures("only_newest")
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("CREATE ROLE owner_of_public", "but citus-cluster did not create it"),
        ("GRANT pg_read_all_data TO owner_of_public", "it is a member of other roles"),
        ("GRANT owner_of_public TO app", "it has members"),
        ("GRANT SELECT ON items TO owner_of_public", "privileges on table public.items"),
        ("ALTER ROLE owner_of_public SUPERUSER", "it is a superuser"),
    ],
)
def test_an_owner_role_with_more_than_it_must_have_gets_nothing(
    cluster: Servers, credentials: CredentialStore, statement: str, told: str
) -> None:
    if not statement.startswith("CREATE ROLE"):
        create(cluster, credentials, "first", access=Access.CREATE)
        ask(cluster, credentials, "CREATE TABLE theirs (id int)", user="first")
        drop(cluster, credentials, "first", reassign=True)
    create(cluster, credentials, access=Access.CREATE)
    ask(cluster, credentials, "CREATE TABLE mine (id int)")
    cluster.sql(COORDINATOR.host, statement)
    try:
        with pytest.raises(RoleError, match=told):
            drop(cluster, credentials, reassign=True)
        assert cluster.sql(COORDINATOR.host, "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'mine'") == [
            ("app",)
        ]
    finally:
        cluster.sql(COORDINATOR.host, "ALTER ROLE owner_of_public NOSUPERUSER")


@pytest.mark.usefixtures("only_newest")
def test_no_session_hides_behind_a_name_of_citus(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials)
    with session(cluster, FIRST.host, "app", password_file(credentials).read_text()) as opened:
        opened.execute("SET application_name = 'citus_of_mine'")
        with pytest.raises(RoleError, match="has open sessions: 1 on citus-worker1:5432"):
            drop(cluster, credentials)
        opened.execute("SET application_name = 'citus_internal gpid=10000000001'")
        drop(cluster, credentials)
        with pytest.raises(psycopg.OperationalError):
            opened.execute("SELECT 1")


@pytest.mark.usefixtures("only_newest")
def test_a_drop_that_fails_late_says_that_nobody_gets_in(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials)
    with session(cluster, COORDINATOR.host, "postgres", NASTY_PASSWORD) as other, other.transaction():
        other.execute("SELECT FROM citus_cluster.role FOR UPDATE")
        with pytest.raises(LockedError, match="while dropping role app") as caught:
            drop(cluster, credentials)
    assert 'ALTER ROLE "app" LOGIN' in str(caught.value.hint)
    assert "NOLOGIN" in listed(cluster, credentials)["app"].problems[0]
    assert drop(cluster, credentials) != ()


def test_a_role_that_was_dropped_by_sql_is_cleaned_up_or_made_again(
    cluster: Servers, credentials: CredentialStore
) -> None:
    create(cluster, credentials)
    cluster.sql(COORDINATOR.host, "DROP OWNED BY app", "DROP ROLE app")
    assert listed(cluster, credentials)["app"].problems == ("it is recorded, but the role does not exist",)
    password = password_file(credentials).read_text()
    assert create(cluster, credentials).connection.password == password
    works(cluster, credentials)
    cluster.sql(COORDINATOR.host, "DROP OWNED BY app", "DROP ROLE app")
    assert drop(cluster, credentials) != ()
    assert listed(cluster, credentials) == {}
    for node in (COORDINATOR, FIRST, SECOND):
        assert cluster.sql(node.host, ROWS) == []
