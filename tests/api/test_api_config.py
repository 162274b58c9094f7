"""The files that the renderer writes and the API reads."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from admin_api.configuration import Configuration
from admin_api.settings import Settings
from citus_cluster.errors import SpecError
from citus_cluster.model.api_config import ApiConfig, ApiTokens, JwtConfig, hash_token
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName

CONFIG = ApiConfig(
    cluster="shop",
    user="postgres",
    database="bücher",
    coordinator=NodeAddress("citus-coordinator"),
    coordinator_address=NodeAddress("db.example", 5434),
    workers=(NodeAddress("citus-worker1"), NodeAddress("10.0.0.7", 6000)),
    components=(
        Target(
            ComponentName.PG14,
            {"pg14-primary": NodeAddress("pg14-primary"), "pg14-replica": NodeAddress("pg14-replica")},
            synchronous=True,
        ),
        Target(ComponentName.REDIS, {"redis": NodeAddress("redis", 6379)}),
    ),
    cors_origins=("https://console.example.com",),
    public_origins=("https://citus.example.com",),
    jwt=JwtConfig("https://issuer.example.com/", "citus-cluster", None, "role", ("dba",), ()),
)


def test_the_config_comes_back_as_it_was_written() -> None:
    assert ApiConfig.from_json(CONFIG.to_json()) == CONFIG


def test_the_text_has_the_agreed_shape_and_a_newline_at_its_end() -> None:
    text = CONFIG.to_json()
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "cluster": "shop",
        "user": "postgres",
        "database": "bücher",
        "coordinator": {"host": "citus-coordinator", "port": 5432},
        "coordinator_address": {"host": "db.example", "port": 5434},
        "workers": [{"host": "citus-worker1", "port": 5432}, {"host": "10.0.0.7", "port": 6000}],
        "components": [
            {
                "component": "pg14",
                "addresses": {
                    "pg14-primary": {"host": "pg14-primary", "port": 5432},
                    "pg14-replica": {"host": "pg14-replica", "port": 5432},
                },
                "synchronous": True,
            },
            {
                "component": "redis",
                "addresses": {"redis": {"host": "redis", "port": 6379}},
                "synchronous": False,
            },
        ],
        "cors_origins": ["https://console.example.com"],
        "public_origins": ["https://citus.example.com"],
        "jwt": {
            "issuer": "https://issuer.example.com/",
            "audience": "citus-cluster",
            "keys_url": None,
            "role_claim": "role",
            "admin_values": ["dba"],
            "read_values": [],
        },
    }


def test_keys_of_a_later_version_are_ignored() -> None:
    later = json.loads(CONFIG.to_json()) | {"replicas": []}
    assert ApiConfig.from_json(json.dumps(later)) == CONFIG


def test_a_file_of_an_earlier_version_serves_citus() -> None:
    """An image that the user names may be newer than the files: it then knows no component beside Citus."""
    earlier = json.loads(CONFIG.to_json()) | {"companions": {"redis": {"host": "redis", "port": 6379}}}
    del earlier["components"]
    assert ApiConfig.from_json(json.dumps(earlier)) == replace(CONFIG, components=())


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        ApiConfig.from_json(
            '{"cluster": "", "user": 3, "database": "d", "coordinator": {"host": "c"}, "workers": [{}]}'
        )
    told = "\n".join(caught.value.details)
    assert all(name in told for name in ("cluster:", "user:", "coordinator_address:", "workers.0.host:"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"admin": "x", "read": "y"}', '{"admin": null}'])
def test_broken_tokens_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        ApiTokens.from_json(text)
    assert caught.value.details
    assert "'x'" not in " ".join(caught.value.details)


def test_one_line_end_of_an_editor_is_no_part_of_the_password(tmp_path: Path) -> None:
    for content in (b" odd pass ", b" odd pass \n", b" odd pass \r\n"):
        (tmp_path / "password").write_bytes(content)
        assert Configuration(Settings(password_file=tmp_path / "password")).password() == " odd pass "


def test_tokens_are_kept_as_their_sha256() -> None:
    assert hash_token("secret") == hashlib.sha256(b"secret").hexdigest()
    tokens = ApiTokens(admin=hash_token("a"), read=hash_token("b"))
    assert ApiTokens.from_json(tokens.to_json()) == tokens
