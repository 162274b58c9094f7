"""Every script and every snippet that reads a secret's file leaves off the line end that an editor adds."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from setup_support import ROOT

SECRET = ' it\'s "p" $HOME \\n `id` % ä '
ENDS = ["", "\n", "\r\n"]
# Their words in a shell: between $( and ), or psql's backticks.
_READERS = re.compile(r"\$\(([^()\n]*(?:/run|generated)/secrets/[^()\n]*)\)|`([^`\n]*/run/secrets/[^`\n]*)`")
_SNIPPETS = re.compile(r"\$\(([^()\n]*(?:/run|generated)/secrets/[^()\n]*)\)")
_NAMED = re.compile(r"/run/secrets/\w")


def script_readers() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "config").glob("*.sh")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if _NAMED.search(line) and not line.lstrip().startswith("#"):
                found = _READERS.search(line)
                assert found, f"{path.name} reads a secret in a way that this test does not know: {line}"
                yield path.name, found[1] or found[2]


@pytest.mark.parametrize(("script", "reader"), list(script_readers()))
def test_a_script_leaves_one_line_end_off(tmp_path: Path, script: str, reader: str) -> None:
    file = tmp_path / "secret"
    command = re.sub(r"/run/secrets/\w+", str(file), reader)
    for end in ENDS:
        file.write_bytes((SECRET + end).encode())
        done = subprocess.run(
            ["sh", "-c", f'set -e; secret=$({command}); printf "[%s]" "$secret"'], capture_output=True
        )
        assert done.stdout == f"[{SECRET}]".encode(), (script, end, done.stderr)
    file.unlink()
    done = subprocess.run(["sh", "-c", f"secret=$({command}) || exit 9"], capture_output=True)
    assert done.returncode == 9, "a secret that is missing must not be an empty password"


def test_every_script_that_needs_a_secret_is_among_them() -> None:
    assert {script for script, _ in script_readers()} == {
        "cassandra-start.sh",
        "healthcheck.sh",
        "pg14-healthcheck.sh",
        "pg14-start.sh",
        "pgbouncer-healthcheck.sh",
        "pgbouncer-start.sh",
        "redis-healthcheck.sh",
    }


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_snippets_leave_one_line_end_off(tmp_path: Path, document: Path) -> None:
    """A set-up takes a CR out of the files; a LF must not hurt in between either."""
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    text = document.read_text(encoding="utf-8")
    for found in _SNIPPETS.finditer(text):
        command = re.sub(r"(?:/run|generated)/secrets/[\w/]+", str(file), found[1])
        done = subprocess.run(["sh", "-c", f'secret=$({command}); printf "[%s]" "$secret"'], capture_output=True)
        assert done.stdout == f"[{SECRET}]".encode(), found[0]
    for line in text.splitlines():
        if "secrets/" in line and "read_text()" in line:
            assert 'read_text().rstrip("\\r\\n")' in line, line
