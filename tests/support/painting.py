"""A change and views of walls, for tests of what every change and view has in common."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, SecretStr

from citus_cluster.errors import CitusClusterError, NotFoundError
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Preview, blocks
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.view import View


@parameters
class Painting:
    """A wall to paint."""

    wall: Annotated[str, Field(min_length=1, max_length=40, description="Name of the wall.", examples=["north"])]
    coats: Annotated[int, Field(ge=1, le=3, description="Number of coats.")] = 1
    key: Annotated[SecretStr | None, Field(description="Key of the room.")] = None


@dataclass(frozen=True)
class Painted(Documented):
    """The wall that was painted."""

    wall: str
    coats: int
    is_new: bool = True


class FullError(CitusClusterError):
    """The wall takes no more paint."""

    code = "wall-full"
    http_status = 409


@dataclass
class Painter:
    """Paints walls as its name says: ``wet`` is blocked, ``full`` fails, ``bug`` breaks, ``slow`` waits for ``go``."""

    painted: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: list[str] = field(default_factory=list)
    followed: list[object] = field(default_factory=list)
    planned: int = 0
    _loop: asyncio.AbstractEventLoop | None = None

    def release(self) -> None:
        """Let ``slow`` go on, from any thread."""
        assert self._loop is not None, "nothing runs"
        self._loop.call_soon_threadsafe(self.go.set)

    async def plan(self, cluster: Cluster, wanted: Painting) -> Preview:
        self.planned += 1
        if wanted.wall == "missing":
            raise NotFoundError("There is no such wall.")
        findings = (blocks("the wall is wet", "DRY WALL;"),) if wanted.wall == "wet" else ()
        return Preview((f"Paint {wanted.wall}.",), findings, {"litres": wanted.coats})

    async def run(self, cluster: Cluster, wanted: Painting, preview: Preview, emit: Emit) -> Painted:
        self._loop = asyncio.get_running_loop()
        emit(Event(f"paint:{wanted.wall}", EventKind.STARTED, f"painting {wanted.wall}", {"job_id": 7}))
        self.started.set()
        match wanted.wall:
            case "full":
                raise FullError(hint="Choose another one.")
            case "bug":
                raise RuntimeError("a bug")
            case "slow":
                await self.go.wait()
        self.painted.append(wanted.wall)
        emit(Event(f"paint:{wanted.wall}", EventKind.DONE, f"{wanted.wall} is painted"))
        return Painted(wanted.wall, wanted.coats)

    async def stop(self, cluster: Cluster, wanted: Painting, emit: Emit) -> None:
        self.stopped.append(wanted.wall)

    async def follow(self, cluster: Cluster, wanted: Painting, job: Any, emit: Emit) -> Painted:
        self.followed.append(job)
        return Painted(wanted.wall, wanted.coats)

    def change(self, **more: Any) -> Change[Painting]:
        return Change(
            "walls-paint",
            "Paint a wall.",
            "walls/paint",
            "walls paint",
            self.plan,
            self.run,
            Painting,
            scope=lambda wanted: "walls" if wanted.wall == "slow" else wanted.wall,
            creates=lambda result: result["is_new"],
            **more,
        )


@dataclass(frozen=True)
class Wall:
    """A wall."""

    name: str
    size_bytes: int
    is_wet: bool = False


@parameters
class Which:
    """Which walls."""

    house: Annotated[str, Field(max_length=10, description="Name of the house.")] = "ours"


@dataclass
class Walls:
    """Reads walls, and counts how often."""

    count: int = 3
    reads: int = 0
    held: asyncio.Event | None = None

    async def read(self, cluster: Cluster, wanted: Which) -> Sequence[Wall]:
        self.reads += 1
        if self.held is not None:
            await self.held.wait()
        if wanted.house == "missing":
            raise NotFoundError("There is no such house.")
        return [Wall(f"wall{number:06}", number * 100, number % 2 == 1) for number in range(self.count)]

    def view(self, **more: Any) -> View[Which]:
        return View("walls-list", "List walls.", "walls", "walls list", Wall, self.read, Which, key="name", **more)
