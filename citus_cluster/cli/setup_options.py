"""Options of the set-up that set a key of ``cluster.yaml``, generated from the fields of the specification."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from citus_cluster.cli import completion as complete
from citus_cluster.cli.options import option
from citus_cluster.errors import UsageError
from citus_cluster.model.component_name import GROUPS, ComponentName
from citus_cluster.model.flags import Flag
from citus_cluster.model.spec import Replication, fields, flag_of, written_default


@dataclass(frozen=True)
class Reading:
    """The type of an option for the parser and the conversion of its value, if these differ from its field."""

    type: type
    read: Callable[[Any], Any]
    complete: Callable[..., list[str]] | None = None


def read_services(text: str) -> list[str]:
    """Read ``citus,redis``, ``all``, or ``all,pgbouncer``."""
    if text.strip() == "":
        raise UsageError("--services is empty. Name at least one of " + ", ".join(ComponentName) + ".")
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return list(dict.fromkeys(str(name) for part in parts for name in GROUPS.get(part, (part,))))


def _read_memory(text: str) -> int | str:
    """Read ``8192`` (MB), ``8192m``, ``8g`` or ``auto``."""
    lowered = text.strip().lower().removesuffix("b")
    if lowered == "auto":
        return "auto"
    number, factor = (lowered[:-1], 1024) if lowered.endswith("g") else (lowered.removesuffix("m"), 1)
    with suppress(ValueError, OverflowError):
        return int(float(number) * factor) if factor > 1 else int(number)
    raise UsageError(f"--memory: {text!r} is not an amount of memory.", hint="Write MB (8192), 8g, or auto.")


def _read_cpus(text: str) -> int | str:
    if text.strip().lower() == "auto":
        return "auto"
    with suppress(ValueError):
        return int(text)
    raise UsageError(
        f"--cpus: {text!r} is not a number of processors.", hint="Write a whole number of at least 1, or auto."
    )


def _read_replication(synchronous: bool) -> str:
    return (Replication.SYNC if synchronous else Replication.ASYNC).value


_READINGS: Mapping[str, Reading] = {
    "services": Reading(str, read_services, complete.wanted_services),
    "resources.memory_mb": Reading(str, _read_memory),
    "resources.cpus": Reading(str, _read_cpus),
    "pg14.replication": Reading(bool, _read_replication),
    "workers": Reading(int, int),  # only cluster.yaml can have a list of numbers
}


@dataclass(frozen=True)
class SpecOption:
    """The option of one field; ``parameter`` is its name among the arguments of the command."""

    path: str
    parameter: str
    flag: Flag
    reading: Reading
    help: str
    default: str


def spec_options() -> Iterator[SpecOption]:
    """Yield every option that sets a key of ``cluster.yaml``."""
    for path, field in fields():
        if flag := flag_of(field):
            reading = _READINGS.get(path) or Reading(_type_of(field.annotation), _plain)
            name = flag.name.split("/")[0].removeprefix("--").replace("-", "_")
            help = flag.help or field.description or ""
            yield SpecOption(path, name, flag, reading, help, flag.default or written_default(field))


def _type_of(annotation: Any) -> type:
    """Return the plain type of a field: ``int`` for ``Annotated[int, …] | None``."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (one for one in get_args(annotation) if one is not type(None))
    if get_origin(annotation) is Annotated:
        return _type_of(get_args(annotation)[0])
    assert isinstance(annotation, type), "every other field has its own reading"  # noqa: S101
    return annotation


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def takes_spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add these options to those of a command; its ``chosen`` has the flag and value of each, by path."""
    options = list(spec_options())

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        given = {one: arguments.pop(one.parameter) for one in options}
        chosen = {
            one.path: (one.flag.name, None if value is None else one.reading.read(value))
            for one, value in given.items()
        }
        command(chosen=chosen, **arguments)

    own = [one for one in inspect.signature(command).parameters.values() if one.name != "chosen"]
    made = [_parameter(one) for one in options]
    first, rest = own[:1], own[1:]  # the context
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*first, *made, *rest)]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_options


def _parameter(one: SpecOption) -> inspect.Parameter:
    declared = option(
        one.flag.name,
        help=one.help,
        show_default=one.default or False,
        autocompletion=one.reading.complete,
    )
    kind: Any = one.reading.type | None
    return inspect.Parameter(
        one.parameter, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, declared]
    )
