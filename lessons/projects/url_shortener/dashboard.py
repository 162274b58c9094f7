"""The pages. They are whole when the server sends them: no script, and nothing from another server."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .analytics import Bucket, Statistics, timestamp
from .store import Link

# Every value is escaped: addresses and referrers are what strangers sent.
_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.filters["timestamp"] = timestamp
_CHART_WIDTH, _CHART_HEIGHT = 720, 160


@dataclass(frozen=True)
class Bar:
    """A rectangle of the chart."""

    x: float
    y: float
    width: float
    height: float
    label: str


def bars(buckets: list[tuple[int, int]]) -> list[Bar]:
    """Lay out the buckets from left to right; the largest fills the height."""
    highest = max((clicks for _, clicks in buckets), default=0) or 1
    width = _CHART_WIDTH / max(1, len(buckets))
    return [
        Bar(
            x=round(index * width, 1),
            y=round(_CHART_HEIGHT * (1 - clicks / highest), 1),
            width=round(width * 0.8, 1),
            height=round(_CHART_HEIGHT * clicks / highest, 1),
            label=f"{timestamp(start)}: {clicks}",
        )
        for index, (start, clicks) in enumerate(buckets)
    ]


def overview_page(urls: int, clicks: int, live: int | None, newest: list[tuple[Link, int]]) -> HTMLResponse:
    """The newest links."""
    return _page("overview.html", urls=urls, clicks=clicks, live=live, newest=newest)


def link_page(statistics: Statistics, short_url: str, live: int | None) -> HTMLResponse:
    """Clicks over time, referrers and countries of one link."""
    return _page(
        "link.html",
        statistics=statistics,
        short_url=short_url,
        live=live,
        bars=bars(statistics.buckets),
        bucket_names=[one.value for one in Bucket],
        width=_CHART_WIDTH,
        height=_CHART_HEIGHT,
    )


def _page(template: str, **values: Any) -> HTMLResponse:
    # Should a value ever get through, the browser still runs no script.
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    text = _TEMPLATES.get_template(template).render(nonce=nonce, **values)
    return HTMLResponse(
        text,
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )
