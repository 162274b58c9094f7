"""Start the URL shortener: ``python -m lessons.projects.url_shortener``."""

import argparse
import asyncio
import os
import socket
import sys
import tempfile
from pathlib import Path

import uvicorn
from redis import ConnectionPool
from uvicorn.supervisors import Multiprocess

from .countries import BadTableError, read_countries
from .service import open_store
from .settings import Settings
from .store import StoreAwayError

_REDIS_URL = "redis://localhost:6379/15"


def main() -> int:
    options = _options()
    try:
        settings = _settings(options)
        asyncio.run(_try(settings))
        listening = _listen(options.host, options.port)
    except _RefusedError as error:
        print(f"url_shortener: {error}", file=sys.stderr)
        return 1
    settings.export()
    database = "PostgreSQL" if settings.database else "SQLite"
    print(f"Links are {settings.base_url}/… (database: {database}). Stop with Ctrl-C.", flush=True)
    config = uvicorn.Config(
        "lessons.projects.url_shortener.app:create_app",
        factory=True,
        log_level="warning",
        access_log=False,
        workers=options.workers,
        timeout_graceful_shutdown=5,
        proxy_headers=bool(options.trusted_proxies),
        forwarded_allow_ips=options.trusted_proxies,
    )
    server = uvicorn.Server(config)
    if options.workers > 1:
        Multiprocess(config, sockets=[listening]).run()
        return 0
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        return 130
    return 0 if server.started else 1


class _RefusedError(Exception):
    """The service cannot start. The message says why."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lessons.projects.url_shortener", description="A URL shortener with analytics."
    )
    add = parser.add_argument
    add("--database", choices=("sqlite", "postgresql"), default="sqlite", help="postgresql is the one in DATABASE_URL")
    add("--schema", default="", help="schema in PostgreSQL, created if it is missing (default: the role's own)")
    add(
        "--data",
        type=Path,
        help="folder of the SQLite file and of the click queue (default: url_shortener, with temporary files)",
    )
    add(
        "--redis",
        default=os.environ.get("REDIS_URL", _REDIS_URL),
        metavar="URL",
        help="default: REDIS_URL, or %(default)s",
    )
    add("--no-redis", action="store_true", help="use no cache, no live counters, and count creations in the process")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    add("--base-url", help="how links begin (default: http://localhost:PORT)")
    add("--workers", type=int, default=1, help="processes (default: %(default)s)")
    add(
        "--sync",
        action="store_true",
        help="answer a redirect once its click is on the disk, so that a power failure loses none",
    )
    add(
        "--limit",
        type=int,
        default=10,
        help="links that a client may create in --window-s; 0 is no limit (default: %(default)s)",
    )
    add("--window-s", type=float, default=60.0, help="default: %(default)s")
    add(
        "--trusted-proxies",
        default="",
        metavar="ADDRESSES",
        help="proxies whose X-Forwarded-For names the client, such as 127.0.0.1 (default: none)",
    )
    add(
        "--ip-ranges",
        type=Path,
        help="CSV file with the columns network and country, instead of the small table of this package",
    )
    options = parser.parse_args()
    if not 0 < options.port < 65536:
        parser.error(f"--port is {options.port}, but must be between 1 and 65535")
    if options.workers < 1 or options.limit < 0 or options.window_s <= 0:
        parser.error("--workers must be at least 1, --limit at least 0, and --window-s above 0")
    return options


def _settings(options: argparse.Namespace) -> Settings:
    database = ""
    if options.database == "postgresql" and not (database := os.environ.get("DATABASE_URL", "")):
        raise _RefusedError(
            "DATABASE_URL is not set. Set it to the URL of a PostgreSQL database, such as postgresql://user:password@localhost:5432/testdb."
        )
    if options.ip_ranges:
        try:
            read_countries(options.ip_ranges)
        except BadTableError as error:
            raise _RefusedError(str(error)) from error
    if not options.no_redis:
        try:
            ConnectionPool.from_url(options.redis)
        except ValueError as error:
            raise _RefusedError(
                f"{options.redis!r} is not a URL of Redis: {error}. An example is {_REDIS_URL}. "
                "Correct --redis or REDIS_URL, or add --no-redis."
            ) from error
    data = options.data or Path(tempfile.gettempdir()) / "url_shortener"
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data.stat().st_uid != os.getuid():
            raise _RefusedError(f"{data} belongs to another user. Name another folder: --data DIRECTORY.")
    except OSError as error:
        raise _RefusedError(
            f"{data} cannot be used: {error.strerror}. Name another folder: --data DIRECTORY."
        ) from error
    return Settings(
        data=str(data.resolve()),
        base_url=(options.base_url or f"http://localhost:{options.port}").rstrip("/"),
        database=database,
        schema=options.schema,
        redis="" if options.no_redis else options.redis,
        ip_ranges=str(options.ip_ranges.resolve()) if options.ip_ranges else "",
        sync=options.sync,
        limit=options.limit,
        window_s=options.window_s,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise _RefusedError(
            f"Cannot listen on {host}:{port}: {reason}. End the other program, or choose another port: --port 8090"
        ) from error


async def _try(settings: Settings) -> None:
    """Open the database once, so that a wrong address is one line and no traceback."""
    try:
        await (await open_store(settings)).close()
    except StoreAwayError as error:
        hint = "Start the server, correct DATABASE_URL, or use --database sqlite"
        if not settings.database:
            hint = "Name another folder: --data DIRECTORY"
        raise _RefusedError(f"{error}. {hint}.") from error


if __name__ == "__main__":
    sys.exit(main())
