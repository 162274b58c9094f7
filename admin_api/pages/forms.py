"""Forms of declared parameters: their fields from the types, and their values from what a browser sends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from citus_cluster.model.parameters import adapter_of

Values = Mapping[str, Sequence[str]]
"""What a form sent, or a query: texts by name."""
YES, NO = "true", "false"


@dataclass(frozen=True)
class Field:
    """One field of a form. ``kind`` is text, number, choice, flag, secret or lines."""

    name: str
    kind: str
    label: str
    description: str = ""
    is_required: bool = False
    choices: tuple[str, ...] = ()
    example: str | None = None
    least: float | None = None
    most: float | None = None
    max_length: int | None = None
    is_integer: bool = False
    default: str | None = None


def fields_of(shape: Any) -> tuple[Field, ...]:
    """Return the fields of a data class of parameters."""
    schema = adapter_of(shape).json_schema()
    required = set(schema.get("required", ()))
    return tuple(
        _field(name, one, schema.get("$defs", {}), is_required=name in required)
        for name, one in schema.get("properties", {}).items()
    )


def _field(name: str, declared: Mapping[str, Any], defs: Mapping[str, Any], *, is_required: bool) -> Field:
    kinds = [_resolve(one, defs) for one in declared.get("anyOf", [declared])]
    is_nullable = any(one.get("type") == "null" for one in kinds)
    (inner, *_) = [one for one in kinds if one.get("type") != "null"] or [{}]
    common: dict[str, Any] = {
        "name": name,
        "label": name.replace("_", " "),
        "description": declared.get("description", "") or inner.get("description", ""),
        "is_required": is_required,
        "example": next((_text(one) for one in declared.get("examples") or inner.get("examples") or ()), None),
        "default": _text(declared.get("default")),
    }
    if "enum" in inner or "const" in inner:
        return Field(**common, kind="choice", choices=tuple(map(str, inner.get("enum", [inner.get("const")]))))
    match inner.get("type"):
        case "boolean" if is_nullable or is_required:
            return Field(**common, kind="choice", choices=(YES, NO))
        case "boolean":
            return Field(**common, kind="flag")
        case "integer" | "number" as number:
            least = inner.get("minimum", inner.get("exclusiveMinimum"))
            most = inner.get("maximum", inner.get("exclusiveMaximum"))
            return Field(**common, kind="number", is_integer=number == "integer", least=least, most=most)
        case "array":
            return Field(**common, kind="lines")
        case "string" if inner.get("format") == "password":
            return Field(**common, kind="secret", max_length=inner.get("maxLength"))
        case _:
            return Field(**common, kind="text", max_length=inner.get("maxLength"))


def _resolve(one: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    if "allOf" in one:
        one = {**one, **one["allOf"][0]}
    if "$ref" in one:
        return {**defs[one["$ref"].rpartition("/")[2]], **{key: value for key, value in one.items() if key != "$ref"}}
    return one


def _text(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return YES if value else NO
    if isinstance(value, (list, tuple)):
        return "\n".join(map(str, value))
    return str(value)


def read(fields: Sequence[Field], values: Values, *, is_form: bool = True) -> dict[str, object]:
    """Return the values of parameters for ``read_parameters``. An empty field is one that was not filled in.

    A browser does not send a box that is not ticked, so in a form (not in a query) a missing one means no.
    """
    found: dict[str, object] = {}
    for field in fields:
        given = [one.replace("\r\n", "\n") for one in values.get(field.name, ())]
        text = given[-1] if given else ""
        match field.kind:
            case "flag":
                if given or is_form:
                    found[field.name] = text.lower() in {YES, "on", "1", "yes"}
            case "lines":
                lines = tuple(line.strip() for one in given for line in one.split("\n") if line.strip())
                if lines:
                    found[field.name] = lines
            case "choice" if field.choices == (YES, NO):
                if text:
                    found[field.name] = text == YES
            case "number":
                if text:
                    found[field.name] = _number(text, is_integer=field.is_integer)
            case _:
                if text:
                    found[field.name] = text
    return found


def _number(text: str, *, is_integer: bool) -> object:
    try:
        return int(text) if is_integer else float(text)
    except ValueError:
        # The parameters' own check says what is wrong.
        return text


def are_complete(fields: Sequence[Field], values: Values) -> bool:
    """Return whether every field that must be filled in is."""
    return all(any(values.get(field.name, ())) for field in fields if field.is_required)


def shown(fields: Sequence[Field], values: Values) -> dict[str, str]:
    """Return the text that each field shows: what was sent, else its default."""
    return {
        field.name: "\n".join(values[field.name]) if field.name in values else (field.default or "") for field in fields
    }
