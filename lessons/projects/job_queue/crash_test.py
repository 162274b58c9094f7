"""Kills workers with SIGKILL in the middle of their jobs, under load, and counts what became of every job.

The workers keep a ledger of two lists in Redis: which jobs they began, and which they ended. A job is lost if it was
not ended when the queue is empty. This module is also the workers' ``--handlers``.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import redis

from .handlers import handles
from .queue import Job, JobQueue, Priority, State

JOB_TYPE = "crash_test"
_TIMEOUT_S = 180


@dataclass(frozen=True)
class Ledger:
    """What became of the jobs."""

    jobs: int
    kills: int
    done: int
    lost: int
    begun_again: int
    done_again: int
    dead: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs, {self.kills} workers killed in the middle of a job, {self.seconds:.1f} s\n"
            f"done at least once:   {self.done}\nlost:                 {self.lost}\n"
            f"begun more than once: {self.begun_again}\ndone more than once:  {self.done_again}\n"
            f"dead letters:         {self.dead}"
        )


@cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(os.environ["REDIS_URL"])


@handles(JOB_TYPE)
def record(job: Job) -> None:
    """Write into the ledger that the job begins, work, and write that it ends."""
    _client().rpush(f"{job.payload['ledger']}begun", job.id)
    time.sleep(job.payload["work_s"])
    _client().rpush(f"{job.payload['ledger']}ended", job.id)


def crash_test(
    url: str,
    prefix: str,
    *,
    jobs: int = 300,
    workers: int = 4,
    kills: int = 10,
    visibility_s: float = 1.0,
    work_s: float = 0.02,
    report: Callable[[str], None] = print,
) -> Ledger:
    """Run ``jobs`` on ``workers`` processes, of which ``kills`` are killed and replaced, in a queue of its own.

    The work of a job takes ``work_s``. Raises TimeoutError if the queue is not empty after three minutes.
    """
    queue = JobQueue.at(url, f"{prefix}crash_test:{uuid.uuid4().hex[:8]}:")
    start = time.monotonic()
    processes: dict[int, subprocess.Popen[bytes]] = {}

    def start_worker() -> None:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lessons.projects.job_queue", "--prefix", queue.prefix, "work", "--quiet"),
                *("--handlers", __name__, "--types", JOB_TYPE, "--visibility", str(visibility_s), "--drain"),
            ],
            env={**os.environ, "REDIS_URL": url},
        )
        processes[process.pid] = process

    try:
        ids = [
            queue.enqueue(
                JOB_TYPE,
                {"ledger": queue.prefix, "work_s": work_s},
                priority=random.choice(list(Priority)),
                # A job that is met by every kill must not become a dead letter.
                max_attempts=kills + 5,
            )
            for _ in range(jobs)
        ]
        for _ in range(workers):
            start_worker()
        killed = 0
        while queue.stats().unfinished:
            if time.monotonic() > start + _TIMEOUT_S:
                raise TimeoutError(f"The queue is not empty after {_TIMEOUT_S} s: {queue.stats()}")
            # Spread over the first half of the run, so that all happen under load.
            progress = queue.client.llen(f"{queue.prefix}ended") / jobs
            if killed < kills and progress >= killed / kills / 2 and (pid := _busy(queue, set(processes))):
                os.kill(pid, signal.SIGKILL)
                processes.pop(pid).wait()
                killed += 1
                report(f"{time.monotonic() - start:5.1f} s  killed worker {pid}, {queue.stats().unfinished} jobs left")
                start_worker()
            for pid, process in processes.items():
                if process.poll():
                    raise RuntimeError(f"Worker {pid} ended by itself with status {process.returncode}.")
            time.sleep(0.01)
        begun, ended = (Counter(queue.client.lrange(f"{queue.prefix}{one}", 0, -1)) for one in ("begun", "ended"))
        return Ledger(
            jobs=jobs,
            kills=killed,
            done=sum(ended[one] > 0 for one in ids),
            lost=sum(ended[one] == 0 for one in ids),
            begun_again=sum(begun[one] > 1 for one in ids),
            done_again=sum(ended[one] > 1 for one in ids),
            dead=queue.stats().dead,
            seconds=time.monotonic() - start,
        )
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
        queue.drop()


def _busy(queue: JobQueue, pids: set[int]) -> int | None:
    """Return the process of a worker that has a job at this moment."""
    here = f"{socket.gethostname()}:"
    leased: list[str] = queue.client.zrange(f"{queue.prefix}leased", 0, -1)  # type: ignore[assignment]
    random.shuffle(leased)
    for one in leased:
        job = queue.get(one)
        if job and job.state is State.LEASED and job.worker.startswith(here):
            pid = int(job.worker.removeprefix(here))
            if pid in pids:
                return pid
    return None
