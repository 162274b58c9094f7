"""Whether PostgreSQL would accept a value of a parameter, by the rules of guc.c: number, unit, range, word.

Without a table (for a major version that has none, or a parameter that pg_settings hides), only the server knows.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from citus_cluster.model.tuning import parameter_names as names
from citus_cluster.model.tuning.parameter_values import TABLE

_INTEGER = re.compile(r"[+-]?(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)", re.IGNORECASE)
_REAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_UNIT = re.compile(r"\s*([A-Za-z]*)\s*")
_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_MICROSECONDS = {"us": 1, "ms": 1000, "s": 10**6, "min": 6 * 10**7, "h": 36 * 10**8, "d": 864 * 10**8}


@dataclass(frozen=True)
class _Type:
    """One line of the table: ``unit`` is the unit of ``least`` and ``greatest``, empty if there is none."""

    majors: frozenset[int]
    kind: str
    unit: str = ""
    least: float = -math.inf
    greatest: float = math.inf
    bounds: tuple[str, str] = ("", "")
    words: tuple[str, ...] = ()


def value_problem(name: str, text: str, pg_major: int | None) -> str | None:
    """Return why PostgreSQL would refuse a value; None if it would not, or if that is not known.

    Without ``pg_major``, or if it has no table, only a value that every known major version would refuse is a problem.
    """
    known = _types(name)
    here = [one for one in known if pg_major in one.majors] or known or _untabled(name)
    if not here:
        return None
    problems = [_problem(one, text.strip(), known) for one in here]
    return problems[-1] if all(problems) else None


def same_value(name: str, one: str | None, other: str | None) -> bool:
    """Return whether two values of a quantity are equal, such as ``15min`` and ``900000``; None is no value."""
    if one is None or other is None or one == other:
        return one == other
    return _in_base(name, one) is not None and _in_base(name, one) == _in_base(name, other)


def _in_base(name: str, text: str) -> float | None:
    for known in _types(name):
        number, unit = _quantity(text.strip(), whole=known.kind == "integer")
        factor = _factor(unit, known.unit)
        if number is not None and factor is not None:
            return round(number * factor)
    return None


def _problem(wanted: _Type, text: str, known: tuple[_Type, ...]) -> str | None:
    if wanted.kind == "enum":
        # Some words depend on how the server was built, so one image does not represent all of its major version.
        words = list(dict.fromkeys(word for one in known for word in one.words))
        if text.lower() in {word.lower() for word in words}:
            return None
        return f"{text!r} is not one of {', '.join(word for word in words if word)}"
    number, unit = _quantity(text, whole=wanted.kind == "integer")
    factor = _factor(unit, wanted.unit)
    if number is None or factor is None:
        return f"{text!r} is not {_expected(wanted)}"
    value = number * factor
    if wanted.kind == "integer":
        value = round(value) if math.isfinite(value) else value
    if wanted.least <= value <= wanted.greatest:
        return None
    suffix = wanted.unit if wanted.unit in {*_BYTES, *_MICROSECONDS} else f" x {wanted.unit}" if wanted.unit else ""
    least, greatest = wanted.bounds
    return f"{text!r} is out of range: {least}{suffix} to {greatest}{suffix}"


def _quantity(text: str, *, whole: bool) -> tuple[float | None, str]:
    """Split a value into the number, None if there is none, and the unit."""
    found = _INTEGER.match(text) if whole else None
    number: float | None = None
    if found and text[found.end() : found.end() + 1] not in {".", "e", "E"}:
        digits = found[0].lower().lstrip("+-")
        number = int(digits, 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10)
        number = -number if found[0].startswith("-") else number
    elif found := _REAL.match(text):
        number = float(found[0])
    if number is None or found is None:
        return None, ""
    unit = _UNIT.fullmatch(text, found.end())
    return (number, unit[1]) if unit else (None, "")


def _factor(unit: str, base: str) -> float | None:
    """Return the factor from ``unit`` to ``base``, such as ``8kB``; None if there is none."""
    if not unit:
        return 1
    for table in (_BYTES, _MICROSECONDS):
        found = re.fullmatch(r"([0-9]*)([A-Za-z]+)", base)
        if unit in table and found and found[2] in table:
            return table[unit] / (int(found[1] or 1) * table[found[2]])
    return None


def _expected(wanted: _Type) -> str:
    found = wanted.unit.lstrip("0123456789")
    if found in _BYTES:
        return "a size such as 64MB (units: B, kB, MB, GB, TB)"
    if found in _MICROSECONDS:
        return "a duration such as 30s (units: us, ms, s, min, h, d)"
    return "a whole number" if wanted.kind == "integer" else "a number"


def _untabled(name: str) -> tuple[_Type, ...]:
    """Describe a parameter that pg_settings hides, as known from its source."""
    none: frozenset[int] = frozenset()
    for known, found in (
        (names.INTEGER, _Type(none, "integer")),
        (names.REAL, _Type(none, "real")),
        (names.MEMORY, _Type(none, "integer", "kB")),
        (names.TIME, _Type(none, "real", "ms")),
    ):
        if name.lower() in known:
            return (found,)
    return ()


def _types(name: str) -> tuple[_Type, ...]:
    return _table().get(name.lower(), ())


@cache
def _table() -> dict[str, tuple[_Type, ...]]:
    table: dict[str, tuple[_Type, ...]] = {}
    for name, found in _lines():
        table[name] = (*table.get(name, ()), found)
    return table


def _lines() -> Iterator[tuple[str, _Type]]:
    for line in TABLE.strip().splitlines():
        majors, name, kind, rest = line.split(" ", 3)
        known = frozenset(map(int, majors.split(",")))
        if kind == "enum":
            yield name, _Type(known, kind, words=tuple(rest.split(",")))
        else:
            unit, least, greatest = rest.split(" ")
            yield (
                name,
                _Type(known, kind, "" if unit == "-" else unit, float(least), float(greatest), (least, greatest)),
            )
