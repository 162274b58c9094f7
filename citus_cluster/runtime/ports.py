"""Ports of this machine: whether one is free on an address."""

import errno
import socket
import sys
from enum import StrEnum


class PortState(StrEnum):
    """What prevents listening on a port."""

    FREE = "free"
    TAKEN = "taken"
    NOT_HERE = "not here"
    """The address does not belong to this machine."""


def port_state(address: str, port: int) -> PortState:
    """Return the state of a port, by listening briefly, or by connecting if the user may not listen on it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # A connection that has just ended does not hold the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return PortState.NOT_HERE
            if error.errno == errno.EADDRINUSE:
                return PortState.TAKEN
            return PortState.TAKEN if _answers(family, address, port) else PortState.FREE
    # On this system, SO_REUSEADDR also lets two listeners share a port if one of them has the wildcard address.
    if sys.platform == "darwin" and _answers(family, address, port):
        return PortState.TAKEN
    return PortState.FREE


def _answers(family: socket.AddressFamily, address: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(0.5)
        target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - only translated
        return client.connect_ex((target, port)) == 0


def answers(host: str, port: int, question: bytes, *, timeout_s: float) -> bool:
    """Return whether a server answers ``question``; behind a published port, Docker accepts connections itself."""
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            connection.sendall(question)
            return bool(connection.recv(1))
    except OSError:
        return False
