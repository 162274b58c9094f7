"""Accounts of applications on the servers beside Citus, created beside the loop that registers workers."""

import asyncio
import logging
from collections.abc import Mapping

from admin_api.companions import doubt
from admin_api.configuration import Configuration
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.component import Account
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.plan.events import Event
from citus_cluster.operations.accounts import make_accounts

logger = logging.getLogger(__name__)


class Accounts:
    """Creates each account once for each password. A server that is down delays nothing else."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._made: dict[Account, str] = {}
        self._task: asyncio.Task[None] | None = None
        self.missing: Mapping[ComponentName, str] = {}
        """Components without an account that they need, and why the last attempt could not create it."""

    def begin(self, desired: ApiConfig) -> None:
        """Begin to create what is missing, unless an earlier attempt is still running."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._make(desired))

    async def close(self) -> None:
        """Cancel the running attempt."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _make(self, desired: ApiConfig) -> None:
        targets = {target.component: target for target in desired.components}
        secret_of = self._configuration.secret
        missing = {}
        for component in targets:
            for account in (one for one in COMPONENTS[component].accounts if one.server in targets):
                try:
                    password = secret_of(account.secret)
                    if self._made.get(account) == password:
                        continue
                    administration = self._configuration.password_of(account.server)
                    await make_accounts(targets[account.server], administration, [account], secret_of, doubt, _log)
                    self._made[account] = password
                except CitusClusterError as error:
                    missing[component] = error.message
                except Exception as error:
                    # A bug of ours; the next attempt still tries again.
                    missing[component] = f"account {account.name} was not created ({type(error).__name__})"
                    if self.missing.get(component) != missing[component]:
                        logger.exception("account %s on %s", account.name, account.server)
        self.missing = missing


def _log(event: Event) -> None:
    logger.info("%s", event.message)
