"""Taking a cluster down where Compose hangs; what it does on a real engine is in the end-to-end tests."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from setup_support import set_up

from citus_cluster.errors import ServiceFailedError
from citus_cluster.model.plan.events import ignore
from citus_cluster.operations.directory import load
from citus_cluster.operations.start import down as down_module


class HangingCompose:
    async def config(self, *, all_profiles: bool) -> dict[str, Any]:
        return {"services": {}}

    async def down(self, *_: object, volumes: bool) -> None:
        await asyncio.Event().wait()


def test_a_compose_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def version() -> str:
        return "2.40.3"

    set_up(tmp_path)
    monkeypatch.setattr(down_module, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(down_module, "compose_of", lambda directory: HangingCompose())
    monkeypatch.setattr("citus_cluster.runtime.docker.compose.version", version)
    engine = SimpleNamespace(project_containers=lambda project: ())
    monkeypatch.setattr(down_module, "Engine", SimpleNamespace(connect=lambda: engine))
    with pytest.raises(ServiceFailedError, match="down did not return within") as caught:
        asyncio.run(down_module.down(load(tmp_path), ignore))
    assert caught.value.hint and "restart the engine" in caught.value.hint
