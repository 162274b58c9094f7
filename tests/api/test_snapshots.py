"""Views are read as the role that only reads, and as the superuser where this role does not suffice."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from admin_api.snapshots import Snapshots
from citus_cluster.errors import CitusClusterError, ReaderRefusedError
from citus_cluster.model.parameters import NoParameters
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import View


@dataclass(frozen=True)
class Row:
    """Who has read."""

    reader: str


SUPERUSER, READER = cast("Cluster", "the superuser"), cast("Cluster", "the reader")


def read_by(view_needs_superuser: bool, reader: Callable[[], Cluster | None], failing: Exception | None = None) -> Any:
    """Read a view, which fails for the reader with ``failing``. Returns who has read it, and what was doubted."""
    doubts: list[Exception] = []

    async def read(cluster: Cluster, _: object) -> Row:
        if cluster is READER and failing:
            raise failing
        return Row(str(cluster))

    view = View(name="one", summary="", path="one", command="one", row=Row, read=read, superuser=view_needs_superuser)

    async def body() -> str:
        found = await Snapshots(lambda: SUPERUSER, reader, doubts.append).get(view, NoParameters())
        return str(found.value.reader)

    return asyncio.run(body()), doubts


def test_the_reader_reads_what_needs_no_superuser() -> None:
    assert read_by(False, lambda: READER) == ("the reader", [])
    assert read_by(True, lambda: READER) == ("the superuser", [])
    assert read_by(False, lambda: None) == ("the superuser", [])


@pytest.mark.parametrize("error", [ReaderRefusedError("worker1"), CitusClusterError("Permission denied.")])
def test_what_the_reader_cannot_read_the_superuser_reads(error: CitusClusterError) -> None:
    assert read_by(False, lambda: READER, error) == ("the superuser", [error])
