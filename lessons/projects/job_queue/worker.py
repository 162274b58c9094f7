"""A worker: one process that does one job at a time, of the types that it has handlers for."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping

import redis

from .backoff import backoff_s
from .handlers import Handler, PermanentError
from .queue import Job, JobQueue, State

log = logging.getLogger("job_queue")
log.addHandler(logging.NullHandler())  # whoever imports this decides what is printed

_LONGEST_WAIT_S = 1.0
"""A worker looks at the queue at least this often, so a stop or a lost wake-up takes no longer."""
_RECONNECT_S = 1.0


class Worker:
    """Claims, works, and reports. ``visibility_s`` is how long a job stays away if this process is killed."""

    def __init__(
        self,
        queue: JobQueue,
        handlers: Mapping[str, Handler],
        *,
        visibility_s: float = 30,
        base_delay_s: float = 1,
        name: str | None = None,
    ) -> None:
        self.queue = queue
        self.handlers = handlers
        self.visibility_s = visibility_s
        self.base_delay_s = base_delay_s
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._under_way: Job | None = None

    def stop(self) -> None:
        """End after the job under way."""
        self._stopping.set()

    def run(self, *, drain: bool = False) -> int:
        """Work until ``stop``, or with ``drain`` until no job is left. Returns the number of jobs done.

        Without Redis it waits until Redis is back.
        """
        with self._extending_leases():
            return self._run(list(self.handlers), drain)

    def _run(self, types: list[str], drain: bool) -> int:
        done = 0
        while not self._stopping.is_set():
            try:
                job = self.queue.claim(types, worker=self.name, visibility_s=self.visibility_s)
                if isinstance(job, Job):
                    try:
                        done += self._work(job)
                    finally:
                        self._under_way = None
                elif drain and not self._left(types):
                    break
                else:
                    # Redis counts a time-out of 0 as for ever.
                    self.queue.wait_for_bell(types, min(max(job, 0.01), _LONGEST_WAIT_S))
            except redis.RedisError as error:
                log.warning("%s: Redis cannot be used: %s Trying again.", self.name, error)
                self._stopping.wait(_RECONNECT_S)
        return done

    def _left(self, types: list[str]) -> int:
        stats = self.queue.stats()
        ready = sum(sum(stats.depth_by_type.get(one, {}).values()) for one in types)
        return ready + stats.delayed + stats.in_progress

    def _work(self, job: Job) -> bool:
        self._under_way = job
        try:
            self.handlers[job.type](job)
        except Exception as error:
            delay_s = backoff_s(job.attempts, base_s=self.base_delay_s)
            reason = f"{type(error).__name__}: {error}"
            state = self.queue.fail(job, reason, delay_s=delay_s, permanent=isinstance(error, PermanentError))
            if state is State.DELAYED:
                log.info("%s: %s %s failed, next attempt in %.1f s: %s", self.name, job.type, job.id, delay_s, reason)
            elif state is State.DEAD:
                log.warning("%s: %s %s is dead: %s", self.name, job.type, job.id, reason)
            else:
                self._log_lost(job)
            return False
        if not self.queue.finish(job):
            self._log_lost(job)
            return False
        log.info("%s: %s %s done", self.name, job.type, job.id)
        return True

    def _log_lost(self, job: Job) -> None:
        log.warning("%s: the lease of %s %s ended meanwhile; the job is done again", self.name, job.type, job.id)

    @contextlib.contextmanager
    def _extending_leases(self) -> Iterator[None]:
        """Extend the lease of the job under way, until the block ends.

        A thread does it, so it ends when this process is killed or stopped, and another worker gets the job.
        """
        ended = threading.Event()

        def extend() -> None:
            # A job that was claimed just after one round is extended in the next, long before its lease ends.
            while not ended.wait(self.visibility_s / 3):
                job = self._under_way
                try:
                    if job:
                        self.queue.extend(job, self.visibility_s)
                except redis.RedisError as error:
                    log.warning("%s: the lease of a job could not be extended: %s", self.name, error)

        thread = threading.Thread(target=extend, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
