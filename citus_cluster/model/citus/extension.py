"""Versions of Citus on a node: of the extension in the database, and of the library in the image."""

import re
from dataclasses import dataclass

OUTDATED = "loaded Citus library version differs"
"""Citus' error if its library and its extension do not match (CheckInstalledVersion)."""
UPDATE_HINT = (
    "The image has another version of Citus than the data. Make a backup, because an update cannot be undone, and run "
    "citus-cluster up, which runs ALTER EXTENSION citus UPDATE on every node."
)


@dataclass(frozen=True)
class ExtensionVersions:
    """Versions such as ``13.2-1``: ``installed`` in the database, ``available`` in the image."""

    installed: str
    available: str

    @property
    def is_behind(self) -> bool:
        """The image is newer: ALTER EXTENSION citus UPDATE is due."""
        return _key(self.installed) < _key(self.available)

    @property
    def is_ahead(self) -> bool:
        """The image is older than the data. Citus' images have no scripts for a downgrade."""
        return _key(self.installed) > _key(self.available)

    def is_served_by(self, release: tuple[int, ...]) -> bool:
        """The library of ``release`` answers queries on these data, by Citus' own rule.

        Since 13.2 library and extension may differ by one minor version (``MinorVersionsCompatibleRelaxed`` in
        ``metadata_cache.c``); before, they had to be of the same minor version.
        """
        data, library = _key(self.installed)[:2], release[:2]
        if data == library or library < (13, 2) or len(library) < 2:
            return data == library
        return data[0] == library[0] and abs(data[1] - library[1]) <= 1

    def is_newer_than(self, release: tuple[int, ...]) -> bool:
        """The data belong to a later release than ``release``: (13, 0) of ``citusdata/citus:13.0.3``."""
        return _key(self.installed)[:2] > release[:2]


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
