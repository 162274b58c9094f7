import asyncio
from pathlib import Path

import pytest

from citus_cluster.runtime.docker.compose import (
    Compose,
    ComposeError,
    ComposeMissingError,
    clean_environment,
    parse_env_names,
    parse_version,
    version,
)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("2.40.3-3", (2, 40, 3)),
        ("v2.20.2\n", (2, 20, 2)),
        ("2.31.0-desktop.2", (2, 31, 0)),
        ("5.0", (5, 0, 0)),
        ("20.10.24+dfsg1", (20, 10, 24)),
        ("dev", None),
        ("", None),
    ],
)
def test_versions_are_read_as_distributions_write_them(text: str, parsed: tuple[int, ...] | None) -> None:
    assert parse_version(text) == parsed


def test_the_environment_cannot_steer_compose_elsewhere() -> None:
    environment = {
        "PATH": "/bin",
        "HOME": "/home/u",
        "DOCKER_HOST": "unix:///x",
        "https_proxy": "http://proxy",
        "MINE": "kept for a file of the user's own",
        "COMPOSE_FILE": "other.yml",
        "COMPOSE_PROJECT_NAME": "other",
        "POSTGRES_PASSWORD": "secret",
        "CITUS_CLUSTER_PASS": "secret",
        "ADMIN_API_PORT": "9",
    }
    kept = clean_environment(environment, ["ADMIN_API_PORT"])
    assert kept == {
        "PATH": "/bin",
        "HOME": "/home/u",
        "DOCKER_HOST": "unix:///x",
        "https_proxy": "http://proxy",
        "MINE": "kept for a file of the user's own",
        "COMPOSE_IGNORE_ORPHANS": "1",
    }


def test_names_in_an_env_file_are_found() -> None:
    assert parse_env_names("# A=1\nB=2\n export C = 3\n\nD\nE_1=") == {"B", "C", "E_1"}


def test_the_command_names_project_files_and_profiles(tmp_path: Path) -> None:
    command = Compose(tmp_path, "shop", ("citus", "admin-api"))
    assert command.argv("up", "-d") == (
        *("docker", "compose", "--ansi", "never", "-p", "shop", "--project-directory", str(tmp_path)),
        *("-f", str(tmp_path / "docker-compose.yml"), "--env-file", str(tmp_path / ".env")),
        *("--profile", "citus", "--profile", "admin-api", "up", "-d"),
    )
    assert command.argv("down", profiles=("*",))[-3:] == ("--profile", "*", "down")


def test_an_override_file_is_taken_as_compose_itself_takes_it(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.override.yml").touch()
    command = Compose(tmp_path, "shop", ("citus",))
    assert str(tmp_path / "docker-compose.override.yml") in command.argv("up")
    (tmp_path / "compose.override.yaml").touch()
    assert str(tmp_path / "compose.override.yaml") in command.argv("up")
    assert str(tmp_path / "docker-compose.override.yml") not in command.argv("up")


def _program(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_missing_docker_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeMissingError, match="docker is not installed") as caught:
        asyncio.run(version())
    assert caught.value.hint


def test_compose_v1_alone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "docker", "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1")
    _program(tmp_path, "docker-compose", "echo 1.29.2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeMissingError, match=r"only docker-compose 1\.29\.2 exists"):
        asyncio.run(version())


@pytest.mark.parametrize(("text", "accepted"), [("2.20.1", False), ("2.20.2", True), ("v5.1.0", True)])
def test_the_least_version_is_2_20_2(
    text: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path, "docker", f"echo {text}")
    monkeypatch.setenv("PATH", str(tmp_path))
    if accepted:
        assert asyncio.run(version()) == text
    else:
        with pytest.raises(ComposeMissingError, match="too old"):
            asyncio.run(version())


def test_a_failed_command_keeps_what_it_was_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path, "docker", "echo ' Container a  Starting' >&2; echo 'Error: no such network' >&2; exit 17")
    monkeypatch.setenv("PATH", str(tmp_path))
    lines: list[str] = []
    with pytest.raises(ComposeError, match=r"docker compose up failed.*17.*no such network") as caught:
        asyncio.run(Compose(tmp_path, "shop", ("citus",)).up(lines.append))
    assert caught.value.status == 17
    assert caught.value.argv[:2] == ("docker", "compose")
    assert lines == list(caught.value.details) == ["Container a  Starting", "Error: no such network"]
