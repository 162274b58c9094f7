"""How a docker-compose.yml on the disk differs from the one that cluster.yaml describes, except for additions."""

from collections.abc import Iterator, Mapping
from typing import Any

_OURS = "io.citus-cluster.cluster"
"""The label that marks a service as this tool's own."""


def drift(wanted: Any, found: Any) -> tuple[str, ...]:
    """Compare two parsed Compose files: one line for each part of ``wanted`` that ``found`` lacks or changes.

    Additions do not count: another service, volume or network, one more label, variable, port or option. But an
    unwanted service of this tool does: an older file may name a worker that has left since.
    """
    return (*_differences(wanted, found, ""), *_unwanted(wanted, found))


def service_drift(wanted: Any, found: Any) -> tuple[str, ...]:
    """Like :func:`drift`, for services only: those that are missing, and unwanted ones of this tool."""
    here = _services(found)
    missing = (f"services.{name} is missing" for name in _services(wanted) if name not in here)
    return (*missing, *_unwanted(wanted, found))


def _unwanted(wanted: Any, found: Any) -> Iterator[str]:
    there = _services(wanted)
    for name, service in _services(found).items():
        if name not in there and isinstance(service, Mapping) and _OURS in (service.get("labels") or {}):
            yield f"services.{name} is not in cluster.yaml"


def _services(document: Any) -> Mapping[str, Any]:
    services = document.get("services") if isinstance(document, Mapping) else None
    return services if isinstance(services, Mapping) else {}


def _differences(wanted: Any, found: Any, path: str) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            where = f"{path}.{key}" if path else str(key)
            if key in found:
                yield from _differences(value, found[key], where)
            else:
                yield f"{where} is missing"
    elif isinstance(wanted, list) and isinstance(found, list):
        left = list(found)
        for item in wanted:
            same = next((other for other in left if not any(_differences(item, other, path))), None)
            if same is None and not (item is None and None in left):
                yield f"{path} does not have {item}"
            else:
                left.remove(same)
    elif wanted is None and isinstance(found, Mapping):
        return  # ``volumes: {data: }`` with options of the user's own
    elif wanted != found:
        simple = isinstance(wanted, str | int | float) and isinstance(found, str | int | float)
        yield f"{path} is {found} instead of {wanted}" if simple else f"{path} differs"
