"""What an ordinary role must never reach, on real servers: passwords, files, programs, and the superuser."""

import psycopg
import pytest
from sql_role_support import FIRST, create, password_file, session
from sql_servers import COORDINATOR, Servers

from citus_cluster.model.citus.roles import Access
from citus_cluster.operations.roles.passwords import CredentialStore

pytestmark = pytest.mark.cluster

FORBIDDEN = (
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT authinfo FROM pg_dist_authinfo",
    "SELECT pg_catalog.pg_read_file('/etc/passwd')",
    "SELECT pg_catalog.pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "COPY items FROM PROGRAM 'id'",
    "COPY items TO PROGRAM 'cat'",
    "COPY items TO '/tmp/items'",
    "COPY items FROM '/etc/passwd'",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "ALTER ROLE app SUPERUSER",
    "ALTER ROLE postgres PASSWORD 'taken'",
    "GRANT postgres TO app",
    "CREATE ROLE other",
    "CREATE DATABASE other",
    "ALTER SYSTEM SET log_statement = 'none'",
    "CREATE EXTENSION dblink",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'getpid'",
    "LOAD '/usr/lib/libc.so'",
    "SELECT pg_reload_conf()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "SELECT citus_add_node('citus-worker9', 5432)",
    "SELECT citus_remove_node('citus-worker1', 5432)",
    "SELECT citus_set_node_property('citus-worker1', 5432, 'shouldhaveshards', false)",
    "SELECT citus_drain_node('citus-worker1', 5432)",
    "UPDATE pg_dist_node SET nodename = 'citus-worker9'",
    "UPDATE pg_dist_placement SET groupid = 0",
    "INSERT INTO citus_cluster.role SELECT * FROM citus_cluster.role",
    "DELETE FROM citus_cluster.worker",
)
"""Statements that are refused on the node where they are run."""

ELSEWHERE = (
    "SELECT rolpassword FROM pg_authid",
    "SELECT authinfo FROM pg_dist_authinfo",
    "SELECT pg_catalog.pg_read_file(''/etc/passwd'')",
    "ALTER ROLE app SUPERUSER",
    "SET ROLE postgres",
    "COPY (SELECT 1) TO PROGRAM ''id''",
)
"""Statements that Citus runs on the other nodes for whoever asks: as that role, so they are refused there."""


def test_no_role_reaches_passwords_files_programs_or_the_superuser(
    cluster: Servers, credentials: CredentialStore
) -> None:
    create(cluster, credentials, access=Access.CREATE)  # the most that a role may
    password = password_file(credentials).read_text()
    for node in (COORDINATOR.host, FIRST.host):
        with session(cluster, node, "app", password) as conn:
            for statement in FORBIDDEN:
                with pytest.raises(psycopg.errors.Error) as refused:
                    conn.execute(statement.encode())
                # Of what would change every node, a worker says first that this is the coordinator's; and it does not
                # have our own tables.
                elsewhere = "operation is not allowed on this node" in str(refused.value) or (
                    node == FIRST.host and 'relation "citus_cluster.' in str(refused.value)
                )
                assert refused.value.sqlstate == "42501" or elsewhere, f"{node}: {statement}: {refused.value}"
            for statement in ELSEWHERE:
                answers = conn.execute(f"SELECT success, result FROM run_command_on_all_nodes('{statement}')".encode())
                for success, result in answers.fetchall():
                    assert not success, f"{node}: {statement}: {result}"
                    assert "permission denied" in result or "must be" in result, f"{node}: {statement}: {result}"
    attributes = "SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = 'app'"
    for node in (COORDINATOR.host, FIRST.host):
        assert cluster.sql(node, attributes) == [(False, False)]
