"""Write citus_cluster/model/tuning/parameter_values.py from real servers: `make parameters`.

Starts each image of IMAGES once, and reads the type, unit, range and words of every parameter. Words that pg_settings
hides (`huge_pages = true`) are found by trying them.
"""

import secrets
import sys
import time
from pathlib import Path
from typing import Any

import docker
import psycopg
from psycopg import sql

TARGET = Path(__file__).resolve().parent.parent / "citus_cluster" / "model" / "tuning" / "parameter_values.py"
IMAGES = {14: "postgres:14", 17: "citusdata/citus:13.2.2", 18: "citusdata/citus:14.0.1"}
_HIDDEN_WORDS = ("on", "off", "true", "false", "yes", "no", "1", "0", "debug", "archive", "hot_standby", "default")
_OF_THIS_SERVER = {"max_connections": 1237, "max_worker_processes": 239}
"""Unusual values: a bound that equals one of them depends on the server's other settings, not on the parameter."""
_NO_BOUND = str(2**31 - 1)
_PARAMETERS = """
SELECT lower(name), vartype, coalesce(unit, '-'), coalesce(min_val, '-'), coalesce(max_val, '-'), enumvals
FROM pg_settings WHERE vartype IN ('integer', 'real', 'enum') AND context <> 'internal' ORDER BY 1
"""
_HEAD = '''# ruff: noqa: E501
"""Units, ranges and words of PostgreSQL's and Citus' parameters: facts read from servers, no decisions.

Written by `make parameters` (tools/update_parameters.py), never by hand, from pg_settings with citus and
pg_stat_statements loaded. Images: {images}.
Each line has the PostgreSQL majors and the name; then integer or real with the unit, the least and the greatest value
in that unit; or enum with its words.
"""

TABLE = """
{lines}
"""
'''


def main() -> None:
    engine = docker.from_env(version="auto")
    found: dict[tuple[str, str], list[int]] = {}
    for major, image in IMAGES.items():
        for line in _read(engine, image):
            name, _, rest = line.partition(" ")
            found.setdefault((name, rest), []).append(major)
    lines = [f"{','.join(map(str, majors))} {name} {rest}" for (name, rest), majors in sorted(found.items())]
    text = _HEAD.format(images=", ".join(IMAGES.values()), lines="\n".join(lines))
    changed = not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text
    if changed:
        TARGET.write_text(text, encoding="utf-8")
    print(f"{TARGET.name}: {'updated' if changed else 'nothing to do'}")


def _read(engine: docker.DockerClient, image: str) -> list[str]:
    password = secrets.token_hex(16)
    libraries = "citus,pg_stat_statements" if "citus" in image else "pg_stat_statements"
    container = engine.containers.run(
        image,
        [
            "postgres",
            *(part for name, value in _OF_THIS_SERVER.items() for part in ("-c", f"{name}={value}")),
            *("-c", f"shared_preload_libraries={libraries}"),
        ],
        environment={"POSTGRES_PASSWORD": password},
        ports={"5432/tcp": ("127.0.0.1", 0)},
        mem_limit="512m",
        detach=True,
    )
    try:
        with _connect(container, password) as conn:
            lines = []
            for name, kind, unit, least, greatest, words in conn.execute(_PARAMETERS).fetchall():
                if kind == "enum":
                    lines.append(f"{name} enum {','.join([*words, *_hidden(conn, name, words)])}")
                else:
                    own = greatest in map(str, _OF_THIS_SERVER.values())
                    lines.append(f"{name} {kind} {unit} {least} {_NO_BOUND if own else greatest}")
            return lines
    finally:
        container.remove(force=True, v=True)


def _connect(container: Any, password: str) -> psycopg.Connection[Any]:
    deadline = time.monotonic() + 60
    while True:
        container.reload()
        try:
            port = int(container.ports["5432/tcp"][0]["HostPort"])
            return psycopg.connect(
                host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres", autocommit=True
            )
        except (psycopg.OperationalError, KeyError, IndexError):
            if time.monotonic() > deadline:
                sys.exit(f"{container.image} did not start:\n{container.logs().decode()[-2000:]}")
            time.sleep(0.2)


def _hidden(conn: psycopg.Connection[Any], name: str, words: list[str]) -> list[str]:
    found = []
    for word in _HIDDEN_WORDS:
        if word not in words:
            try:
                # Checks a value of any parameter, including those that need a restart.
                conn.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(*name.split(".")), word))
            except psycopg.Error:
                continue
            found.append(word)
            conn.execute("ALTER SYSTEM RESET ALL")
    return found


if __name__ == "__main__":
    main()
