"""Parameters of changes and views: declared once, as data classes that the command line and the admin API read.

Each field has a type that pydantic validates, and a description; ``Annotated[int, Field(ge=1, description="…")]``. A
field without a default is a positional argument of the command, in the order of the fields; the others are options.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, SecretStr, TypeAdapter, ValidationError, with_config

from citus_cluster.errors import UsageError

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def parameters(cls: type[T]) -> type[T]:
    """Declare a frozen data class of parameters, with which unknown members are refused."""
    return with_config(ConfigDict(extra="forbid"))(dataclass(frozen=True)(cls))


@parameters
class NoParameters:
    """The parameters of a change or a view that has none."""


@cache
def adapter_of(shape: Any) -> TypeAdapter[Any]:
    """Return pydantic's validator of a type."""
    return TypeAdapter(shape)


def read_parameters(shape: type[T], values: Mapping[str, object]) -> T:
    """Validate values. Raises UsageError, which names each value that is not valid, but does not repeat it."""
    try:
        found: T = adapter_of(cast("Any", shape)).validate_python(dict(values))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc'])) or 'value'}: {one['msg']}" for one in error.errors()]
        raise UsageError("; ".join(problems), details=problems if len(problems) > 1 else ()) from None
    refuse_nul(found)
    return found


def refuse_nul(values: object) -> None:
    """Raise UsageError if a text among these parameters contains the character NUL."""
    for one in fields(values):  # type: ignore[arg-type]
        if _has_nul(getattr(values, one.name)):
            raise UsageError(f"{one.name}: it contains the character NUL, which no text in PostgreSQL can have.")


def _has_nul(value: object) -> bool:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return any(map(_has_nul, value)) if isinstance(value, tuple) else isinstance(value, str) and "\0" in value


def has_secret(values: object) -> bool:
    """Return whether one of the parameters is a secret that was given."""
    return any(isinstance(getattr(values, one.name), SecretStr) for one in fields(values))  # type: ignore[arg-type]
