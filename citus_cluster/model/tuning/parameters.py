"""Rules for PostgreSQL's and Citus' parameters, and the check of the settings in cluster.yaml."""

import difflib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from citus_cluster.model.images import PAIR_PG_MAJOR
from citus_cluster.model.tuning import parameter_names as names
from citus_cluster.model.tuning.budget import PAIR_SESSIONS
from citus_cluster.model.tuning.parameter_types import value_problem

Scalar = bool | int | float | str

_FIXED = {
    "listen_addresses": "every server listens on all addresses of its container; bind and advertise choose the host's",
    "port": "inside the network every server listens on 5432; ports.citus chooses the host's ports",
    "config_file": "the Compose file names it",
    "hba_file": "the Compose file names it",
    "ident_file": "no rule of pg_hba.conf uses one",
    "data_directory": "the volume is mounted there",
    "unix_socket_directories": "the image's scripts and psql in the container expect the socket in its usual place",
    "logging_collector": "the log must go to stderr, where docker logs finds it",
    "log_destination": "the log must go to stderr, where docker logs finds it",
    "password_encryption": "pg_hba.conf requires scram-sha-256",
    "citus.local_hostname": "the Compose file sets it to the node's own name",
}
"""Parameters that cluster.yaml cannot set, each with the reason."""

_DIRECTIVES = frozenset({"include", "include_if_exists", "include_dir"})

# One shard move needs up to four slots, and as many senders and apply workers, for each owner of tables. In addition to
# the apply workers, their launcher, the maintenance daemon, the task monitor and a task run.
_REBALANCE_LEAST = {
    "max_logical_replication_workers": 4,
    "max_replication_slots": 4,
    "max_wal_senders": 4,
    "max_worker_processes": 8,
    "max_active_replication_origins": 4,
}

_PAIR_FIXED = {
    "primary_conninfo": "the container's start script sets it to the other server",
    "primary_slot_name": "each server has its own slot on the other",
    "synchronous_standby_names": "pg14.replication sets it (--pg14-sync)",
    "hot_standby": "the replica serves reads",
    "restore_command": "the replica follows the primary only by streaming",
    "recovery_target_timeline": "after a promotion the replica must follow the new timeline",
}
_PAIR_LEAST = {"max_wal_senders": 3, "max_replication_slots": 2}

_CRASH_LOSES = "a crash of the machine can destroy the data; use it only for disposable clusters"
_DANGEROUS_OFF = {
    "fsync": _CRASH_LOSES,
    "full_page_writes": _CRASH_LOSES,
    "autovacuum": "tables grow, and the server stops when transaction IDs run out",
}

_OWN_PREFIXES = ("citus.", "columnar.", "pg_stat_statements.")
_ALL = names.BOOLEAN | names.INTEGER | names.REAL | names.MEMORY | names.TIME | names.TEXT | names.INTERNAL
_ABSENT = {
    14: names.NOT_IN_14 | names.ONLY_17 | names.ONLY_18,
    17: names.ONLY_14 | names.ONLY_18,
    18: names.ONLY_14 | names.ONLY_17 | names.NOT_IN_18,
}
_NAME = re.compile(r"[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)*", re.IGNORECASE)
_BOOLEAN = re.compile(r"on|off?|t(r(ue?)?)?|f(a(l(se?)?)?)?|y(es?)?|no?|1|0", re.IGNORECASE)
_NUMBER = r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?"


