"""The configuration of the admin API's container: its cluster, and the hashes of its tokens.

The renderer writes these two files, and the API reads them; both use the format that is declared here. They contain no
secret: the password is a Compose secret, and a token is stored as its hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Self, TypeVar

from pydantic import Field, TypeAdapter, ValidationError, with_config

from citus_cluster.errors import SpecError
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target

CLUSTER_FILE = "cluster.json"
TOKENS_FILE = "tokens.json"

T = TypeVar("T")

Name = Annotated[str, Field(min_length=1)]
TokenHash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@with_config({"strict": True})
@dataclass(frozen=True)
class ApiConfig:
    """``cluster.json``: where the API connects, and which workers the user wants.

    ``coordinator`` is where the API connects, ``coordinator_address`` the address in ``pg_dist_node``; they differ if
    other servers reach the coordinator under another name. ``components`` are the wanted ones beside Citus, with their
    addresses in the network. Unknown keys are ignored, so that an API of an earlier version still starts.
    """

    cluster: Name
    user: Name
    database: Name
    coordinator: NodeAddress
    coordinator_address: NodeAddress
    workers: tuple[NodeAddress, ...] = ()
    components: tuple[Target, ...] = ()

    def to_json(self) -> str:
        """Return the text of ``cluster.json``: the same for the same cluster, with a newline at its end."""
        return _dump(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse ``cluster.json``; raise SpecError with one line for each problem."""
        return _parse(cls, text, CLUSTER_FILE)


@with_config({"strict": True})
@dataclass(frozen=True)
class ApiTokens:
    """``tokens.json``: the SHA-256 of each role's bearer token, in hexadecimal."""

    admin: TokenHash
    read: TokenHash

    def to_json(self) -> str:
        """Return the text of ``tokens.json``, with a newline at its end."""
        return _dump(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Parse ``tokens.json``; raise SpecError with one line for each problem."""
        return _parse(cls, text, TOKENS_FILE)


def hash_token(token: str) -> str:
    """Return the SHA-256 of a token in hexadecimal.

    A plain hash is sufficient, because tokens are random and long; a password would need a slow hash.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def _dump(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _parse(shape: type[T], text: str | bytes, name: str) -> T:
    try:
        return TypeAdapter(shape).validate_json(text)
    except ValidationError as error:
        # pydantic's own text repeats the input, which may contain secrets that must not be logged.
        problems = [f"{'.'.join(map(str, found['loc'])) or 'file'}: {found['msg']}" for found in error.errors()]
        raise SpecError(
            f"{name} of the admin API is not valid.",
            hint="Write it again: run setup_citus_cluster.py.",
            details=problems,
        ) from None
