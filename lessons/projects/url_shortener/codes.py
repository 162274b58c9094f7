"""Short codes: seven characters of 62."""

import secrets
import string

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
LENGTH = 7
NUMBER_OF_CODES = len(ALPHABET) ** LENGTH
"""3.5 * 10^12. With 10^8 links, a random code is taken once in 35,000 times."""

_CHARACTERS = frozenset(ALPHABET)


def random_code() -> str:
    """Draw a code. It cannot be guessed, and may be taken already: only the database knows."""
    return "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))


def is_code(text: str) -> bool:
    """Say whether the text has the form of a code, so that nothing else is looked up."""
    return len(text) == LENGTH and _CHARACTERS.issuperset(text)
