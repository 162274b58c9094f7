"""The effects of changed files on running containers: which are new, recreated or reloaded, and why."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from citus_cluster.model.documents import Documented
from citus_cluster.model.tuning.parameters import needs_restart

_SETTING = re.compile(r"^([a-z_][a-z0-9_.]*) = (.*)$", re.MULTILINE)


class EffectKind(StrEnum):
    """What `up` will do with a container."""

    ADD = "add"
    RECREATE = "recreate"
    RELOAD = "reload"
    REMOVE = "remove"


@dataclass(frozen=True)
class Effect(Documented):
    """What happens to one service at the next `up`, with the reasons; for a new one, its resources."""

    service: str
    kind: EffectKind
    reasons: tuple[str, ...]


def read_settings(conf: str) -> dict[str, str]:
    """Read the settings of a generated postgresql.conf, including the quotes."""
    return dict(_SETTING.findall(conf))


def effects(
    old_services: Mapping[str, Any],
    new_services: Mapping[str, Any],
    old_confs: Mapping[str, str],
    new_confs: Mapping[str, str],
) -> tuple[Effect, ...]:
    """Compare two Compose files (their ``services``) and the settings that each service mounts.

    ``old_confs`` and ``new_confs`` return a service's postgresql.conf.
    """
    found = []
    for service, new in new_services.items():
        old = old_services.get(service)
        if old is None:
            found.append(Effect(service, EffectKind.ADD, tuple(_given(new, new_confs.get(service, "")))))
            continue
        settings = tuple(_setting_changes(old_confs.get(service, ""), new_confs.get(service, "")))
        keys = tuple(_key_changes(old, new))
        if keys or old.get("labels") != new.get("labels"):
            reasons = keys + settings or ("files that it reads at its start have changed",)
            found.append(Effect(service, EffectKind.RECREATE, reasons))
        elif settings:
            found.append(Effect(service, EffectKind.RELOAD, settings))
    found += [Effect(service, EffectKind.REMOVE, ()) for service in old_services if service not in new_services]
    return tuple(found)


def _given(new: Mapping[str, Any], conf: str) -> Iterable[str]:
    """Yield the resources of a new service."""
    if "mem_limit" in new:
        yield f"mem_limit {new['mem_limit']}"
    settings = read_settings(conf)
    yield from (f"{name} {settings[name]}" for name in ("shared_buffers", "max_connections") if name in settings)


def _key_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    for key in sorted({*old, *new} - {"labels"}):
        before, after = old.get(key), new.get(key)
        if before != after:
            simple = isinstance(before, str | int) and isinstance(after, str | int)
            yield f"{key} {before} → {after}" if simple else key


def _setting_changes(old: str, new: str) -> Iterable[str]:
    before, after = read_settings(old), read_settings(new)
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            when = " (restart)" if needs_restart(name) else ""
            yield f"{name} {before.get(name, 'default')} → {after.get(name, 'default')}{when}"
