"""``loadtest URL``, also ``python -m lessons load_tester URL``: load an HTTP server and measure its answers."""

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from lessons.projects.load_tester.client import reason
from lessons.projects.load_tester.loop import Run
from lessons.projects.load_tester.plan import METHODS, Plan, PlanError, target_of
from lessons.projects.load_tester.report import document, show_progress, text

DEFAULT_DURATION_S = 10.0
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test. Returns the exit status: 0, 1 if nothing was answered, 2 for wrong options, 130 by Ctrl-C."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        plan = _plan(asked)
    except (PlanError, OSError) as error:
        parser.error(str(error))
    if (problem := _unreachable(plan)) is not None:
        print(problem, file=sys.stderr)
        return 1
    run = Run(plan)
    asyncio.run(_measure(run, quiet=asked.quiet))
    found = document(run)
    written = json.dumps(found, indent=2)
    if asked.json == "-":
        print(written)
    else:
        print(text(found))
        if asked.json:
            try:
                Path(asked.json).write_text(written + "\n", encoding="utf-8")
            except OSError as error:
                print(f"The report was not written to {asked.json}: {error.strerror}.", file=sys.stderr)
                return 1
    if run.results.interrupted:
        return INTERRUPTED
    return 0 if found["latency_ms"] else 1


async def _measure(run: Run, *, quiet: bool) -> None:
    """Run it, with progress, until its end or Ctrl-C; a second Ctrl-C ends the program at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        run.stop()

    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGTERM, run.stop)
    progress = None if quiet else loop.create_task(show_progress(run))
    await run.go()
    if progress:
        progress.cancel()
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)


def _plan(asked: argparse.Namespace) -> Plan:
    """Return the plan. Raises PlanError, or OSError for a file of --data that cannot be read."""
    data = asked.data.encode()
    if asked.data.startswith("@"):
        data = Path(asked.data[1:]).read_bytes()
    method = asked.method or ("POST" if data else "GET")
    duration_s = asked.duration
    if asked.requests is None and duration_s is None:
        duration_s = DEFAULT_DURATION_S
    target = target_of(asked.url, method, tuple(asked.header), data, keep_alive=not asked.no_keepalive)
    return Plan(target, asked.concurrency, asked.requests, duration_s, asked.rate, asked.timeout)


def _unreachable(plan: Plan) -> str | None:
    """Return what to say if no connection can be opened: then there is nothing to measure."""
    host, port = plan.target.host, plan.target.port
    try:
        with contextlib.closing(socket.create_connection((host, port), timeout=plan.timeout_s)):
            return None
    except OSError as error:
        return f"Cannot connect to {host} port {port}: {reason(error)}. Start the server, or correct the URL."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loadtest",
        description="Load an HTTP server, and measure throughput, latencies and errors.",
        epilog="Ctrl-C ends the run and prints what was measured so far.",
    )
    parser.add_argument("url", metavar="URL")
    parser.add_argument("-n", "--requests", type=_whole, help="end after this number of requests")
    parser.add_argument("-d", "--duration", type=_positive, metavar="S", help="end after this time; 10 s without -n")
    parser.add_argument("-c", "--concurrency", type=_whole, default=10, help="number of clients (default: 10)")
    parser.add_argument(
        "--rate",
        type=_positive,
        help="open loop: send this number of requests per second, whether or not answers come; without it, the loop is "
        "closed: each client waits for its answer, then sends the next request",
    )
    parser.add_argument("--timeout", type=_positive, default=10.0, metavar="S", help="for each request (default: 10 s)")
    parser.add_argument("-X", "--method", choices=METHODS, help="default: GET, with --data POST")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="NAME: VALUE", help="may be repeated")
    parser.add_argument("--data", default="", metavar="TEXT", help="body of the request; @FILE reads it from a file")
    parser.add_argument("--no-keepalive", action="store_true", help="open a connection for each request")
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON; - prints it instead of the text")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    return parser


def _whole(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
