"""Who may call: tokens that are created and revoked while the API runs, and limits for each client."""

import hmac
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles, serve
from fastapi import FastAPI
from setup_support import set_up

from admin_api.app import create_app
from admin_api.rate_limits import Rate
from admin_api.settings import Settings
from citus_cluster.cli import program
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.api_tokens import NamedToken, NamedTokens
from citus_cluster.model.token_role import NAMED_TOKENS_FILE, Role

NOW = datetime.now(UTC)
PATH = "/openapi.json"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def named(name: str, role: Role = Role.READ, *, lasts: timedelta | None = None) -> NamedToken:
    """Return a token whose secret is its name."""
    return NamedToken(name, role, hash_token(name), NOW, NOW + lasts if lasts else None)


def keep(files: ApiFiles, *tokens: NamedToken) -> None:
    files.replace(NAMED_TOKENS_FILE, NamedTokens(tokens).to_json())


@pytest.fixture
def api(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> Api:
    return run_api(create_app(files.settings(reconciler=False, connect_timeout_s=0.3)))


def status(api: Api, token: str, method: str = "GET", path: str = PATH) -> int:
    return api.client.request(method, path, headers=bearer(token)).status_code


def test_tokens_are_rotated_while_the_api_runs(api: Api, files: ApiFiles) -> None:
    assert status(api, "old") == 401
    keep(files, named("old"))
    assert status(api, "old") == 200
    keep(files, named("old"), named("new"))
    assert [status(api, "old"), status(api, "new")] == [200, 200]
    keep(files, named("new"))
    assert [status(api, "old"), status(api, "new")] == [401, 200]
    (files.folder / NAMED_TOKENS_FILE).unlink()
    assert [status(api, "new"), status(api, READ_TOKEN), status(api, ADMIN_TOKEN)] == [401, 200, 200]


def test_a_named_token_has_its_role(api: Api, files: ApiFiles) -> None:
    keep(files, named("reader"), named("changer", Role.ADMIN))
    assert status(api, "reader", "POST", "/api/v1/rebalance") == 403
    # The coordinator is away.
    assert status(api, "changer", "POST", "/api/v1/rebalance") == 503
    (line,) = files.journal()
    assert (line["by"]["name"], line["by"]["role"], line["by"]["via"]) == ("changer", "admin", "token")


def test_an_expired_token_is_refused_with_the_reason(api: Api, files: ApiFiles) -> None:
    keep(files, named("ended", lasts=timedelta(seconds=-1)), named("lasts", lasts=timedelta(hours=1)))
    assert status(api, "lasts") == 200
    response = api.client.get(PATH, headers=bearer("ended"))
    assert response.status_code == 401
    assert 'error_description="The token has expired"' in response.headers["www-authenticate"]
    body = response.json()
    assert body["code"] == "token-expired"
    assert "'ended' expired at" in body["detail"] and "UTC" in body["detail"]
    assert "tokens create" in body["hint"]


def test_a_damaged_file_does_not_lock_out_the_tokens_of_the_setup(api: Api, files: ApiFiles) -> None:
    files.replace(NAMED_TOKENS_FILE, '{"tokens": [{"name": "x"}]}')
    assert [status(api, ADMIN_TOKEN), status(api, READ_TOKEN)] == [200, 200]
    response = api.client.get(PATH, headers=bearer("unknown"))
    assert (response.status_code, response.json()["code"]) == (503, "configuration")


@pytest.mark.parametrize("token", ["first", "last", ADMIN_TOKEN, READ_TOKEN, "unknown"])
def test_a_token_is_always_compared_with_every_hash(
    api: Api, files: ApiFiles, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    keep(files, named("first"), named("between", lasts=timedelta(hours=-1)), named("last"))
    compared: list[str | bytes] = []
    compare = hmac.compare_digest

    def count(one: str, other: str) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count)
    status(api, token)
    secrets = (READ_TOKEN, ADMIN_TOKEN, "first", "between", "last")
    assert compared == [hash_token(one) for one in secrets]


def test_what_the_command_creates_and_revokes_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "cluster"
    set_up(root, {"workers": 1, "services": ["citus", "admin-api"]})

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["citus-cluster", "tokens", *arguments, f"--dir={root}"])
        with pytest.raises(SystemExit) as ended:
            program.main()
        assert not ended.value.code
        return capsys.readouterr().out.strip()

    settings = Settings(
        config_dir=root / "generated/config/admin-api",
        password_file=root / "generated/secrets/superuser_password",
        reconciler=False,
    )
    with serve(create_app(settings)) as api:
        token = command("create", "ci", "--role=admin", "--expires=1h")
        assert status(api, token) == 200
        json.loads(command("create", "other", "--format=json"))
        assert status(api, token) == 200
        command("revoke", "ci")
        assert status(api, token) == 401


@pytest.fixture
def limited(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> Api:
    """Three wrong tokens and two changes are allowed, and then one each in a hundred seconds."""
    settings = files.settings(reconciler=False, connect_timeout_s=0.1)
    rates = {"failed_log_ins": Rate(burst=3, per_s=0.01), "changes": Rate(burst=2, per_s=0.01)}
    return run_api(create_app(files.settings(**{**vars(settings), **rates})))


def test_wrong_tokens_are_limited_for_each_address_and_valid_ones_are_not(limited: Api) -> None:
    def guess(client: str) -> int:
        # uvicorn believes this header from the machine itself.
        headers = bearer("guess") | {"X-Forwarded-For": client}
        return limited.client.get(PATH, headers=headers).status_code

    assert [guess("192.0.2.1") for _ in range(5)] == [401, 401, 401, 429, 429]
    assert guess("192.0.2.2") == 401
    valid = limited.client.get(PATH, headers=limited.read | {"X-Forwarded-For": "192.0.2.1"})
    assert valid.status_code == 200
    refused = limited.client.get(PATH, headers=bearer("guess") | {"X-Forwarded-For": "192.0.2.1"})
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "too-many-requests"
    assert 90 < int(refused.headers["retry-after"]) <= 100
    # No token at all is no guess.
    assert limited.client.get(PATH, headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 401


def test_one_machine_has_all_addresses_of_a_network(limited: Api) -> None:
    answers = [
        limited.client.get(PATH, headers=bearer("guess") | {"X-Forwarded-For": f"2001:db8:1:{network}::{number}"})
        for network in (1, 2)
        for number in range(1, 5)
    ]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429] * 2


def test_changes_are_limited_for_each_token_and_reads_are_not(limited: Api, files: ApiFiles) -> None:
    keep(files, named("other", Role.ADMIN))

    def change(token: str) -> int:
        return status(limited, token, "POST", "/api/v1/rebalance")

    assert [change(ADMIN_TOKEN) for _ in range(3)] == [503, 503, 429]
    assert change("other") == 503
    refused = limited.client.post("/api/v1/rebalance", headers=limited.admin)
    assert 90 < int(refused.headers["retry-after"]) <= 100
    assert refused.json()["request_id"]
    assert [status(limited, ADMIN_TOKEN) for _ in range(5)] == [200] * 5
    # A change that is refused for its role is none.
    assert [change(READ_TOKEN) for _ in range(4)] == [403] * 4
    assert len(files.journal()) == 3