@dataclass(frozen=True)
class Checked:
    """Outcome of a check: ``problems`` refuse the settings, ``warnings`` do not. One line each."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class UnusedSetting:
    """One line of a settings file that the running server does not use; without ``file`` a line that was removed.

    ``reason`` is the server's own text, ``in_force`` the value that it continues to use. ``needs_restart``: the
    parameter is read only at a start, so the value may be a good one.
    """

    file: str | None
    line: int | None
    name: str | None
    setting: str | None
    reason: str | None
    in_force: str | None
    needs_restart: bool

    def __str__(self) -> str:
        what = f"{self.name} = {self.setting!r}" if self.name else "the file cannot be read"
        where = f"{self.file} line {self.line}" if self.line else self.file
        if self.file is None:
            what, where = f"{self.name}", "removed from the files"
        why = f": {self.reason}" if self.reason else ""
        return f"{what} ({where}){why}" + ("" if self.in_force is None else f"; still in force: {self.in_force!r}")


def fixed_parameters() -> Mapping[str, str]:
    """Return the parameters that cluster.yaml cannot set, each with the reason."""
    return _FIXED


def needs_restart(name: str, pg_major: int | None = None) -> bool:
    """Return whether a change of the parameter takes effect only at a restart; assumed for an unknown one."""
    name = name.lower()
    if name == "autovacuum_max_workers" and pg_major is not None:
        return pg_major < 18
    return name in names.POSTMASTER or name not in _ALL


def conf_value(value: Scalar) -> str:
    """Write a value of cluster.yaml as PostgreSQL writes it, unquoted."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return repr(value) if isinstance(value, float) else str(value)


def check_user_settings(settings: Mapping[str, Scalar], where: str, pg_major: int | None = None) -> Checked:
    """Check the user's own settings, found at ``where`` (``settings.worker``).

    Each problem says what is wrong, why, and what to do. With ``pg_major``, parameters that this version
    does not have are refused too.
    """
    problems = [
        f"{where}.{name}: {problem}" for name, value in settings.items() for problem in _problems(name, value, pg_major)
    ]
    warnings = [f"{where}.{name}: {warning}" for name, value in settings.items() for warning in _warnings(name, value)]
    return Checked(tuple(problems), tuple(warnings))


def check_pair_settings(settings: Mapping[str, Scalar], where: str) -> Checked:
    """Check the user's settings of the PostgreSQL 14 pair; as ``check_user_settings``."""
    problems = []
    for given_name, value in settings.items():
        name = given_name.lower()
        found = [
            problem
            for problem in (
                f"cannot be set: {_PAIR_FIXED[name]}; remove it" if name in _PAIR_FIXED else None,
                "the pair is plain PostgreSQL, without Citus: remove it" if name.startswith("citus.") else None,
                _name_problem(name, PAIR_PG_MAJOR) or _text_problem(value) or _type_problem(name, value, PAIR_PG_MAJOR),
            )
            if problem
        ]
        if not found and name in _PAIR_LEAST and _number(conf_value(value)) < _PAIR_LEAST[name]:
            found = [f"the replica needs {_PAIR_LEAST[name]} or more: raise it, or remove it"]
        if not found and name == "wal_level" and conf_value(value).lower() == "minimal":
            found = ["minimal does not allow a replica: use replica or logical, or remove it"]
        problems += [f"{where}.{given_name}: {problem}" for problem in found[:1]]
    problems += [] if problems else [f"{where}.{problem}" for problem in _reserved_problems(settings)]
    warnings = [f"{where}.{name}: {warning}" for name, value in settings.items() for warning in _warnings(name, value)]
    return Checked(tuple(problems), tuple(warnings))


def _reserved_problems(settings: Mapping[str, Scalar]) -> Iterator[str]:
    """Refuse what PostgreSQL 14 refuses at its start: all connections reserved for superusers."""
    values = {name.lower(): _number(conf_value(value)) for name, value in settings.items()}
    reserved = values.get("superuser_reserved_connections", PAIR_SESSIONS)
    if "max_connections" in values and values["max_connections"] <= reserved:
        yield (
            f"max_connections: {values['max_connections']:g} is too low, because superuser_reserved_connections "
            f"reserves {reserved:g} for superusers, and the servers would not start: raise it"
        )


