"""The journal: one whole line for each operation, whoever writes, whatever comes of it."""

import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from setup_support import ROOT, set_up

from citus_cluster.errors import ConsentNeededError, InUseError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.citus.rebalance_plan import RebalanceOptions
from citus_cluster.operations.journaled import ADMIN_API, Asker, Journal, of_command, of_container
from citus_cluster.operations.nodes import use_cases
from citus_cluster.runtime.store import journal

WRITER = """
import sys
from pathlib import Path
from citus_cluster.runtime.store import journal
for number in range(200):
    journal.append(Path(sys.argv[1]), {"writer": sys.argv[2], "number": number, "text": "x" * 9000})
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "generated").mkdir()
    return tmp_path


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / journal.JOURNAL_FILE).read_text().splitlines()]


def test_a_line_says_what_was_asked_what_came_of_it_and_who_asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ann")
    with of_command(root, ["rebalance", "start"]).entry("rebalance-start", options=RebalanceOptions()) as entry:
        entry.tell(job_id=7)
    (line,) = lines(root)
    assert list(line) == ["time", "operation", "parameters", "result", "outcome", "duration_s", "by"]
    assert line["parameters"]["options"]["mode"] == "auto"
    assert (line["operation"], line["result"], line["outcome"]) == ("rebalance-start", "done", {"job_id": 7})
    assert line["by"] == {"program": "citus-cluster", "user": "ann", "arguments": ["rebalance", "start"]}
    assert line["duration_s"] >= 0
    assert (root / journal.JOURNAL_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InUseError("It is in use."), {"error": "worker-in-use", "message": "It is in use."}),
        (KeyboardInterrupt(), {"error": "KeyboardInterrupt"}),
        (TimeoutError("of a query with a secret"), {"error": "TimeoutError"}),
    ],
)
def test_what_fails_is_noted_too_with_the_code_of_its_error(
    root: Path, error: BaseException, told: dict[str, str]
) -> None:
    with pytest.raises(type(error)), of_command(root, ()).entry("nodes-remove", node="citus-worker4"):
        raise error
    (line,) = lines(root)
    assert line["result"] == "failed"
    assert {key: line[key] for key in ("error", "message") if key in line} == told


def test_what_had_nothing_to_do_leaves_no_line_nor_does_a_cluster_without_a_directory(root: Path) -> None:
    with of_command(root, ()).entry("setup") as entry:
        entry.is_noted = False
    with of_command(None, ()).entry("rebalance-stop"):
        pass
    with of_command(root / "nothing-here", ()).entry("setup"):
        pass
    assert list(root.rglob("*.jsonl")) == []


def test_lines_of_several_writers_at_once_stay_whole(root: Path) -> None:
    file = root / journal.JOURNAL_FILE
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(one)], cwd=ROOT) for one in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = [(line["writer"], line["number"]) for line in lines(root)]
    assert len(found) == 600
    assert [number for writer, number in found if writer == "1"] == list(range(200))


def test_a_line_that_was_cut_off_takes_no_other_with_it(root: Path) -> None:
    file = root / journal.JOURNAL_FILE
    file.write_text('{"operation": "do')
    journal.append(file, {"operation": "down"})
    assert file.read_text().splitlines() == ['{"operation": "do', '{"operation": "down"}']
    assert journal.last(root, {"down"}) == {"operation": "down"}


def test_a_line_that_cannot_be_written_goes_to_the_log(
    root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (root / "missing/journal.jsonl", root / "generated"):
        caplog.clear()
        with Journal(Asker(ADMIN_API), file, needs_folder=True).entry("add-worker", worker="w:5432"):
            pass
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert '"add-worker"' in record.message and '"w:5432"' in record.message
    monkeypatch.setattr("os.write", lambda descriptor, content: len(content) - 1)
    caplog.clear()
    journal.append(root / journal.JOURNAL_FILE, {"operation": "down"})
    assert "no space left" in caplog.text and '"down"' in caplog.text


def test_a_container_notes_in_its_own_folder_alone(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus", "admin-api"]})
    folder = tmp_path / "generated/journal/admin-api"
    with of_container(folder, Asker(ADMIN_API, request="POST /x", role="admin")).entry("down"):
        pass
    (line,) = (json.loads(one) for one in (folder / "journal.jsonl").read_text().splitlines())
    assert line["by"] == {"program": "admin-api", "request": "POST /x", "role": "admin"}
    # Another user than the directory's owner has written it; nobody else gets through the folder above.
    assert (folder / "journal.jsonl").stat().st_mode & 0o777 == 0o644
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / journal.JOURNAL_FILE).exists()
    # Whoever takes over the container writes there what he likes.
    assert journal.last(tmp_path, {"down"}) is None


def test_a_folder_whose_mode_was_lost_gets_it_again(root: Path) -> None:
    folder = root / "generated/journal/admin-api"
    for _ in range(2):
        journal.make_folder(root, "admin-api")
        assert [path.stat().st_mode & 0o777 for path in (folder.parent, folder)] == [0o700, 0o777]
        folder.chmod(0o755)
        folder.parent.chmod(0o755)


def test_only_a_service_that_changes_the_cluster_has_a_folder(tmp_path: Path) -> None:
    set_up(tmp_path, {"workers": 1, "services": ["citus", "redis"]})
    assert not (tmp_path / "generated/journal").exists()


def test_nobody_is_removed_unless_somebody_agrees(root: Path) -> None:
    asked: list[Any] = []
    plan = SimpleNamespace(nothing_to_do=False, departure=SimpleNamespace(address=NodeAddress("citus-worker4")))

    async def on_coordinator(work: Any, /) -> Any:
        if asked:
            raise AssertionError("something was done to the cluster")
        return plan

    def disagree(shown: Any) -> bool:
        asked.append(shown)
        return False

    work = use_cases.remove(
        on_coordinator, of_command(root, ()), root, "citus-worker4", lambda event: None, force=False, agree=disagree
    )
    with pytest.raises(ConsentNeededError, match="not confirmed"):
        asyncio.run(work)
    assert asked == [plan]
    (line,) = lines(root)
    assert (line["operation"], line["result"], line["error"]) == ("nodes-remove", "failed", "consent-needed")
    assert line["outcome"] == {"address": "citus-worker4:5432", "nothing_to_do": False}
