"""What people do with a cluster once it runs: the kinds of tables and queries, as another superuser and database."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from cluster_support import citus_images, require_engine, skip_or_fail
from generated_cluster import GeneratedCluster

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_engine()
    images = citus_images()
    if not images:
        skip_or_fail("the engine has no image citusdata/citus")
    root = tmp_path_factory.mktemp("app")
    cluster = GeneratedCluster(root, images[min(images)], user="myuser", database="testdb")
    try:
        cluster.create("--with-coordinator", "--workers=2", "--services=citus", "--up")
        yield cluster
    finally:
        cluster.remove()


def explain(cluster: GeneratedCluster, query: str) -> str:
    return "\n".join(row[0] for row in cluster.sql(f"EXPLAIN {query}"))


@pytest.fixture(scope="module")
def users(app: GeneratedCluster) -> GeneratedCluster:
    app.sql("CREATE TABLE users (user_id serial PRIMARY KEY, name text, email text, created_at date)")
    app.sql("SELECT create_distributed_table('users', 'user_id', shard_count => 4)")
    app.sql(
        "INSERT INTO users VALUES (1, 'Alice', 'alice@example.com', '2025-01-15'), "
        "(2, 'Bob', 'bob@example.com', '2025-02-10')"
    )
    return app


def test_rows_lie_in_hash_shards_on_the_workers_only(users: GeneratedCluster) -> None:
    assert users.sql("SELECT user_id, name FROM users ORDER BY 1") == [(1, "Alice"), (2, "Bob")]
    assert users.sql("SELECT partmethod::text FROM pg_dist_partition WHERE logicalrelid = 'users'::regclass") == [
        ("h",)
    ]
    shards = users.sql("SELECT nodename, count(*) FROM citus_shards WHERE table_name = 'users'::regclass GROUP BY 1")
    assert dict(shards) == {"citus-worker1": 2, "citus-worker2": 2}


def test_the_extension_is_in_the_database_on_every_node(app: GeneratedCluster) -> None:
    for number in (0, 1, 2):
        assert app.sql("SELECT extname FROM pg_extension WHERE extname LIKE 'citus'", number) == [("citus",)]
        assert app.sql("SELECT current_database(), current_user", number) == [("testdb", "myuser")]


def test_a_reference_table_is_on_every_node(app: GeneratedCluster) -> None:
    app.sql("CREATE TABLE countries (code text PRIMARY KEY)")
    app.sql("SELECT create_reference_table('countries')")
    assert app.sql("SELECT count(*) FROM citus_shards WHERE table_name = 'countries'::regclass") == [(3,)]


def test_a_local_table_stays_on_the_coordinator(app: GeneratedCluster) -> None:
    app.sql("CREATE TABLE notes (id int)")
    assert app.sql("SELECT count(*) FROM citus_tables WHERE table_name = 'notes'::regclass") == [(0,)]
    assert app.sql("SELECT to_regclass('notes')::text", number=1) == [(None,)]


def test_colocated_tables_join_without_repartition(users: GeneratedCluster) -> None:
    users.sql("CREATE TABLE orders (user_id int, id int, PRIMARY KEY (user_id, id))")
    users.sql("SELECT create_distributed_table('orders', 'user_id', colocate_with => 'users')")
    ids = users.sql(
        "SELECT DISTINCT colocation_id FROM citus_tables WHERE table_name IN ('users'::regclass, 'orders'::regclass)"
    )
    assert len(ids) == 1
    plan = explain(users, "SELECT count(*) FROM users JOIN orders USING (user_id)")
    assert "Citus Adaptive" in plan
    assert "MapMerge" not in plan


def test_a_filter_on_the_key_asks_one_shard_and_none_asks_all(users: GeneratedCluster) -> None:
    assert "Task Count: 1\n" in explain(users, "SELECT * FROM users WHERE user_id = 1")
    assert "Task Count: 4\n" in explain(users, "SELECT * FROM users WHERE name = 'Bob'")


def test_a_transaction_over_two_shards_is_undone_as_one(users: GeneratedCluster) -> None:
    with users.connect() as connection, pytest.raises(ZeroDivisionError), connection.transaction():
        connection.execute("INSERT INTO users SELECT i, 'x', 'x', now() FROM generate_series(100, 120) i")
        raise ZeroDivisionError
    assert users.sql("SELECT count(*) FROM users") == [(2,)]


def test_a_locked_table_is_read_as_of_one_moment(app: GeneratedCluster) -> None:
    """Citus has no snapshot across shards; what the documents give in its place holds, whoever writes from where."""
    app.sql("CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL)")
    app.sql("SELECT create_distributed_table('accounts', 'id', shard_count => 4)")
    app.sql("INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, 40) i")
    enough = threading.Event()

    def transfer(number: int) -> int:
        done, chance = 0, random.Random(number)
        with app.connect(number % 2) as connection:
            while not enough.is_set():
                # In one order, so that two transfers never wait for each other.
                payer, payee = sorted(chance.sample(range(1, 41), 2))
                with connection.transaction():
                    connection.execute("UPDATE accounts SET balance = balance - 7 WHERE id = %s", [payer])
                    connection.execute("UPDATE accounts SET balance = balance + 7 WHERE id = %s", [payee])
                done += 1
        return done

    with ThreadPoolExecutor(max_workers=3) as pool, app.connect() as connection:
        writers = [pool.submit(transfer, number) for number in range(3)]
        try:
            for _ in range(25):
                with connection.transaction():
                    connection.execute("LOCK TABLE accounts IN SHARE MODE")
                    assert connection.execute("SELECT sum(balance) FROM accounts").fetchall() == [(40_000,)]
        finally:
            enough.set()
        assert all(writer.result() > 0 for writer in writers)


def test_a_second_superuser_password_does_not_open_it(app: GeneratedCluster) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(
            host="127.0.0.1", port=app.base_port, user="myuser", dbname="testdb", password="wrong", connect_timeout=5
        )


def test_the_documented_commands_in_the_container_work(app: GeneratedCluster) -> None:
    container = app.container("citus-coordinator")
    psql = app.docker("exec", container, "psql", "-U", "myuser", "-d", "testdb", "-Atc", "SHOW config_file")
    assert psql.out.strip() == "/etc/citus-cluster/postgresql.conf"
    assert app.docker("exec", container, "pg_isready", "-p", "5432").status == 0
    assert app.docker("exec", container, "sh", "-c", "stat -c %a $PGDATA").out.strip() == "700"
    logs = app.docker("logs", container)
    assert "database system is ready to accept connections" in logs.err
    assert app.password not in logs.text


def test_servers_run_what_was_generated(app: GeneratedCluster) -> None:
    """No line of the settings is refused or overridden, on any node."""
    for number, role in ((0, "coordinator"), (1, "worker"), (2, "worker")):
        wrong = "SELECT name, error FROM pg_file_settings WHERE error IS NOT NULL OR NOT applied"
        # The init server listens nowhere, so listen_addresses of the file is told apart once and for all.
        assert app.sql(wrong, number) == [], role
        assert app.sql("SELECT count(*) FROM pg_settings WHERE pending_restart", number) == [(0,)], role
