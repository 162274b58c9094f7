"""When views are read as the role that only reads, and when as the superuser.

The password is random, and only this process knows it: it is set on the nodes at the start, so no file contains it, and
a cluster of an earlier version needs nothing. The role is used while all nodes let it log in; otherwise the superuser
is asked, who also gets a connection when the clients have taken all others.
"""

import asyncio
import logging
import secrets
from collections.abc import Sequence

from citus_cluster.errors import AuthenticationError, CitusClusterError
from citus_cluster.model.citus.reader import READER_ROLE
from citus_cluster.model.citus.registration import RegisteredNode
from citus_cluster.runtime.citus.lock import writer_lock
from citus_cluster.runtime.citus.reader import log_in, prepare_reader
from citus_cluster.runtime.postgres import Connection, ConnectionInfo, translated

logger = logging.getLogger(__name__)
_LOG_IN_S = 2.0
_PAUSE_S = 20.0
"""The time between two attempts: some APIs can reach the workers only through the coordinator."""


class Reader:
    """The role of one process of the API."""

    def __init__(self) -> None:
        self._password = secrets.token_urlsafe(32)
        self._is_prepared = False
        self._said: str | None = None
        self._again_at = 0.0
        self.ready = False
        """Whether all nodes let the role log in, so that views can be read as this role."""

    def login(self, superuser: ConnectionInfo) -> ConnectionInfo:
        """Return the login of the role on the coordinator."""
        return ConnectionInfo(superuser.host, superuser.port, READER_ROLE, superuser.database, self._password)

    def doubt(self) -> None:
        """Read as the superuser until :meth:`prepare` has looked again, because a node refused the role."""
        self.ready = False

    async def prepare(
        self, conn: Connection, superuser: ConnectionInfo, nodes: Sequence[RegisteredNode], *, wait_for_lock_s: float
    ) -> None:
        """Create the role if needed, and check it on each node, all of which serve queries. Does not raise."""
        now = asyncio.get_running_loop().time()
        if self.ready or now < self._again_at:
            return
        self._again_at = now + _PAUSE_S
        try:
            if not self._is_prepared:
                async with translated("preparing the role that only reads"), writer_lock(conn, wait_s=wait_for_lock_s):
                    await prepare_reader(conn, self._password)
                self._is_prepared = True
            for node in nodes:
                if node.is_active:
                    await log_in(self.login(superuser), node, timeout_s=_LOG_IN_S)
        except CitusClusterError as error:
            # Another process of the API may have set its own password.
            self._is_prepared = self._is_prepared and not isinstance(error, AuthenticationError)
            self._say(error.message)
            return
        self.ready = True
        logger.info("views are read as role %s", READER_ROLE)
        self._said = None

    def _say(self, reason: str) -> None:
        if reason != self._said:
            logger.info("views are read as the superuser: %s", reason)
        self._said = reason
