"""The public keys of the user's issuer of JWTs: from a file, or from the URL of a JWKS.

A JWKS is fetched in a thread, bounded in time and size, and kept. An unknown key id fetches it again, at a limited
rate.
"""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Protocol
from urllib.parse import urlsplit

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from admin_api.request_context import TRACEPARENT_HEADER, current
from admin_api.settings import Settings
from citus_cluster.errors import CitusClusterError, SpecError
from citus_cluster.model.jwt_keys import MAX_KEYS_BYTES, keys_problem

MIN_RSA_BITS = 2048
MAX_KEYS = 50
_OF_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_OF_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
logger = logging.getLogger(__name__)

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey


class IssuerError(CitusClusterError):
    """The public keys of the issuer of JWTs cannot be read."""

    code = "issuer-unreachable"
    http_status = 503

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The public keys of the issuer of JWTs cannot be read: {reason}.",
            hint="Check admin_api.jwt.keys in cluster.yaml, and the issuer. Tokens of citus-cluster tokens create are "
            "accepted.",
        )


@dataclass(frozen=True)
class Key:
    """A public key, and the algorithms for which it may be used: asymmetric ones, which belong to its kind."""

    kid: str | None
    public_key: PublicKey
    algorithms: frozenset[str]


class KeySource(Protocol):
    """Where the keys come from."""

    async def keys_for(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that may have signed a token with this key id; none if it is unknown. Raises IssuerError."""


def parse_keys(content: bytes) -> tuple[Key, ...]:
    """Parse a JWKS, or one public key in PEM. Raises SpecError, which repeats nothing of it."""
    try:
        text = content.decode()
        problem = keys_problem(text)
    except UnicodeDecodeError:
        text, problem = "", "it is not UTF-8 text"
    keys: tuple[Key, ...] = ()
    if not problem:
        keys = _parse_pem(content) if text.lstrip().startswith("-----BEGIN") else _parse_jwks(json.loads(text))
        problem = None if keys else "it has no public key that can be used (RSA from 2048 bits, EC, Ed25519, Ed448)"
    if problem:
        raise SpecError(
            f"The public keys of the issuer cannot be used: {problem}.",
            hint="Correct the file that admin_api.jwt.keys names, then run setup_citus_cluster.py again.",
        )
    return keys


def _parse_pem(content: bytes) -> tuple[Key, ...]:
    content = content.strip()
    try:
        if content.startswith(b"-----BEGIN CERTIFICATE"):
            found: Any = load_pem_x509_certificate(content).public_key()
        else:
            found = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        return ()
    algorithms = _algorithms_of(found)
    return (Key(None, found, algorithms),) if algorithms else ()


def _parse_jwks(data: dict[str, Any]) -> tuple[Key, ...]:
    found = (_parse_jwk(one) for one in data.get("keys", [data])[:MAX_KEYS])
    return tuple(key for key in found if key)


def _parse_jwk(data: dict[str, Any]) -> Key | None:
    """Parse one key; None if it is for another purpose, or unknown here."""
    kid, usage, operations = data.get("kid"), data.get("use", "sig"), data.get("key_ops", ["verify"])
    if not isinstance(kid, str | None) or usage != "sig" or not isinstance(operations, list):
        return None
    if "verify" not in operations:
        return None
    try:
        public_key = jwt.PyJWK(data).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    algorithms = _algorithms_of(public_key)
    if "alg" in data:
        algorithms &= {data["alg"]} if isinstance(data["alg"], str) else set()
    return Key(kid, public_key, algorithms) if algorithms else None


def _algorithms_of(key: object) -> frozenset[str]:
    match key:
        case RSAPublicKey():
            return _OF_RSA if key.key_size >= MIN_RSA_BITS else frozenset()
        case EllipticCurvePublicKey():
            return frozenset({_OF_CURVE[key.curve.name]} if key.curve.name in _OF_CURVE else ())
        case Ed25519PublicKey() | Ed448PublicKey():
            return frozenset({"EdDSA"})
    return frozenset()


def fitting(keys: tuple[Key, ...], kid: str | None) -> tuple[Key, ...]:
    """Return the keys that may have signed a token with a key id; keys without an id fit every token."""
    if kid is None:
        return keys
    return tuple(key for key in keys if key.kid == kid) or tuple(key for key in keys if key.kid is None)


class FileKeys:
    """Keys from the file that a set-up wrote; it is read again when it changes."""

    def __init__(self, read: Callable[[], tuple[Key, ...]]) -> None:
        self._read = read

    async def keys_for(self, kid: str | None) -> tuple[Key, ...]:
        return fitting(self._read(), kid)


class UrlKeys:
    """Keys from the URL of a JWKS. While the issuer does not answer, the last keys stay valid for a while."""

    def __init__(self, url: str, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._settings = settings
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._failure: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def keys_for(self, kid: str | None) -> tuple[Key, ...]:
        settings = self._settings
        if self._age_s() > settings.jwks_stale_s:
            await self._refresh()
            if self._age_s() > settings.jwks_stale_s:
                raise IssuerError(self._failure or "there was no answer yet")
        elif self._age_s() > settings.jwks_life_s:
            # Nobody waits for it: the keys are still good.
            self._start()
        found = fitting(self._keys, kid)
        if not found:
            await self._refresh()
            found = fitting(self._keys, kid)
            if not found and self._failure:
                raise IssuerError(self._failure)
        return found

    def _age_s(self) -> float:
        return self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        """Wait for the running query, or for a new one, unless the last one was a moment ago."""
        if task := self._start():
            # A request that ends must not cancel the query for the others.
            await asyncio.shield(task)

    def _start(self) -> asyncio.Task[None] | None:
        if self._task is None or self._task.done():
            if self._clock() - self._tried_at < self._settings.jwks_interval_s:
                return None
            self._tried_at = self._clock()
            self._task = asyncio.create_task(self._ask(), name="jwks")
        return self._task

    async def _ask(self) -> None:
        failure = None
        try:
            self._keys = parse_keys(await fetch(self._url, self._settings.jwks_timeout_s))
            self._fetched_at = self._clock()
        except TimeoutError:
            failure = f"it did not answer within {self._settings.jwks_timeout_s:g} s"
        except SpecError as error:
            failure = error.message.partition(": ")[2].rstrip(".")
        except (OSError, HTTPException, ValueError) as error:
            failure = str(error) or type(error).__name__
        if failure and failure != self._failure:
            logger.warning("the JWKS %s cannot be read: %s", self._url, failure)
        self._failure = failure


async def fetch(url: str, timeout_s: float) -> bytes:
    """Return the answer to a GET that continues the trace of the running request, without following redirects.

    Raises TimeoutError, OSError, HTTPException, and ValueError for another status than 200 or a body that is too large.
    """
    query = _Query(url, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.to_thread(query.run)
    finally:
        query.end()


class _Query:
    """One GET, in a thread."""

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout_s)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Accept": "application/json", "Connection": "close"}
        if context := current():
            self._headers[TRACEPARENT_HEADER] = context.traceparent
        self._socket: socket.socket | None = None

    def run(self) -> bytes:
        self._connection.connect()
        # The connection itself forgets it while the answer is being read.
        self._socket = self._connection.sock
        self._connection.request("GET", self._target, headers=self._headers)
        response = self._connection.getresponse()
        if response.status != 200:
            raise ValueError(f"it answered with status {response.status}")
        body = response.read(MAX_KEYS_BYTES + 1)
        if len(body) > MAX_KEYS_BYTES:
            raise ValueError(f"its answer is larger than {MAX_KEYS_BYTES // 1024} kB")
        return body

    def end(self) -> None:
        """Close the connection, which also ends the thread if the server still sends one byte after the other."""
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()
