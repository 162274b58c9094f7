"""The limits of one role: sessions, time and temporary files; the nodes where each applies, and the defaults.

On the workers, Citus' own connections count as sessions of the role whose query they serve, so sessions are limited
only on the coordinator. Time and temporary files are limited on every node.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from citus_cluster.model.citus.roles import Access
from citus_cluster.model.tuning.parameter_types import same_value, value_problem
from citus_cluster.model.units import count

NO_LIMIT = "none"
DEFAULT = "default"
_AS_FOUND = "as found"


class Limit(StrEnum):
    """One limit, by its name in ``--limit``; all except connections are parameters of PostgreSQL."""

    CONNECTIONS = "connections"
    STATEMENT_TIMEOUT = "statement_timeout"
    TEMP_FILE_LIMIT = "temp_file_limit"


SETTINGS = (Limit.STATEMENT_TIMEOUT, Limit.TEMP_FILE_LIMIT)
"""Limits that are parameters of the role, the same on every node."""

_DEFAULTS = {Limit.STATEMENT_TIMEOUT: "15min", Limit.TEMP_FILE_LIMIT: "10GB"}
"""For roles that own no tables. Judgement: more than an application's query takes, less than what fills a disk or holds
a lock for a day. Citus builds indexes of a table's shards as its owner, which may take longer and spill more."""


@dataclass(frozen=True)
class FoundLimits:
    """The limits of a role on one node; -1 sessions mean no limit. ``config`` holds ``name=value``."""

    connections: int
    config: Mapping[str, str]

    @classmethod
    def read(cls, connections: int, config: Iterable[str]) -> "FoundLimits":
        pairs = (one.partition("=") for one in config)
        return cls(connections, {name: value for name, _, value in pairs})

    def value(self, limit: Limit) -> str | None:
        if limit is Limit.CONNECTIONS:
            return None if self.connections < 0 else str(self.connections)
        return self.config.get(limit)


def parse_limits(given: Sequence[str]) -> tuple[Mapping[Limit, str], tuple[str, ...]]:
    """Read ``NAME=VALUE``; return the limits, and one line for each problem."""
    found: dict[Limit, str] = {}
    problems = []
    for one in given:
        name, _, value = one.partition("=")
        if name not in set(Limit) or not value:
            problems.append(f"--limit {one!r}: write NAME=VALUE, where NAME is one of {', '.join(Limit)}")
        elif problem := _problem(Limit(name), value):
            problems.append(f"--limit {one}: {problem}")
        else:
            found[Limit(name)] = value
    return found, tuple(problems)


def _problem(limit: Limit, value: str) -> str | None:
    if value in {NO_LIMIT, DEFAULT}:
        return None
    if limit is Limit.CONNECTIONS:
        fits = value.isascii() and value.isdigit() and 1 <= int(value) < 2**31
        return None if fits else f"{value!r} is not a number of sessions: use 1 or more, {NO_LIMIT}, or {DEFAULT}"
    if value.strip().startswith(("-", "0")) and not value.strip().startswith(("0.", "0x")):
        return f"{value!r} would remove the limit: write {limit}={NO_LIMIT}"
    return value_problem(limit, value, None)


def merged_limits(
    recorded: Mapping[str, str] | None, given: Mapping[Limit, str], *, is_new: bool
) -> Mapping[str, str] | None:
    """Merge the record and the request; None for a role whose limits this tool does not set.

    These are roles of earlier versions, and roles created with SQL: only the requested limits are set. A limit that has
    its default is not recorded.
    """
    if recorded is None and not is_new:
        if not given:
            return None
        recorded = dict.fromkeys((limit.value for limit in Limit), _AS_FOUND)
    known = dict(recorded or {}) | {limit.value: value for limit, value in given.items()}
    return {limit.value: known[limit] for limit in Limit if known.get(limit, DEFAULT) != DEFAULT}


def wanted_limits(access: Access, recorded: Mapping[str, str] | None) -> Mapping[Limit, str | None] | None:
    """Return the limits of a role: None if there is none, and no entry for one that this tool does not set.

    Sessions have no default: Citus copies a role's CONNECTION LIMIT to all workers whenever it distributes an object
    that depends on the role, and on workers its own connections count.
    """
    if recorded is None:
        return None
    defaults: dict[Limit, str] = {} if access is Access.CREATE else dict(_DEFAULTS)
    values = {limit: recorded.get(limit, defaults.get(limit, NO_LIMIT)) for limit in Limit}
    return {limit: None if value == NO_LIMIT else value for limit, value in values.items() if value != _AS_FOUND}


def differing(wanted: Mapping[Limit, str | None], found: FoundLimits, *, on_coordinator: bool) -> tuple[Limit, ...]:
    """Return the limits that differ on a node; a worker must have none for sessions.

    On a new worker Citus writes ``15min`` as ``900000``.
    """
    here = {**wanted, **({} if on_coordinator or Limit.CONNECTIONS not in wanted else {Limit.CONNECTIONS: None})}
    return tuple(limit for limit, value in here.items() if not same_value(limit, found.value(limit), value))


def in_words(wanted: Mapping[Limit, str | None]) -> str:
    """Describe the limits for people."""
    words = [
        f"{count(int(value), 'session')} on the coordinator" if limit is Limit.CONNECTIONS else f"{limit} {value}"
        for limit, value in wanted.items()
        if value is not None
    ]
    return ", ".join(words) or "no limits"


def risks(access: Access, wanted: Mapping[Limit, str | None]) -> str | None:
    """Warn about what the limits of a role that owns tables can break."""
    limits = [limit for limit in SETTINGS if wanted.get(limit) is not None]
    if access is not Access.CREATE or not limits:
        return None
    return (
        f"{' and '.join(limits)} also {'apply' if len(limits) > 1 else 'applies'} while Citus moves shards of this "
        "role's tables, because it builds their indexes as the owner: a rebalance or drain of large tables may fail. "
        "Remove the limit for that time: --limit NAME=none"
    )
