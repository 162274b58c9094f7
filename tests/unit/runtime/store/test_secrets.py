import importlib
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from setup_support import ROOT

from citus_cluster.errors import ImmutableError, UsageError
from citus_cluster.model.component_name import ALL, ComponentName
from citus_cluster.model.components import redis
from citus_cluster.runtime.store import secrets

CITUS = (ComponentName.CITUS,)
WITH_API = (ComponentName.CITUS, ComponentName.ADMIN_API)
NASTY = 'it\'s "q" $HOME ${X} #no \\n `id` %s {{x}} pässwörd 密码 🔑 end '


def save(root: Path, made: secrets.Secrets) -> None:
    for path, wanted in made.files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(wanted.content)
        target.chmod(wanted.mode)


def test_secrets_are_random_long_and_need_no_quoting() -> None:
    made = {secrets.generate() for _ in range(100)}
    assert len(made) == 100
    assert all(len(text) == 32 and text.isalnum() and text.isascii() for text in made)


def test_once_made_they_are_kept(tmp_path: Path) -> None:
    first = secrets.prepare(tmp_path, given_password=None, wanted=WITH_API)
    assert len({*first.values.values()}) == len(first.values) == 3
    save(tmp_path, first)
    second = secrets.prepare(tmp_path, given_password=None, wanted=WITH_API)
    assert second.values == first.values
    assert second.files == {}


def test_a_given_password_is_kept_byte_for_byte(tmp_path: Path) -> None:
    save(tmp_path, secrets.prepare(tmp_path, given_password=NASTY, wanted=CITUS))
    assert (tmp_path / secrets.SUPERUSER_PASSWORD).read_bytes() == NASTY.encode()
    assert secrets.prepare(tmp_path, given_password=NASTY, wanted=CITUS).files == {}
    assert secrets.prepare(tmp_path, given_password=None, wanted=CITUS).superuser_password == NASTY


def test_another_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    save(tmp_path, secrets.prepare(tmp_path, given_password="first-secret", wanted=CITUS))
    with pytest.raises(ImmutableError) as caught:
        secrets.prepare(tmp_path, given_password="second-secret", wanted=CITUS)
    told = f"{caught.value.message} {caught.value.hint}"
    assert "first-secret" not in told
    assert "second-secret" not in told


