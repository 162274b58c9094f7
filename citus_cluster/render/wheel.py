"""A Python package as a wheel, the same bytes on every host for the same sources.

This module writes it, not a build backend: a backend reads a source tree with its pyproject.toml, and an installed
package has neither. The format is a zip archive with three small files of metadata:
https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence

_MODIFIED = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip archive can hold."""
_UNIX = 3
_REGULAR_FILE = 0o100644


def wheel_name(name: str, version: str) -> str:
    """Return the file name of a wheel; installers read name and version from it, and refuse others."""
    return f"{_stem(name, version)}-py3-none-any.whl"


def make_wheel(name: str, version: str, *, requires: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    """Pack ``files``, contents by path, as the pure Python package ``name``; pip can install it."""
    folder = f"{_stem(name, version)}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    wheel = ["Wheel-Version: 1.0", "Generator: citus-cluster", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    packed = dict(sorted(files.items()))
    packed |= {f"{folder}/METADATA": _lines(metadata), f"{folder}/WHEEL": _lines(wheel)}
    record = [f"{path},{_digest(content)},{len(content)}" for path, content in packed.items()]
    packed[f"{folder}/RECORD"] = _lines([*record, f"{folder}/RECORD,,"])
    buffer = io.BytesIO()
    # Stored, because the output of zlib depends on its version.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in packed.items():
            entry = zipfile.ZipInfo(path, _MODIFIED)
            entry.create_system = _UNIX
            entry.external_attr = _REGULAR_FILE << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _stem(name: str, version: str) -> str:
    return f"{name.replace('-', '_')}-{version}"


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _digest(content: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
