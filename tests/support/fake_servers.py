"""Servers that are not ours, listen at the addresses of ours, and request the password in cleartext."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

PASSWORD_IN_CLEAR = 3
MD5 = 5
TRUST = 0
_ENCRYPTION, _GSS = 80877103, 80877104  # SSLRequest, GSSENCRequest


@dataclass
class Thief:
    """What a fake server received: the first message of each client, and everything after the password request."""

    host: str
    port: int
    greetings: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)

    @property
    def loot(self) -> bytes:
        return b"".join(self.answers)


_PATIENCE_S = 30.0
Talk = Callable[[socket.socket, Thief], None]


@contextmanager
def fake_postgres(
    method: int = PASSWORD_IN_CLEAR,
    host: str = "127.0.0.1",
    port: int = 0,
    encryption: ssl.SSLContext | None = None,
) -> Iterator[Thief]:
    """Serve PostgreSQL's protocol up to the login, which requires ``method``."""
    salt = b"salt" if method == MD5 else b""

    def talk(line: socket.socket, thief: Thief) -> None:
        with ExitStack() as stack:
            while True:
                length, code = struct.unpack("!ii", _exactly(line, 8))
                rest = _exactly(line, length - 8)
                if code not in (_ENCRYPTION, _GSS):
                    break
                encrypts = encryption if code == _ENCRYPTION else None
                line.sendall(b"S" if encrypts else b"N")
                if encrypts:
                    line = stack.enter_context(encrypts.wrap_socket(line, server_side=True))
            thief.greetings.append(rest)
            line.sendall(b"R" + struct.pack("!ii", 8 + len(salt), method) + salt)
            if method == TRUST:
                line.sendall(b"Z" + struct.pack("!i", 5) + b"I")
            _listen(line, thief)

    with _serving(talk, host, port) as thief:
        yield thief


@contextmanager
def fake_redis(port: int = 0) -> Iterator[Thief]:
    """Accept everything that a Redis client sends."""

    def talk(line: socket.socket, thief: Thief) -> None:
        thief.greetings.append(b"")
        while data := line.recv(65536):
            thief.answers.append(data)
            line.sendall(b"+OK\r\n")

    with _serving(talk, "127.0.0.1", port) as thief:
        yield thief


@contextmanager
def fake_cassandra(port: int = 0, *, is_late: bool = False) -> Iterator[Thief]:
    """Serve CQL up to the login: SUPPORTED, then AUTHENTICATE, then read everything. ``is_late``: only SUPPORTED."""

    def talk(line: socket.socket, thief: Thief) -> None:
        while True:
            header = _exactly(line, 9)
            body = _exactly(line, int.from_bytes(header[5:9], "big"))
            stream, opcode = header[2:4], header[4]
            thief.greetings.append(bytes([opcode]))
            if opcode == 0x05:
                answer, text = 0x06, b"\0\2" + _strings("CQL_VERSION", ["3.4.5"]) + _strings("COMPRESSION", [])
            elif opcode == 0x01 and is_late:
                _listen(line, thief)
                return
            elif opcode == 0x01:
                name = b"org.apache.cassandra.auth.PasswordAuthenticator"
                answer, text = 0x03, struct.pack("!H", len(name)) + name
            else:
                thief.answers.append(body)
                return
            line.sendall(b"\x84\0" + stream + bytes([answer]) + struct.pack("!i", len(text)) + text)

    with _serving(talk, "127.0.0.1", port) as thief:
        yield thief


def _strings(key: str, values: list[str]) -> bytes:
    parts = [struct.pack("!H", len(word)) + word.encode() for word in values]
    return struct.pack("!H", len(key)) + key.encode() + struct.pack("!H", len(values)) + b"".join(parts)


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = line.recv(size - len(data))
        if not part:
            raise OSError("the client has left")
        data += part
    return data


def _listen(line: socket.socket, thief: Thief) -> None:
    while data := line.recv(65536):
        thief.answers.append(data)


@contextmanager
def _serving(talk: Talk, host: str, port: int) -> Iterator[Thief]:
    with socket.create_server((host, port)) as listener:
        thief = Thief(host, listener.getsockname()[1])
        lines: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def meet(line: socket.socket) -> None:
            with suppress(OSError), line:
                talk(line, thief)

        def take() -> None:
            with suppress(OSError):
                while True:
                    lines.append(listener.accept()[0])
                    lines[-1].settimeout(_PATIENCE_S)
                    threads.append(threading.Thread(target=meet, args=(lines[-1],)))
                    threads[-1].start()

        taker = threading.Thread(target=take)
        taker.start()
        try:
            yield thief
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            taker.join()
            for line in lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
            for line in lines:
                line.close()
