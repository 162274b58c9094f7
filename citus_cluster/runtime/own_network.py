"""Checks whether an address belongs to a network of this machine or container.

Docker's resolver forwards the name of a stopped container to the resolvers of the host, so ``redis`` may resolve to
another server: https://docs.docker.com/engine/network/#dns-services
"""

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path

_ROUTES = Path("/proc/net/route")
_ADDRESSES_V6 = Path("/proc/net/if_inet6")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_own(host: str) -> bool:
    """Return whether every address of ``host`` belongs to a network of this machine. Blocks.

    False for an unknown name. This works only on Linux; elsewhere it is true only for loopback.
    """
    try:
        found = {str(item[4][0]) for item in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    networks = list(_networks())
    addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
    return all(address.is_loopback or any(address in network for network in networks) for address in addresses)


def _networks() -> Iterator[Network]:
    try:
        yield from routes_v4(_ROUTES.read_text(encoding="ascii"))
        yield from addresses_v6(_ADDRESSES_V6.read_text(encoding="ascii"))
    except OSError:
        return


def routes_v4(text: str) -> Iterator[ipaddress.IPv4Network]:
    """Networks that are reached without a gateway, as ``/proc/net/route`` lists them: words in the machine's order."""
    for line in text.splitlines()[1:]:
        _, destination, gateway, _, _, _, _, mask, *_ = line.split()
        if int(gateway, 16) == 0 and int(mask, 16) != 0:
            address, bits = (_little_endian(word) for word in (destination, mask))
            yield ipaddress.IPv4Network((address, str(ipaddress.IPv4Address(bits))))


def addresses_v6(text: str) -> Iterator[ipaddress.IPv6Network]:
    """Networks of this machine's addresses, as ``/proc/net/if_inet6`` lists them."""
    for line in text.splitlines():
        address, _, prefix, *_ = line.split()
        yield ipaddress.IPv6Network((bytes.fromhex(address), int(prefix, 16)), strict=False)


def _little_endian(word: str) -> int:
    return int.from_bytes(bytes.fromhex(word), "little")
