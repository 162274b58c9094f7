"""What a URL shortener needs: requests, storage and codes, from the numbers of its requirements."""

import argparse
import math
from dataclasses import dataclass

BYTES_OF_A_URL = 7 + 200  # the code, and an address of average length
HOUR_S = 3600


@dataclass(frozen=True)
class Estimate:
    """What follows from the requirements."""

    writes_per_s: float
    storage_gb: float
    days_to_fill: float
    cache_mb: float
    """If every redirect of an hour went to another link: the most that a TTL of an hour can hold."""


def estimate(urls: int, redirects_per_s: float, reads_per_write: float) -> Estimate:
    writes_per_s = redirects_per_s / reads_per_write
    return Estimate(
        writes_per_s=writes_per_s,
        storage_gb=urls * BYTES_OF_A_URL / 1e9,
        days_to_fill=urls / writes_per_s / 86_400,
        cache_mb=redirects_per_s * HOUR_S * BYTES_OF_A_URL / 1e6,
    )


def urls_with_a_taken_code(urls: int, codes: int) -> float:
    """How many of the addresses find their code taken if codes are drawn evenly and independently, as by a hash."""
    used = codes * -math.expm1(urls * math.log1p(-1 / codes))
    return urls - used


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--urls", type=int, default=100_000_000, help="links to keep (default: %(default)s)")
    parser.add_argument("--redirects", type=float, default=1000, help="redirects per second (default: %(default)s)")
    parser.add_argument("--reads-per-write", type=float, default=100, help="default: %(default)s")
    asked = parser.parse_args()
    found = estimate(asked.urls, asked.redirects, asked.reads_per_write)
    print(f"new links per second     {found.writes_per_s:.0f}")
    print(f"days until all exist     {found.days_to_fill:.0f}")
    print(f"storage                  {found.storage_gb:.1f} GB ({BYTES_OF_A_URL} bytes for each link)")
    print(f"cache with a TTL of 1 h  {found.cache_mb:.0f} MB at most")
    for name, letters in (("16 digits (MD5)", 16), ("62 letters and digits", 62)):
        codes = letters**7
        taken = urls_with_a_taken_code(asked.urls, codes)
        print(f"7 of {name}: {codes:,} codes; {taken:,.0f} of {asked.urls:,} links find theirs taken")
