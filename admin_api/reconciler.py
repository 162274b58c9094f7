"""The loop that keeps desired workers registered: late ones, new ones, and those that return.

``operations.nodes.registration`` makes the decisions about nodes. This module determines only when it runs, and keeps
the results.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from shutil import disk_usage

import psycopg

from admin_api.accounts import Accounts
from admin_api.configuration import Configuration
from admin_api.coordinator import connection_info
from admin_api.reader import Reader
from admin_api.settings import APPLICATION_NAME, Settings
from citus_cluster.errors import CitusClusterError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress, NodeResult, Outcome
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.disks import Disk
from citus_cluster.model.plan.events import Event, ignore
from citus_cluster.operations.decoding import let_citus_decode
from citus_cluster.operations.journaled import ADMIN_API, Asker, of_container
from citus_cluster.operations.nodes.checks import troubles
from citus_cluster.operations.nodes.losses import find_losses
from citus_cluster.operations.nodes.registration import reconcile
from citus_cluster.operations.preparation import prepare_coordinator
from citus_cluster.runtime.citus.disks import read_disks
from citus_cluster.runtime.citus.nodes import read_registry
from citus_cluster.runtime.postgres import Connection, connect, translated

REGISTERED = frozenset({Outcome.ADDED, Outcome.ACTIVATED, Outcome.ALREADY})
CHANGED = frozenset({Outcome.ADDED, Outcome.ACTIVATED})
logger = logging.getLogger(__name__)


def _log(event: Event) -> None:
    logger.info("%s", event.message)


@dataclass(frozen=True)
class Registration:
    """The result of the last check that got an answer, and why the last check failed, if it did."""

    results: Mapping[NodeAddress, NodeResult]
    error: str | None = None

    def sort(self, desired: Sequence[NodeAddress]) -> tuple[list[NodeResult], list[NodeResult], list[NodeResult]]:
        """Divide the desired workers into registered, pending and withdrawn ones."""
        unseen = self.error or "not checked yet"
        found = [self.results.get(worker) or NodeResult(worker, Outcome.PENDING, unseen) for worker in desired]
        return (
            [result for result in found if result.outcome in REGISTERED],
            [result for result in found if result.outcome is Outcome.PENDING],
            [result for result in found if result.outcome is Outcome.WITHDRAWN],
        )


class Reconciler:
    """Runs until it is cancelled, and continues after every error."""

    def __init__(self, settings: Settings, configuration: Configuration, reader: Reader | None = None) -> None:
        self._settings = settings
        self._reader = reader
        self._configuration = configuration
        self._journal = of_container(settings.journal_folder, Asker(ADMIN_API))
        self._woken = asyncio.Event()
        self._desired: ApiConfig | None = None
        self._looks = 0
        self._data_again_at = 0.0
        """When to compare the shards with the catalog again (event loop's time): it reads all placements."""
        self._losses: tuple[str, ...] = ()
        self.registration = Registration({})
        self.disks: tuple[Disk, ...] = ()
        """The disks of the nodes that answered at the last check, without the disk of this container."""
        self._measure_at = 0.0
        self.unprepared: Mapping[ComponentName, str] = {}
        """Components that lack something on the servers of others, and why the last check could not create it."""
        self._accounts = Accounts(configuration)
        self.maintenance: tuple[str, ...] = ()
        """One line for each node that an operator paused."""
        self.troubles: tuple[str, ...] = ()
        """One line for each registered node that did not serve queries, or had lost data, at the last check."""

    def wake(self) -> None:
        """Check again now, because a request has changed something."""
        self._woken.set()

    async def run(self) -> None:
        """Check every second while a worker is missing, and every ten seconds otherwise."""
        try:
            while True:
                error = await self._look()
                if error and error != self.registration.error:
                    logger.warning("workers cannot be registered now: %s", error)
                if self.registration.error and not error:
                    logger.info("workers can be registered again")
                self.registration = Registration(self.registration.results, error)
                await self._rest()
        finally:
            await self._accounts.close()

    async def _look(self) -> str | None:
        """Register the workers that can be registered; return the reason if this failed."""
        try:
            self._desired = self._configuration.cluster()
            info = connection_info(self._desired, self._configuration)
            timeout_s = self._settings.connect_timeout_s
            async with await connect(info, timeout_s=timeout_s, application_name=APPLICATION_NAME) as connection:
                with self._journal.entry("register-workers") as entry:
                    entry.is_noted = False
                    results = await reconcile(
                        connection,
                        self._desired.coordinator_address,
                        self._in_turn(self._desired.workers),
                        ignore,
                        timeout_s=self._settings.reconcile_timeout_s,
                        wait_for_lock_s=self._settings.lock_timeout_s,
                    )
                    changed = {str(one.address): one.outcome for one in results if one.outcome in CHANGED}
                    entry.tell(workers=changed)
                    # Most checks change nothing.
                    entry.is_noted = bool(changed)
                self._keep(results)
                # Plans of splits say so if it is still missing; the next check tries again.
                with suppress(CitusClusterError):
                    await let_citus_decode(connection, _log, wait_for_lock_s=self._settings.lock_timeout_s)
                await self._prepare(connection, self._desired)
                await self._measure_disks(connection)
                await self._inspect(connection)
        except CitusClusterError as error:
            return error.message
        except (psycopg.Error, OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}".strip()
        except Exception as error:
            # A bug of ours; the loop must still try again.
            reason = f"the reconciler failed ({type(error).__name__})"
            if reason != self.registration.error:
                logger.exception("the reconciler failed")
            return reason
        return None

    async def _prepare(self, connection: Connection, desired: ApiConfig) -> None:
        """Create what services need on the servers of others; a failure is logged once, and delays nothing else."""
        failures = await prepare_coordinator(
            connection,
            [target.component for target in desired.components],
            self._configuration.secret,
            _log,
            wait_for_lock_s=self._settings.lock_timeout_s,
        )
        unprepared = {component: error.message for component, error in failures.items()}
        self._accounts.begin(desired)
        unprepared |= self._accounts.missing
        for component, reason in unprepared.items():
            if self.unprepared.get(component) != reason:
                logger.warning("%s lacks what it needs: %s", component.value, reason)
        self.unprepared = unprepared

    async def _measure_disks(self, connection: Connection) -> None:
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + self._settings.disk_interval_s
        # Registration does not depend on it; the next check detects a lost connection.
        with suppress(CitusClusterError, psycopg.Error, OSError, TimeoutError):
            self.disks = await read_disks(connection, measured_bytes=disk_usage("/").total)

    async def _inspect(self, connection: Connection) -> None:
        """Check whether the registered nodes serve queries and, less often, whether their shards exist."""
        async with translated("looking at the nodes"):
            nodes = (await read_registry(connection)).nodes
            self.maintenance = tuple(f"{node.address} is in maintenance" for node in nodes if node.in_maintenance)
            found = await troubles(connection, nodes)
            now = asyncio.get_running_loop().time()
            if found:
                # Once the nodes are back, the next check compares their shards at once.
                self._losses, self._data_again_at = (), now
            elif now >= self._data_again_at:
                self._losses = tuple(str(loss) for loss in await find_losses(connection, nodes))
                pause_s = self._settings.idle_interval_s if self._losses else self._settings.data_interval_s
                self._data_again_at = now + pause_s
        for line in (*found, *self._losses):
            if line not in self.troubles:
                logger.warning("%s", line)
        if self._reader and found:
            self._reader.doubt()
        elif self._reader and self._desired:
            info = connection_info(self._desired, self._configuration)
            await self._reader.prepare(connection, info, nodes, wait_for_lock_s=self._settings.lock_timeout_s)
        if self.troubles and not (found or self._losses):
            logger.info("all nodes serve queries again")
        self.troubles = (*found, *self._losses)

    def _in_turn(self, workers: Sequence[NodeAddress]) -> Sequence[NodeAddress]:
        """Begin with another worker at each check: one that never answers must not use up the others' time."""
        first = self._looks % max(1, len(workers))
        self._looks += 1
        return [*workers[first:], *workers[:first]]

    def _keep(self, results: Sequence[NodeResult]) -> None:
        before = self.registration.results
        for result in results:
            known = before.get(result.address)
            if known == result or (known and known.outcome in REGISTERED and result.outcome in REGISTERED):
                continue
            level = logging.WARNING if result.outcome is Outcome.PENDING else logging.INFO
            reason = f" ({result.reason})" if result.reason else ""
            logger.log(level, "worker %s: %s%s", result.address, result.outcome.value, reason)
        self.registration = Registration({result.address: result for result in results}, self.registration.error)

    async def _rest(self) -> None:
        """Wait for the next check, or until :meth:`wake` is called or the files change."""
        pause_s = self._settings.busy_interval_s if self._is_busy() else self._settings.idle_interval_s
        due = time.monotonic() + pause_s
        while (left_s := due - time.monotonic()) > 0 and not self._woken.is_set() and not self._has_news():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), min(left_s, self._settings.busy_interval_s))
        self._woken.clear()

    def _is_busy(self) -> bool:
        if self.registration.error or self._desired is None:
            return True
        _, pending, _ = self.registration.sort(self._desired.workers)
        return bool(pending) or bool(self.troubles and not self._losses)

    def _has_news(self) -> bool:
        try:
            return self._configuration.cluster() != self._desired
        except CitusClusterError:
            # The next check reports it.
            return self.registration.error is None
