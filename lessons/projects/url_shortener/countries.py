"""The country of an address, from a small table of IP ranges.

The table in ``ip_ranges.csv`` is made for this course: the ranges that documents and private networks use, and four
well-known blocks. It says where a block is registered, which need not be where its users are. A real service uses a
database such as GeoLite2 or DB-IP, which is updated every month.
"""

import bisect
import csv
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import pairwise
from pathlib import Path

UNKNOWN = "unknown"
TABLE = Path(__file__).with_name("ip_ranges.csv")


class BadTableError(Exception):
    """The table of IP ranges cannot be used. The message says why."""


@dataclass(frozen=True)
class Countries:
    """Ranges in order: of each, the IP version with the first address, the last address, and the country."""

    starts: tuple[tuple[int, int], ...]
    ends: tuple[int, ...]
    names: tuple[str, ...]

    def of(self, ip: str) -> str:
        """Give the country of an address; ``unknown`` if no range contains it, or if it is not an address."""
        try:
            address = ip_address(ip)
        except ValueError:
            return UNKNOWN
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        found = bisect.bisect_right(self.starts, (address.version, int(address))) - 1
        if found < 0 or self.starts[found][0] != address.version or int(address) > self.ends[found]:
            return UNKNOWN
        return self.names[found]


def read_countries(path: Path = TABLE) -> Countries:
    """Read a table with the columns network and country. Raises BadTableError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(ip_network(row["network"]), row["country"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise BadTableError(f"{path} cannot be used: {error!r}. It needs the columns network and country.") from error
    rows.sort(key=lambda row: (row[0].version, int(row[0][0])))
    for (network, _), (following, _) in pairwise(rows):
        if network.version == following.version and following[0] in network:
            raise BadTableError(f"{path} cannot be used: {network} and {following} overlap.")
    return Countries(
        starts=tuple((network.version, int(network[0])) for network, _ in rows),
        ends=tuple(int(network[-1]) for network, _ in rows),
        names=tuple(country for _, country in rows),
    )
