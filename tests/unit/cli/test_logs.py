"""The command ``logs`` on a terminal: JSON lines become text that a person can read."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from setup_support import set_up

from citus_cluster.cli import program
from citus_cluster.model.log_records import json_line
from citus_cluster.operations.start import preflight

PREFIX = "admin-api  | "


def test_a_terminal_shows_json_lines_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus", "admin-api"]})
    lines = [
        PREFIX + json_line(0.0, "WARNING", "admin_api.reconciler", "worker w:5432 \x1b[31m", {"request_id": "r"}),
        "citus-coordinator  | LOG:  database system is ready",
    ]
    monkeypatch.setattr(preflight, "compose_of", lambda directory: SimpleNamespace(read_lines=lambda *words: lines))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "argv", ["citus-cluster", "logs", f"--dir={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert not ended.value.code
    assert capsys.readouterr().out.splitlines() == [
        rf"{PREFIX}1970-01-01T00:00:00.000+00:00 WARNING admin_api.reconciler: worker w:5432 \x1b[31m (request_id=r)",
        lines[1],
    ]