def _problems(given_name: str, value: Scalar, pg_major: int | None) -> Iterator[str]:
    name = given_name.lower()
    problem = _name_problem(name, pg_major) or _text_problem(value) or _type_problem(name, value, pg_major)
    if problem:
        yield problem
        return
    text = conf_value(value)
    if name == "shared_preload_libraries" and _first_library(text) != "citus":
        yield "citus must be the first library, or the server does not start: write 'citus,…'"
    if name == "wal_level" and text.lower() != "logical":
        yield f"{text} stops every rebalance, because shards move by logical replication: use logical, or remove it"
    if name == "max_prepared_transactions" and _number(text) < 1:
        yield "0 forbids the two-phase commit of writes to several nodes: use max_connections or more, or remove it"
    if name in _REBALANCE_LEAST and _number(text) < _REBALANCE_LEAST[name]:
        least = _REBALANCE_LEAST[name]
        yield f"with {text} a rebalance is scheduled but moves no shard: use {least} or more, or remove it"
    if name == "citus.node_conninfo":
        yield from _conninfo_problems(text)


def _name_problem(name: str, pg_major: int | None) -> str | None:
    if name in _FIXED:
        return f"cannot be set: {_FIXED[name]}; remove it"
    if name in _DIRECTIVES:
        return "is not a parameter, and other files are not mounted: write their settings here"
    if not _NAME.fullmatch(name):
        return "is not a valid parameter name: use only letters, digits, underscores and dots"
    if name in names.INTERNAL:
        return "is read-only (it shows how the server was built): remove it"
    if name in _ABSENT.get(pg_major or 0, ()):
        return f"PostgreSQL {pg_major} has no such parameter and would not start: remove it"
    if name in _ALL or ("." in name and not name.startswith(_OWN_PREFIXES)):
        return None
    close = difflib.get_close_matches(name, sorted(_ALL - names.INTERNAL), n=1, cutoff=0.6)
    hint = (
        f"; did you mean {close[0]}?" if close else "; see https://www.postgresql.org/docs/current/runtime-config.html"
    )
    return f"neither PostgreSQL nor Citus has such a parameter{hint}"


def _text_problem(value: Scalar) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if isinstance(value, str) and any(
        character != "\t" and unicodedata.category(character) == "Cc" for character in value
    ):
        return "the value has a line break or another control character: remove it"
    return None


def _type_problem(name: str, value: Scalar, pg_major: int | None) -> str | None:
    text = conf_value(value).strip()
    if name in names.BOOLEAN and not _BOOLEAN.fullmatch(text):
        return f"{text!r} is neither on nor off"
    return value_problem(name, text, pg_major)


def _conninfo_problems(text: str) -> Iterator[str]:
    """Refuse what Citus refuses: it would not start (shared_library_init.c, NodeConninfoGucCheckHook)."""
    if "://" in text:
        yield "a URI is not supported: write key=value pairs, such as sslmode=require"
        return
    for key in re.findall(r"([^\s=]+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|\S*)", text):
        if key in {"user", "password", "passfile"}:
            yield f"{key} is not allowed here, because nodes read passwords from pg_dist_authinfo: remove it"
        elif key not in names.CONNINFO_KEYS:
            yield f"Citus does not accept the key {key}: use only {', '.join(sorted(names.CONNINFO_KEYS))}"


def _warnings(given_name: str, value: Scalar) -> Iterator[str]:
    name, text = given_name.lower(), conf_value(value).strip().lower()
    off = bool(re.fullmatch(r"off?|f(a(l(se?)?)?)?|no?|0", text))
    if off and name in _DANGEROUS_OFF:
        yield f"off: {_DANGEROUS_OFF[name]}"
    if name == "statement_timeout" and _number(text) > 0:
        yield "it also stops the longer statements of shard moves; set it for roles instead (ALTER ROLE … SET)"
    if name == "max_connections":
        yield "pools, work_mem and the workers' limits do not follow it: --connections changes all of them together"
    if name == "citus.node_conninfo" and re.search(r"sslmode\s*=\s*'?verify", text):
        yield "Citus creates certificates only for sslmode=require: install your own on every node"
    if name == "citus.shard_replication_factor" and _number(text) > 1:
        yield "copies of shards do not give high availability: writes stop while a node with a copy is down"


def _first_library(text: str) -> str:
    return text.split(",", 1)[0].strip().strip('"').lower()


def _number(text: str) -> float:
    """Return the leading number, without its unit; 0 if there is none."""
    found = re.match(_NUMBER, text, re.IGNORECASE)
    return float(found[0]) if found else 0
