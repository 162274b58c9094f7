"""Why a service does not start: known causes, from the exit of its container, its log and its health check."""

import re
from dataclasses import dataclass
from functools import cache

from citus_cluster.model.component import Sign
from citus_cluster.model.components import COMPONENTS


@dataclass(frozen=True)
class Cause:
    """A probable cause, and what to do about it."""

    text: str
    hint: str


_OOM = Cause(
    "its container ran out of memory, and the kernel killed it",
    "Give the engine more memory and run python setup_citus_cluster.py --memory=MB again, or use fewer workers.",
)
_KILLED = Cause(
    "it was killed from outside (exit status 137), usually because the machine ran out of memory",
    "Check the engine's memory (docker stats), and the other programs on this machine.",
)

# Missing resources of the machine explain all other messages in a log.
_OF_THE_MACHINE = (
    Sign(
        r"exec format error",
        "the image is for another processor than this machine's",
        "On Apple Silicon, turn on Rosetta in Docker Desktop (Settings, General); elsewhere use an image for this "
        "machine: --citus-image",
    ),
    Sign(
        r"no space left on device|could not extend file|disk full",
        "the disk is full (or /dev/shm is too small, if the message names shared memory)",
        "Free some space on the engine's disk: docker system df shows the usage.",
    ),
    Sign(
        r"could not (resize|map) .*shared memory|cannot allocate memory|out of memory|could not map anonymous",
        "it could not allocate the requested memory",
        "Give the engine more memory, or run python setup_citus_cluster.py --memory=MB with less.",
    ),
)
_OF_ANY_SERVER = (
    Sign(
        r"password authentication failed",
        "the data in the volumes have another password, that of their first start",
        "Restore that password in generated/secrets/ (superuser_password, pg14_password, …). If it is lost, "
        "set another "
        "one on each server with docker exec, psql and ALTER ROLE, and write it there.",
    ),
    Sign(
        r"database files are incompatible with server|was initialized by PostgreSQL version"
        r"|there appears to be PostgreSQL data in",
        "its data were written by another PostgreSQL major version than that of the image",
        "Use the earlier image with --citus-image (or --pg14-image); a major upgrade needs pg_dump or pg_upgrade.",
    ),
    Sign(
        r"port is already allocated|address already in use|ports are not available|could not bind",
        "its port is in use",
        "Find the program with docker ps, or sudo ss -ltnp, or choose another --port.",
    ),
    Sign(
        # While the image initializes, PostgreSQL logs "contains errors; unaffected changes were applied": no cause.
        r"unrecognized configuration parameter|invalid value for parameter|FATAL:.*contains errors"
        r"|syntax error in file|is outside the valid range|could not access file \"",
        "PostgreSQL does not accept one of its settings",
        "Correct the setting that the log names below settings: in cluster.yaml, then run "
        "setup_citus_cluster.py again.",
    ),
    Sign(
        r"/etc/citus-cluster[^\n]*no such file",
        "it still mounts a generated/ folder that has been replaced",
        "Restart it, which mounts the new folder: docker compose restart",
    ),
    Sign(
        r"(could not open|can't open|cannot open|could not access).*(/etc/citus-cluster|configuration file|secrets)"
        r"|/etc/citus-cluster.*permission denied|/run/secrets.*permission denied",
        "it cannot read its configuration or its password (permission denied)",
        "Restore the modes, which copying loses: chmod -R a+rX generated/config, or run setup_citus_cluster.py again.",
    ),
    Sign(
        r"(FATAL|PANIC|could not|cannot|can't|sh: |error: ).*permission denied",
        "it cannot read or write a file that it needs (permission denied)",
        "The log names the file. For files below generated/config: chmod -R a+rX generated/config.",
    ),
    Sign(
        r"executable file not found|no such file or directory.*exec|starting container process caused",
        "the image does not contain the program that its command names",
        "Check that it is an image of PostgreSQL with Citus, or choose another with --citus-image.",
    ),
)
_IT_NEEDS_TIME = (
    Sign(
        r"database system is starting up|database system was not properly shut down|redo starts at",
        "PostgreSQL is still recovering from a crash; with much data this takes a while",
        "Wait, then run citus-cluster up again with a longer --timeout.",
    ),
    Sign(
        r"connection refused|no response",
        "its server does not accept connections yet",
        "It may only need more time. Run citus-cluster up again with a longer --timeout.",
    ),
)


@cache
def _signs() -> tuple[tuple[re.Pattern[str], Cause], ...]:
    """Return all signs in the order of the search: messages that name a reason come before symptoms."""
    own = [sign for component in COMPONENTS.values() for sign in component.signs]
    ordered = (
        *_OF_THE_MACHINE,
        *(sign for sign in own if not sign.is_symptom),
        *_OF_ANY_SERVER,
        *(sign for sign in own if sign.is_symptom),
        *_IT_NEEDS_TIME,
    )
    return tuple((re.compile(one.pattern, re.IGNORECASE), Cause(one.meaning, one.hint)) for one in ordered)


def probable_cause(text: str, *, exit_code: int = 0, oom_killed: bool = False) -> Cause | None:
    """Find the probable cause in ``text`` (error of the start, log and health output); None if it shows none."""
    if oom_killed:
        return _OOM
    for pattern, cause in _signs():
        if pattern.search(text):
            return cause
    return _KILLED if exit_code == 137 else None


def last_reason(output: str) -> str | None:
    """Return the last line of a health check's output that says why; libpq ends its errors with a question."""
    lines = [line.strip() for line in output.splitlines()]
    told = [line for line in lines if line and not line.startswith("Is the server running")]
    return re.sub(r"^(psql: error: )?connection to server .*? failed: ", "", told[-1]) if told else None
