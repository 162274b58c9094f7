"""Which of a user's files become the public keys of the admin API, and how they get there."""

import json
from pathlib import Path
from typing import Any

import pytest
from setup_support import set_up

from citus_cluster.errors import SpecError, UsageError
from citus_cluster.model import names
from citus_cluster.model.jwt_keys import MAX_KEYS_BYTES, keys_problem
from citus_cluster.model.spec import API_VERSION
from citus_cluster.model.spec_reading import parse_spec

PUBLIC = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
COPY = "generated/config/admin-api/jwt-keys"


@pytest.mark.parametrize(
    "text",
    [
        PUBLIC,
        PUBLIC.replace("PUBLIC KEY", "CERTIFICATE"),
        '{"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]}',
        '{"kty": "OKP", "crv": "Ed25519", "x": "y"}',
        '{"keys": [{"kty": "unknown"}, {"kty": "EC"}]}',
    ],
)
def test_public_keys_are_accepted(text: str) -> None:
    assert keys_problem(text) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "neither"),
        ("hello", "neither"),
        ("[" * 100_000, "neither"),
        ("[]", "list of keys"),
        ('{"keys": {}}', "list of keys"),
        ('{"keys": []}', "no public key"),
        (PUBLIC.replace("PUBLIC", "PRIVATE"), "private key"),
        (PUBLIC.replace("PUBLIC", "EC PRIVATE"), "private key"),
        (PUBLIC + PUBLIC.replace("PUBLIC", "PRIVATE"), "private key"),
        (PUBLIC.replace("PUBLIC KEY", "PGP MESSAGE"), "BEGIN PUBLIC KEY"),
        ('{"keys": [{"kty": "RSA", "n": "x", "e": "y", "d": "the secret"}]}', "private or symmetric"),
        ('{"keys": [{"kty": "oct", "k": "the secret"}]}', "private or symmetric"),
        (" " * (MAX_KEYS_BYTES + 1), "larger than 256 kB"),
    ],
)
def test_another_file_is_refused_without_repeating_it(text: str, told: str) -> None:
    problem = keys_problem(text)
    assert problem and told in problem
    assert "the secret" not in problem


@pytest.mark.parametrize(
    "origin", ["https://a.example.com", "http://localhost:3000", "https://10.0.0.1:8443", "http://[::1]:3000"]
)
def test_origins_as_browsers_send_them(origin: str) -> None:
    assert names.origin_problem(origin) is None


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "*",
        "null",
        "a.example.com",
        "https://",
        "https://*.example.com",
        "https://a.example.com/",
        "https://A.example.com",
        "https://user@a.example.com",
        "https://a.example.com:443",
        "http://a.example.com:80",
        "https://a.example.com:99999",
        "ftp://a.example.com",
        "https://a.example.com\n",
    ],
)
def test_another_origin_would_never_match(origin: str) -> None:
    assert repr(origin) in (names.origin_problem(origin) or "")


@pytest.mark.parametrize(
    "source",
    [
        "https://issuer.example.com/jwks?x=1",
        "http://keycloak:8080/realms/x/certs",
        "http://10.0.0.1/jwks",
        "http://127.0.0.1:1/",
        "keys/issuer.pem",
        "/etc/keys/jwks.json",
    ],
)
def test_keys_come_from_a_url_or_a_file(source: str) -> None:
    assert names.key_source_problem(source) is None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "neither"),
        ("ftp://a/b", "neither"),
        ("a\nb", "neither"),
        ("https://", "not a URL"),
        ("https://a b/c", "not a URL"),
        ("https://a:99999/", "not a URL"),
        ("https://user:password@a.example.com/", "without a password"),
        ("https://[::1/", "not a URL"),
        ("http://issuer.example.com/jwks", "not protected"),
        ("http://93.184.216.34/jwks", "not protected"),
    ],
)
def test_other_sources_of_keys_are_refused(source: str, told: str) -> None:
    assert told in (names.key_source_problem(source) or "")


def values(keys: str, **more: Any) -> dict[str, Any]:
    jwt = {"issuer": "https://i.example.com", "audience": "a", "keys": keys, "admin_values": ["x"], **more}
    return {"services": ["citus", "admin-api"], "admin_api.jwt": jwt}


def written(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "generated/config/admin-api/cluster.json").read_text())
    return found


def test_a_file_is_copied_to_where_the_container_reads_it(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/issuer.pem").write_text(PUBLIC)
    set_up(tmp_path, values("keys/issuer.pem"))
    assert (tmp_path / COPY).read_text() == PUBLIC
    assert written(tmp_path)["jwt"] == {
        "issuer": "https://i.example.com",
        "audience": "a",
        "keys_url": None,
        "role_claim": "role",
        "admin_values": ["x"],
        "read_values": [],
    }
    assert set_up(tmp_path).nothing_to_do
    (tmp_path / "keys/issuer.pem").write_text(PUBLIC.replace("AAAA", "BBBB"))
    assert not set_up(tmp_path).nothing_to_do
    assert "BBBB" in (tmp_path / COPY).read_text()
    # A copy of the directory may lack it.
    (tmp_path / "keys/issuer.pem").unlink()
    assert set_up(tmp_path).nothing_to_do
    assert "BBBB" in (tmp_path / COPY).read_text()


def test_a_url_needs_no_file(tmp_path: Path) -> None:
    set_up(tmp_path, values("https://i.example.com/jwks"))
    assert written(tmp_path)["jwt"]["keys_url"] == "https://i.example.com/jwks"
    assert not (tmp_path / COPY).exists()


def test_a_file_that_is_missing_or_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.pem, which cluster\.yaml names, does not exist"):
        set_up(tmp_path, values("none.pem"))
    (tmp_path / "secret.pem").write_text(PUBLIC.replace("PUBLIC", "PRIVATE"))
    with pytest.raises(UsageError, match="private key"):
        set_up(tmp_path, values("secret.pem"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        set_up(tmp_path, values("binary"))
    assert not (tmp_path / "generated").exists()


def test_a_claim_that_gives_no_role_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        set_up(tmp_path, values("https://i.example.com/jwks", admin_values=[]))
    assert "no value of the claim 'role' gives a role" in refused.value.details[0]
    with pytest.raises(SpecError) as refused:
        wrong = {"cors_origins": ["*"], "public_origins": ["https://a.example/citus"], "jwt": {"issuer": "x"}}
        parse_spec({"apiVersion": API_VERSION, "admin_api": wrong})
    told = "\n".join(refused.value.details)
    assert "'*' is not the origin" in told
    assert "'https://a.example/citus' is not the origin" in told
    assert "admin_api.jwt.audience" in told


def test_a_cluster_without_these_settings_is_written_as_before(tmp_path: Path) -> None:
    set_up(tmp_path, {"services": ["citus", "admin-api"]})
    assert "\nadmin_api:" not in (tmp_path / "cluster.yaml").read_text()
    now = written(tmp_path)
    assert (now["cors_origins"], now["public_origins"], now["jwt"]) == ([], [], None)
