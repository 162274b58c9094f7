"""The API's server: the options of uvicorn, and the time limits for clients."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from admin_api.settings import SHUTDOWN_TIMEOUT_S

MAX_CLIENTS = 2000
"""The number of simultaneous connections; any more are closed at once."""
READ_BYTES = 16 * 1024
"""Bytes read from a connection at once. With asyncio's 256 kB, many clients could fill the container's memory."""

MAX_PART_BYTES = 64 * 1024
"""Bytes of a head, or of the end of a body with its trailers; the parser itself has no limit."""


class PatientProtocol(HttpToolsProtocol):
    """HTTP/1.1 with limits: uvicorn waits for the head of a request forever, and accepts one of any size.

    It also closes the connection of a client that still sends a body long after it received the response.
    """

    patience_s = 10.0
    """A client that has neither completed a request nor received a response is disconnected after this time, or twice
    this time at most.
    """
    _timer: asyncio.TimerHandle | None = None
    _answered: object = None
    _part_bytes = 0
    """Bytes that were received since the parser completed a head or a piece of a body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        # asyncio has no public option for this; a transport that does not use this attribute ignores it.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        if len(self.connections) > MAX_CLIENTS:
            transport.abort()
        else:
            self._timer = self.loop.call_later(self.patience_s, self._lose_patience)

    def data_received(self, data: bytes) -> None:
        self._part_bytes += len(data)
        super().data_received(data)
        if self._part_bytes > MAX_PART_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        self._part_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._part_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._part_bytes = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def _lose_patience(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self.cycle is self._answered:
            self.transport.abort()
            return
        if is_waiting:
            self._answered = self.cycle
        self._timer = self.loop.call_later(self.patience_s, self._lose_patience)


OPTIONS: dict[str, Any] = {
    "http": PatientProtocol,
    # The same loop everywhere, whatever else is installed: uvloop closes connections differently.
    "loop": "asyncio",
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": SHUTDOWN_TIMEOUT_S,
}
"""Arguments of uvicorn.run() and uvicorn.Config(), besides the app and its address."""
