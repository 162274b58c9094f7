"""Plain data as a specification: all problems at once, each with the origin of its value."""

import difflib
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from citus_cluster.errors import SpecError
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.spec import API_VERSION, MAX_WORKERS, ClusterSpec, Replication

_SCALAR_BRANCHES = ("bool", "int", "float", "str")


def parse_spec(data: Any, *, origins: Mapping[str, str] | None = None, source: str = SPEC_FILE) -> ClusterSpec:
    """Check plain data and return the specification.

    ``origins`` maps a dotted path to where its value came from (``workers`` -> ``--workers``), for
    the messages. All other values came from ``source``, the name of a file, or empty without a file.
    Raises SpecError with every problem.
    """
    if not isinstance(data, Mapping):
        raise SpecError(f"{source} must hold keys and values, such as 'workers: 3'; nothing was written.")
    origins = origins or {}
    try:
        spec = ClusterSpec.model_validate(data)
    except ValidationError as error:
        problems = [_problem(item, origins, source) for item in error.errors() if _is_meant(item, data)]
        raise SpecError(_headline(problems, source), details=list(dict.fromkeys(problems))) from None
    problems = [f"{_origin(path, origins, source)}: {text}" for path, text in _contradictions(spec, origins)]
    if problems:
        raise SpecError(_headline(problems, source), details=problems)
    return spec


def _headline(problems: Sequence[str], source: str) -> str:
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    what = f"The specification ({source} and the given options)" if source else "The given specification"
    return f"{what} has {count}; nothing was written."


def _origin(path: str, origins: Mapping[str, str], source: str) -> str:
    """Return where a value came from; for an item of a list (``services.0``), where the list came from."""
    return origins.get(path) or origins.get(path.rpartition(".")[0]) or (f"{source}: {path}" if source else path)


def _contradictions(spec: ClusterSpec, given: Container[str]) -> Iterable[tuple[str, str]]:
    """Yield contradictions between values that are valid separately; ``given``: the paths set by this run."""
    numbers = spec.worker_numbers
    if len(set(numbers)) != len(numbers):
        yield "workers", "a worker's number is in the list twice: list each worker once"
    # Values for a service that is switched off apply again once it is switched on.
    synchronous = spec.pg14.replication is Replication.SYNC and "pg14.replication" in given
    if synchronous and ComponentName.PG14 not in spec.wanted:
        yield "pg14.replication", "there is no replica to wait for: add pg14 to the services, or use async replication"
    if ComponentName.CITUS not in spec.wanted:
        if ComponentName.ADMIN_API in spec.wanted:
            yield "services", "admin-api requires Citus: add citus, or omit admin-api"
        if not spec.wanted:
            yield "services", "no service is listed: name at least one of " + ", ".join(ComponentName)
        return
    if not spec.coordinator:
        if ComponentName.ADMIN_API in spec.wanted:
            yield "services", "admin-api requires a coordinator on this host: omit it without one"
        if not spec.advertise:
            yield (
                "coordinator",
                "without a coordinator, the workers must be reachable from another server: "
                "set their name or address with --advertise",
            )
        if not numbers:
            yield "workers", "without a coordinator, at least one worker is required"


def _is_meant(error: Any, data: Mapping[str, Any]) -> bool:
    """If a value may be of several types, pydantic reports an error for each; keep one."""
    location = error["loc"]
    if location[0] == "workers":
        return str(location[1]).startswith("list[") == isinstance(data["workers"], list)
    if location[0] == "settings" and location[-1] in _SCALAR_BRANCHES:
        return bool(location[-1] == ("float" if isinstance(error["input"], float) else "str"))
    return True


def _problem(error: Any, origins: Mapping[str, str], source: str) -> str:
    # pydantic names the branch of a union in the location; the user wrote no such key.
    location = [part for part in error["loc"] if not str(part).startswith(("constrained-", "list[", "[key]"))]
    if location[0] == "settings" and len(location) > 1 and location[-1] in _SCALAR_BRANCHES:
        location.pop()
    path = ".".join(str(part) for part in location)
    where = _origin(path, origins, source)
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{_did_you_mean(str(location[-1]), _keys_at(location[:-1]))}"
        case "missing":
            return f"{where}: is missing" + (f": write '{path}: {API_VERSION}'" if path == "apiVersion" else "")
        case "value_error":
            return f"{where}: {error['ctx']['error']}"
        case "enum" | "literal_error":
            expected = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            return f"{where}: {given!r} is not one of {', '.join(expected)}{_closest(str(given), expected)}"
        case "greater_than_equal":
            return f"{where}: {given} is too small; the minimum is {error['ctx']['ge']}"
        case "less_than_equal":
            return f"{where}: {given} is too large; the maximum is {error['ctx']['le']}"
        case "list_type" | "int_type" if path == "workers":
            return f"{where}: {given!r} is neither a whole number from 0 to {MAX_WORKERS} nor a list of worker numbers"
        case "int_type" | "int_from_float":
            return f"{where}: {given!r} is not a whole number"
        case "model_type" | "dict_type":
            return f"{where}: {given!r} is not a group of keys and values"
        case "list_type":
            return f"{where}: {given!r} is not a list: write [{given}]"
        case "string_type" if location[0] == "settings":
            return f"{where}: {given!r} is not a value for a setting: write a text, a number, true or false"
        case "string_type":
            return f"{where}: {given!r} is not a text: put it in quotes"
        case "invalid_key":
            return f"{where}: unknown key; keys are texts"
        case _:
            return f"{where}: {error['msg'].lower()} (got {given!r})"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    known = list(known)
    return _closest(word, known) or (f"; the known keys are {', '.join(known)}" if known else "")


def _closest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _keys_at(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = ClusterSpec
    for part in location:
        field = model.model_fields.get(str(part))
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)