@pytest.mark.parametrize("password", ["", "a\nb", "a\0b", "a\rb"])
def test_what_cannot_be_a_password(tmp_path: Path, password: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        secrets.prepare(tmp_path, given_password=password, wanted=CITUS)


def test_secrets_never_show_in_a_representation(tmp_path: Path) -> None:
    made = secrets.prepare(tmp_path, given_password="the-secret", wanted=WITH_API)
    assert "the-secret" not in repr(made)
    assert made.values[secrets.ADMIN_TOKEN] not in repr(made)


def data_classes() -> Iterator[type[Any]]:
    """Every data class of every package."""
    for package in ("citus_cluster", "admin_api"):
        for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if found.name.endswith("__main__"):
                continue
            module = importlib.import_module(found.name)
            for one in vars(module).values():
                if isinstance(one, type) and is_dataclass(one) and one.__module__ == module.__name__:
                    yield one


def test_no_data_class_shows_a_field_that_may_hold_a_secret() -> None:
    """An error, a log line or a failed assertion may show any of them."""
    secret = re.compile(r"(^|_)(password|passwords|secret|secrets|token|tokens|dsn)$")
    # The one has no password, the others our own sources, and a question that needs no login.
    allowed = {"PromotionDocument.dsn", "Sources.contexts", "AsksTcp.question"}
    checked = set()
    for one in data_classes():
        for member in fields(one):
            name, kind = f"{one.__name__}.{member.name}", str(member.type)
            is_secret = secret.search(member.name) and re.search(r"\b(str|Mapping|dict)\b", kind)
            # Contents of files are bytes.
            if (is_secret or "bytes" in kind) and name not in allowed:
                checked.add(name)
                assert not member.repr, f"{name} shows in a representation"
    assert {"ConnectionInfo.password", "Directory.password", "SetupRequest.password", "WantedFile.content"} <= checked


def test_only_the_folder_hides_what_the_api_reads(tmp_path: Path) -> None:
    with_api = secrets.prepare(tmp_path, given_password="x", wanted=WITH_API)
    assert {path.rpartition("/")[2]: wanted.mode for path, wanted in with_api.files.items()} == {
        "superuser_password": 0o644,
        "admin_api_token": 0o600,
        "admin_api_read_token": 0o600,
    }
    everything = secrets.prepare(tmp_path, given_password="x", wanted=ALL)
    assert {path.rpartition("/")[2] for path, wanted in everything.files.items() if wanted.mode == 0o644} == {
        "superuser_password",
        "pg14_password",
        "redis_password",
        "cassandra_password",
    }
    without = secrets.prepare(tmp_path, given_password="x", wanted=CITUS)
    assert {wanted.mode for wanted in without.files.values()} == {0o600}
    assert set(without.values) == {secrets.SUPERUSER_PASSWORD}


def test_what_a_health_check_without_root_reads_is_hidden_by_the_folder_alone(tmp_path: Path) -> None:
    made = secrets.prepare(
        tmp_path, given_password="x", wanted=(ComponentName.PG14, ComponentName.REDIS, ComponentName.CASSANDRA)
    )
    modes = {path.rpartition("/")[2]: wanted.mode for path, wanted in made.files.items()}
    assert [name for name, mode in modes.items() if mode != 0o600] == ["redis_password", "cassandra_password"]
    assert len(set(made.values.values())) == len(made.values) == 5


def test_a_service_that_is_switched_off_keeps_its_secret(tmp_path: Path) -> None:
    first = secrets.prepare(tmp_path, given_password=None, wanted=(ComponentName.REDIS,))
    save(tmp_path, first)
    save(tmp_path, secrets.prepare(tmp_path, given_password=None, wanted=CITUS))
    again = secrets.prepare(tmp_path, given_password=None, wanted=(ComponentName.REDIS,))
    assert (again.values, again.files) == (first.values, {})


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_end_of_an_editor_does_not_count(tmp_path: Path, end: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(f" a b {end}".encode())
    assert secrets.read_password_file(file) == " a b "
    saved = tmp_path / secrets.SUPERUSER_PASSWORD
    saved.parent.mkdir(parents=True)
    saved.write_bytes(f" a b {end}".encode())
    assert secrets.saved(tmp_path, secrets.SUPERUSER_PASSWORD) == " a b "


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_set_up_takes_the_line_end_out_of_the_file(tmp_path: Path, end: str) -> None:
    first = secrets.prepare(tmp_path, given_password=NASTY, wanted=WITH_API)
    save(tmp_path, first)
    for path, wanted in first.files.items():
        (tmp_path / path).write_bytes(wanted.content + end.encode())
    again = secrets.prepare(tmp_path, given_password=NASTY, wanted=WITH_API)
    assert (again.values, again.files) == (first.values, first.files)
    save(tmp_path, again)
    assert secrets.prepare(tmp_path, given_password=None, wanted=WITH_API).files == {}


@pytest.mark.parametrize("content", ["\n", "\r\n", "sesame\n\n", "sesame\r\n\r\n", "sesame\nopen"])
def test_a_saved_password_of_several_lines_or_none_is_refused(tmp_path: Path, content: str) -> None:
    target = tmp_path / redis.PASSWORD.path
    target.parent.mkdir(parents=True)
    target.write_bytes(content.encode())
    with pytest.raises(UsageError, match="redis_password cannot be used") as caught:
        secrets.prepare(tmp_path, given_password=None, wanted=(ComponentName.REDIS,))
    assert "sesame" not in f"{caught.value} {caught.value.hint}"


def test_a_password_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        secrets.read_password_file(tmp_path / "none")
    with pytest.raises(UsageError, match="Is a directory"):
        secrets.read_password_file(tmp_path)
    (tmp_path / "latin1").write_bytes(b"p\xe4ss")
    with pytest.raises(UsageError, match="not UTF-8"):
        secrets.read_password_file(tmp_path / "latin1")


def test_a_damaged_saved_password_is_told(tmp_path: Path) -> None:
    target = tmp_path / secrets.SUPERUSER_PASSWORD
    target.parent.mkdir(parents=True)
    target.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"superuser_password is not UTF-8"):
        secrets.prepare(tmp_path, given_password=None, wanted=CITUS)
