"""Archive a cluster as this version generates it, for tests that later versions take it over.

``PYTHONPATH=tests/support .venv/bin/python -m tools.keep_version 0.2.0 [OPTION OF setup_citus_cluster.py …]``
"""

import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from earlier_versions import FOLDER, KEPT_AT, Place, pack, unpack
from generated_cluster import GeneratedCluster

# Without Cassandra, because the label of its container depends on the cluster's name by a rule of that version.
SERVICES = "--services=citus,pg14,redis,admin-api"
ELSEWHERE = Place(name="another", image="citusdata/citus:13.2.2", base_port=30500)
SPEC = """\
# Ours since spring; ask the office before you change it.
apiVersion: citus-cluster/v1
workers: 2
settings:
  coordinator:
    log_min_duration_statement: 250ms # the slow ones
  nodes:
    citus-worker2:
      work_mem: 6MB
"""
OVERRIDE = """\
services:
  citus-worker1:
    environment:
      MADE: by hand
"""


def main() -> None:
    version, *options = sys.argv[1:]
    archive = FOLDER / f"{version}.tar.xz"
    with tempfile.TemporaryDirectory() as folder:
        kept, elsewhere, unpacked = (Path(folder) / name for name in ("kept", "elsewhere", "unpacked"))
        password = Path(folder) / "password"
        password.write_text('it\'s "a" $test %s \\n #' + secrets.token_hex(8))
        generate(kept, KEPT_AT, password, options)
        # Everything that differs between places must be changed by unpacking.
        shutil.copytree(kept / "generated/secrets", elsewhere / "generated/secrets")
        generate(elsewhere, ELSEWHERE, password, options)
        pack(kept, archive)
        unpack(archive, unpacked, ELSEWHERE)
        differences = {path for path, _ in contents(unpacked) ^ contents(elsewhere)}
        if differences:
            archive.unlink()
            sys.exit(f"{archive.name} is not kept: moved elsewhere, these files would differ: {sorted(differences)}")
    print(f"{archive.relative_to(Path.cwd())}: {archive.stat().st_size // 1024} KiB")


def generate(root: Path, place: Place, password: Path, options: Sequence[str]) -> None:
    root.mkdir(exist_ok=True)
    (root / "cluster.yaml").write_text(SPEC)
    (root / "docker-compose.override.yml").write_text(OVERRIDE)
    cluster = GeneratedCluster(root, place.image, name=place.name, base_port=place.base_port)
    size = ("--memory=7840", "--cpus=2")
    cluster.setup(*cluster.identity(), SERVICES, *size, f"--password-file={password}", "--no-prompt", *options)


def contents(root: Path) -> set[tuple[str, tuple[int, bytes]]]:
    found = set()
    for path in root.rglob("*"):
        if path.name not in {"journal.jsonl", ".citus-cluster.lock"}:
            content = path.read_bytes() if path.is_file() else b""
            found.add((path.relative_to(root).as_posix(), (path.stat().st_mode & 0o777, content)))
    return found


if __name__ == "__main__":
    main()
