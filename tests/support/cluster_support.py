"""Shared parts of tests that need a real engine: whether one answers, and which Citus images it has."""

import os
import re
from functools import cache
from typing import NoReturn

import docker
import docker.errors
import pytest

from citus_cluster.errors import EngineUnavailableError
from citus_cluster.runtime.docker.engine import Engine

REPOSITORY = "citusdata/citus"


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test with the reason, or fail it if ``REQUIRE_CLUSTER=1`` requires a cluster."""
    if os.environ.get("REQUIRE_CLUSTER") == "1":
        pytest.fail(f"REQUIRE_CLUSTER=1, but {reason}")
    pytest.skip(reason)


@cache
def _engine() -> docker.DockerClient | str:
    try:
        # Our own function comes first: if nothing answers, the SDK leaves a socket open, and a later test fails.
        Engine.connect().close()
    except EngineUnavailableError as error:
        return f"no Docker engine: {error.message}"
    return docker.from_env(timeout=120)


def require_engine() -> docker.DockerClient:
    """Return a client of the running engine. Skips or fails the test without an engine."""
    engine = _engine()
    if isinstance(engine, str):
        skip_or_fail(engine)
    return engine


def require_images(*names: str) -> None:
    """Skip or fail the test if the engine lacks one of these images."""
    engine = require_engine()
    for name in names:
        try:
            engine.images.get(name)
        except docker.errors.ImageNotFound:
            skip_or_fail(f"the engine has no image {name}")


@cache
def citus_images() -> dict[int, str]:
    """Return the tag of the newest ``citusdata/citus`` image here for each PostgreSQL major, e.g. ``{17: …:13.2.2}``.

    Empty without an engine. An image with several tags counts once.
    """
    engine = _engine()
    if isinstance(engine, str):
        return {}
    found: dict[int, list[tuple[tuple[int, ...], str]]] = {}
    for image in engine.images.list(REPOSITORY):
        major = _postgres_major(image.attrs["Config"].get("Env") or [])
        for tag in image.tags:
            version = re.fullmatch(rf"{REPOSITORY}:(\d+(?:\.\d+)*)", tag)
            if version and major:
                found.setdefault(major, []).append((tuple(map(int, version[1].split("."))), tag))
    return {major: max(tags)[1] for major, tags in sorted(found.items())}


def oldest_image() -> str:
    """Return the image with the oldest PostgreSQL, for tests that do not depend on its version. Skips or fails."""
    require_engine()
    images = citus_images()
    if not images:
        skip_or_fail("the engine has no image citusdata/citus")
    return images[min(images)]


def _postgres_major(environment: list[str]) -> int | None:
    values = dict(entry.split("=", 1) for entry in environment if "=" in entry)
    major = values.get("PG_MAJOR", "")
    return int(major) if major.isdigit() else None
