"""The services beside Citus, asked all at once how they are; one that fails never hides the rest.

The command line and the admin API both ask here, so nothing of this needs an engine or a generated directory.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass

from citus_cluster.errors import CitusClusterError
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companions import PG14_DATABASE, PG14_USER
from citus_cluster.model.nodes import NodeAddress
from citus_cluster.model.component_name import ComponentName
from citus_cluster.operations.pg14_pair import pair_status
from citus_cluster.runtime.cassandra_ring import CassandraClient
from citus_cluster.runtime.postgres import ConnectionInfo
from citus_cluster.runtime.redis_server import RedisClient

logger = logging.getLogger(__name__)
_GRACE_S = 0.5
"""Each driver keeps the time by itself, and says more than that it ran out."""

Ask = Callable[[float], Awaitable[CompanionStatus]]
PasswordOf = Callable[[ComponentName], str]
Doubt = Callable[[NodeAddress], Awaitable[str | None]]
"""Why what listens at an address may not be ours, and is sent no password; None where it is ours."""


@dataclass(frozen=True)
class Places:
    """Where the companions are reached; ``pg14`` is by service. Empty where a companion is not wanted."""

    pg14: Mapping[str, NodeAddress]
    pg14_synchronous: bool
    redis: NodeAddress | None
    cassandra: tuple[NodeAddress, ...]


class Companions:
    """Asks the companions for as long as it is open; each driver keeps one client, which ``close`` closes."""

    def __init__(self, places: Places, password_of: PasswordOf, *, doubt: Doubt, ask_pg14: Ask | None = None) -> None:
        """Connect to nothing yet. ``password_of`` may raise CitusClusterError: that companion is then down.

        Redis and Cassandra take passwords in clear alone, so ``doubt`` is asked before each question. (PostgreSQL's
        servers prove who they are.) ``ask_pg14`` takes the place of asking the two servers alone, for who can look at
        their containers too.
        """
        self._places = places
        self._password_of = password_of
        self._doubt = doubt
        self._pg14 = ask_pg14 or self._ask_pg14
        self._redis: RedisClient | None = None
        self._cassandra: CassandraClient | None = None

    @property
    def wanted(self) -> tuple[ComponentName, ...]:
        """The companions that are asked, in the order of their answers."""
        return tuple(service for service in COMPANIONS if service in self._asks())

    async def ask_all(self, timeout_s: float, only: Collection[ComponentName] | None = None) -> tuple[CompanionStatus, ...]:
        """Ask every one of them, or ``only`` these; ends in little more than ``timeout_s``; raises because of none."""
        asks = self._asks()
        wanted = [service for service in self.wanted if only is None or service in only]
        return tuple(await asyncio.gather(*(_asked(service, asks[service], timeout_s) for service in wanted)))

    async def close(self) -> None:
        """Close every connection; it may be asked again, and then opens them anew."""
        clients = [client for client in (self._redis, self._cassandra) if client]
        self._redis = self._cassandra = None
        for outcome in await asyncio.gather(*(client.close() for client in clients), return_exceptions=True):
            if isinstance(outcome, BaseException):
                logger.warning("a connection did not close: %s", outcome)

    def _asks(self) -> Mapping[ComponentName, Ask]:
        asks: dict[ComponentName, Ask] = {}
        if self._places.pg14:
            asks[ComponentName.PG14] = self._pg14
        if self._places.redis:
            asks[ComponentName.REDIS] = self._ask_redis
        if self._places.cassandra:
            asks[ComponentName.CASSANDRA] = self._ask_cassandra
        return asks

    async def _ask_pg14(self, timeout_s: float) -> CompanionStatus:
        password = self._password_of(ComponentName.PG14)
        servers = {
            service: ConnectionInfo(address.host, address.port, PG14_USER, PG14_DATABASE, password)
            for service, address in self._places.pg14.items()
        }
        found = await pair_status(servers, synchronous=self._places.pg14_synchronous, timeout_s=timeout_s)
        return found.companion_status()

    async def _ask_redis(self, timeout_s: float) -> CompanionStatus:
        assert self._places.redis is not None, "only wanted companions are asked"  # noqa: S101
        if reason := await self._doubt(self._places.redis):
            return CompanionStatus(ComponentName.REDIS, Condition.DOWN, reason, {})
        if self._redis is None:
            self._redis = RedisClient(self._places.redis, self._password_of(ComponentName.REDIS))
        return await self._redis.ask(timeout_s)

    async def _ask_cassandra(self, timeout_s: float) -> CompanionStatus:
        doubts = {address: await self._doubt(address) for address in self._places.cassandra}
        if all(doubts.values()):
            return CompanionStatus(ComponentName.CASSANDRA, Condition.DOWN, next(iter(doubts.values())), {})
        if self._cassandra is None:
            self._cassandra = CassandraClient(self._places.cassandra, self._password_of(ComponentName.CASSANDRA))
        return await self._cassandra.ask(timeout_s, not_ours={address for address in doubts if doubts[address]})


async def _asked(service: ComponentName, ask: Ask, timeout_s: float) -> CompanionStatus:
    """Ask one, and turn whatever goes wrong into its status."""
    try:
        async with asyncio.timeout(timeout_s + _GRACE_S):
            return await ask(timeout_s)
    except TimeoutError:
        reason = f"no answer within {timeout_s:g} s"
    except CitusClusterError as error:
        reason = error.message
    except Exception as error:
        # A defect, of ours or of a driver; the others are shown all the same.
        logger.exception("%s could not be asked", service.value)
        reason = f"it could not be asked ({type(error).__name__})"
    return CompanionStatus(service, Condition.DOWN, reason, {})
