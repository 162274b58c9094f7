"""Command line of the job queue: ``python -m lessons.projects.job_queue --help``."""

import argparse
import importlib
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import redis

from .handlers import HANDLERS
from .queue import LONGEST_WINDOW_S, MAX_ATTEMPTS, PREFIX, JobQueue, Priority
from .worker import Worker

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")


class UsageError(Exception):
    """What a person can correct."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if not re.fullmatch(r"[\w:.-]+", options.prefix):
            raise UsageError(f"The prefix {options.prefix!r} may have letters, digits, and _ : . - only.")
        queue = JobQueue.at(REDIS_URL, options.prefix)
        queue.client.ping()
        status: int = options.run(queue, options)
        return status
    except redis.RedisError as error:
        print(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.", file=sys.stderr)
    except (UsageError, ValueError, RuntimeError, TimeoutError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="job_queue", description="A job queue on Redis.")
    parser.add_argument("--prefix", default=PREFIX, help="of all keys (default %(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    enqueue = commands.add_parser("enqueue", help="add jobs; prints their ids")
    enqueue.add_argument("type", help=f"for example {', '.join(HANDLERS)}")
    enqueue.add_argument("--payload", default="{}", help='a JSON object, such as {"to": "alice@example.com"}')
    enqueue.add_argument("--priority", default="normal", choices=[one.value for one in Priority])
    enqueue.add_argument("--max-attempts", type=int, default=MAX_ATTEMPTS)
    enqueue.add_argument("--delay", type=float, default=0, metavar="SECONDS")
    enqueue.add_argument("--id", help="nothing is added if there is a job with this id")
    enqueue.add_argument("--count", type=int, default=1, help="so many equal jobs")
    enqueue.set_defaults(run=_enqueue)

    work = commands.add_parser("work", help="do jobs, one at a time, until Ctrl-C")
    work.add_argument("--types", help="separated by commas (default: all that have a handler)")
    work.add_argument("--handlers", metavar="MODULE", help="import this module, which declares handlers")
    work.add_argument("--visibility", type=float, default=30, metavar="SECONDS", help="the time-out (default 30)")
    work.add_argument(
        "--base-delay", type=float, default=1, metavar="SECONDS", help="before the first retry (default 1)"
    )
    work.add_argument("--drain", action="store_true", help="end when no job is left")
    work.add_argument("--quiet", action="store_true", help="print warnings only")
    work.set_defaults(run=_work)

    stats = commands.add_parser("stats", help="print the numbers of the dashboard as JSON")
    stats.add_argument("--window", type=int, default=60, metavar="SECONDS", choices=range(1, LONGEST_WINDOW_S + 1))
    stats.set_defaults(run=_stats)

    dead = commands.add_parser("dead", help="list, replay or discard dead letters")
    dead.add_argument("action", choices=["list", "replay", "discard"])
    dead.add_argument("ids", nargs="*", metavar="ID")
    dead.add_argument("--all", action="store_true")
    dead.add_argument("--type", help="with --all: only this type")
    dead.set_defaults(run=_dead)

    dashboard = commands.add_parser("dashboard", help="serve the dashboard")
    dashboard.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    dashboard.set_defaults(run=_dashboard)

    crash = commands.add_parser("crash-test", help="kill workers in the middle of their jobs, and count what is lost")
    crash.add_argument("--jobs", type=int, default=300)
    crash.add_argument("--workers", type=int, default=4)
    crash.add_argument("--kills", type=int, default=10)
    crash.add_argument("--visibility", type=float, default=1.0, metavar="SECONDS")
    crash.set_defaults(run=_crash_test)
    return parser


def _enqueue(queue: JobQueue, options: argparse.Namespace) -> int:
    try:
        payload: Any = json.loads(options.payload)
    except ValueError as error:
        raise UsageError(f"The payload is not JSON: {error}.") from error
    if not isinstance(payload, dict):
        raise UsageError(f"The payload must be a JSON object, not {options.payload}.")
    for _ in range(options.count):
        print(
            queue.enqueue(
                options.type,
                payload,
                priority=Priority(options.priority),
                max_attempts=options.max_attempts,
                delay_s=options.delay,
                job_id=options.id,
            )
        )
    return 0


def _work(queue: JobQueue, options: argparse.Namespace) -> int:
    logging.basicConfig(
        level=logging.WARNING if options.quiet else logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout
    )
    handlers = dict(HANDLERS)
    if options.handlers:
        sys.path.insert(0, "")
        try:
            importlib.import_module(options.handlers)
        except ImportError as error:
            raise UsageError(f"The module {options.handlers} cannot be imported: {error}.") from error
        handlers |= HANDLERS
    if options.types:
        asked = options.types.split(",")
        if unknown := [one for one in asked if one not in handlers]:
            raise UsageError(f"There is no handler for {', '.join(unknown)}. Known types: {', '.join(handlers)}.")
        handlers = {one: handlers[one] for one in asked}
    if options.visibility <= 0 or options.base_delay < 0:
        raise UsageError("--visibility must be more than 0 seconds, and --base-delay at least 0.")
    if warning := queue.may_lose_jobs():
        logging.warning(warning)
    worker = Worker(queue, handlers, visibility_s=options.visibility, base_delay_s=options.base_delay)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: worker.stop())
    done = worker.run(drain=options.drain)
    if not options.quiet:
        print(f"{done} jobs done")
    return 0


def _stats(queue: JobQueue, options: argparse.Namespace) -> int:
    print(json.dumps(asdict(queue.stats(options.window)), indent=2))
    return 0


def _dead(queue: JobQueue, options: argparse.Namespace) -> int:
    if options.action == "list":
        for job in queue.dead_letters():
            print(f"{job.id}  {job.type}  {job.priority}  {job.attempts} attempts  {job.error}")
        return 0
    ids = options.ids
    if options.all:
        ids = [job.id for job in queue.dead_letters() if options.type in (None, job.type)]
    elif not ids:
        raise UsageError(f"Name the jobs, or use --all: job_queue dead {options.action} --all")
    act = queue.replay if options.action == "replay" else queue.discard
    missing = [one for one in ids if not act(one)]
    print(f"{options.action}: {len(ids) - len(missing)} jobs")
    if missing:
        raise UsageError(f"No dead letters: {', '.join(missing)}. List them: job_queue dead list")
    return 0


def _dashboard(queue: JobQueue, options: argparse.Namespace) -> int:
    import uvicorn

    from .dashboard import create_app

    try:
        listener = socket.create_server(("127.0.0.1", options.port))
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise UsageError(f"Cannot listen on port {options.port}: {reason}. Choose another one: --port 8090") from error
    if warning := queue.may_lose_jobs():
        print(warning, file=sys.stderr)
    print(f"http://127.0.0.1:{options.port}/", flush=True)
    uvicorn.Server(uvicorn.Config(create_app(queue), log_level="warning")).run(sockets=[listener])
    return 0


def _crash_test(queue: JobQueue, options: argparse.Namespace) -> int:
    from .crash_test import crash_test

    if min(options.jobs, options.workers) < 1 or options.kills < 0 or options.visibility <= 0:
        raise UsageError(
            "--jobs and --workers must be at least 1, --kills at least 0, --visibility more than 0 seconds."
        )
    ledger = crash_test(
        REDIS_URL,
        options.prefix,
        jobs=options.jobs,
        workers=options.workers,
        kills=options.kills,
        visibility_s=options.visibility,
    )
    print(ledger)
    return 1 if ledger.lost or ledger.dead else 0


if __name__ == "__main__":
    sys.exit(main())
