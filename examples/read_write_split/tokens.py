"""Tokens (JWT, HS256): ``python -m read_write_split.tokens --subject alice`` prints one.

A token is for this service alone (``aud``), from this service (``iss``), for somebody (``sub``), and for a time.
"""

import argparse
import sys
import time

import jwt
from service_kit.cluster import Cluster, NotConfiguredError

from read_write_split.settings import NAME, jwt_key

ISSUER = AUDIENCE = NAME
_ALGORITHM = "HS256"
_REQUIRED = ["aud", "exp", "iat", "iss", "nbf", "sub"]
_LEEWAY_S = 5
"""For clocks that differ a little."""


class RefusedTokenError(Exception):
    """A token is not valid. The message says why, and repeats nothing of it."""


def issue(key: str, subject: str, lifetime_s: int) -> str:
    """Sign a token."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "nbf": now, "exp": now + lifetime_s}
    return jwt.encode(claims, key, _ALGORITHM)


def subject_of(key: str, token: str) -> str:
    """Verify a token, and give its subject. Raises RefusedTokenError."""
    try:
        claims = jwt.decode(
            token,
            key,
            # What the token says of its algorithm does not matter: "none", or a public key used as a secret.
            algorithms=[_ALGORITHM],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=_LEEWAY_S,
            options={"require": _REQUIRED},
        )
    except jwt.ExpiredSignatureError:
        raise RefusedTokenError("The token has expired") from None
    except jwt.ImmatureSignatureError:
        raise RefusedTokenError("The token is not valid yet") from None
    except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
        raise RefusedTokenError("The token is for another service") from None
    except (jwt.InvalidTokenError, ValueError):
        raise RefusedTokenError("The token is not valid") from None
    return str(claims["sub"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m read_write_split.tokens", description="Issue a token.")
    parser.add_argument("--subject", default="example", help="whom it is for (default: example)")
    parser.add_argument("--lifetime", type=int, default=3600, metavar="SECONDS", help="default: 3600")
    given = parser.parse_args()
    try:
        key = jwt_key(Cluster())
    except NotConfiguredError as error:
        sys.exit(str(error))
    print(issue(key, given.subject, given.lifetime))


if __name__ == "__main__":
    main()
