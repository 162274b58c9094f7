"""The click queue: a write-ahead file for each process.

A click is written to the file before the redirect is answered; a collector (``collector.py``) moves it to the database.
The kernel has the bytes once ``write`` returns, so killing the process loses none. With ``sync``, the redirect also
waits until the disk has them, so a power failure loses none either.
"""

import asyncio
import errno
import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".clicks"
_MAX_REFERRER_LENGTH = 500
_MAX_IP_LENGTH = 45
_CREATED = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL


@dataclass(frozen=True, slots=True)
class Click:
    """One redirect. ``clicked_at`` is in milliseconds since 1970, UTC."""

    code: str
    clicked_at: int
    referrer: str
    ip: str


def encode(click: Click) -> bytes:
    """Write a click as one line."""
    # PostgreSQL stores no zero bytes in text.
    referrer = click.referrer[:_MAX_REFERRER_LENGTH].replace("\0", "")
    values = (click.code, click.clicked_at, referrer, click.ip[:_MAX_IP_LENGTH])
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Click | None:
    """Read a line; None if it is not whole, which a power failure or a full disk can cause."""
    try:
        code, clicked_at, referrer, ip = json.loads(line)
    except ValueError:
        return None
    if not (isinstance(clicked_at, int) and all(isinstance(one, str) for one in (code, referrer, ip))):
        return None
    return Click(code, clicked_at, referrer, ip)


class ClickLog:
    """The file that this process appends to.

    The process holds a lock on its file as long as it lives, and the kernel releases the lock of a killed process: this
    is how another process knows that it may collect and delete the file.
    """

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._sync_each = sync
        self._syncing = asyncio.Lock()
        self._next_sync: asyncio.Task[None] | None = None
        self._torn = False
        self.path, self._fd = self._create()

    def _create(self) -> tuple[Path, int]:
        while True:
            path = self._folder / f"{secrets.token_hex(8)}{SUFFIX}"
            fd = os.open(path, _CREATED, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # A collector may have taken the file, which was empty, before it was locked.
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)
        if self._sync_each:
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return path, fd

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, position: int, length: int) -> bytes:
        return os.pread(self._fd, length, position)

    async def append(self, click: Click) -> None:
        """Write a click. Raises OSError if it cannot be kept, as on a full disk."""
        # The rest of a line that was cut off must not damage this one.
        line = b"\n" * self._torn + encode(click)
        written = os.write(self._fd, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._sync_each:
            await self._synced()

    async def _synced(self) -> None:
        """Wait for a sync that begins after now: one for all clicks that wait for it."""
        if self._next_sync is None:
            self._next_sync = asyncio.create_task(self._sync())
        await asyncio.shield(self._next_sync)

    async def _sync(self) -> None:
        async with self._syncing:
            # What is written from now on may not be included, and needs the next one.
            self._next_sync = None
            await asyncio.to_thread(os.fsync, self._fd)

    async def rotate(self) -> None:
        """Begin a new file. The old one is unlocked, and the next collector deletes it once it is collected."""
        async with self._syncing:
            if self._sync_each:
                await asyncio.to_thread(os.fsync, self._fd)
            old, self._torn = self._fd, False
            self.path, self._fd = self._create()
            os.close(old)

    def close(self) -> None:
        os.close(self._fd)
