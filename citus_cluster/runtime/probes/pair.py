"""The status of the PostgreSQL 14 pair, according to its two servers.

This needs neither an engine nor a generated directory.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.companion_status import CompanionStatus
from citus_cluster.model.companion_target import Target
from citus_cluster.model.components.pg14 import LOGIN, PRIMARY, REPLICA
from citus_cluster.model.replication import PairStatus, SeenServer, judge
from citus_cluster.runtime import pg14
from citus_cluster.runtime.postgres import ConnectionInfo, connect
from citus_cluster.runtime.probes import Doubt

DEFAULT_TIMEOUT_S = 5.0


class PairProbe:
    """Both servers. PostgreSQL's servers prove their identity, so the listener is not checked."""

    def __init__(self, target: Target, password: str, _doubt: Doubt) -> None:
        self._target = target
        self._servers = {
            service: ConnectionInfo(address.host, address.port, LOGIN.user, LOGIN.database, password)
            for service, address in target.addresses.items()
        }

    async def ask(self, timeout_s: float) -> CompanionStatus:
        found = await pair_status(self._servers, synchronous=self._target.synchronous, timeout_s=timeout_s)
        return found.companion_status()

    async def close(self) -> None:
        """Do nothing: no connection stays open."""


async def pair_status(
    servers: Mapping[str, ConnectionInfo],
    *,
    synchronous: bool,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    seen: Mapping[str, SeenServer] | None = None,
    chosen: str | None = None,
) -> PairStatus:
    """Ask both servers, by service, and judge. A server that is down is reported, not raised.

    ``seen`` and ``chosen`` are the reports of their containers, if the caller has read them.
    """
    before = seen or {service: SeenServer(service) for service in servers}
    half_s = timeout_s / 2
    asked = await asyncio.gather(*(ask(servers[service], before[service], timeout_s=half_s) for service in servers))
    # A replica again: if its position were read before the primary's, a busy replica would seem behind.
    found = await asyncio.gather(*(_again(servers[server.service], server, timeout_s=half_s) for server in asked))
    return judge(found, synchronous=synchronous, chosen=chosen)


async def ask(info: ConnectionInfo, seen: SeenServer, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> SeenServer:
    """Ask one server, unless its container already shows that it does not run."""
    if seen.phase or seen.container_state not in {None, "running"}:
        return seen
    peer = REPLICA if seen.service == PRIMARY else PRIMARY
    try:
        async with asyncio.timeout(timeout_s):
            async with await connect(info, timeout_s=timeout_s) as conn:
                return replace(seen, facts=await pg14.read_facts(conn, peer), reason=None)
    except TimeoutError:
        return replace(seen, facts=None, reason=f"no answer within {timeout_s:g} s")
    except CitusClusterError as error:
        return replace(seen, facts=None, reason=error.message)


async def _again(info: ConnectionInfo, seen: SeenServer, *, timeout_s: float) -> SeenServer:
    return await ask(info, seen, timeout_s=timeout_s) if seen.facts and seen.facts.in_recovery else seen
