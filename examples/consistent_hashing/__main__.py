"""``python -m consistent_hashing COMMAND``: what an operator does with the shards."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
from service_kit.cluster import NotConfiguredError
from service_kit.unavailable import UnavailableError

from consistent_hashing.distribution import draw_svg, draw_text
from consistent_hashing.migration import Migration
from consistent_hashing.moving import Moved
from consistent_hashing.scatter import Scatter
from consistent_hashing.schema import drop_shards, make_shards
from consistent_hashing.settings import Settings, read_settings
from consistent_hashing.shards import Shards
from consistent_hashing.topology import SHARD_NAME, TopologyError
from consistent_hashing.users import UserStore, count_users


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; give the exit status."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(format="%(asctime)s [%(levelname)s] %(message)s", level=logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # the command itself says what does not answer
    try:
        asyncio.run(_run(given, read_settings()))
    except (NotConfiguredError, TopologyError) as error:
        print(error, file=sys.stderr)
        return 2
    except (psycopg.Error, UnavailableError) as error:
        print(f"{error}\nNothing is lost. Run the same command again; it continues.", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m consistent_hashing", description="Change and show the shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create", help="make the databases of the shards, where they are missing")
    commands.add_parser("status", help="show the topology")
    add = commands.add_parser("add-shard", help="add a shard and move its users to it, while the service runs")
    add.add_argument("--weight", type=float, default=1.0, help="its share of the ring (default: 1)")
    remove = commands.add_parser("remove-shard", help="move the users of a shard to the others, while the service runs")
    take_out = commands.add_parser("take-out", help="give a failed shard up; its users are missing until it is back")
    bring_back = commands.add_parser("bring-back", help="take a shard that was given up into the ring again")
    for one in (add, remove, take_out, bring_back):
        one.add_argument("shard", type=_name)
    distribution = commands.add_parser("distribution", help="count the users of each shard")
    distribution.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    fill = commands.add_parser("fill", help="store users 1 to N, to try things out; those that exist stay as they are")
    fill.add_argument("users", type=int, metavar="N")
    drop = commands.add_parser("drop", help="remove all shards and all users")
    drop.add_argument("--yes", action="store_true", required=True, help="agree")
    return parser


def _name(text: str) -> str:
    if not SHARD_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("use lower-case letters, digits and _, and a letter first, such as shard_4")
    return text


async def _run(given: argparse.Namespace, settings: Settings) -> None:
    shards = Shards(settings.server, settings.first.shards)
    try:
        await _do(given, settings, shards)
    finally:
        await shards.close()


async def _do(given: argparse.Namespace, settings: Settings, shards: Shards) -> None:
    migration = Migration(shards, progress=_show_progress)
    match given.command:
        case "create":
            topology = await make_shards(settings.server, settings.first)
            print(f"Users are placed by {topology.shard_by} on {', '.join(topology.shards)}.")
        case "status":
            await _show_status(shards)
        case "add-shard":
            await _show_moved(await migration.add(given.shard, given.weight), shards)
        case "remove-shard":
            await _show_moved(await migration.remove(given.shard), shards)
        case "take-out":
            topology = await migration.take_out(given.shard)
            print(f"{given.shard} is out of the ring; its keys belong to {', '.join(sorted(topology.nodes))}.")
        case "bring-back":
            await _show_moved(await migration.bring_back(given.shard), shards)
        case "distribution":
            found = await count_users(shards, UserStore(shards, Scatter()))
            print(draw_text(found))
            if given.svg is not None:
                given.svg.write_text(draw_svg(found), encoding="utf-8")
        case "fill":
            await UserStore(shards, Scatter()).fill(given.users)
            print(f"Users 1 to {given.users} exist.")
        case "drop":
            topology = await shards.refresh(None)
            await shards.close()
            await drop_shards(settings.server, [*topology.shards, *topology.lost])
            print(f"Removed {', '.join(topology.shards)}.")


async def _show_status(shards: Shards) -> None:
    topology = await shards.refresh(None)
    print(f"Topology {topology.version}: {', '.join(sorted(topology.nodes))}; users are placed by {topology.shard_by}.")
    if topology.becoming is not None:
        print(f"A migration is under way to {', '.join(sorted(topology.becoming))}. Run its command again to continue.")
    if topology.lost:
        print(f"Taken out, with their users: {', '.join(sorted(topology.lost))}.")


def _show_progress(moved: Moved) -> None:
    print(f"looked at {moved.looked_at} users, moved {moved.moved}", file=sys.stderr)


async def _show_moved(moved: Moved, shards: Shards) -> None:
    topology = await shards.refresh(None)
    number = len(topology.nodes)
    if not moved.looked_at:
        print(f"Nothing to move. The shards are {', '.join(sorted(topology.nodes))}.")
        return
    share = moved.moved / moved.looked_at
    print(
        f"Moved {moved.moved} of {moved.looked_at} users: {share:.2%}; 1/N is {1 / number:.2%}. "
        f"The shards are {', '.join(sorted(topology.nodes))}."
    )


if __name__ == "__main__":
    sys.exit(main())
