"""The API as a process: what it imports, how its health check reads it, what its loop logs."""

import logging
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from api_support import Api, ApiFiles, serve
from fastapi import FastAPI
from waiting import eventually

from admin_api.app import create_app
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress

ROOT = Path(__file__).parents[2]
HEALTHCHECK = ROOT / "admin_api" / "healthcheck.py"
NOT_IN_THE_IMAGE = ("docker", "typer", "rich", "yaml", "ruamel", "jsonschema", "httpx")


def test_the_api_imports_nothing_that_its_image_lacks() -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_IN_THE_IMAGE!r})); import admin_api.__main__, admin_api.app"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _check_health(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(HEALTHCHECK), str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_the_health_check_prints_why_it_fails(away: Api) -> None:
    done = _check_health(away.port)
    assert done.returncode == 1
    assert done.stdout.startswith("starting: Cannot connect to ")
    assert len(done.stdout.splitlines()) == 1


def test_the_health_check_succeeds_on_200() -> None:
    app = FastAPI()
    app.get("/health")(lambda: {"status": "ok"})
    with serve(app) as api:
        done = _check_health(api.port)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_health_check_fails_without_a_server(nobody: NodeAddress) -> None:
    done = _check_health(nobody.port)
    assert done.returncode == 1
    assert "does not answer" in done.stdout
    assert done.stderr == ""


class _HangingUp(socketserver.ThreadingTCPServer):
    """A server that closes every connection at once, and counts them."""

    daemon_threads = True
    connections = 0

    def finish_request(self, request: object, client_address: object) -> None:
        self.connections += 1


@pytest.fixture
def hanging_up() -> Iterator[_HangingUp]:
    with _HangingUp(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_reconciler_goes_on_and_says_the_same_only_once(
    files: ApiFiles, hanging_up: _HangingUp, nobody: NodeAddress, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "admin_api.reconciler"]

    config = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())
    files.write_cluster(replace(config, coordinator=NodeAddress("127.0.0.1", hanging_up.server_address[1])))
    caplog.set_level(logging.INFO, "admin_api.reconciler")
    with serve(create_app(files.settings(busy_interval_s=0.05))):
        eventually(lambda: hanging_up.connections > 5)
        assert len(warnings()) == 1
        # A new file is seen without a restart, and its trouble is told in turn.
        files.write_cluster(replace(config, coordinator=nobody))
        eventually(lambda: len(warnings()) == 2)
        files.replace("cluster.json", "{}")
        eventually(lambda: len(warnings()) == 3)
    assert "closed the connection" in warnings()[0]
    assert "refused" in warnings()[1]
    assert "not valid" in warnings()[2]
