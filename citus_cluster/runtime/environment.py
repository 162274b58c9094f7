"""The caller's environment: variables that must not affect our programs."""

import os


def drop_libpq_variables() -> None:
    """Remove every ``PG*`` variable from this process. Our programs call this before they connect.

    Connections set all their parameters (``libpq``). But ``PGTZ``, ``PGDATESTYLE`` and ``PGGEQO`` have no parameter,
    and an unknown ``PGSERVICE`` is an error with any parameters.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
