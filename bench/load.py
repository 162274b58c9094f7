"""Requests at a constant rate, or one after another, over many connections, in a separate process.

At a constant rate, a latency begins when the request is due, so it includes the wait for a free connection or a late
client. The HTTP client is minimal, so that it takes little processor time from a server on the same cores.
"""

import asyncio
import functools
import itertools
import multiprocessing
import selectors
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import psycopg

from citus_cluster.runtime.postgres import ConnectionInfo

Request = Callable[[], Awaitable[tuple[int, int]]]
"""Sends one request; returns its status, and the bytes of its answer's body."""
_HEAD_END = b"\r\n\r\n"
_GRACE_S = 60.0
"""How much longer than its load a job may take: to connect, and for the last answers."""


@dataclass(frozen=True)
class HttpTarget:
    """A path of a server on the loopback interface; every response except 200 is an error."""

    port: int
    path: str
    token: str = field(repr=False)

    async def open(self, stack: AsyncExitStack) -> Request:
        connection = await HttpConnection.open(self.port, self.token)
        stack.callback(connection.close)
        return functools.partial(connection.get, self.path)


@dataclass(frozen=True)
class CrowdTarget:
    """Paths of a server on the loopback interface, asked in turn; every status is counted, and none is an error.

    A connection that the server closes is counted as status 0, and opened again.
    """

    port: int
    paths: Sequence[str]
    token: str = field(repr=False)

    async def open(self, stack: AsyncExitStack) -> Request:
        connection = await HttpConnection.open(self.port, self.token)
        stack.callback(lambda: connection.close())
        paths = itertools.cycle(self.paths)

        async def request() -> tuple[int, int]:
            nonlocal connection
            try:
                status, body = await connection.ask(next(paths))
            except ConnectionError:
                connection = await HttpConnection.open(self.port, self.token)
                return 0, 0
            return status, len(body)

        return request


@dataclass(frozen=True)
class SqlTarget:
    """A query to a server by psycopg in autocommit mode; all rows are fetched."""

    server: ConnectionInfo
    query: bytes

    async def open(self, stack: AsyncExitStack) -> Request:
        server = self.server
        connection = await psycopg.AsyncConnection.connect(
            host=server.host,
            port=server.port,
            user=server.user,
            password=server.password,
            dbname=server.database,
            autocommit=True,
        )
        stack.push_async_callback(connection.close)

        async def request() -> tuple[int, int]:
            await (await connection.execute(self.query)).fetchall()
            return 200, 0

        return request


@dataclass(frozen=True)
class Job:
    """The load. Without a rate, every connection sends its next request at once.

    ``rate`` is the number of requests per second over all connections. The first ``warmup_s`` do not count.
    """

    target: HttpTarget | CrowdTarget | SqlTarget
    connections: int
    seconds: float
    rate: float | None = None
    warmup_s: float = 2


@dataclass(frozen=True)
class Outcome:
    """Latencies in ms, in ascending order, the seconds of the whole run, and the processor time of this process.

    ``statuses`` counts the answers, and ``body_bytes`` is the mean size of their bodies.
    """

    latencies_ms: Sequence[float]
    wall_s: float
    client_cpu_s: float
    statuses: Mapping[int, int] = field(default_factory=dict)
    body_bytes: float = 0

    @property
    def rate(self) -> float:
        return len(self.latencies_ms) / self.wall_s


class HttpConnection(asyncio.Protocol):
    """One keep-alive connection of HTTP/1.1; it reads responses with a Content-Length, one at a time."""

    def __init__(self, token: str) -> None:
        self._headers = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(cls, port: int, token: str) -> "HttpConnection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(token), "127.0.0.1", port)
        return connection

    async def get(self, path: str) -> tuple[int, int]:
        """Get a path; return its status and size. Raises ConnectionError without a response, or if it is not 200."""
        status, body = await self.ask(path)
        if status != 200:
            raise ConnectionError(f"GET {path} answered {status}: {body[:500].decode(errors='replace')}")
        return status, len(body)

    async def ask(self, path: str) -> tuple[int, bytes]:
        """Get a path; every status is accepted."""
        assert self._transport is not None
        if self._transport.is_closing():
            raise ConnectionError("the server has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {path} {self._headers}".encode())
        return await self._answer

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end:
            return
        first, *lines = head.split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if b"content-length" not in headers:
            self.connection_lost(ConnectionError("an answer without Content-Length cannot be read here"))
            self.close()
        elif len(body) >= int(headers[b"content-length"]) and self._answer and not self._answer.done():
            self._received = b""
            self._answer.set_result((int(first.split()[1]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server has closed the connection"))


def measure(job: Job) -> Outcome:
    """Run a job in a new process; the first failed request ends it with its error.

    Raises TimeoutError if requests are still without an answer a minute after the end of the load.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(_run, job).result()


def _run(job: Job) -> Outcome:
    # epoll waits for whole milliseconds, select for microseconds, so requests are sent when they are due.
    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(_execute(job))


async def _execute(job: Job) -> Outcome:
    async with AsyncExitStack() as stack, asyncio.timeout(job.warmup_s + job.seconds + _GRACE_S):
        requests = [await job.target.open(stack) for _ in range(job.connections)]
        send = functools.partial(_at_rate, rate=job.rate) if job.rate else _one_after_another
        await send(requests, job.warmup_s)
        started, cpu = time.perf_counter(), time.process_time()
        found = await send(requests, job.seconds)
        return Outcome(
            sorted(found.latencies_ms),
            time.perf_counter() - started,
            time.process_time() - cpu,
            found.statuses,
            found.bytes / max(1, len(found.latencies_ms)),
        )


@dataclass
class _Found:
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    bytes: int = 0

    def note(self, since: float, answer: tuple[int, int]) -> None:
        self.latencies_ms.append(1000 * (time.perf_counter() - since))
        self.statuses[answer[0]] += 1
        self.bytes += answer[1]


async def _at_rate(requests: Sequence[Request], seconds: float, *, rate: float) -> _Found:
    found = _Found()
    free: asyncio.Queue[Request] = asyncio.Queue()
    for request in requests:
        free.put_nowait(request)

    async def one(due: float) -> None:
        request = await free.get()
        found.note(due, await request())
        free.put_nowait(request)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = started + number / rate
            if (early_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            group.create_task(one(due))
    return found


async def _one_after_another(requests: Sequence[Request], seconds: float) -> _Found:
    found = _Found()
    end = time.perf_counter() + seconds

    async def repeat(request: Request) -> None:
        while (sent := time.perf_counter()) < end:
            found.note(sent, await request())

    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(repeat(request))
    return found
