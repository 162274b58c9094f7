"""JWTs of the user's own issuer: real keys, a real server for the JWKS, and everything that is refused."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import issuer
import jwt
import pytest
from api_support import Api, ApiFiles, serve
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI
from issuer import EC, ED, LIFE_S, RSA, JwksServer, jwk, jwks, pem, token
from waiting import eventually

from admin_api.app import create_app
from admin_api.jwt_keys import IssuerError, UrlKeys, fetch, parse_keys
from admin_api.rate_limits import Rate
from citus_cluster.errors import SpecError
from citus_cluster.model.api_config import JWT_KEYS_FILE, ApiConfig, JwtConfig
from citus_cluster.model.citus.nodes import NodeAddress

PATH = "/openapi.json"
CONFIG = JwtConfig(issuer.ISSUER, issuer.AUDIENCE, None, "role", ("owner", "dba"), ("viewer",))


def configure(files: ApiFiles, config: JwtConfig | None) -> None:
    current = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())
    files.write_cluster(replace(current, jwt=config))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, nobody: NodeAddress) -> ApiFiles:
    """The files of all APIs here; each test writes its own configuration, which they follow."""
    return ApiFiles.of_cluster(tmp_path_factory.mktemp("jwt"), nobody)


@pytest.fixture(scope="module")
def running(files: ApiFiles) -> Iterator[Api]:
    with serve(create_app(files.settings(connect_timeout_s=0.1, reconciler=False))) as api:
        yield api


@pytest.fixture
def start(files: ApiFiles, running: Api) -> Callable[..., Api]:
    """Give the running API other keys."""

    def start(config: JwtConfig = CONFIG, keys: str | None = None) -> Api:
        configure(files, config)
        if keys:
            files.replace(JWT_KEYS_FILE, keys)
        return running

    return start


@pytest.fixture
def start_anew(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> Callable[..., Api]:
    """Start an API with settings of its own."""

    def start(config: JwtConfig = CONFIG, keys: str | None = None, **settings: object) -> Api:
        configure(files, config)
        if keys:
            files.replace(JWT_KEYS_FILE, keys)
        fast = {"connect_timeout_s": 0.1, "jwks_interval_s": 0, "jwks_timeout_s": 5, "reconciler": False}
        return run_api(create_app(files.settings(**{**fast, **settings})))

    return start


@pytest.fixture
def server() -> Iterator[JwksServer]:
    with issuer.jwks_server() as server:
        yield server


def ask(api: Api, text: str, method: str = "GET", path: str = PATH) -> httpx.Response:
    return api.client.request(method, path, headers={"Authorization": f"Bearer {text}"})


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (pem(), token(kid=None)),
        (pem(), token()),
        (pem(), token(algorithm="PS512")),
        (pem(EC), token(EC, "ES256")),
        (pem(ED), token(ED, "EdDSA")),
        (jwks(jwk(EC, "two"), jwk(RSA, "one", alg="RS256", use="sig")), token()),
        (jwks(jwk(EC, "two"), jwk(RSA, "one")), token(EC, "ES256", kid="two")),
        (jwks(jwk(RSA, "other"), jwk(EC, "two")), token(kid=None)),
        (json.dumps(jwk(ED, None)), token(ED, "EdDSA")),
    ],
    ids=["pem", "pem, any id", "PS512", "ES256", "EdDSA", "by id", "another id", "without id", "one JWK"],
)
def test_a_token_of_the_issuer_is_accepted(start: Callable[..., Api], keys: str, text: str) -> None:
    api = start(keys=keys)
    # The second time it is known.
    assert [ask(api, text).status_code for _ in range(2)] == [200, 200]
    assert ask(api, api.read["Authorization"].split()[1]).status_code == 200


def test_the_claim_decides_the_role_and_the_journal_names_the_subject(
    start: Callable[..., Api], files: ApiFiles
) -> None:
    api = start(keys=pem())
    assert ask(api, token(), "POST", "/api/v1/rebalance").status_code == 403
    # The coordinator is away.
    assert ask(api, token(role=["viewer", "dba"]), "POST", "/api/v1/rebalance").status_code == 503
    line = files.journal()[-1]
    assert (line["by"]["name"], line["by"]["role"], line["by"]["via"]) == ("ann", "admin", "jwt")


@pytest.mark.parametrize(
    ("claim", "more", "status"),
    [
        ("role", {"role": "viewer"}, 200),
        ("role", {"role": "a viewer b"}, 200),
        ("role", {"role": "Viewer"}, 403),
        ("role", {"role": None}, 403),
        ("role", {"role": 7}, 403),
        ("role", {"role": [["viewer"], {"viewer": 1}, None]}, 403),
        ("realm.roles", {"realm": {"roles": ["x", "viewer"]}}, 200),
        ("realm.roles", {"realm": "viewer"}, 403),
        ("https://example.com/roles", {"https://example.com/roles": ["viewer"]}, 200),
    ],
)
def test_a_role_is_found_in_a_text_a_list_or_an_object(
    start: Callable[..., Api], claim: str, more: dict[str, Any], status: int
) -> None:
    api = start(replace(CONFIG, role_claim=claim), pem())
    response = ask(api, token(**{"role": None, **more}))
    assert response.status_code == status
    if status == 403:
        assert claim in response.json()["detail"]


def unsigned(header: dict[str, Any], body: dict[str, Any] | None = None) -> str:
    parts = (json.dumps(part).encode() for part in (header, body or issuer.claims()))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."


def tampered() -> str:
    head, _, signature = token().split(".")
    _, body, _ = token(role="owner").split(".")
    return f"{head}.{body}.{signature}"


NOW = int(time.time())
# PyJWT itself refuses to make a token whose secret is a public key, so this is made by hand.
CONFUSED = unsigned({"alg": "HS256", "typ": "JWT", "kid": "one"}) + "c2lnbmVkIHdpdGggdGhlIHB1YmxpYyBrZXk"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (unsigned({"alg": "none", "typ": "JWT", "kid": "one"}), "algorithm"),
        (unsigned({"alg": "None", "typ": "JWT", "kid": "one"}), "algorithm"),
        (CONFUSED, "algorithm"),
        (jwt.encode(issuer.claims(), "a secret of 32 characters at least", "HS256", {"kid": "one"}), "algorithm"),
        (token(algorithm="RS512"), "algorithm"),
        (token(EC, "ES256"), "algorithm"),
        (token(kid="another"), "its key"),
        (token(rsa.generate_private_key(public_exponent=65537, key_size=2048)), "signature"),
        (tampered(), "signature"),
        (token(exp=None), "'exp'"),
        (token(sub=None), "'sub'"),
        (token(aud=None), "'aud'"),
        (token(iss=None), "'iss'"),
        (token(aud="another"), "audience"),
        (token(iss="https://issuer.example.com"), "issuer"),
        (token(nbf=NOW + LIFE_S // 2), "not valid yet"),
        (token(exp="soon"), "malformed"),
        (unsigned({"alg": "RS256", "kid": ["one"]}), "malformed"),
        (unsigned({"alg": "RS256", "kid": "one", "crit": ["x"], "x": 1}), "malformed"),
        (unsigned({"alg": 256}), "malformed"),
        ("eyJ.eyJ.", "malformed"),
        ("eyJ..", "malformed"),
        (token(padding="x" * 9000), "larger than 8 kB"),
    ],
)
def test_another_token_is_refused_with_the_reason(start: Callable[..., Api], text: str, told: str) -> None:
    response = ask(start(keys=jwks(jwk(RSA, "one", alg="RS256"))), text)
    assert response.status_code == 401, response.text
    assert response.json()["detail"].startswith("The JWT is not valid: ")
    assert told in response.json()["detail"]
    assert 'error="invalid_token"' in response.headers["www-authenticate"]


def test_an_expired_token_says_so_with_a_small_leeway(start: Callable[..., Api]) -> None:
    api = start(keys=pem())
    assert ask(api, token(exp=int(time.time()) - 10)).status_code == 200
    response = ask(api, token(exp=int(time.time()) - 60))
    assert (response.status_code, response.json()["code"]) == (401, "token-expired")


def test_without_a_configured_issuer_no_jwt_is_accepted(start: Callable[..., Api], files: ApiFiles) -> None:
    api = start(keys=pem())
    text = token()
    assert ask(api, text).status_code == 200
    configure(files, replace(CONFIG, audience="another"))
    assert ask(api, text).status_code == 401
    configure(files, None)
    response = ask(api, text)
    assert (response.status_code, response.json()["detail"]) == (401, "The token is invalid.")


def test_keys_in_a_file_are_replaced_while_the_api_runs(start: Callable[..., Api], files: ApiFiles) -> None:
    api = start(keys=jwks(jwk(RSA, "one")))
    text = token()
    assert ask(api, text).status_code == 200
    files.replace(JWT_KEYS_FILE, jwks(jwk(RSA, "two"), jwk(EC, "one")))
    # It was verified before, but its key is gone.
    assert ask(api, text).status_code == 401
    assert ask(api, token(kid="two")).status_code == 200
    for content in ("no keys", jwks(), pem(ec.generate_private_key(ec.SECP192R1()))):
        files.replace(JWT_KEYS_FILE, content)
        response = ask(api, text)
        assert (response.status_code, response.json()["code"]) == (503, "configuration")
        assert ask(api, api.read["Authorization"].split()[1]).status_code == 200


def test_wrong_jwts_count_as_guesses_and_good_ones_pass(start_anew: Callable[..., Api]) -> None:
    api = start_anew(keys=pem(), failed_log_ins=Rate(burst=2, per_s=0.001))
    assert [ask(api, tampered()).status_code for _ in range(4)] == [401, 401, 429, 429]
    assert ask(api, token()).status_code == 200


# From here on, the keys come from the issuer itself.


def with_url(server: JwksServer) -> JwtConfig:
    return replace(CONFIG, keys_url=server.url)


def test_the_keys_are_fetched_once_and_again_for_an_unknown_key(
    start_anew: Callable[..., Api], server: JwksServer
) -> None:
    server.body = jwks(jwk(RSA, "one"))
    api = start_anew(with_url(server))
    assert server.asked == 0
    assert [ask(api, token(jti=str(number))).status_code for number in range(5)] == [200] * 5
    assert server.asked == 1
    # The issuer rotates its key.
    server.body = jwks(jwk(RSA, "one"), jwk(EC, "two"))
    assert ask(api, token(EC, "ES256", kid="two")).status_code == 200
    assert server.asked == 2


def test_the_request_to_the_issuer_continues_the_trace(start_anew: Callable[..., Api], server: JwksServer) -> None:
    server.body = jwks(jwk(RSA, "one"))
    api = start_anew(with_url(server))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"Authorization": f"Bearer {token()}", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answered = api.client.get(PATH, headers=headers).headers["traceparent"]
    assert answered.split("-")[1::2] == [trace, "01"]
    # A new key, and a request without a trace, which gets one of its own.
    own = ask(api, token(kid="unknown")).headers["traceparent"]
    assert trace not in own
    assert server.traceparents == [answered, own]


def test_unknown_keys_cannot_make_it_ask_all_the_time(start_anew: Callable[..., Api], server: JwksServer) -> None:
    server.body = jwks(jwk(RSA, "one"))
    api = start_anew(with_url(server), jwks_interval_s=3600)
    assert [ask(api, token(kid=f"invented{number}")).status_code for number in range(10)] == [401] * 10
    assert ask(api, token()).status_code == 200
    assert server.asked == 1


def test_old_keys_are_read_again_behind_the_requests(start_anew: Callable[..., Api], server: JwksServer) -> None:
    server.body = jwks(jwk(RSA, "one"))
    api = start_anew(with_url(server), jwks_life_s=0)
    text = token()
    assert ask(api, text).status_code == 200
    server.body = jwks(jwk(EC, "one"))
    eventually(lambda: ask(api, text).status_code == 401)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"status": 500}, "status 500"),
        ({"status": 302, "location": "http://127.0.0.1:1/"}, "status 302"),
        ({"body": "<html>"}, "neither a JWKS"),
        ({"body": jwks()}, "no public key"),
        ({"body": json.dumps({"keys": "x" * 300_000})}, "larger than 256 kB"),
        ({"drips": True}, "did not answer within 0.5 s"),
    ],
    ids=["500", "redirect", "no JSON", "empty", "large", "drips"],
)
def test_a_failing_issuer_is_a_503_that_names_the_reason(
    start_anew: Callable[..., Api], server: JwksServer, change: dict[str, Any], told: str
) -> None:
    server.body = jwks(jwk(RSA, "one"))
    vars(server).update(change)
    api = start_anew(with_url(server), jwks_timeout_s=0.5)
    response = ask(api, token())
    assert (response.status_code, response.json()["code"]) == (503, "issuer-unreachable")
    assert told in response.json()["detail"]
    assert response.headers["retry-after"]
    # Whoever has a token of the API itself is not concerned.
    assert ask(api, api.read["Authorization"].split()[1]).status_code == 200
    vars(server).update({"status": 200, "drips": False, "location": None, "body": jwks(jwk(RSA, "one"))})
    assert ask(api, token()).status_code == 200


def test_an_issuer_that_goes_away_takes_nobody_along_at_once(
    start_anew: Callable[..., Api], server: JwksServer
) -> None:
    server.body = jwks(jwk(RSA, "one"))
    api = start_anew(with_url(server), jwks_life_s=0)
    assert ask(api, token()).status_code == 200
    server.status = 500
    before = server.asked
    eventually(lambda: ask(api, token()).status_code == 200 and server.asked > before + 2)
    # Whether a new key is good, it cannot know.
    assert ask(api, token(kid="new")).status_code == 503


def test_keys_are_not_believed_for_ever(server: JwksServer, files: ApiFiles) -> None:
    server.body = jwks(jwk(RSA, "one"))
    now = 1000.0
    settings = files.settings(jwks_stale_s=3600, jwks_life_s=3600, jwks_interval_s=10)
    keys = UrlKeys(server.url, settings, lambda: now)

    async def scenario() -> None:
        nonlocal now
        assert len(await keys.keys_for("one")) == 1
        server.status = 500
        now += 3599
        assert len(await keys.keys_for("one")) == 1
        assert server.asked == 1
        now += 2
        for _ in range(3):
            with pytest.raises(IssuerError, match="status 500"):
                await keys.keys_for("one")
        assert server.asked == 2
        server.status = 200
        now += 11
        assert len(await keys.keys_for("one")) == 1

    asyncio.run(scenario())


def test_a_thread_that_reads_a_dripping_answer_ends(server: JwksServer) -> None:
    server.drips = True

    async def scenario() -> None:
        with pytest.raises(TimeoutError):
            await fetch(server.url, 0.3)
        # The server notices that its client is gone.
        assert await asyncio.to_thread(server.over.wait, 30)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"",
        b"[]",
        b'{"keys": [1]}',
        b"-----BEGIN PUBLIC KEY-----\nbm9uZQ==\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n",
        pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)).encode(),
        jwks(jwk(RSA, "one", use="enc")).encode(),
        jwks(jwk(RSA, "one", key_ops=["encrypt"])).encode(),
        jwks(jwk(RSA, "one", alg="HS256")).encode(),
        jwks(jwk(EC, "one", alg="RS256")).encode(),
        jwks(jwk(EC, "one", crv="P-999")).encode(),
        jwks(jwk(RSA, "one", n="!")).encode(),
        jwks({"kty": "oct", "k": "c2VjcmV0"}).encode(),
    ],
)
def test_a_file_without_a_key_that_can_be_used_is_refused(content: bytes) -> None:
    with pytest.raises(SpecError) as refused:
        parse_keys(content)
    assert "c2VjcmV0" not in str(refused.value.as_dict())


def test_keys_for_other_purposes_beside_a_good_one_do_no_harm() -> None:
    (key,) = parse_keys(jwks(jwk(RSA, "enc", use="enc"), {"kty": "AKP", "kid": "new"}, jwk(RSA, "one")).encode())
    assert key.kid == "one"
