"""Types of request fields that PostgreSQL can store."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain the character NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must not contain a lone surrogate") from None
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_storable)]
"""A text of 1 to 100 characters, any that UTF-8 has but NUL."""
