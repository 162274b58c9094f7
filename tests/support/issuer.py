"""An issuer of JWTs: real keys, and a real HTTP server for its JWKS."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LIFE_S = 24 * 60 * 60
"""Tokens in the parameters of tests are made when the tests are collected, long before they run."""
ISSUER, AUDIENCE = "https://issuer.example.com/", "citus-cluster"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def claims(**more: Any) -> dict[str, Any]:
    """Return the claims of a good token of a reader; None removes one."""
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": int(time.time()) + LIFE_S, "role": "viewer"} | more
    return {key: value for key, value in found.items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", *, kid: str | None = "one", **more: Any) -> str:
    headers = {"kid": kid} if kid else None
    return jwt.encode(claims(**more), key, algorithm=algorithm, headers=headers)


def pem(key: Any = RSA) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """Return the public part of a key as a JWK."""
    match key:
        case rsa.RSAPrivateKey():
            data = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            data = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        case _:
            data = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: value for name, value in data.items() if name != "key_ops"} | ({"kid": kid} if kid else {}) | more


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


@dataclass
class JwksServer:
    """Answers with ``status`` and ``body``; ``drips``: it sends one byte after the other, and never ends."""

    port: int = 0
    body: str = ""
    status: int = 200
    drips: bool = False
    location: str | None = None
    asked: int = 0
    traceparents: list[str | None] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"


@contextmanager
def jwks_server() -> Iterator[JwksServer]:
    found = JwksServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked += 1
            found.traceparents.append(self.headers["traceparent"])
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            if not found.drips:
                self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            if found.drips:
                try:
                    while not found.over.wait(0.05):
                        self.wfile.write(b" ")
                except (TimeoutError, OSError):
                    found.over.set()
                return
            self.wfile.write(found.body.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        found.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield found
        found.over.set()
        server.shutdown()
