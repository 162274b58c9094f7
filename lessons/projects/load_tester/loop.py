"""The closed and the open loop: who sends when, what is counted, and when a run ends."""

import asyncio
import math
import ssl
import time
from collections import deque
from dataclasses import dataclass, field

from lessons.projects.load_tester.client import Client, now_s
from lessons.projects.load_tester.plan import Plan
from lessons.projects.load_tester.results import Results


@dataclass
class Run:
    """One run of a plan. ``results`` may be read while it goes on."""

    plan: Plan
    results: Results = field(default_factory=Results)

    def __post_init__(self) -> None:
        self._idle: deque[Client] = deque()
        self._clients: list[Client] = []
        self._issued = 0
        self._all = self._limit()
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None

    async def go(self) -> Results:
        """Send until the plan is done or ``stop`` is called. Returns the results."""
        loop = asyncio.get_running_loop()
        tls = ssl.create_default_context() if self.plan.target.tls else None
        self._ended = asyncio.Event()
        self._clients = [Client(self.plan.target, tls, self._done) for _ in range(self.plan.concurrency)]
        self._start = now_s()
        processor_s = time.process_time()
        ending = None
        if self.plan.duration_s is not None:
            ending = loop.call_later(self.plan.duration_s, self._finish)
        watching = loop.create_task(self._watch())
        if self.plan.rate is None:
            for client in self._clients:
                self._next(client)
        else:
            self._idle.extend(self._clients)
            self._release()
        await self._ended.wait()
        self.results.elapsed_s = now_s() - self._start
        self.results.processor_s = time.process_time() - processor_s
        watching.cancel()
        if ending:
            ending.cancel()
        if self._timer:
            self._timer.cancel()
        for client in self._clients:
            client.abandon()
        # Connections close in the next turn of the loop.
        await asyncio.sleep(0)
        return self.results

    def stop(self) -> None:
        """End now, with what there is; requests under way are not counted."""
        self.results.interrupted = True
        self._stopping = True
        self._ended.set()

    def elapsed_s(self) -> float:
        return now_s() - self._start

    def _finish(self) -> None:
        """The duration is over: send nothing new, wait for what is under way or, in the open loop, already due."""
        self._stopping = True
        self._maybe_end()

    def _limit(self) -> int:
        """The number of requests of the whole run; practically endless in a closed loop without ``requests``."""
        limit = self.plan.requests if self.plan.requests is not None else 1 << 62
        if self.plan.rate is not None and self.plan.duration_s is not None:
            # Due are 0, 1/rate, 2/rate … before the end; the subtrahend is for what floating point adds.
            limit = min(limit, math.ceil(self.plan.rate * self.plan.duration_s - 1e-6))
        return max(1, limit)

    def _wanted(self) -> int:
        """The number of requests that may be sent so far."""
        return self._issued if self._stopping and self.plan.rate is None else self._all

    def _due(self, number: int) -> float:
        assert self.plan.rate is not None
        return self._start + number / self.plan.rate

    def _next(self, client: Client) -> None:
        """Let a client that is free send, or rest until a request is due, or until the run ends."""
        now = now_s()
        if self._issued >= self._wanted():
            self._idle.append(client)
            self._maybe_end()
        elif self.plan.rate is None:
            self._issued += 1
            client.send(now, now)
        elif (due := self._due(self._issued)) <= now:
            self._issued += 1
            client.send(due, now)
        else:
            self._idle.append(client)
            self._set_timer()

    def _release(self) -> None:
        """Send what is due, with the clients that are free."""
        self._timer = None
        while self._idle and self._issued < self._wanted() and (due := self._due(self._issued)) <= (now := now_s()):
            self._issued += 1
            self._idle.popleft().send(due, now)
        if self._idle:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None and self._issued < self._wanted():
            delay_s = max(0.0, self._due(self._issued) - now_s())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._release)

    def _done(self, client: Client, status: int | None, error: str | None) -> None:
        now = now_s()
        results = self.results
        results.received_bytes += client.received_bytes
        client.received_bytes = 0
        if status is None:
            results.errors[error or "unknown"] += 1
        else:
            results.latencies_s.append(now - client.due)
            results.service_s.append(now - client.sent)
            results.statuses[status] += 1
        if not self._ended.is_set():
            self._next(client)

    def _maybe_end(self) -> None:
        if self._issued >= self._wanted() and not any(client.busy for client in self._clients):
            self._ended.set()

    async def _watch(self) -> None:
        """End requests that take too long, and what is still due long after the end of the duration."""
        timeout_s = self.plan.timeout_s
        while True:
            await asyncio.sleep(min(0.1, timeout_s / 4))
            now = now_s()
            for client in self._clients:
                if client.busy and now - client.sent > timeout_s:
                    client.abandon()
                    self._done(client, None, "timeout")
            if self.plan.rate is not None and self._stopping and now > self._deadline():
                self.results.unfinished = max(0, self._all - self.results.requests)
                self._ended.set()

    def _deadline(self) -> float:
        return self._start + (self.plan.duration_s or 0) + self.plan.timeout_s
