"""Dropping ordinary roles on real servers."""

import psycopg
import pytest
from sql_role_support import FIRST, ROWS, SECOND, ask, create, drop, listed, password_file, session, works
from sql_servers import COORDINATOR, NASTY_PASSWORD, Servers

from citus_cluster.errors import LockedError, RoleError
from citus_cluster.model.roles import Access
from citus_cluster.operations.role_passwords import Home

pytestmark = pytest.mark.cluster


def test_a_role_is_dropped_only_when_nothing_is_lost(cluster: Servers, home: Home) -> None:
    create(cluster, home, access=Access.CREATE)
    ask(
        cluster,
        home,
        "CREATE TABLE mine (id bigserial PRIMARY KEY)",
        "SELECT create_distributed_table('mine', 'id', shard_count => 4)",
    )
    ask(cluster, home, "INSERT INTO mine SELECT generate_series(1, 50)", "CREATE VIEW few AS SELECT * FROM mine")
    with pytest.raises(RoleError, match="owns 3 objects") as caught:
        drop(cluster, home)
    assert set(caught.value.details) == {
        "table public.mine",
        "sequence public.mine_id_seq",
        "view public.few",
    }
    works(cluster, home)
    with session(cluster, SECOND.host, "app", password_file(home).read_text()) as opened:
        with pytest.raises(RoleError, match="sessions are open: 1 on citus-worker2:5432"):
            drop(cluster, home, reassign=True)
        works(cluster, home)
        drop(cluster, home, reassign=True, disconnect=True)
        with pytest.raises(psycopg.OperationalError):
            opened.execute("SELECT 1")
    assert cluster.sql(COORDINATOR.host, "SELECT count(*) FROM mine JOIN few USING (id)") == [(50,)]
    for node in (COORDINATOR, FIRST, SECOND):
        assert cluster.sql(node.host, "SELECT FROM pg_roles WHERE rolname = 'app'") == []
        assert cluster.sql(node.host, ROWS) == []
    assert not password_file(home).exists()
    # A table that a role made on one worker alone, which no other node knows.
    create(cluster, home)
    cluster.sql(SECOND.host, "CREATE TABLE lonely (id int)", "ALTER TABLE lonely OWNER TO app")
    try:
        with pytest.raises(RoleError, match="owns 1 object") as caught:
            drop(cluster, home)
        assert caught.value.details == ("table public.lonely on citus-worker2:5432",)
        drop(cluster, home, reassign=True)
        assert cluster.sql(SECOND.host, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'lonely'") == [
            ("postgres",)
        ]
    finally:
        cluster.sql(SECOND.host, "DROP TABLE lonely")


@pytest.mark.usefixtures("only_newest")
def test_no_session_hides_behind_a_name_of_citus(cluster: Servers, home: Home) -> None:
    create(cluster, home)
    with session(cluster, FIRST.host, "app", password_file(home).read_text()) as opened:
        opened.execute("SET application_name = 'citus_of_mine'")
        with pytest.raises(RoleError, match="sessions are open: 1 on citus-worker1:5432"):
            drop(cluster, home)
        opened.execute("SET application_name = 'citus_internal gpid=10000000001'")
        drop(cluster, home)
        with pytest.raises(psycopg.OperationalError):
            opened.execute("SELECT 1")


@pytest.mark.usefixtures("only_newest")
def test_a_drop_that_fails_late_says_that_nobody_gets_in(cluster: Servers, home: Home) -> None:
    create(cluster, home)
    with session(cluster, COORDINATOR.host, "postgres", NASTY_PASSWORD) as other, other.transaction():
        other.execute("SELECT FROM citus_cluster.role FOR UPDATE")
        with pytest.raises(LockedError, match="while dropping role app") as caught:
            drop(cluster, home)
    assert 'ALTER ROLE "app" LOGIN' in str(caught.value.hint)
    assert "NOLOGIN" in listed(cluster, home)["app"].problems[0]
    assert drop(cluster, home) != ()


def test_a_role_that_was_dropped_by_sql_is_cleaned_up_or_made_again(cluster: Servers, home: Home) -> None:
    create(cluster, home)
    cluster.sql(COORDINATOR.host, "DROP OWNED BY app", "DROP ROLE app")
    assert listed(cluster, home)["app"].problems == ("it is recorded, but the role is gone",)
    password = password_file(home).read_text()
    assert create(cluster, home).connection.password == password
    works(cluster, home)
    cluster.sql(COORDINATOR.host, "DROP OWNED BY app", "DROP ROLE app")
    assert drop(cluster, home) != ()
    assert listed(cluster, home) == {}
    for node in (COORDINATOR, FIRST, SECOND):
        assert cluster.sql(node.host, ROWS) == []
