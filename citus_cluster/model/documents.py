"""Results as JSON documents: the command line prints them, the admin API answers with them.

A document is declared once, as a frozen data class whose fields are its keys, in their order. A result with other
fields than its document creates the document; otherwise the result is its own document. There is one serializer, so
the same result always has the same bytes.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

_PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types whose values JSON has; not their subclasses, such as enums."""


class Documented:
    """A result that is shown as a JSON document."""

    def document(self) -> object:
        """Return the data class or mapping that has the document's keys: by default the result itself."""
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the document as plain JSON data, with its keys in stable order and without secrets."""
        found = as_data(self)
        assert isinstance(found, dict)  # noqa: S101 - a document has keys
        return found


def as_data(value: object) -> Any:
    """Turn a value into what JSON knows: an enum into its value, a time into ISO 8601, a data class into its fields.

    A secret becomes ``***``.
    """
    # First, because a long list has thousands of such values, and the tests below take ten times as long.
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Documented) and (document := value.document()) is not value:
        return as_data(document)
    if is_dataclass(value):
        return {one.name: as_data(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {key: as_data(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_data(one) for one in value]
    if hasattr(value, "get_secret_value"):  # pydantic's SecretStr; importing it costs more than this module
        return "***"
    return value
