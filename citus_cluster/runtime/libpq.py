"""What libpq is told for a connection of ours: every parameter, so that nothing comes from the caller's surroundings.

libpq fills a parameter that is not given from a variable (``PGSSLMODE``), from the service file, and from files in the
home directory (``~/.postgresql``): https://www.postgresql.org/docs/current/libpq-envars.html.
"""

from collections.abc import Mapping
from functools import cache

from psycopg import pq

from citus_cluster.errors import CitusClusterError

PROVEN = "scram-sha-256"
"""For servers of ours: the only method in which the server, too, proves that it knows the password."""
NOT_IN_CLEAR = "!password,!md5"
"""For a server that the user names: whatever does not give the password away."""

NOWHERE = "/dev/null/none"
"""A path at which no file can be. libpq takes an empty path for one in the home directory."""

_OURS = {
    "client_encoding": "UTF8",
    "gssencmode": "disable",
    "sslcertmode": "disable",
    "sslcert": NOWHERE,
    "sslkey": NOWHERE,
    "sslrootcert": NOWHERE,
    "sslcrl": NOWHERE,
    # An empty version is an error; these are what libpq takes by itself.
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "ssl_max_protocol_version": "",
}
# Given as a service it would be looked up; with every other parameter given, a service has nothing to add.
_NEVER_GIVEN = frozenset({"service", "servicefile"})


def explicit(given: Mapping[str, str]) -> dict[str, str]:
    """All parameters of a connection: those that are ``given``, ours, and for the rest libpq's own defaults.

    ``given`` names host, port, user, dbname and ``require_auth`` at least. A password that is not given is looked for
    in ``~/.pgpass`` alone. Raises CitusClusterError where libpq is too old to keep a password to itself (before 16).
    """
    known = _known()
    if "require_auth" not in known:
        raise CitusClusterError(
            f"libpq {pq.version() // 10000} would send the password in clear to any server that asks for it, so no "
            "connection was opened.",
            hint="Install the driver with its own libpq: pip install 'psycopg[binary]'. Or install libpq 16 or newer.",
        )
    # A parameter that this libpq does not know has no variable either.
    wanted = {**known, **{name: value for name, value in _OURS.items() if name in known}}
    if "sslcert" in given and "sslcertmode" in known:
        wanted["sslcertmode"] = "allow"
    if given.get("sslmode", "").startswith("verify"):
        wanted["sslrootcert"] = ""  # that of ~/.postgresql, as psql takes it
    return {**wanted, **given}


@cache
def _known() -> Mapping[str, str]:
    """Default of each parameter that libpq would otherwise read from a variable."""
    return {
        option.keyword.decode(): (option.compiled or b"").decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.keyword.decode() not in _NEVER_GIVEN
    }
