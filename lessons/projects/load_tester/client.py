"""One client: sends the request and reads the answer, without a task or a future for each request."""

import asyncio
import ssl
import time
from collections.abc import Callable

import httptools

from lessons.projects.load_tester.plan import REPEATABLE, Target

RETRY_DELAY_S = 0.05
"""A client that cannot connect waits this long, so that a server that is down gets no storm of connections."""


class Client:
    """Sends one request at a time, over one connection that it keeps as long as the server does.

    ``done`` gets the client, and a status or the name of an error. ``due`` and ``sent`` are the times (``now_s``) of
    the current request.
    """

    def __init__(
        self,
        target: Target,
        tls: ssl.SSLContext | None,
        done: Callable[["Client", int | None, str | None], None],
    ) -> None:
        self.due = self.sent = 0.0
        self.busy = False
        self.received_bytes = 0
        self._target = target
        self._tls = tls
        self._done = done
        self._connection: _Connection | None = None
        self._opening: asyncio.Task[None] | None = None

    def send(self, due: float, now: float) -> None:
        """Send the request, on a new connection if there is none."""
        self.due, self.sent, self.busy = due, now, True
        if self._connection is None:
            self._open()
        else:
            self._connection.write(self._target.request)

    def abandon(self) -> None:
        """Close the connection, and report nothing: the request took too long, or the run ends."""
        self.busy = False
        if self._opening:
            self._opening.cancel()
            self._opening = None
        if self._connection:
            self._connection.transport.abort()
            self._connection = None

    def opened(self, connection: "_Connection") -> None:
        """A connection is there; from this moment on, its end is noticed."""
        if not self.busy:
            connection.transport.abort()
            return
        self._connection, self._opening = connection, None
        connection.write(self._target.request)

    def answered(self, connection: "_Connection", status: int, *, keep: bool) -> None:
        if connection is not self._connection:
            return
        if not keep:
            self._connection = None
            connection.transport.close()
        self._end(status, None)

    def lost(self, connection: "_Connection", error: str) -> None:
        """The connection has ended, or carries something that is not HTTP."""
        if connection is not self._connection:
            return  # closed here
        self._connection = None
        connection.transport.abort()
        if not self.busy:
            return
        if connection.is_stale() and self._target.method in REPEATABLE:
            # The server closed an idle connection while the request was on its way (RFC 9112, 9.3.1).
            self._open()
        else:
            self._end(None, error)

    def _open(self) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._target.host, self._target.port, ssl=self._tls
            )
        except OSError as error:
            await asyncio.sleep(RETRY_DELAY_S)
            self._opening = None
            self._end(None, reason(error))

    def _end(self, status: int | None, error: str | None) -> None:
        if self.busy:
            self.busy = False
            self._done(self, status, error)


class _Connection(asyncio.Protocol):
    """One TCP connection, and the parser of its answers, whose callbacks these methods also are."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._answers = 0
        self._begun = self._length_known = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._client.opened(self)

    def write(self, request: bytes) -> None:
        self._begun = self._length_known = False
        self.transport.write(request)

    def is_stale(self) -> bool:
        """Whether it carried answers before, and nothing yet of the current one."""
        return self._answers > 0 and not self._begun

    def data_received(self, data: bytes) -> None:
        self._client.received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._begun = True
            self._client.lost(self, "not HTTP/1.1")

    def on_message_begin(self) -> None:
        self._begun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._length_known = True

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # after 100 Continue, the answer follows
            self._answers += 1
            self._client.answered(self, status, keep=self._parser.should_keep_alive())

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._begun and not self._length_known:
            # HTTP/1.0 without Content-Length: the end of the connection is the end of the answer.
            self._client.answered(self, self._parser.get_status_code(), keep=False)
        else:
            self._client.lost(self, "connection closed")


def now_s() -> float:
    """Return the time of the clock of all latencies, in seconds."""
    return time.perf_counter()


def reason(error: OSError) -> str:
    """Return a short name for the reason that a connection cannot be opened."""
    return "connection refused" if isinstance(error, ConnectionRefusedError) else f"{error.strerror or error}"
