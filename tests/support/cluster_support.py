"""What tests that need a real engine share: is one there, and which Citus images does it have."""

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
    """Skip the test with the reason, or fail it where ``REQUIRE_CLUSTER=1`` says that a cluster must be there."""
    if os.environ.get("REQUIRE_CLUSTER") == "1":
        pytest.fail(f"REQUIRE_CLUSTER=1, but {reason}")
    pytest.skip(reason)


@cache
def _engine() -> docker.DockerClient | str:
    try:
        # Ours first: the SDK leaves a socket open where nothing answers, which some later test would pay for.
        Engine.connect().close()
    except EngineUnavailableError as error:
        return f"no Docker engine: {error.message}"
    return docker.from_env(timeout=120)


def require_engine() -> docker.DockerClient:
    """A client of the running engine; skips or fails the test without one."""
    engine = _engine()
    if isinstance(engine, str):
        skip_or_fail(engine)
    return engine


def require_images(*names: str) -> None:
    """Skips or fails the test where the engine lacks one of these images."""
    engine = require_engine()
    for name in names:
        try:
            engine.images.get(name)
        except docker.errors.ImageNotFound:
            skip_or_fail(f"the engine has no image {name}")


@cache
def citus_images() -> dict[int, str]:
    """Tag of the newest ``citusdata/citus`` image on this engine for each PostgreSQL major, e.g. ``{17: …:13.2.2}``.

    Empty without an engine. Images of one id under several tags count once.
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
    """The image of the oldest PostgreSQL that is here, for tests in which its version plays no part; skips or fails."""
    require_engine()
    images = citus_images()
    if not images:
        skip_or_fail("the engine has no image citusdata/citus")
    return images[min(images)]


def _postgres_major(environment: list[str]) -> int | None:
    values = dict(entry.split("=", 1) for entry in environment if "=" in entry)
    major = values.get("PG_MAJOR", "")
    return int(major) if major.isdigit() else None
