"""Kills workers with SIGKILL in the middle of their jobs, under load, and counts what became of every job.

The workers keep a ledger of two lists in Redis: which jobs they began, and which they ended. A job is lost if it was
not ended when the queue is empty.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import redis

from .handlers import Handler
from .queue import Job, JobQueue, Priority, State

JOB_TYPE = "crash_test"


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


def recording_handler(client: redis.Redis, ledger: str, work_s: float) -> Handler:
    """Return a handler that writes into the ledger when it begins and when it ends."""

    def work(job: Job) -> None:
        client.rpush(f"{ledger}:begun", job.id)
        time.sleep(work_s)
        client.rpush(f"{ledger}:ended", job.id)

    return work


def crash_test(
    queue: JobQueue,
    *,
    jobs: int = 300,
    workers: int = 4,
    kills: int = 10,
    visibility_s: float = 1.0,
    work_s: float = 0.02,
    report: Callable[[str], None] = print,
) -> Ledger:
    """Run ``jobs`` on ``workers`` processes, of which ``kills`` are killed and replaced. Drops the queue before.

    The work of a job takes ``work_s``. Raises TimeoutError if the queue is not empty after three minutes.
    """
    queue.drop()
    ledger = f"{queue.prefix}ledger"
    dice = random.Random()
    start = time.monotonic()
    deadline = start + 180
    ids = [
        # More attempts than kills: a job that every kill meets must not become a dead letter.
        queue.enqueue(JOB_TYPE, {"number": number}, priority=dice.choice(list(Priority)), max_attempts=kills + 5)
        for number in range(jobs)
    ]
    processes: dict[int, subprocess.Popen[bytes]] = {}

    def start_worker() -> None:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lessons.projects.job_queue", "--prefix", queue.prefix, "work", "--quiet"),
                *("--types", JOB_TYPE, "--visibility", str(visibility_s), "--crash-test", str(work_s)),
            ]
        )
        processes[process.pid] = process

    try:
        for _ in range(workers):
            start_worker()
        killed = 0
        while queue.stats().unfinished:
            if time.monotonic() > deadline:
                raise TimeoutError(f"The queue is not empty after 180 s: {queue.stats()}")
            # Spread over the run: the next one when its share of the jobs is done.
            progress = queue.client.llen(f"{ledger}:ended") / jobs
            if killed < kills and progress >= killed / (kills + 1) and (pid := _busy(queue, set(processes))):
                os.kill(pid, signal.SIGKILL)
                processes.pop(pid).wait()
                killed += 1
                report(f"{time.monotonic() - start:5.1f} s  killed worker {pid}, {queue.stats().unfinished} jobs left")
                start_worker()
            for pid, process in processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"Worker {pid} ended by itself with status {process.returncode}.")
            time.sleep(0.01)
        seconds = time.monotonic() - start
        begun, ended = (Counter(queue.client.lrange(f"{ledger}:{one}", 0, -1)) for one in ("begun", "ended"))
        return Ledger(
            jobs=jobs,
            kills=killed,
            done=sum(ended[one] > 0 for one in ids),
            lost=sum(ended[one] == 0 for one in ids),
            begun_again=sum(begun[one] > 1 for one in ids),
            done_again=sum(ended[one] > 1 for one in ids),
            dead=queue.stats().dead,
            seconds=seconds,
        )
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()


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
