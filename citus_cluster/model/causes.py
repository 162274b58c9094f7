"""Why a service does not start: known causes, read from how its container ended, its log and its health check."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A probable cause, and what to do about it."""

    text: str
    hint: str


@dataclass(frozen=True)
class _Sign:
    pattern: re.Pattern[str]
    cause: Cause


def _sign(pattern: str, text: str, hint: str) -> _Sign:
    return _Sign(re.compile(pattern, re.IGNORECASE), Cause(text, hint))


_OOM = Cause(
    "its container ran out of memory, and the kernel killed it",
    "Give the engine more memory and run python setup_citus_cluster.py --memory=MB again, or have fewer workers.",
)
_KILLED = Cause(
    "it was killed from outside (exit status 137), most often because the machine ran out of memory",
    "Look at the engine's memory (docker stats), and at what else runs on this machine.",
)

# The first that matches wins: what names its reason exactly comes before what is only a symptom.
_SIGNS = (
    _sign(
        r"has the data of an old primary, and",
        "it has the data of an old primary, and the other server of the pair is the primary now",
        "Make it a replica, without what only it has: citus-cluster pg14 rebuild-replica. Or choose it, without what "
        "only the other has: citus-cluster pg14 promote.",
    ),
    _sign(
        r"was the primary and has no data now",
        "it was the primary, and its volume is empty now",
        "Go on with the replica's data: citus-cluster pg14 promote. To begin with empty servers, remove the volumes of "
        "both, and pg14-role.",
    ),
    _sign(
        r"copies the data of the primary \S+ \(\d+ MB so far\)",
        "it still copies the data of the primary",
        "It continues in the background: wait, or run citus-cluster up again, with a longer --timeout.",
    ),
    _sign(
        r"exec format error",
        "the image is for another processor than this machine's",
        "On Apple Silicon switch on Rosetta in Docker Desktop (Settings, General); elsewhere use an image for this "
        "machine: --citus-image.",
    ),
    _sign(
        r"password authentication failed",
        "the data in the volumes keep another password: that of their first start",
        "Put that password back into generated/secrets/ (superuser_password, pg14_password, …). Where "
        "it is lost: set another on each server, by docker exec, psql and ALTER ROLE, and write it there.",
    ),
    _sign(
        r"database files are incompatible with server|was initialized by PostgreSQL version"
        r"|there appears to be PostgreSQL data in",
        "the data in its volume were written by another PostgreSQL major than the image's",
        "Set the image back with --citus-image (or --pg14-image); an upgrade of the major needs pg_dump or pg_upgrade.",
    ),
    _sign(
        r"no space left on device|could not extend file|disk full",
        "the disk is full (or /dev/shm is too small, if the message names shared memory)",
        "Free some space on the engine's disk: docker system df shows what takes it.",
    ),
    _sign(
        r"could not (resize|map) .*shared memory|cannot allocate memory|out of memory|could not map anonymous",
        "it did not get the memory that it asked for",
        "Give the engine more memory, or run python setup_citus_cluster.py --memory=MB with less.",
    ),
    _sign(
        r"WRONGPASS|NOAUTH",
        "Redis and generated/secrets/redis_password do not agree",
        "Write the settings again with python setup_citus_cluster.py --yes, then: docker compose restart redis.",
    ),
    _sign(
        r"Unable to gossip with any peers|Unable to contact any seeds",
        "no other node of Cassandra's ring answers",
        "Start the first node and wait for it: docker compose up -d cassandra; this one then finds it by itself.",
    ),
    _sign(
        r"bad file format reading the append only file|Unexpected end of file reading the append only file",
        "Redis' append-only file is damaged",
        "Copy the volume first, then: docker compose run --rm redis redis-check-aof --fix "
        "/data/appendonlydir/appendonly.aof.manifest",
    ),
    _sign(
        r"port is already allocated|address already in use|ports are not available|could not bind",
        "its port is in use",
        "Find out who uses it with docker ps, or sudo ss -ltnp; or choose another --port.",
    ),
    _sign(
        # While the image initializes, PostgreSQL logs "contains errors; unaffected changes were applied": no cause.
        r"unrecognized configuration parameter|invalid value for parameter|FATAL:.*contains errors"
        r"|syntax error in file|is outside the valid range|could not access file \"",
        "PostgreSQL does not accept one of its settings",
        "The log names it: correct it below settings: in cluster.yaml, then run setup_citus_cluster.py again.",
    ),
    _sign(
        r"/etc/citus-cluster[^\n]*no such file",
        "it still mounts a generated/ that was replaced by another",
        "Restart it, which mounts the new one: docker compose restart.",
    ),
    _sign(
        r"(could not open|can't open|cannot open|could not access).*(/etc/citus-cluster|configuration file|secrets)"
        r"|/etc/citus-cluster.*permission denied|/run/secrets.*permission denied",
        "it may not read its configuration or its password",
        "Copying loses modes: chmod -R a+rX generated/config, or run setup_citus_cluster.py again.",
    ),
    _sign(
        r"(FATAL|PANIC|could not|cannot|can't|sh: |error: ).*permission denied",
        "it may not read or write a file that it needs",
        "The log names the file; for those below generated/config: chmod -R a+rX generated/config.",
    ),
    _sign(
        r"the init script did not run|the extension citus is missing",
        "its first start did not run to its end, or its volume belongs to something else",
        "If nothing in its volume is needed, remove the container and the volume, and start again: "
        "docker rm -f NAME; docker volume rm PROJECT_SERVICE-data.",
    ),
    _sign(
        r"executable file not found|no such file or directory.*exec|starting container process caused",
        "the image does not hold the program that its command names",
        "Is it an image of PostgreSQL with Citus? Name another with --citus-image.",
    ),
    _sign(
        r"is not registered",
        "the admin API waits for workers that cannot be registered",
        "The text above says why for each; citus-cluster status shows every node.",
    ),
    _sign(
        r"database system is starting up|database system was not properly shut down|redo starts at",
        "PostgreSQL is still recovering from a crash; with much data this takes a while",
        "Wait, and run citus-cluster up again, with a longer --timeout.",
    ),
    _sign(
        r"connection refused|no response",
        "its server does not listen yet",
        "It may only need more time: run citus-cluster up again, with a longer --timeout.",
    ),
)


def probable_cause(text: str, *, exit_code: int = 0, oom_killed: bool = False) -> Cause | None:
    """Find the probable cause in ``text`` (error of the start, log and health output); None if it shows none."""
    if oom_killed:
        return _OOM
    for sign in _SIGNS:
        if sign.pattern.search(text):
            return sign.cause
    return _KILLED if exit_code == 137 else None


def last_reason(output: str) -> str | None:
    """Give the last line of a health check's output that says why; libpq ends its errors with a question."""
    lines = [line.strip() for line in output.splitlines()]
    told = [line for line in lines if line and not line.startswith("Is the server running")]
    return re.sub(r"^(psql: error: )?connection to server .*? failed: ", "", told[-1]) if told else None
