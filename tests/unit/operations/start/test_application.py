"""A service without a password and without mounted files, as an application may be, is started and asked as well."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from setup_support import set_up

from citus_cluster.model.component import AsksHttp, Service
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.model.plan.events import Event
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.start import up
from citus_cluster.operations.start.reloads import Reloads
from citus_cluster.runtime.docker.engine import Container, Engine, HealthProbe


def test_no_folder_of_one_without_files_can_be_replaced() -> None:
    service = SimpleNamespace(name="app", config="app", files=())
    directory = SimpleNamespace(root=Path(), topology=SimpleNamespace(name="shop", services=(service,)))
    running = SimpleNamespace(id="1", service="app", state="running")
    engine = SimpleNamespace(project_containers=lambda project: [running])
    events: list[Event] = []
    restart = up._restart_on_replaced_folders(
        cast("Directory", directory), cast("Engine", engine), [cast("Container", running)], events.append
    )
    asyncio.run(restart)
    assert events == []


def test_it_is_asked_at_the_path_that_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def answer(*where: Any, timeout_s: float) -> HealthProbe:
        asked.append(where)
        return HealthProbe(ok=True, output="")

    monkeypatch.setattr(up, "probe_http", answer)
    directory = cast("Directory", SimpleNamespace(topology=SimpleNamespace(connect_host="192.0.2.1")))
    service = cast("Service", SimpleNamespace(knock=AsksHttp("/ready"), host_port=8003))
    assert asyncio.run(cast("Any", up._knock_at(directory, service, Reloads())())).ok
    assert asked == [("192.0.2.1", 8003, "/ready")]


def test_one_without_a_secret_has_an_empty_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, {"services": ["citus", "redis"]})
    directory = load(tmp_path)
    assert directory.password_of(ComponentName.REDIS) == (tmp_path / "generated/secrets/redis_password").read_text()
    monkeypatch.setattr(type(COMPONENTS[ComponentName.REDIS]), "secrets", ())
    assert directory.password_of(ComponentName.REDIS) == ""
