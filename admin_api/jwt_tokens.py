"""JSON Web Tokens of the user's own issuer: only asymmetric algorithms, and always with an expiry."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import jwt

from admin_api.configuration import Configuration
from admin_api.identity import ForbiddenError, Identity, TokenExpiredError, UnauthorizedError, Via
from admin_api.jwt_keys import FileKeys, Key, KeySource, UrlKeys
from admin_api.settings import Settings
from citus_cluster.model.api_config import JwtConfig
from citus_cluster.model.token_role import Role

LEEWAY_S = 30
"""By how much the clocks of the issuer and of this machine may differ."""
MAX_BYTES = 8 * 1024
MAX_NAME = 200
MAX_VERIFIED = 1000
"""Tokens whose signature was verified, and is not verified again at each request."""
_REQUIRED = ("exp", "iss", "aud", "sub")
_REASONS: Mapping[type[Exception], str] = {
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it has another issuer",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidSignatureError: "its signature is wrong",
}


class JwtVerifier:
    """Verifies tokens by the current configuration, and remembers which were good."""

    def __init__(self, settings: Settings, configuration: Configuration) -> None:
        self._settings = settings
        self._configuration = configuration
        self._config: JwtConfig | None = None
        self._source: KeySource = self._source_of(None)
        self._verified: OrderedDict[bytes, tuple[Identity, float, Key]] = OrderedDict()
        """By hash of the token: its owner, when it expires (seconds since 1970), and the key that signed it."""

    async def identify(self, token: str, config: JwtConfig) -> Identity:
        """Return the owner of a token.

        Raises UnauthorizedError, TokenExpiredError, ForbiddenError for a token without a role, IssuerError.
        """
        if config != self._config:
            self._config, self._source = config, self._source_of(config.keys_url)
            self._verified.clear()
        kid, algorithm = _header(token)
        keys = await self._source.keys_for(kid)
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known and known[2] in keys and time.time() < known[1] + LEEWAY_S:
            self._verified.move_to_end(digest)
            return known[0]
        suitable = [key for key in keys if algorithm in key.algorithms]
        if not suitable:
            raise _invalid("its key or its algorithm is not one of the issuer's")
        claims, key = _verify(token, suitable, algorithm, config)
        identity = _identity(claims, config)
        self._verified[digest] = (identity, float(claims["exp"]), key)
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)
        return identity

    def _source_of(self, url: str | None) -> KeySource:
        return UrlKeys(url, self._settings) if url else FileKeys(self._configuration.jwt_keys)


def _header(token: str) -> tuple[str | None, str]:
    """Return the key id and the algorithm of a token that is not verified yet."""
    if len(token) > MAX_BYTES:
        raise _invalid(f"it is larger than {MAX_BYTES // 1024} kB")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _invalid("it is malformed") from None
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(kid, str | None) or not isinstance(algorithm, str) or "crit" in header:
        raise _invalid("it is malformed")
    return kid, algorithm


def _verify(token: str, keys: Iterable[Key], algorithm: str, config: JwtConfig) -> tuple[dict[str, Any], Key]:
    refused: UnauthorizedError | None = None
    for key in keys:
        try:
            claims = jwt.decode(
                token,
                key.public_key,
                algorithms=[algorithm],
                audience=config.audience,
                issuer=config.issuer,
                leeway=LEEWAY_S,
                options={"require": list(_REQUIRED)},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpiredError("The JWT has expired.", hint="Get a new one from its issuer.") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"the claim {error.claim!r} is missing") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            refused = _invalid(_REASONS.get(type(error), "it is malformed"))
            if not isinstance(error, jwt.InvalidSignatureError):
                raise refused from None
        else:
            return claims, key
    raise refused or _invalid("its key is unknown")


def _identity(claims: Mapping[str, Any], config: JwtConfig) -> Identity:
    values = _values(claims, config.role_claim)
    role = Role.ADMIN if values & {*config.admin_values} else Role.READ if values & {*config.read_values} else None
    if role is None:
        raise ForbiddenError(
            f"The claim {config.role_claim!r} of the JWT gives no role here.",
            hint="Let the issuer add one of the values in admin_api.jwt.admin_values or read_values of cluster.yaml.",
        )
    return Identity(str(claims["sub"])[:MAX_NAME], role, Via.JWT)


def _values(claims: Mapping[str, Any], path: str) -> set[str]:
    """Return the texts in a claim: its own name, or a path into objects; a list, or words that spaces separate."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    items = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return {item for item in items if isinstance(item, str)} | ({found} if isinstance(found, str) else set())


def _invalid(reason: str) -> UnauthorizedError:
    return UnauthorizedError(f"The JWT is not valid: {reason}.", hint="Get a new one from its issuer.")
