"""The accounts of the read/write split example on a cluster that has none yet, made as the superusers.

Once the cluster makes them itself (component ``example-replication``), this is not needed.
"""

import hashlib
import secrets
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

NAME = "example_replication"
_SECRETS = ("password", "redis_password", "cassandra_password", "jwt_key")


def write_secrets(root: Path) -> None:
    """Make the passwords, and the user of Redis, which reads its users when it starts."""
    folder = root / "generated/secrets"
    for name in _SECRETS:
        (folder / f"{NAME}_{name}").write_text(secrets.token_urlsafe(32))
    acl = root / "generated/config/redis/users.acl"
    if acl.exists():
        digest = hashlib.sha256((folder / f"{NAME}_redis_password").read_bytes()).hexdigest()
        rights = f"resetchannels ~{NAME}:* +@all -@admin -@dangerous"
        acl.write_text(f"{acl.read_text().rstrip()}\nuser {NAME} on #{digest} {rights}\n")


def create_role(root: Path, pg14_port: int) -> None:
    """Make the role and its schema on the primary."""
    folder = root / "generated/secrets"
    name = sql.Identifier(NAME)
    with psycopg.connect(
        host="127.0.0.1",
        port=pg14_port,
        user="postgres",
        dbname="testdb",
        password=(folder / "pg14_password").read_text(),
        autocommit=True,
    ) as connection:
        password = (folder / f"{NAME}_password").read_text()
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
        connection.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name))
        connection.execute(sql.SQL("ALTER ROLE {} SET search_path = {}, public").format(name, name))


def create_keyspace(root: Path, container: str) -> None:
    """Make the keyspace, and a role with all rights on it."""
    password = (root / f"generated/secrets/{NAME}_cassandra_password").read_text()
    statements = (
        f"CREATE KEYSPACE {NAME} WITH replication = {{'class': 'NetworkTopologyStrategy', 'dc1': 1}}",
        f"CREATE ROLE {NAME} WITH PASSWORD = '{password}' AND LOGIN = true",
        f"GRANT ALL PERMISSIONS ON KEYSPACE {NAME} TO {NAME}",
    )
    command = ["docker", "exec", "-i", container, "cqlsh"]
    subprocess.run(command, input=";\n".join(statements) + ";\n", text=True, check=True, capture_output=True)
