"""Running APIs for the tests of this folder."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from api_support import Api, ApiFiles, serve
from fastapi import FastAPI

from admin_api.app import create_app
from citus_cluster.model.citus.nodes import NodeAddress


@pytest.fixture(scope="session")
def nobody() -> Iterator[NodeAddress]:
    """An address that refuses connections for as long as the tests run: bound, but nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield NodeAddress("127.0.0.1", holder.getsockname()[1])


@pytest.fixture
def files(tmp_path: Path, nobody: NodeAddress) -> ApiFiles:
    """Files of a cluster whose coordinator is away, for a test that changes them or the app."""
    return ApiFiles.of_cluster(tmp_path, nobody)


@pytest.fixture
def run_api() -> Iterator[Callable[[FastAPI], Api]]:
    """Run apps until the test ends."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serve(app))


@pytest.fixture(scope="session")
def away_files(tmp_path_factory: pytest.TempPathFactory, nobody: NodeAddress) -> ApiFiles:
    """The files of ``away``; not to be changed."""
    return ApiFiles.of_cluster(tmp_path_factory.mktemp("away"), nobody)


@pytest.fixture(scope="session")
def away(away_files: ApiFiles) -> Iterator[Api]:
    """An API whose coordinator is away, shared by the tests that change nothing."""
    with serve(create_app(away_files.settings(connect_timeout_s=0.3, health_timeout_s=1))) as api:
        yield api
