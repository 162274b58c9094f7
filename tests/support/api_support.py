"""Shared parts of the tests of the admin API: the files that it mounts, and a server that really listens."""

import dataclasses
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from waiting import eventually

from admin_api.rate_limits import Rate
from admin_api.server import OPTIONS
from admin_api.settings import Settings
from citus_cluster.model.api_config import CLUSTER_FILE, TOKENS_FILE, ApiConfig, ApiTokens, hash_token
from citus_cluster.model.citus.nodes import NodeAddress

ADMIN_TOKEN = "admin-token-of-the-tests"
READ_TOKEN = "read-token-of-the-tests"


@dataclass
class ApiFiles:
    """The files that the container mounts, in the test's own folder."""

    folder: Path

    @classmethod
    def write(cls, folder: Path, config: ApiConfig, *, password: str) -> "ApiFiles":
        files = cls(folder)
        files.write_cluster(config)
        files.write_tokens(ADMIN_TOKEN, READ_TOKEN)
        files.password_file.write_text(password)
        return files

    @classmethod
    def of_cluster(cls, folder: Path, coordinator: NodeAddress) -> "ApiFiles":
        """Write the files of a cluster with two workers and this address of the coordinator."""
        workers = (NodeAddress("citus-worker1"), NodeAddress("citus-worker2"))
        config = ApiConfig("citus", "postgres", "postgres", coordinator, NodeAddress("citus-coordinator"), workers)
        return cls.write(folder, config, password="pä'ss \"w$rd\\ #%")

    @property
    def password_file(self) -> Path:
        return self.folder / "superuser_password"

    @property
    def journal_folder(self) -> Path:
        return self.folder / "journal"

    def journal(self) -> list[dict[str, Any]]:
        """Return the lines of the API's journal."""
        file = self.journal_folder / "journal.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def write_cluster(self, config: ApiConfig) -> None:
        self.replace(CLUSTER_FILE, config.to_json())

    def write_tokens(self, admin: str, read: str) -> None:
        self.replace(TOKENS_FILE, ApiTokens(admin=hash_token(admin), read=hash_token(read)).to_json())

    def replace(self, name: str, text: str) -> None:
        """Replace a file by rename, as the host does."""
        new = self.folder / f"{name}.new"
        new.write_text(text)
        os.replace(new, self.folder / name)  # noqa: PTH105 - the very call whose effect is tested

    def settings(self, **changes: object) -> Settings:
        self.journal_folder.mkdir(exist_ok=True)
        # Many tests share an API, and some send wrong tokens and changes by the hundred.
        without_limit = Rate(burst=1_000_000, per_s=1_000)
        settings = Settings(
            config_dir=self.folder,
            password_file=self.password_file,
            journal_folder=self.journal_folder,
            changes=without_limit,
            failed_log_ins=without_limit,
        )
        return dataclasses.replace(settings, **changes)  # type: ignore[arg-type]


@dataclass
class Api:
    """A running API: a client for it, and the headers of each role."""

    port: int
    client: httpx.Client
    admin: dict[str, str]
    read: dict[str, str]


@contextmanager
def serve(app: FastAPI, **options: object) -> Iterator[Api]:
    """Run an app with its lifespan on a free port of this machine, like the container except for ``options``."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(app, **OPTIONS | options)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        # The socket listens from now on, so that the first request waits for the app instead of failing.
        listener.listen(128)
        thread.start()
        # Then the app has its parts, and has opened its record of operations.
        eventually(lambda: server.started or not thread.is_alive(), "the start of the API", every_s=0.01)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=90, trust_env=False) as client:
                yield Api(
                    port,
                    client,
                    {"Authorization": f"Bearer {ADMIN_TOKEN}"},
                    {"Authorization": f"Bearer {READ_TOKEN}"},
                )
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            if thread.is_alive():
                pytest.fail("the API did not shut down")
