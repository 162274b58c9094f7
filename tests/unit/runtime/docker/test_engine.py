import gc
import hashlib
import io
import json
import socket
import socketserver
import tarfile
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from citus_cluster.errors import EngineUnavailableError
from citus_cluster.runtime.docker.engine import Engine
from citus_cluster.runtime.ports import PortState, port_state


@pytest.fixture(autouse=True)
def _sockets_that_the_sdk_forgets() -> Iterator[None]:
    """Where it cannot connect, the SDK leaves closing its socket to the garbage collector, which warns."""
    gc.freeze()  # what was there before need not be looked at
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.unfreeze()


def test_a_missing_socket_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailableError, match="socket does not exist") as caught:
        Engine.connect()
    assert caught.value.hint and "DOCKER_HOST" in caught.value.hint


def test_a_socket_without_an_engine_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with pytest.raises(EngineUnavailableError, match="not running"):
        Engine.connect()


def test_an_engine_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        with pytest.raises(EngineUnavailableError, match="does not answer") as caught:
            Engine.connect(timeout_s=0.2)
    assert caught.value.hint and "restart the engine" in caught.value.hint


def test_an_engine_that_locks_up_is_told_from_one_that_went_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is locked up still tells its version."""
    path = tmp_path / "locked.sock"

    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith("/version"):
                ended.wait(10)
                return
            body = json.dumps({"ApiVersion": "1.41", "Version": "20.10.24"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "test"  # a Unix socket has no address

        def log_message(self, *_: object) -> None:
            pass

    ended = threading.Event()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    monkeypatch.setattr("citus_cluster.runtime.docker.engine._CALL_TIMEOUT_S", 0.2)
    with socketserver.ThreadingUnixStreamServer(str(path), Locked) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            engine = Engine.connect()
            with pytest.raises(EngineUnavailableError, match="does not answer while listing volumes") as caught:
                engine.project_volumes("citus")
            engine.close()
        finally:
            ended.set()
            server.shutdown()
            serving.join()
    assert caught.value.hint and "restart the engine" in caught.value.hint


def test_nonsense_in_docker_host_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "gopher://x")
    with pytest.raises(EngineUnavailableError, match="gopher://x") as caught:
        Engine.connect()
    assert caught.value.hint and "Unset" in caught.value.hint


def test_the_current_context_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker Desktop on a Mac may have no /var/run/docker.sock, and says where its socket is in a context."""
    host = f"unix://{tmp_path}/desktop.sock"
    folder = tmp_path / "contexts" / "meta" / hashlib.sha256(b"desktop").hexdigest()
    folder.mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "desktop"}))
    metadata = {"Name": "desktop", "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}}
    (folder / "meta.json").write_text(json.dumps(metadata))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    with pytest.raises(EngineUnavailableError) as caught:
        Engine.connect()
    assert host in caught.value.message


def test_a_port_is_free_or_taken_or_of_another_machine() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert port_state("127.0.0.1", port) is PortState.TAKEN
        assert port_state("0.0.0.0", port) is PortState.TAKEN
    assert port_state("127.0.0.1", port) is PortState.FREE
    assert port_state("192.0.2.1", port) is PortState.NOT_HERE


@pytest.mark.parametrize("content", [b"3\n", b"", None])
def test_a_file_that_vanishes_while_it_is_read_is_missing(content: bytes | None) -> None:
    """The engine then sends an archive without members."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        if content is not None:
            member = tarfile.TarInfo("file")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    api = SimpleNamespace(get_archive=lambda *_: ([archive.getvalue()], {}), close=lambda: None)
    engine = Engine(cast("Any", api), "unix:///test")
    container = cast("Any", SimpleNamespace(id="0", name="pg14-replica"))
    assert engine.read_file(container, "/file") == content
