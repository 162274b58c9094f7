"""Clusters as earlier versions of this tool generated them, kept in ``tests/data/earlier`` with all their modes.

Each is a real directory under a fixed name, image and ports. Unpacked, it gets others, so that several test runs can
start it at once: only what these stand in changes, and what the manifest says of those files. That the version itself
would have written just that was checked when it was kept (``tools/keep_version.py``).
"""

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "earlier"
MANIFEST = "generated/manifest.json"
_PORTS = 20
# Sources of the admin API's image, the same in every cluster; passwords.
_SAME_EVERYWHERE = ("generated/admin-api/", "generated/secrets/")


@dataclass(frozen=True)
class Place:
    """What tells a cluster from the others on its engine; ports from ``base_port`` on are its own."""

    name: str
    image: str
    base_port: int


KEPT_AT = Place(name="kept-cluster", image="kept.example.org/citusdata/citus:13", base_port=27100)


def kept_versions() -> list[Path]:
    """Return the archives, oldest first as their names sort."""
    return sorted(FOLDER.glob("*.tar.xz"))


def unpack(archive: Path, root: Path, place: Place) -> None:
    """Write the directory that the version would have generated for ``place``."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "tar_filter"):
            tar.extractall(root, filter="tar")
        else:  # Python before 3.11.4 has no filters, and extracts our own archives in the same way
            tar.extractall(root)
    digests = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.relative_to(root).as_posix().startswith(_SAME_EVERYWHERE):
            old = path.read_bytes()
            new = _moved(old, place)
            if new != old:
                path.write_bytes(new)
                digests[_digest(old)] = _digest(new)
    manifest = root / MANIFEST
    text = manifest.read_text()
    for before, after in digests.items():
        text = text.replace(before, after)
    manifest.write_text(text)


def pack(root: Path, archive: Path) -> None:
    """Archive a directory of ``KEPT_AT``, the same bytes for the same files."""

    def without_origin(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if Path(info.name).name in {"journal.jsonl", ".citus-cluster.lock"}:
            return None
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(root.iterdir()):
            tar.add(path, path.name, filter=without_origin)


def _moved(content: bytes, place: Place) -> bytes:
    first, name = KEPT_AT.base_port, KEPT_AT.name
    numbers = "|".join(str(first + number) for number in range(_PORTS))
    text = content.decode()
    text = re.sub(rf"\b({numbers})\b", lambda found: str(int(found[0]) - first + place.base_port), text)
    return text.replace(KEPT_AT.image, place.image).replace(name, place.name).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
