"""Public keys of an issuer of JWTs, as files: which contents can be used. The API itself reads the keys."""

import json

MAX_KEYS_BYTES = 256 * 1024
"""A JWKS has a few keys of less than 5 kB each, also with their certificates."""
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})
_ASYMMETRIC = frozenset({"RSA", "EC", "OKP"})
PEM_STARTS = ("-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----")


def keys_problem(text: str) -> str | None:
    """Return why a file cannot be used; None if it has public keys. The answer repeats nothing of it."""
    if len(text) > MAX_KEYS_BYTES:
        return f"it is larger than {MAX_KEYS_BYTES // 1024} kB"
    if "PRIVATE KEY-----" in text:
        return "it contains a private key; the admin API needs only the public key"
    if text.lstrip().startswith("-----BEGIN"):
        is_known = text.lstrip().startswith(PEM_STARTS)
        return None if is_known else "it is neither a public key (BEGIN PUBLIC KEY) nor a certificate in PEM"
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return "it is neither a JWKS (JSON) nor a public key in PEM"
    keys = data.get("keys", [data]) if isinstance(data, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        return "it is not a JWKS: an object with a list of keys"
    if any(key.keys() & _PRIVATE_MEMBERS for key in keys):
        return "it contains private or symmetric keys; the admin API needs only public keys"
    if not any(key.get("kty") in _ASYMMETRIC for key in keys):
        return "it contains no public key"
    return None
