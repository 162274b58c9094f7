"""Moves clicks from the files of ``clicks.py`` to the database, each exactly once.

The position up to which a file is collected is stored in the transaction that stores its clicks. So whatever is killed,
and whenever: either both are there or neither is, and the next collector continues at the right place.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .clicks import SUFFIX, ClickLog, decode
from .countries import Countries
from .referrers import host_of
from .store import ClickRow, Store

_BATCH_BYTES = 256 * 1024
_SEGMENT_BYTES = 8 * 1024 * 1024
_ORPHANS_EVERY_S = 5.0

logger = logging.getLogger("url_shortener")


class Collector:
    """Collects the file of this process, and those that other processes have left."""

    def __init__(self, log: ClickLog, folder: Path, store: Store, countries: Countries) -> None:
        self._log = log
        self._folder = folder
        self._store = store
        self._countries = countries
        self._positions: dict[str, int] = {}
        self._away = False

    @property
    def waiting_bytes(self) -> int:
        """What this process has written and not stored yet."""
        return self._log.size_bytes - self._positions.get(self._log.path.name, 0)

    async def run(self, every_s: float) -> None:
        """Collect until cancelled. While the database is away, clicks wait in the files."""
        orphans_at = 0.0
        now = asyncio.get_running_loop().time
        while True:
            try:
                await self.collect_own()
                if self._log.size_bytes > _SEGMENT_BYTES:
                    await self._log.rotate()
                if now() >= orphans_at:
                    await self.collect_orphans()
                    orphans_at = now() + _ORPHANS_EVERY_S
                if self._away:
                    logger.warning("The database answers again: clicks are collected.")
                self._away = False
            except Exception as error:  # whatever it is, later clicks must be collected
                # The transaction may have been committed all the same: the database knows.
                self._positions.clear()
                if not self._away:
                    logger.warning("Clicks wait in %s until they can be stored: %s", self._folder, error)
                self._away = True
            await asyncio.sleep(every_s)

    async def collect_own(self) -> None:
        """Store what this process has written. Raises StoreAwayError and OSError."""
        await self._collect(self._log.path.name, self._log.read)

    async def collect_orphans(self) -> None:
        """Store and delete the files of processes that ended. Raises StoreAwayError and OSError."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path == self._log.path:
                continue
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY)
                try:
                    await self._collect_orphan(path, fd)
                finally:
                    os.close(fd)

    async def _collect_orphan(self, path: Path, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # its process lives
        if not os.fstat(fd).st_nlink:
            return  # another process was faster
        stored = await self._collect(path.name, lambda position, length: os.pread(fd, length, position))
        # First the file: without its position, it would be collected again.
        os.unlink(path)  # noqa: PTH108 - as short as a write, and not worth a thread
        self._positions.pop(path.name, None)
        await self._store.forget_position(path.name)
        if stored:
            logger.warning("Stored %d clicks that a process which ended had left in %s.", stored, path.name)

    async def _collect(self, name: str, read: Callable[[int, int], bytes]) -> int:
        """Store all whole lines from the stored position on. Returns the number of clicks."""
        stored = 0
        position = self._positions.get(name)
        if position is None:
            position = await self._store.position(name)
        while data := read(position, _BATCH_BYTES):
            end = data.rfind(b"\n") + 1
            if not end:
                break  # the last line is not whole: it is being written, or its process was killed before it answered
            rows = [self._row(line) for line in data[:end].splitlines() if line]
            whole = [row for row in rows if row is not None]
            if len(whole) < len(rows):
                logger.error(
                    "Skipped %d damaged lines of %s before byte %d.", len(rows) - len(whole), name, position + end
                )
            kept = await self._store.record(name, position, position + end, whole)
            if kept < len(whole):
                logger.error("Skipped %d clicks on links that this database does not have.", len(whole) - kept)
            stored += kept
            position += end
            self._positions[name] = position
        return stored

    def _row(self, line: bytes) -> ClickRow | None:
        click = decode(line)
        if click is None:
            return None
        country = self._countries.of(click.ip)
        return ClickRow(click.code, click.clicked_at, click.referrer, host_of(click.referrer), click.ip, country)
