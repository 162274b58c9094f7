"""The database: what is asked of it. ``databases.py`` has the two that answer."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The same text for SQLite and PostgreSQL. Times are milliseconds since 1970, UTC.
SCHEMA = """
CREATE TABLE IF NOT EXISTS installation (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS urls (
    code TEXT PRIMARY KEY,
    original_url TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS urls_created_at ON urls (created_at);
CREATE TABLE IF NOT EXISTS clicks (
    id {serial} PRIMARY KEY,
    code TEXT NOT NULL REFERENCES urls (code),
    clicked_at BIGINT NOT NULL,
    referrer TEXT NOT NULL,
    referrer_host TEXT NOT NULL,
    ip TEXT NOT NULL,
    country TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS clicks_code_clicked_at ON clicks (code, clicked_at);
CREATE TABLE IF NOT EXISTS click_files (name TEXT PRIMARY KEY, position BIGINT NOT NULL);
"""

_INSTALL = "INSERT INTO installation (only_row, id) VALUES (1, %s) ON CONFLICT (only_row) DO NOTHING"
_INSTALLATION = "SELECT id FROM installation"
_ADD_URL = "INSERT INTO urls (code, original_url, created_at) VALUES (%s, %s, %s) ON CONFLICT (code) DO NOTHING"
_FIND_URL = "SELECT original_url, created_at FROM urls WHERE code = %s"
_POSITION = "SELECT position FROM click_files WHERE name = %s"
_MOVE_POSITION = (
    "INSERT INTO click_files (name, position) VALUES (%s, %s) "
    "ON CONFLICT (name) DO UPDATE SET position = excluded.position WHERE click_files.position = %s"
)
_FORGET_POSITION = "DELETE FROM click_files WHERE name = %s"
_ADD_CLICK = (
    "INSERT INTO clicks (code, clicked_at, referrer, referrer_host, ip, country) "
    "SELECT %s, %s, %s, %s, %s, %s WHERE EXISTS (SELECT 1 FROM urls WHERE code = %s)"
)
_TOTALS = "SELECT (SELECT count(*) FROM urls), (SELECT count(*) FROM clicks)"
_CLICKS = "SELECT count(*) FROM clicks WHERE code = %s"
_BUCKETS = (
    "SELECT clicked_at / %s AS bucket, count(*) FROM clicks WHERE code = %s AND clicked_at >= %s "
    "GROUP BY bucket ORDER BY bucket"
)
_REFERRERS = (
    "SELECT referrer_host, count(*) AS clicks FROM clicks WHERE code = %s "
    "GROUP BY referrer_host ORDER BY clicks DESC, referrer_host LIMIT 10"
)
_COUNTRIES = (
    "SELECT country, count(*) AS clicks FROM clicks WHERE code = %s "
    "GROUP BY country ORDER BY clicks DESC, country LIMIT 10"
)
_NEWEST = (
    "SELECT code, original_url, created_at, (SELECT count(*) FROM clicks WHERE clicks.code = urls.code) "
    "FROM urls ORDER BY created_at DESC, code LIMIT %s"
)


class StoreAwayError(Exception):
    """The database does not answer, or refuses the statement. The message says why."""


@dataclass(frozen=True, slots=True)
class ClickRow:
    """A click as it is stored."""

    code: str
    clicked_at: int
    referrer: str
    referrer_host: str
    ip: str
    country: str


@dataclass(frozen=True, slots=True)
class Link:
    """A shortened address. ``created_at`` is in milliseconds since 1970, UTC."""

    code: str
    original_url: str
    created_at: int


class Store(ABC):
    """Links and clicks. Every method raises StoreAwayError."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def _rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query."""

    @abstractmethod
    async def _change(self, sql: str, *values: Any) -> int:
        """Run one statement. Returns the number of changed rows."""

    @abstractmethod
    async def _change_together(
        self, guard: str, guard_values: Sequence[Any], sql: str, rows: Sequence[Sequence[Any]]
    ) -> int | None:
        """Run, in one transaction, the guard, and the statement for each row.

        Returns the number of rows that the statement changed; None, with nothing changed, if the guard changed no row.
        """

    async def installation(self) -> str:
        """Give the name of this database: what is kept outside for it, in Redis and in files, has it in its name."""
        await self._change(_INSTALL, secrets.token_hex(4))
        return str((await self._rows(_INSTALLATION))[0][0])

    async def add(self, link: Link) -> bool:
        """Store a link; False if its code is taken."""
        return await self._change(_ADD_URL, link.code, link.original_url, link.created_at) == 1

    async def find(self, code: str) -> Link | None:
        found = await self._rows(_FIND_URL, code)
        return Link(code, *found[0]) if found else None

    async def position(self, name: str) -> int:
        """Up to which byte a file of clicks is stored."""
        found = await self._rows(_POSITION, name)
        return int(found[0][0]) if found else 0

    async def forget_position(self, name: str) -> None:
        await self._change(_FORGET_POSITION, name)

    async def record(self, name: str, position: int, new_position: int, clicks: Sequence[ClickRow]) -> int:
        """Store clicks and the position that follows them in their file.

        Returns how many were stored: those on links that exist. Raises StoreAwayError, with nothing stored, if the
        position is not the one that the caller began at.
        """
        rows = [(c.code, c.clicked_at, c.referrer, c.referrer_host, c.ip, c.country, c.code) for c in clicks]
        stored = await self._change_together(_MOVE_POSITION, (name, new_position, position), _ADD_CLICK, rows)
        if stored is None:
            raise StoreAwayError(f"another process has collected {name} beyond byte {position}")
        return stored

    async def totals(self) -> tuple[int, int]:
        """Count links and clicks."""
        links, clicks = (await self._rows(_TOTALS))[0]
        return int(links), int(clicks)

    async def clicks(self, code: str) -> int:
        return int((await self._rows(_CLICKS, code))[0][0])

    async def buckets(self, code: str, length_ms: int, since: int) -> dict[int, int]:
        """Count the clicks since a time; the keys are ``clicked_at // length_ms``."""
        return {int(bucket): int(count) for bucket, count in await self._rows(_BUCKETS, length_ms, code, since)}

    async def referrers(self, code: str) -> list[tuple[str, int]]:
        """Count the clicks of the ten most frequent hosts."""
        return [(str(host), int(count)) for host, count in await self._rows(_REFERRERS, code)]

    async def countries(self, code: str) -> list[tuple[str, int]]:
        """Count the clicks of the ten most frequent countries."""
        return [(str(country), int(count)) for country, count in await self._rows(_COUNTRIES, code)]

    async def newest(self, limit: int) -> list[tuple[Link, int]]:
        """List the newest links with their clicks."""
        rows = await self._rows(_NEWEST, limit)
        return [(Link(code, url, created_at), int(clicks)) for code, url, created_at, clicks in rows]
