"""The names by which people call nodes: a service of the files, HOST, or HOST:PORT."""

import difflib
import re
from collections.abc import Mapping, Sequence

from citus_cluster.errors import NotFoundError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.registration import RegisteredNode


def find_named(name: str, nodes: Sequence[RegisteredNode], services: Mapping[str, NodeAddress]) -> RegisteredNode:
    """Return the node with a name. ``services`` maps the services of the files to their addresses.

    A host that several nodes have means a worker, if only one of them is a worker. Raises NotFoundError.
    """
    wanted = services.get(name)
    found = [node for node in nodes if node.address == wanted]
    found = found or [node for node in nodes if name in {str(node.address), f"{node.address.host}:{node.address.port}"}]
    found = found or [node for node in nodes if name in {node.address.host, f"[{node.address.host}]"}]
    if len(found) > 1:
        found = [node for node in found if not node.is_coordinator]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(
            f"Several nodes have this host: {', '.join(str(node.address) for node in found)}.",
            hint="Name the node with its port: HOST:PORT.",
        )
    by_address = {address: service for service, address in services.items()}
    known = [by_address.get(node.address, str(node.address)) for node in nodes]
    meant = closest(name, [*known, *(node.address.host for node in nodes)])
    raise NotFoundError(
        "The node list has no such node.",
        hint=(f"Did you mean {meant}? " if meant else "")
        + (f"The nodes are {', '.join(known)}." if known else "The node list is empty."),
    )


def closest(name: str, known: Sequence[str]) -> str | None:
    """Guess a node from its container's name (shop-worker3), from a part (worker3, 3), or from a mistyped name."""
    number = re.fullmatch(r"(?:.*worker-?)?(\d+)", name)
    if number and (service := f"citus-worker{number[1]}") in known:
        return service
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.8)), None)
