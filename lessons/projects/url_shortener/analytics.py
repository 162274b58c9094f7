"""Clicks over time, for the page and for ``GET /stats/{code}``."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from .store import Link, Store


class Bucket(StrEnum):
    """The length of a bucket. The values are what clients write."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length_ms(self) -> int:
        return {Bucket.MINUTE: 60_000, Bucket.HOUR: 3_600_000, Bucket.DAY: 86_400_000}[self]

    @property
    def number(self) -> int:
        """How many buckets are shown: an hour, two days, a month."""
        return {Bucket.MINUTE: 60, Bucket.HOUR: 48, Bucket.DAY: 30}[self]


@dataclass(frozen=True)
class Statistics:
    """What is known of a link. ``buckets`` are the last ones, also empty ones, with the start in milliseconds."""

    link: Link
    clicks: int
    bucket: Bucket
    buckets: list[tuple[int, int]]
    referrers: list[tuple[str, int]]
    countries: list[tuple[str, int]]

    def as_json(self) -> dict[str, Any]:
        return {
            "code": self.link.code,
            "original_url": self.link.original_url,
            "created_at": timestamp(self.link.created_at),
            "clicks": self.clicks,
            "bucket": self.bucket.value,
            "buckets": [{"start": timestamp(start), "clicks": clicks} for start, clicks in self.buckets],
            "referrers": [{"host": host, "clicks": clicks} for host, clicks in self.referrers],
            "countries": [{"country": country, "clicks": clicks} for country, clicks in self.countries],
        }


def timestamp(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def last_buckets(counts: Mapping[int, int], bucket: Bucket, now: int) -> list[tuple[int, int]]:
    """Give the buckets up to now, the empty ones too, from counts by ``clicked_at // length_ms``."""
    last = now // bucket.length_ms
    return [(index * bucket.length_ms, counts.get(index, 0)) for index in range(last - bucket.number + 1, last + 1)]


async def statistics(store: Store, code: str, bucket: Bucket, now: int) -> Statistics | None:
    """Read the statistics of a link; None if there is no such link. Raises StoreAwayError."""
    link = await store.find(code)
    if link is None:
        return None
    first = (now // bucket.length_ms - bucket.number + 1) * bucket.length_ms
    counts = await store.buckets(code, bucket.length_ms, first)
    return Statistics(
        link=link,
        clicks=await store.clicks(code),
        bucket=bucket,
        buckets=last_buckets(counts, bucket, now),
        referrers=await store.referrers(code),
        countries=await store.countries(code),
    )
