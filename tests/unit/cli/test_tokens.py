"""The commands ``tokens``: what they print, what they keep, and what they refuse."""

import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from setup_support import set_up, snapshot

from citus_cluster.cli import program
from citus_cluster.model.api_config import hash_token
from citus_cluster.operations import tokens
from citus_cluster.runtime.store import files

FILE = "generated/config/admin-api/named-tokens.json"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    set_up(tmp_path, {"workers": 1, "services": ["citus", "admin-api"]})
    return tmp_path


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def execute(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["citus-cluster", "tokens", *arguments, f"--dir={root}"])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            program.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return execute


def kept(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((root / FILE).read_text())["tokens"]
    return found


def journal(root: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "generated/journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["operation"].startswith("tokens-")]


def test_a_token_is_printed_once_and_only_its_hash_is_kept(root: Path, run: Run) -> None:
    status, out, err = run("create", "grafana")
    assert status == 0
    token = out.removesuffix("\n")
    assert token.startswith("ccl_") and len(token) == 36
    assert "grafana (role read) is valid until" in err and token not in err
    (one,) = kept(root)
    assert (one["name"], one["role"], one["sha256"]) == ("grafana", "read", hash_token(token))
    created, expires = (datetime.fromisoformat(one[key]) for key in ("created_at", "expires_at"))
    assert expires - created == timedelta(days=90)
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=10)
    for path, (content, _, _) in snapshot(root).items():
        assert token.encode() not in content, path
    assert (root / FILE).stat().st_mode == (root / FILE).with_name("tokens.json").stat().st_mode


def test_json_has_the_token_and_the_list_does_not(root: Path, run: Run) -> None:
    _, out, err = run("create", "deploy", "--role=admin", "--expires=never", "--format=json")
    made = json.loads(out)
    assert (made["name"], made["role"], made["expires_at"], err) == ("deploy", "admin", None, "")
    _, out, _ = run("list", "--format=json")
    listed = {one["name"]: one for one in json.loads(out)["tokens"]}
    assert list(listed) == ["admin", "read", "deploy"]
    assert listed["read"]["file"] == "generated/secrets/admin_api_read_token"
    assert (listed["deploy"]["state"], listed["deploy"]["expires_at"]) == ("valid", None)
    assert made["token"] not in out and hash_token(made["token"]) not in out


def test_the_list_says_which_tokens_have_expired(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "ci", "--expires=1h")
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(tokens, "_now", lambda: later)
    _, out, _ = run("list")
    (line,) = [line for line in out.splitlines() if line.startswith("ci ")]
    assert " expired " in line and " read " in line


def test_a_revoked_token_is_gone_and_a_second_attempt_says_so(root: Path, run: Run) -> None:
    run("create", "one")
    run("create", "two")
    assert run("revoke", "one")[:2] == (0, "Token one was revoked.\n")
    assert [one["name"] for one in kept(root)] == ["two"]
    status, out, err = run("revoke", "one")
    assert (status, out) == (2, "")
    assert "no token 'one'" in err


def test_the_journal_says_who_created_and_revoked_what_without_the_token(root: Path, run: Run) -> None:
    token = run("create", "ci", "--role=admin")[1].strip()
    run("revoke", "ci")
    run("revoke", "ci")
    created, revoked, failed = journal(root)
    assert created["parameters"] == {"name": "ci", "role": "admin", "expires": "90d"}
    assert created["by"]["arguments"][:3] == ["tokens", "create", "ci"]
    assert (revoked["operation"], revoked["outcome"]["role"]) == ("tokens-revoke", "admin")
    assert (failed["result"], failed["error"]) == ("failed", "not-found")
    text = (root / "generated/journal.jsonl").read_text()
    assert token not in text and hash_token(token) not in text


def test_a_later_setup_keeps_the_tokens(root: Path, run: Run) -> None:
    run("create", "ci")
    before = (root / FILE).read_bytes()
    set_up(root, {"workers": 2})
    set_up(root, {"services": ["citus"]})
    assert (root / FILE).read_bytes() == before
    set_up(root, {"services": ["citus", "admin-api"]})
    assert (root / FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("create", "a b"), 2, "not a valid name"),
        (("create", "admin"), 2, "generated/secrets"),
        (("create", "x", "--expires=soon"), 2, "not a valid lifetime"),
        (("create", "x", "--role=root"), 2, "'root' is not one of"),
        (("create",), 2, "NAME"),
        (("create", "taken"), 2, "exists"),
        (("revoke", "take"), 2, "Did you mean 'taken'"),
        (("revoke", "read"), 2, "admin_api_read_token"),
    ],
)
def test_wrong_inputs_change_nothing_and_say_what_to_do(
    root: Path, run: Run, arguments: tuple[str, ...], status: int, told: str
) -> None:
    run("create", "taken")
    before = (root / FILE).read_bytes()
    found, out, err = run(*arguments)
    assert (found, out) == (status, "")
    assert told in " ".join(err.split())
    assert (root / FILE).read_bytes() == before


def test_a_damaged_file_is_not_replaced(root: Path, run: Run) -> None:
    (root / FILE).write_text("{")
    for arguments in (("create", "x"), ("list",), ("revoke", "x")):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert "named-tokens.json" in err
    assert (root / FILE).read_text() == "{"


def test_a_run_at_the_same_time_is_refused(root: Path, run: Run) -> None:
    with files.locked(root):
        status, out, err = run("create", "x")
    assert (status, out) == (1, "")
    assert "Another run" in err
    assert not (root / FILE).exists()


def test_without_the_admin_api_there_are_no_tokens(tmp_path: Path, run: Run) -> None:
    set_up(tmp_path, {"services": ["citus"]})
    status, _, err = run("create", "x")
    assert status == 2
    assert "admin API is not enabled" in err
