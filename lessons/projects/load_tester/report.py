"""The results as text for people: a line a second while the run goes on, and the table at its end."""

import asyncio
import sys
from typing import Any

from lessons.projects.load_tester.loop import Run
from lessons.projects.load_tester.results import percentile

BUSY_SHARE = 0.9
"""From this share of a processor on, the tester itself may be what is slow."""


def document(run: Run) -> dict[str, Any]:
    """Return the JSON report: what was asked, then what was seen."""
    plan = run.plan
    return {
        "url": plan.target.url,
        "method": plan.target.method,
        "loop": "closed" if plan.rate is None else "open",
        "concurrency": plan.concurrency,
        "rate": plan.rate,
        "timeout_s": plan.timeout_s,
        **run.results.as_dict(),
    }


def text(found: dict[str, Any]) -> str:
    """Return the report for people, of the JSON report."""
    one_loop = f"{found['concurrency']} clients" + (f", {found['rate']:g} requests/s" if found["rate"] else "")
    lines = [
        f"{found['method']} {found['url']}: {found['loop']} loop, {one_loop}",
        "",
        f"Requests        {found['requests']:,} in {found['elapsed_s']:.2f} s"
        + (", interrupted" * found["interrupted"]),
        f"Throughput      {found['requests_per_second']:,.1f} requests/s, {found['bytes_per_second'] / 1000:,.1f} kB/s",
        f"Failed          {found['failed']:,} ({found['error_rate']:.2%}), of which time-outs: {found['timeouts']:,}",
    ]
    lines += [f"  {count:,} x {name}" for name, count in found["errors"].items()]
    lines += [f"  {count:,} x status {status}" for status, count in found["statuses"].items()]
    lines += ["", *_latencies(found)]
    return "\n".join([*lines, *_warnings(found)])


def _latencies(found: dict[str, Any]) -> list[str]:
    corrected, sent = found["latency_ms"], found["uncorrected_latency_ms"]
    if corrected is None:
        return ["Latency         no request was answered"]
    if found["loop"] == "closed":
        return ["Latency         ms", *(f"  {_name(key):<14}{value:,.2f}" for key, value in corrected.items())]
    head = f"Latency, ms     {'since due':>12}{'since sent':>12}"
    return [head, *(f"  {_name(key):<14}{corrected[key]:>12,.2f}{sent[key]:>12,.2f}" for key in corrected)]


def _name(key: str) -> str:
    return key.replace("_", ".")


def _warnings(found: dict[str, Any]) -> list[str]:
    warnings = []
    if found["unfinished"]:
        warnings.append(
            f"{found['unfinished']:,} requests were due and had no answer when the run ended, so the true latencies "
            "are higher. Lower --rate, or raise -c if the server could do more at once."
        )
    if found["processor_share"] > BUSY_SHARE:
        warnings.append(
            f"This program used {found['processor_share']:.0%} of a processor, so these may be its own limits and not "
            "the server's. Run it on another machine, or twice at once."
        )
    return [f"\nNote: {one}" for one in warnings]


async def show_progress(run: Run) -> None:
    """Print a line a second to stderr until it is cancelled; on a terminal the line replaces itself."""
    on_terminal = sys.stderr.isatty()
    results = run.results
    shown = answered = 0
    while True:
        await asyncio.sleep(1)
        recent = sorted(results.latencies_s[answered:])
        rate = results.requests - shown
        shown, answered = results.requests, len(results.latencies_s)
        tail = ""
        if recent:  # a second may pass without an answer
            tail = f"p50 {1000 * percentile(recent, 0.5):.1f} ms, p99 {1000 * percentile(recent, 0.99):.1f} ms, "
        line = f"{run.elapsed_s():5.0f} s  {shown:,} requests, {rate:,}/s, {tail}{results.failed:,} failed"
        print(f"\r{line}\x1b[K" if on_terminal else line, end="" if on_terminal else "\n", file=sys.stderr, flush=True)
