"""Commands that are made from declared changes and views."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from pydantic import Field, SecretStr
from typer.testing import CliRunner, Result

from citus_cluster.cli import declared
from citus_cluster.cli.tree import TREE, Branch, Declared
from citus_cluster.errors import BlockedError, ConsentNeededError, UsageError
from citus_cluster.model.documents import Documented
from citus_cluster.model.parameters import parameters
from citus_cluster.model.plan.events import Emit, Event, EventKind
from citus_cluster.model.plan.preview import Preview, blocks, warns
from citus_cluster.operations.change import Change
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.registry import CHANGES, VIEWS
from citus_cluster.operations.view import View

DSN = "postgresql://postgres@127.0.0.1:1/postgres"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@parameters
class Painting:
    """What to paint."""

    wall: Annotated[str, Field(max_length=5, description="Name of the wall.")]
    coats: Annotated[int, Field(ge=1, le=3, description="Number of coats.")] = 1
    colour: Annotated[Colour | None, Field(description="Its colour.")] = None
    also: Annotated[tuple[str, ...], Field(description="Other walls.")] = ()
    dry: Annotated[bool, Field(description="Let it dry.")] = False
    key: Annotated[SecretStr | None, Field(description="Key of the room.")] = None


@dataclass(frozen=True)
class Painted(Documented):
    wall: str
    coats: int
    colour: Colour | None
    also: tuple[str, ...]
    dry: bool
    key: str | None


class Painter:
    """Plans what it is told to plan, and remembers what it ran."""

    def __init__(self, preview: Preview) -> None:
        self.preview = preview
        self.ran: list[Painting] = []

    async def plan(self, cluster: Cluster, wanted: Painting) -> Preview:
        return self.preview

    async def run(self, cluster: Cluster, wanted: Painting, preview: Preview, emit: Emit) -> Painted:
        self.ran.append(wanted)
        emit(Event("paint", EventKind.DONE, "painted"))
        key = wanted.key.get_secret_value() if wanted.key else None
        return Painted(wanted.wall, wanted.coats, wanted.colour, wanted.also, wanted.dry, key)


def paint(painter: Painter, *, asks: bool = False) -> Callable[..., None]:
    change: Change[Painting] = Change(
        "walls-paint", "Paint a wall.", "walls/paint", "walls paint", painter.plan, painter.run, Painting, asks=asks
    )
    return declared.command_of_change(change)


def call(command: Callable[..., None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*arguments, "--dsn", DSN])


def test_every_kind_of_parameter_arrives(tmp_path: Path) -> None:
    painter = Painter(Preview(("Paint.",)))
    secret = tmp_path / "key"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    options = ["--coats", "2", "--colour", "blue", "--also", "a", "--also", "b", "--dry", "--key-file", str(secret)]
    done = call(paint(painter), "north", *options, "--format", "json")
    assert done.exit_code == 0, done.output
    (wanted,) = painter.ran
    assert wanted.key is not None
    assert wanted.key.get_secret_value() == "s3cret"
    assert (wanted.wall, wanted.coats, wanted.colour, wanted.also, wanted.dry) == ("north", 2, "blue", ("a", "b"), True)
    assert json.loads(done.stdout)["also"] == ["a", "b"]


def test_defaults_are_those_of_the_declaration() -> None:
    painter = Painter(Preview(("Paint.",)))
    assert call(paint(painter), "north").exit_code == 0
    assert painter.ran == [Painting("north")]


def test_a_value_that_breaks_a_constraint_is_refused_before_anything_runs() -> None:
    painter = Painter(Preview(("Paint.",)))
    refused = call(paint(painter), "north", "--coats", "4")
    assert isinstance(refused.exception, UsageError)
    assert "coats" in refused.exception.message
    assert painter.ran == []


@pytest.mark.parametrize(
    ("preview", "status"),
    [
        (Preview(("Paint.",)), 4),
        (Preview(()), 0),
        (Preview(("Paint.",), (blocks("it is wet", "dry it"),)), 1),
        (Preview(("Paint.",), (warns("it is old"),)), 4),
    ],
)
def test_a_dry_run_shows_the_plan_and_changes_nothing(preview: Preview, status: int) -> None:
    painter = Painter(preview)
    shown = call(paint(painter), "north", "--dry-run", "--format", "json")
    assert shown.exit_code == status
    assert json.loads(shown.stdout) == preview.as_dict()
    text = call(paint(painter), "north", "--dry-run").stdout
    assert all(step in text for step in preview.steps or ("Nothing to do",))
    assert all(found.message in text for found in preview.findings)
    assert painter.ran == []


def test_a_finding_that_blocks_refuses_the_change_with_what_mends_it() -> None:
    painter = Painter(Preview(("Paint.",), (blocks("it is wet", "DRY it"),)))
    refused = call(paint(painter), "north")
    assert isinstance(refused.exception, BlockedError)
    assert "it is wet" in refused.exception.message
    assert "DRY it" in (refused.exception.hint or "")
    assert painter.ran == []


def test_a_change_that_is_hard_to_undo_needs_consent() -> None:
    painter = Painter(Preview(("Paint.",), (warns("it is old"),)))
    refused = call(paint(painter, asks=True), "north")
    assert isinstance(refused.exception, ConsentNeededError)
    assert refused.exception.details == ("Paint.", "it is old")
    assert painter.ran == []
    assert call(paint(painter, asks=True), "north", "--yes").exit_code == 0
    assert painter.ran == [Painting("north")]


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_a_change_that_is_not_asked_about_shows_its_warnings_before_it_runs(options: tuple[str, ...]) -> None:
    painter = Painter(Preview(("Paint.",), (warns("it is old", "buy a wall"),)))
    done = call(paint(painter, asks=bool(options)), "north", *options, "--format", "json")
    assert done.stderr.index("it is old buy a wall") < done.stderr.index("painted")
    assert json.loads(done.stdout)["wall"] == "north"


@dataclass(frozen=True)
class Wall:
    name: str
    size_bytes: int
    nodes: tuple[str, ...] = ()


async def read_walls(cluster: Cluster, wanted: object) -> Sequence[Wall]:
    return [Wall("north", 2048, ("a", "b")), Wall("east", 1), Wall("south [bold]", 3)]


def walls(**more: Any) -> Callable[..., None]:
    view: View[Any] = View("walls-list", "List walls.", "walls", "walls list", Wall, read_walls, key="name", **more)
    return declared.command_of_view(view)


def test_a_list_is_filtered_sorted_and_paged() -> None:
    options = ["--sort", "-size_bytes", "--limit", "2", "--fields", "name", "--format", "json"]
    first = json.loads(call(walls(), *options).stdout)
    assert first["items"] == [{"name": "north"}, {"name": "south [bold]"}]
    assert first["total"] == 3
    second = json.loads(call(walls(), *options, "--cursor", first["next_cursor"]).stdout)
    assert second == {"items": [{"name": "east"}], "next_cursor": None, "total": 3}
    few = call(walls(), "--filter", "size_bytes.min=2", "--search", "north", "--format", "json")
    assert [row["name"] for row in json.loads(few.stdout)["items"]] == ["north"]


def test_a_list_as_text_shows_sizes_for_people_and_names_as_they_are() -> None:
    text = call(walls()).stdout
    assert "2.0 kB" in text
    assert "a, b" in text
    assert "south [bold]" in text
    assert "nodes" not in call(walls(columns=("name",))).stdout


def test_a_filter_without_a_value_says_its_form() -> None:
    refused = call(walls(), "--filter", "name")
    assert isinstance(refused.exception, UsageError)
    assert "FIELD=VALUE" in refused.exception.message


def test_every_declared_change_and_view_has_its_command_and_says_the_same() -> None:
    leaves = {
        f"{group} {name}": leaf
        for group, part in TREE.items()
        if isinstance(part, Branch)
        for name, leaf in part.leaves.items()
        if isinstance(leaf, Declared)
    }
    every: list[Change[Any] | View[Any]] = [*CHANGES, *VIEWS]
    declared_ones = {one.command: one for one in every if one.command not in HAND_WRITTEN}
    assert set(leaves) == set(declared_ones)
    for command, leaf in leaves.items():
        module, _, name = leaf.place.partition(":")
        found = getattr(import_module(f"citus_cluster.operations.{module}"), name)
        assert found is declared_ones[command]
        assert leaf.summary == found.summary


# Commands with options of their own, which run the same change.
HAND_WRITTEN = frozenset(
    {
        "nodes add",
        "nodes drain",
        "nodes drain --undo",
        "nodes remove",
        "rebalance start",
        "rebalance stop",
        "roles create",
        "roles list",
        "roles password",
        "roles drop",
        "pg14 promote",
        "pg14 rebuild-replica",
    }
)


def test_names_and_paths_are_unique() -> None:
    for ones in (CHANGES, VIEWS):
        assert len({one.name for one in ones}) == len({one.path for one in ones}) == len(ones)
    assert not {one.name for one in CHANGES} & {one.name for one in VIEWS}
