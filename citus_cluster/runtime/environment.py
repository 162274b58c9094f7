"""The caller's environment: what of it must not reach our own work."""

import os


def drop_libpq_variables() -> None:
    """Remove every ``PG*`` variable from this process; a program of ours calls it before it connects anywhere.

    Connections have all their parameters given (``libpq``). But ``PGTZ``, ``PGDATESTYLE`` and ``PGGEQO`` have no
    parameter that could be given, and a ``PGSERVICE`` that is not found is an error whatever is given.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
