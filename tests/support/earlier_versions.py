"""Clusters that earlier versions of this tool generated, archived in ``tests/data/earlier`` with all file modes.

Each is a real directory with a fixed name, image and ports. Unpacking replaces these, so that several test runs can
start it at the same time: only the files that contain them change, and the manifest's entries of those files. When the
archive was created, ``tools/keep_version.py`` checked that the version itself would have written the same.
"""

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "earlier"
MANIFEST = "generated/manifest.json"
_PORTS = 20
# The sources of the admin API's image, which are the same in every cluster, and the passwords.
_SAME_EVERYWHERE = ("generated/admin-api/", "generated/secrets/")


@dataclass(frozen=True)
class Place:
    """What distinguishes a cluster from others on its engine; its ports begin at ``base_port``."""

    name: str
    image: str
    base_port: int


KEPT_AT = Place(name="kept-cluster", image="kept.example.org/citusdata/citus:13", base_port=27100)


def kept_versions() -> list[Path]:
    """Return the archives, sorted by name, the oldest first."""
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
    """Archive a directory of ``KEPT_AT``; the same files result in the same bytes."""

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
