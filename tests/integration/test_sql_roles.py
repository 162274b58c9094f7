"""Ordinary roles on real servers."""

import re
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sql_role_support import (
    FIRST,
    ROWS,
    SECOND,
    THIRD,
    ask,
    create,
    drop,
    forget_roles,
    listed,
    password_file,
    session,
    works,
)
from sql_servers import COORDINATOR, NASTY_PASSWORD, Recorder, Servers, on, register

from citus_cluster.errors import (
    ImmutableError,
    RoleError,
    UsageError,
    VerificationError,
    WorkerUnreachableError,
)
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.model.citus.roles import Access, RoleRecord
from citus_cluster.model.plan.events import Event, ignore
from citus_cluster.operations.coordinator import lent
from citus_cluster.operations.nodes.verify import verify
from citus_cluster.operations.pooling import let_pooler_ask
from citus_cluster.operations.rebalance import control as rebalance
from citus_cluster.operations.rebalance import watch as rebalance_watch
from citus_cluster.operations.roles import accounts as roles
from citus_cluster.operations.roles.passwords import CredentialStore
from citus_cluster.operations.status.overview import overview
from citus_cluster.runtime.citus import roles as citus_roles

pytestmark = pytest.mark.cluster

SECRET = NASTY_PASSWORD[::-1]


def test_a_role_works_on_every_node_and_the_second_run_does_nothing(
    cluster: Servers, credentials: CredentialStore
) -> None:
    made = create(cluster, credentials)
    assert password_file(credentials).stat().st_mode & 0o777 == 0o600
    assert password_file(credentials).parent.stat().st_mode & 0o777 == 0o700
    assert made.connection.password == password_file(credentials).read_text()
    assert len(made.connection.password) == 32
    works(cluster, credentials)
    ask(cluster, credentials, "INSERT INTO items (n) VALUES (1)", "DELETE FROM items WHERE id > 100")
    ask(cluster, credentials, "INSERT INTO notes VALUES (1)", "SELECT * FROM notes")
    for node in (COORDINATOR, FIRST, SECOND):
        assert cluster.sql(node.host, ROWS) == [("app",)]
        attributes = "rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
        assert cluster.sql(node.host, f"SELECT {attributes} FROM pg_roles WHERE rolname = 'app'") == [(False,) * 5]
    written = password_file(credentials).stat().st_mtime_ns
    assert create(cluster, credentials).changed == ()
    assert password_file(credentials).stat().st_mtime_ns == written
    assert listed(cluster, credentials)["app"].problems == ()


