"""Running APIs for the tests of this folder."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles, serve
from fastapi import FastAPI

from admin_api.app import create_app
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.nodes import NodeAddress

PASSWORD = "pä'ss \"w$rd\\ #%"


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections for as long as the test runs: bound, but nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def files(tmp_path: Path, closed_port: int) -> ApiFiles:
    """Files of a cluster whose coordinator is away."""
    made = ApiFiles(tmp_path)
    away = NodeAddress("127.0.0.1", closed_port)
    workers = (NodeAddress("citus-worker1"), NodeAddress("citus-worker2"))
    made.write_cluster(ApiConfig("citus", "postgres", "postgres", away, NodeAddress("citus-coordinator"), workers))
    made.write_tokens(ADMIN_TOKEN, READ_TOKEN)
    made.password_file.write_text(PASSWORD)
    return made


@pytest.fixture
def run_api() -> Iterator[Callable[[FastAPI], Api]]:
    """Run apps until the test ends."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serve(app))


@pytest.fixture
def away(files: ApiFiles, run_api: Callable[[FastAPI], Api]) -> Api:
    """An API whose coordinator is away."""
    return run_api(create_app(files.settings(connect_timeout_s=0.3, health_timeout_s=1)))
