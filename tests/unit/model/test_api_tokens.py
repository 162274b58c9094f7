"""Named tokens: names, lifetimes, and the file with their hashes."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from citus_cluster.errors import CitusClusterError, NotFoundError, SpecError, UsageError
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.api_tokens import MAX_TOKENS, NamedToken, NamedTokens, lifetime, refuse_name
from citus_cluster.model.token_role import Role

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CI = NamedToken("ci", Role.ADMIN, hash_token("a"), NOON, NOON + timedelta(days=1))
FOREVER = NamedToken("Grafana-2.x", Role.READ, hash_token("b"), NOON)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("30m", timedelta(minutes=30)),
        ("1h", timedelta(hours=1)),
        ("90d", timedelta(days=90)),
        ("520w", timedelta(weeks=520)),
        ("3653d", timedelta(days=3653)),
        ("never", None),
    ],
)
def test_a_lifetime_is_a_number_with_a_unit(text: str, span: timedelta | None) -> None:
    assert lifetime(text) == span


@pytest.mark.parametrize(
    "text", ["", "90", "d", "0d", "-1d", "1.5d", "1y", "90 d", "90D", "٣d", "3654d", "999999w", "9999999h", "Never"]
)
def test_another_lifetime_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="not a valid lifetime") as refused:
        lifetime(text)
    assert "90d" in str(refused.value.hint)


@pytest.mark.parametrize("name", ["a", "0", "deploy.prod_2-x", "A" * 63])
def test_a_good_name_is_accepted(name: str) -> None:
    refuse_name(name)


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a\n", "ä", "a/b", "A" * 64, "\x1b[31m", "x" * 10_000])
def test_another_name_is_refused_and_shown_briefly(name: str) -> None:
    with pytest.raises(UsageError, match="not a valid name") as refused:
        refuse_name(name)
    assert len(refused.value.message) < 200


def test_the_file_comes_back_as_it_was_written() -> None:
    tokens = NamedTokens((CI, FOREVER))
    assert NamedTokens.from_json(tokens.to_json()) == tokens
    assert json.loads(tokens.to_json())["tokens"][0] == {
        "name": "ci",
        "role": "admin",
        "sha256": hash_token("a"),
        "created_at": "2026-01-01T12:00:00+00:00",
        "expires_at": "2026-01-02T12:00:00+00:00",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"role": "root"},
        {"sha256": "the token itself"},
        {"name": "a b"},
        {"expires_at": "tomorrow"},
        {"expires_at": "2026-01-02T12:00:00"},
        {"created_at": None},
    ],
)
def test_a_damaged_file_is_refused_without_repeating_it(change: dict[str, object]) -> None:
    data = json.loads(NamedTokens((CI,)).to_json())
    data["tokens"][0] |= change
    with pytest.raises(SpecError) as refused:
        NamedTokens.from_json(json.dumps(data))
    assert next(iter(change)) in refused.value.details[0]
    assert "the token itself" not in str(refused.value.as_dict())
    assert "tokens create" in str(refused.value.hint)


def test_a_token_expires_at_its_time() -> None:
    assert not CI.is_expired(NOON + timedelta(hours=23, minutes=59))
    assert CI.is_expired(NOON + timedelta(days=1))
    assert not FOREVER.is_expired(NOON + timedelta(days=100_000))


def test_a_name_is_taken_until_its_token_has_expired() -> None:
    again = NamedToken("ci", Role.READ, hash_token("c"), NOON + timedelta(hours=1))
    with pytest.raises(UsageError, match="exists") as refused:
        NamedTokens((CI,)).with_token(again)
    assert "tokens revoke ci" in str(refused.value.hint)
    later = NamedToken("ci", Role.READ, hash_token("c"), NOON + timedelta(days=2))
    assert NamedTokens((CI, FOREVER)).with_token(later).tokens == (FOREVER, later)


@pytest.mark.parametrize("name", ["admin", "read"])
def test_the_names_of_the_tokens_of_the_setup_are_never_used(name: str) -> None:
    with pytest.raises(UsageError, match=r"generated/secrets"):
        NamedTokens().with_token(NamedToken(name, Role.READ, hash_token("x"), NOON))
    with pytest.raises(NotFoundError) as refused:
        NamedTokens().without(name)
    assert "admin_api_token" in str(refused.value.hint)


def test_the_number_of_tokens_is_limited() -> None:
    full = NamedTokens(tuple(NamedToken(f"t{number}", Role.READ, CI.sha256, NOON) for number in range(MAX_TOKENS)))
    with pytest.raises(UsageError, match="largest possible number"):
        full.with_token(CI)


def test_a_token_is_removed_by_its_name() -> None:
    assert NamedTokens((CI, FOREVER)).without("ci") == (NamedTokens((FOREVER,)), CI)
    with pytest.raises(CitusClusterError, match=r"no token 'grafana-2\.x'\. Did you mean 'Grafana-2\.x'"):
        NamedTokens((FOREVER,)).without("grafana-2.x")
