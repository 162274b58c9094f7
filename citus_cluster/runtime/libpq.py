"""The parameters of our libpq connections: all are set, so that none comes from the caller's environment.

libpq fills a missing parameter from a variable (``PGSSLMODE``), from the service file, and from files in the home
directory (``~/.postgresql``): https://www.postgresql.org/docs/current/libpq-envars.html.
"""

from collections.abc import Mapping
from functools import cache

from psycopg import pq

from citus_cluster.errors import CitusClusterError

PROVEN = "scram-sha-256"
"""For our own servers: the only method in which the server also proves that it knows the password."""
NOT_IN_CLEAR = "!password,!md5"
"""For a server that the user names: every method that does not disclose the password."""

NOWHERE = "/dev/null/none"
"""A path at which no file can exist. libpq replaces an empty path with one in the home directory."""

_OURS = {
    "client_encoding": "UTF8",
    "gssencmode": "disable",
    "sslcertmode": "disable",
    "sslcert": NOWHERE,
    "sslkey": NOWHERE,
    "sslrootcert": NOWHERE,
    "sslcrl": NOWHERE,
    # An empty version is an error; these are libpq's own defaults.
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "ssl_max_protocol_version": "",
}
# libpq would look up a service; with every other parameter set, a service adds nothing.
_NEVER_GIVEN = frozenset({"service", "servicefile"})


def explicit(given: Mapping[str, str]) -> dict[str, str]:
    """Return all parameters of a connection: the ``given`` ones, ours, and libpq's defaults for the rest.

    ``given`` has at least host, port, user, dbname and ``require_auth``. A missing password is searched only in
    ``~/.pgpass``. Raises CitusClusterError if libpq is too old to protect a password (before 16).
    """
    known = _known()
    if "require_auth" not in known:
        raise CitusClusterError(
            f"libpq {pq.version() // 10000} would send the password in cleartext to any server that asks for it, so no "
            "connection was opened.",
            hint="Install the driver with its own libpq: pip install 'psycopg[binary]'. Or install libpq 16 or newer.",
        )
    # If this libpq does not know a parameter, it does not know its variable either.
    wanted = {**known, **{name: value for name, value in _OURS.items() if name in known}}
    if "sslcert" in given and "sslcertmode" in known:
        wanted["sslcertmode"] = "allow"
    if given.get("sslmode", "").startswith("verify"):
        wanted["sslrootcert"] = ""  # like psql: the certificate in ~/.postgresql
    return {**wanted, **given}


@cache
def _known() -> Mapping[str, str]:
    """Return the default of each parameter that libpq would otherwise read from a variable."""
    return {
        option.keyword.decode(): (option.compiled or b"").decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.keyword.decode() not in _NEVER_GIVEN
    }
