"""The configuration of the admin API's container: its cluster, and the hashes of its tokens.

The renderer writes these two files, and the API reads them; both use the format that is declared here. They contain no
secret: the password is a Compose secret, and a token is stored as its hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, with_config

from citus_cluster.errors import SpecError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target

CLUSTER_FILE = "cluster.json"
TOKENS_FILE = "tokens.json"
JWT_KEYS_FILE = "jwt-keys"
"""The public keys of the user's issuer, if they come from a file."""

T = TypeVar("T")

Name = Annotated[str, Field(min_length=1)]
TokenHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@with_config({"strict": True})
@dataclass(frozen=True)
class JwtConfig:
    """The tokens of the user's own issuer; ``keys_url`` is that of its JWKS, None if the keys are in ``JWT_KEYS_FILE``.

    ``role_claim`` names the claim whose values decide the role.
    """

    issuer: Name
    audience: Name
    keys_url: Name | None
    role_claim: Name
    admin_values: tuple[str, ...]
    read_values: tuple[str, ...]


@with_config({"strict": True})
@dataclass(frozen=True)
class ApiConfig:
    """``cluster.json``: where the API connects, and which workers the user wants.

    ``coordinator`` is where the API connects, ``coordinator_address`` the address in ``pg_dist_node``; they differ if
    other servers reach the coordinator under another name. ``components`` are the wanted ones beside Citus, with their
    addresses in the network. ``cors_origins`` are those of web pages that may call the API, ``public_origins`` those at
    which browsers open the console through a proxy. Unknown keys are ignored, so that an API of an earlier version
    still starts.
    """

    cluster: Name
    user: Name
    database: Name
    coordinator: NodeAddress
    coordinator_address: NodeAddress
    workers: tuple[NodeAddress, ...] = ()
    components: tuple[Target, ...] = ()
    cors_origins: tuple[str, ...] = ()
    public_origins: tuple[str, ...] = ()
    jwt: JwtConfig | None = None

    def to_json(self) -> str:
        """Return the text of ``cluster.json``: the same for the same cluster, with a newline at its end."""
        return dump_json(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse ``cluster.json``; raise SpecError with one line for each problem."""
        return parse_json(cls, text, CLUSTER_FILE)


@with_config({"strict": True})
@dataclass(frozen=True)
class ApiTokens:
    """``tokens.json``: the SHA-256 of each role's bearer token, in hexadecimal.

    ``services`` are those of services that read the API, by name; the file has the key only if there is one.
    """

    admin: TokenHash
    read: TokenHash
    services: Mapping[str, TokenHash] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of ``tokens.json``, with a newline at its end."""
        return dump_json({key: value for key, value in asdict(self).items() if value})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse ``tokens.json``; raise SpecError with one line for each problem."""
        return parse_json(cls, text, TOKENS_FILE)


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token in hexadecimal.

    A plain hash is sufficient, because tokens are random and long; a password would need a slow hash.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def dump_json(value: Mapping[str, object]) -> str:
    """Return the text of a file of the API: the same for the same value, with a newline at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def parse_json(shape: type[T], text: str | bytes, name: str, *, hint: str = "") -> T:
    """Parse a file of the API; raise SpecError with one line for each problem, which repeats no value."""
    try:
        return TypeAdapter(shape).validate_json(text)
    except ValidationError as error:
        # pydantic's own text repeats the input, which may contain secrets that must not be logged.
        problems = [f"{'.'.join(map(str, found['loc'])) or 'file'}: {found['msg']}" for found in error.errors()]
        raise SpecError(
            f"{name} of the admin API is not valid.",
            hint=hint or "Write it again: run setup_citus_cluster.py.",
            details=problems,
        ) from None
