"""How the API listens: what uvicorn is told, and how long a client may take."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from admin_api.settings import SHUTDOWN_TIMEOUT_S

MAX_CLIENTS = 2000
"""Connections at once; one more is closed at once."""
READ_BYTES = 16 * 1024
"""Read from a connection in one go. asyncio's own 256 kB fill the container's memory with what many send too early."""


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with an end to patience: uvicorn waits for a request's head for ever.

    It also ends the connection of a client that still sends a body long after it got its answer.
    """

    patience_s = 10.0
    """From here to twice as long, a client may be without a whole request or the answer to one."""
    _timer: asyncio.TimerHandle | None = None
    _answered: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        # asyncio has no public way to say so; a transport without this attribute takes it for nothing.
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        super().connection_made(transport)
        if len(self.connections) > MAX_CLIENTS:
            transport.abort()
        else:
            self._timer = self.loop.call_later(self.patience_s, self._lose_patience)

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
    "ws": "none",
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "timeout_graceful_shutdown": SHUTDOWN_TIMEOUT_S,
}
"""Arguments of uvicorn.run() and uvicorn.Config(), beside the app and where it listens."""
