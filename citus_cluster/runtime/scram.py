"""The secret that PostgreSQL keeps of a password (RFC 5802)."""

import hashlib
import hmac
from base64 import b64decode, b64encode

from citus_cluster.runtime.postgres import Connection


def hashed(conn: Connection, role: str, password: str) -> str:
    """Hash a password as psql's ``\\password`` does, so that no statement contains it."""
    return conn.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()


def opens(secret: str, password: str) -> bool:
    """Return whether a SCRAM secret of ``pg_authid`` belongs to this password (RFC 5802).

    SASLprep is omitted, because it does not change ASCII characters, and our passwords have no others.
    """
    try:
        method, iterations_salt, keys = secret.split("$")
        iterations, salt = iterations_salt.split(":")
        stored_key, _ = keys.split(":")
    except ValueError:
        return False
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    made = b64encode(hashlib.sha256(client_key).digest()).decode()
    return method == "SCRAM-SHA-256" and hmac.compare_digest(made, stored_key)