def test_an_odd_password_works_and_neither_it_nor_its_hash_is_in_a_log(
    cluster: Servers, credentials: CredentialStore
) -> None:
    create(cluster, credentials, given=SECRET)
    assert password_file(credentials).read_bytes() == SECRET.encode()
    works(cluster, credentials)
    again = on(cluster, lambda conn: roles.set_password(conn, credentials, "app", ignore, given=SECRET + "ü"))
    assert again.connection.password == password_file(credentials).read_text() == SECRET + "ü"
    works(cluster, credentials)
    part = SECRET[8:20]
    statements = cluster.sql(COORDINATOR.host, "SELECT query FROM pg_stat_statements")
    hashes = [
        str(row[0]).split("$")[1]
        for row in cluster.sql(COORDINATOR.host, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'")
    ]
    assert not [
        query for (query,) in statements if part in str(query) or ("ROLE" in str(query) and "SCRAM" in str(query))
    ]
    for node in (COORDINATOR, FIRST, SECOND):
        log = cluster.logs(node.host)
        assert part not in log
        assert part not in log.replace("\\\\", "\\").replace("''", "'")
        assert not [text for text in hashes if text in log], node


def test_a_worker_added_later_and_tables_made_later_work_too(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials)
    register(cluster, FIRST, SECOND, THIRD)
    works(cluster, credentials)
    assert ask(cluster, credentials, "SELECT count(*), sum(n) FROM items", node=THIRD.host) == [(100, 5050)]
    cluster.sql(
        COORDINATOR.host,
        "CREATE TABLE later (id bigserial PRIMARY KEY, n int)",
        "SELECT create_distributed_table('later', 'id', shard_count => 6)",
    )
    ask(cluster, credentials, "INSERT INTO later (n) SELECT generate_series(1, 60)")
    assert ask(cluster, credentials, "SELECT count(*) FROM later", node=THIRD.host) == [(60,)]
    assert create(cluster, credentials).changed == ()


def test_what_is_missing_is_listed_and_repaired(cluster: Servers, credentials: CredentialStore) -> None:
    password = create(cluster, credentials).connection.password
    cluster.sql(SECOND.host, "DELETE FROM pg_dist_authinfo WHERE rolename = 'app'")
    cluster.sql(FIRST.host, "UPDATE pg_dist_authinfo SET authinfo = 'password=old' WHERE rolename = 'app'")
    cluster.sql(COORDINATOR.host, "REVOKE ALL ON items, notes FROM app", "REVOKE CONNECT ON DATABASE postgres FROM app")
    password_file(credentials).unlink()
    found = listed(cluster, credentials)["app"]
    assert found.missing_on == (FIRST, SECOND)
    assert found.ungranted == ("public.items", "public.notes")
    assert found.password_file is None
    recorder = Recorder()
    create(cluster, credentials, emit=recorder)
    assert password_file(credentials).read_text() == password
    assert "write granted on 2 tables" in recorder.text
    assert "citus-worker1:5432" in recorder.text
    works(cluster, credentials)
    assert listed(cluster, credentials)["app"].problems == ()
    # The coordinator's own row is made from the file.
    cluster.sql(COORDINATOR.host, "DELETE FROM pg_dist_authinfo WHERE rolename = 'app'")
    assert listed(cluster, credentials)["app"].missing_on == (COORDINATOR, FIRST, SECOND)
    create(cluster, credentials)
    assert listed(cluster, credentials)["app"].problems == ()


def test_a_role_that_a_worker_lacks_is_named_with_the_statement_that_mends_it(
    cluster: Servers, credentials: CredentialStore
) -> None:
    create(cluster, credentials)
    cluster.sql(SECOND.host, "SET citus.enable_ddl_propagation = off", "DROP OWNED BY app", "DROP ROLE app")
    assert listed(cluster, credentials)["app"].missing_on == (SECOND,)
    for act in (create, drop):
        with pytest.raises(RoleError, match="not on citus-worker2:5432") as caught:
            act(cluster, credentials)
    statement = re.search(r"SELECT citus_activate_node\([^;]*;", str(caught.value.hint))
    assert statement
    cluster.sql(COORDINATOR.host, statement[0])
    create(cluster, credentials)
    assert listed(cluster, credentials)["app"].problems == ()


def test_a_role_is_on_every_node_where_an_operator_has_switched_propagation_off(
    cluster: Servers, credentials: CredentialStore
) -> None:
    names = ("ddl", "create_role", "alter_role", "alter_role_set")
    local = "SET citus.enable_ddl_propagation = off"
    off = [f"ALTER DATABASE postgres SET citus.enable_{name}_propagation = off" for name in names]
    cluster.sql(COORDINATOR.host, local, *off)
    try:
        create(cluster, credentials, limits=["connections=3", "temp_file_limit=1MB"])
        on(cluster, lambda conn: roles.set_password(conn, credentials, "app", ignore))
        works(cluster, credentials)
        for node, sessions in ((COORDINATOR, 3), (FIRST, -1), (SECOND, -1)):
            assert cluster.sql(node.host, _SESSIONS) == [(sessions,)], node
            assert ask(cluster, credentials, "SHOW temp_file_limit", node=node.host) == [("1MB",)], node
        drop(cluster, credentials)
        for node in (COORDINATOR, FIRST, SECOND):
            assert cluster.sql(node.host, _SESSIONS) == [], node
    finally:
        reset = [f"ALTER DATABASE postgres RESET citus.enable_{name}_propagation" for name in names]
        cluster.sql(COORDINATOR.host, local, *reset)


def test_workers_that_have_our_schema_of_an_earlier_version_are_no_hindrance(
    cluster: Servers, credentials: CredentialStore
) -> None:
    """Earlier versions let Citus copy the empty schema to every worker, and record it as an object of every node."""
    cluster.sql(COORDINATOR.host, "DROP SCHEMA citus_cluster CASCADE", "CREATE SCHEMA citus_cluster")
    try:
        register(cluster, FIRST, SECOND)
        create(cluster, credentials)
        assert on(cluster, lambda conn: let_pooler_ask(conn, "p" * 32, ignore))
        assert not on(cluster, lambda conn: let_pooler_ask(conn, "p" * 32, ignore))
        register(cluster, FIRST, SECOND, THIRD)
        works(cluster, credentials)
        assert cluster.sql(THIRD.host, "SELECT to_regnamespace('citus_cluster')") == [("citus_cluster",)]
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('citus_cluster')"
        assert [cluster.sql(node.host, tables) for node in (FIRST, SECOND, THIRD)] == [[(0,)]] * 3
        on(cluster, lambda conn: roles.set_password(conn, credentials, "app", ignore))
        works(cluster, credentials)
        drop(cluster, credentials)
    finally:
        for node in (COORDINATOR, FIRST, SECOND, THIRD):
            cluster.sql(
                node.host, "SET citus.enable_ddl_propagation = off", "DROP SCHEMA IF EXISTS citus_cluster CASCADE"
            )


def test_access_is_widened_and_narrowed(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, access=Access.READ)
    assert ask(cluster, credentials, "SELECT count(*) FROM items") == [(100,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(cluster, credentials, "INSERT INTO items (n) VALUES (1)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(cluster, credentials, "SELECT * FROM pg_dist_authinfo")
    create(cluster, credentials, access=Access.WRITE)
    works(cluster, credentials)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(cluster, credentials, "CREATE TABLE mine (id int)")
    create(cluster, credentials, access=Access.CREATE)
    assert create(cluster, credentials).changed == ()
    ask(
        cluster,
        credentials,
        "CREATE TABLE mine (id bigserial PRIMARY KEY)",
        "SELECT create_distributed_table('mine', 'id', shard_count => 4)",
    )
    ask(cluster, credentials, "INSERT INTO mine SELECT generate_series(1, 50)")
    cluster.sql(COORDINATOR.host, "GRANT TRUNCATE ON items TO app")
    create(cluster, credentials, access=Access.READ)
    assert create(cluster, credentials).changed == ()
    assert ask(cluster, credentials, "SELECT count(*) FROM mine") == [(50,)]
    for statement in ("INSERT INTO items (n) VALUES (1)", "CREATE TABLE more (id int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(cluster, credentials, statement)
    ask(cluster, credentials, "TRUNCATE items")  # what was granted by hand stays
    cluster.sql(COORDINATOR.host, "CREATE TABLE newest (id int)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(cluster, credentials, "INSERT INTO newest VALUES (1)")
    # The servers are shared, and only tables of Citus are dropped between tests.
    cluster.sql(COORDINATOR.host, "DROP TABLE newest")


@pytest.mark.parametrize("first", ["app", "report"])
def test_tables_that_one_role_makes_are_there_for_the_others(
    cluster: Servers, credentials: CredentialStore, first: str
) -> None:
    wanted = {"app": Access.CREATE, "report": Access.READ}
    for name in (first, *(set(wanted) - {first})):
        create(cluster, credentials, name, access=wanted[name])
    ask(
        cluster,
        credentials,
        "CREATE TABLE mine (id bigserial PRIMARY KEY)",
        "SELECT create_distributed_table('mine', 'id', shard_count => 4)",
    )
    ask(cluster, credentials, "INSERT INTO mine SELECT generate_series(1, 50)")
    assert ask(cluster, credentials, "SELECT count(*) FROM mine", user="report") == [(50,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        ask(cluster, credentials, "DELETE FROM mine", user="report")
    with pytest.raises(RoleError, match="owns 2 objects"):
        drop(cluster, credentials)
    ask(cluster, credentials, "DROP TABLE mine")
    assert drop(cluster, credentials) != ()
    assert drop(cluster, credentials, "report") != ()
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM pg_default_acl") == [(0,)]


def test_other_schemas(cluster: Servers, credentials: CredentialStore) -> None:
    with pytest.raises(UsageError, match=r"Schema 'sh\"op' does not exist"):
        create(cluster, credentials, schemas=['sh"op'])
    cluster.sql(
        COORDINATOR.host,
        'CREATE SCHEMA "sh""op"',
        'CREATE TABLE "sh""op"."it""ems" (id int PRIMARY KEY)',
        """SELECT create_distributed_table('"sh""op"."it""ems"', 'id')""",
    )
    try:
        create(cluster, credentials, schemas=['sh"op'])
        ask(cluster, credentials, """INSERT INTO "sh""op"."it""ems" SELECT generate_series(1, 9)""")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            ask(cluster, credentials, "SELECT * FROM items")
        made = create(cluster, credentials, schemas=["public"])
        assert made.record.schemas == ('sh"op', "public")
        works(cluster, credentials)
    finally:
        cluster.sql(COORDINATOR.host, 'DROP SCHEMA "sh""op" CASCADE')


@pytest.mark.usefixtures("only_newest")
def test_a_silent_worker_is_named_in_bounded_time_and_nothing_is_changed(
    cluster: Servers, credentials: CredentialStore
) -> None:
    create(cluster, credentials, "report")
    started = time.monotonic()
    with cluster.paused(SECOND.host):
        for act in (create, drop):
            with pytest.raises(WorkerUnreachableError, match="citus-worker2:5432 does not answer"):
                act(cluster, credentials)
        found = on(cluster, lambda conn: roles.list_roles(conn, credentials))
    assert time.monotonic() - started < 40
    assert [one.name for one in found.roles] == ["report"]
    assert "citus-worker2:5432" in found.silent[0]
    assert not password_file(credentials).exists()
    create(cluster, credentials)
    works(cluster, credentials)


@pytest.mark.usefixtures("only_newest")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("postgres", "superuser of this cluster"),
        ("pg_app", "reserved"),
        ("public", "reserved"),
        ("App", "lowercase letters"),
        ("a b", "lowercase letters"),
        ("../x", "lowercase letters"),
        ("", "lowercase letters"),
        ("a" * 64, "lowercase letters"),
    ],
)
def test_names_that_cannot_be(servers: Servers, tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        create(servers, CredentialStore(servers.info(COORDINATOR.host), tmp_path), name)
    assert list(tmp_path.iterdir()) == []


def test_a_role_made_by_sql_is_left_alone_unless_its_password_is_given(
    cluster: Servers, credentials: CredentialStore
) -> None:
    cluster.sql(COORDINATOR.host, "CREATE ROLE by_hand LOGIN PASSWORD 'known'")
    found = listed(cluster, credentials)["by_hand"]
    assert found.record is None
    assert found.missing_on == (COORDINATOR, FIRST, SECOND)
    for given in (None, "guessed"):
        with pytest.raises(RoleError, match="not created by citus-cluster"):
            create(cluster, credentials, "by_hand", given=given)
    with pytest.raises(RoleError, match="not created by citus-cluster"):
        drop(cluster, credentials, "by_hand")
    assert cluster.sql(COORDINATOR.host, ROWS) == []
    create(cluster, credentials, "by_hand", given="known")
    assert ask(cluster, credentials, "SELECT count(*) FROM items", user="by_hand", node=SECOND.host) == [(100,)]
    assert drop(cluster, credentials, "by_hand") != ()


def test_passwords_are_kept_and_changed_only_when_asked(cluster: Servers, credentials: CredentialStore) -> None:
    first = create(cluster, credentials).connection.password
    with pytest.raises(ImmutableError, match="not its password") as caught:
        create(cluster, credentials, given=SECRET)
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    assert password_file(credentials).read_text() == first
    with session(cluster, COORDINATOR.host, "app", first) as opened:
        changed = on(cluster, lambda conn: roles.set_password(conn, credentials, "app", ignore))
        assert opened.execute("SELECT count(*) FROM items").fetchall() == [(100,)]
    assert changed.connection.password == password_file(credentials).read_text() != first
    works(cluster, credentials)
    # Killed before the file was written: the coordinator's own row has it.
    password_file(credentials).write_text(first)
    create(cluster, credentials)
    assert password_file(credentials).read_text() == changed.connection.password
    # Changed by hand: it is neither guessed nor set back.
    cluster.sql(COORDINATOR.host, "SET log_statement = 'none'", "ALTER ROLE app PASSWORD 'by hand'")
    with pytest.raises(RoleError, match="is unknown here"):
        create(cluster, credentials)
    create(cluster, credentials, given="by hand")
    works(cluster, credentials)
    nowhere = CredentialStore(credentials.coordinator, None)
    assert create(cluster, nowhere).changed == ()
    with pytest.raises(UsageError, match="cannot be kept"):
        create(cluster, nowhere, "report")
    assert create(cluster, nowhere, "report", given=SECRET).password_file is None


@pytest.mark.usefixtures("only_newest")
def test_a_password_that_is_refused_afterwards_is_told_with_what_sets_another(
    cluster: Servers, credentials: CredentialStore
) -> None:
    def changed_by_another(event: Event) -> None:
        if event.message.startswith("role app created"):
            cluster.sql(COORDINATOR.host, "SET log_statement = 'none'", "ALTER ROLE app PASSWORD 'by another'")

    with pytest.raises(VerificationError, match="refused the password of role 'app'") as caught:
        create(cluster, credentials, emit=changed_by_another)
    assert "citus-cluster roles password app" in str(caught.value.hint)
    record = RoleRecord("app", Access.WRITE, ("public",))
    with pytest.raises(RoleError, match="DuplicateObject") as refused:
        on(cluster, lambda conn: citus_roles.create_role(conn, record, SECRET))
    assert "run the command again" in str(refused.value.hint)


def test_a_role_that_may_not_log_in_stays_so(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials)
    cluster.sql(COORDINATOR.host, "ALTER ROLE app NOLOGIN")
    with pytest.raises(RoleError, match="may not log in"):
        create(cluster, credentials)
    assert "NOLOGIN" in listed(cluster, credentials)["app"].problems[0]
    cluster.sql(COORDINATOR.host, "ALTER ROLE app SUPERUSER LOGIN")
    try:
        with pytest.raises(RoleError, match="is a superuser"):
            create(cluster, credentials)
    finally:
        cluster.sql(COORDINATOR.host, "ALTER ROLE app NOSUPERUSER")


def test_a_coordinator_alone(cluster: Servers, tmp_path: Path) -> None:
    credentials = CredentialStore(cluster.info(COORDINATOR.host), tmp_path)
    try:
        create(cluster, credentials, access=Access.CREATE)
        assert create(cluster, credentials).changed == ()
        assert listed(cluster, credentials)["app"].problems == ()
        register(cluster, FIRST)
        ask(
            cluster,
            credentials,
            "CREATE TABLE mine (id int)",
            "SELECT create_distributed_table('mine', 'id', shard_count => 4)",
        )
        assert ask(cluster, credentials, "SELECT count(*) FROM mine", node=FIRST.host) == [(0,)]
        drop(cluster, credentials, reassign=True)
    finally:
        cluster.take_apart()
        forget_roles(cluster)


TRAPS = {
    "to_json(integer)": "json",
    "json_agg(name)": None,
    "json_agg(text)": None,
    "array_agg(bigint)": None,
    "json_object_agg(bigint, bigint)": None,
    "json_object_agg(name, text)": None,
    "json_build_object(text, json, text, json)": "json",
    "json_build_object(text, json)": "json",
    "json_build_object(text, bigint)": "json",
    "json_build_object(text, text, text, text, text, json)": "json",
    "json_build_object(text, text, text, text, text, text, text, boolean)": "json",
    "json_build_object(text, text, text, integer, text, text, text, integer)": "json",
    "unnest(text[])": "text",
    "starts_with(name, text)": "boolean",
    "get_shard_id_for_distribution_column(regclass, bigint)": "bigint",
    "sum(bigint)": None,
    "generate_series(integer, integer)": "SETOF integer",
}


def test_a_role_that_may_create_cannot_trick_the_superuser(cluster: Servers, credentials: CredentialStore) -> None:
    """A function in public that fits a call better than PostgreSQL's own would run with the caller's rights."""
    create(cluster, credentials, access=Access.CREATE)
    body = "LANGUAGE plpgsql AS $$ BEGIN IF current_user <> 'app' THEN RAISE 'trapped'; END IF; RETURN NULL; END $$"
    for node in (COORDINATOR, FIRST, SECOND):
        statements = ["SET citus.enable_ddl_propagation = off", "SET ROLE app"]
        for signature, result in TRAPS.items():
            if result is None:
                name, _, types = signature.partition("(")
                statements.append(f"CREATE FUNCTION public.{name}_step(int, {types} RETURNS int {body}")
                statements.append(f"CREATE AGGREGATE public.{signature} (SFUNC = {name}_step, STYPE = int)")
            elif result.startswith("SETOF"):
                statements.append(
                    f"CREATE FUNCTION public.{signature} RETURNS {result} {body.replace('RETURN NULL', 'RETURN')}"
                )
            else:
                statements.append(f"CREATE FUNCTION public.{signature} RETURNS {result} {body}")
        cluster.sql(node.host, *statements)
    with pytest.raises(psycopg.errors.RaiseException, match="trapped"):
        cluster.sql(COORDINATOR.host, "SELECT to_json(1)")
    assert create(cluster, credentials).changed == ()
    assert listed(cluster, credentials)["app"].problems == ()
    on(cluster, lambda conn: verify(conn, [FIRST, SECOND], ignore))
    seen = on(cluster, overview)
    assert [node.reason for node in seen.nodes] == [None] * 3
    assert [table.name for table in seen.tables] == ["items", "kinds"]
    register(cluster, FIRST, SECOND, THIRD)
    on(cluster, lambda conn: rebalance.start(conn, RebalanceOptions(), ignore))
    on(cluster, lambda conn: rebalance_watch.follow(lent(conn), ignore, poll_s=0.2))
    with pytest.raises(RoleError, match="owns"):
        drop(cluster, credentials)


_SESSIONS = "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'app'"


def test_limits_hold_on_every_node_and_sessions_on_the_coordinator_alone(
    cluster: Servers, credentials: CredentialStore
) -> None:
    """On a worker each connection of Citus counts as a session of the role: with a limit there queries fail."""
    made = create(cluster, credentials, limits=["connections=3", "temp_file_limit=1MB"])
    assert made.limits == {"connections": "3", "statement_timeout": "15min", "temp_file_limit": "1MB"}
    assert create(cluster, credentials).changed == ()
    register(cluster, FIRST, SECOND, THIRD)  # Citus copies the limit of sessions to a new worker
    assert listed(cluster, credentials)["app"].problems == ()
    for node, sessions in ((COORDINATOR, 3), (FIRST, -1), (SECOND, -1), (THIRD, -1)):
        assert cluster.sql(node.host, _SESSIONS) == [(sessions,)], node
        assert ask(cluster, credentials, "SHOW statement_timeout", node=node.host) == [("15min",)], node
        assert ask(cluster, credentials, "SHOW temp_file_limit", node=node.host) == [("1MB",)], node
    password = password_file(credentials).read_text()
    with ExitStack() as stack:
        held = [stack.enter_context(session(cluster, COORDINATOR.host, "app", password)) for _ in range(3)]
        for one in held:  # all that it may have are of use, whatever Citus opens for them
            assert one.execute("SELECT count(*) FROM items JOIN kinds USING (id)").fetchall() == [(10,)]
            one.execute("INSERT INTO items (n) SELECT n FROM items LIMIT 5")
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            ask(cluster, credentials, "SELECT 1")
        spill = (
            "SELECT count(*) FROM (SELECT repeat('x', 100), g FROM generate_series(1, 60000) AS g "
            "ORDER BY 1, 2 OFFSET 1) AS s"
        )
        held[0].execute("SET work_mem = '64kB'")
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="temp_file_limit"):
            held[0].execute(spill)
    cluster.sql(COORDINATOR.host, "ALTER ROLE app CONNECTION LIMIT 5", "ALTER ROLE app RESET statement_timeout")
    found = listed(cluster, credentials)["app"]
    assert found.unlimited_on == (COORDINATOR, FIRST, SECOND, THIRD)
    assert found.limits["connections"] == "5"
    changed = create(cluster, credentials, limits=["connections=none", "temp_file_limit=default"]).changed
    assert changed[-1] == "limits of role app: statement_timeout 15min, temp_file_limit 10GB"
    assert listed(cluster, credentials)["app"].problems == ()
    for node in (COORDINATOR, FIRST, SECOND, THIRD):
        assert cluster.sql(node.host, _SESSIONS) == [(-1,)]
        assert ask(cluster, credentials, "SHOW temp_file_limit", node=node.host) == [("10GB",)]


@pytest.mark.usefixtures("only_newest")
def test_a_role_of_an_earlier_version_keeps_what_it_has(cluster: Servers, credentials: CredentialStore) -> None:
    create(cluster, credentials, limits=["connections=none", "statement_timeout=none", "temp_file_limit=none"])
    cluster.sql(COORDINATOR.host, "ALTER TABLE citus_cluster.role DROP COLUMN limits")
    cluster.sql(COORDINATOR.host, "ALTER ROLE app SET statement_timeout = '7s'")
    assert listed(cluster, credentials)["app"].problems == ()
    made = create(cluster, credentials)
    assert (made.changed, made.limits) == ((), None)
    assert listed(cluster, credentials)["app"].limits["statement_timeout"] == "7s"
    made = create(cluster, credentials, limits=["temp_file_limit=2GB"])
    assert made.limits == {"temp_file_limit": "2GB"}
    assert listed(cluster, credentials)["app"].limits["statement_timeout"] == "7s"
    with pytest.raises(UsageError, match=r"--limit statement_timeout=-1: .*would remove the limit"):
        create(cluster, credentials, limits=["statement_timeout=-1"])
