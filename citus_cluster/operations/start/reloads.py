"""Reloads of running servers: those that reloaded their settings, and the lines that they do not use."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from citus_cluster.errors import SettingRefusedError
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.tuning.parameters import UnusedSetting


@dataclass
class Reloads:
    """Services that have reloaded changed settings, and for each service the lines that its server does not use."""

    done: list[str] = field(default_factory=list)
    unused: dict[str, tuple[UnusedSetting, ...]] = field(default_factory=dict)


def refuse_unused(reloads: Reloads, services: Iterable[str], emit: Emit) -> None:
    """Warn about settings that wait for a restart; raise SettingRefusedError for those that a running server refused.

    Such a server keeps running, but fails at its next start.
    """
    refused: list[tuple[str, UnusedSetting]] = []
    for service in services:
        for one in reloads.unused.get(service, ()):
            if one.needs_restart:
                message = f"{service} uses this setting only after a restart (docker compose restart {service}): {one}"
                emit(Event(f"settings:{service}", EventKind.WARNING, message))
            else:
                refused.append((service, one))
    if refused:
        names = ", ".join(dict.fromkeys(service for service, _ in refused))
        what = "a setting" if len(refused) == 1 else f"{len(refused)} settings"
        raise SettingRefusedError(
            f"{names} refused {what}: the old value stays in force, and the next restart of the server would fail.",
            details=[f"{service}: {one}" for service, one in refused],
            hint="Correct the value under settings in cluster.yaml, then run citus-cluster setup and citus-cluster up. "
            "Do not restart the server before. To see the reason: docker logs of the container",
        )
