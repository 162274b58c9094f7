"""The questions of a set-up that runs without options on a terminal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from citus_cluster.cli.setup_options import read_services
from citus_cluster.console import screen
from citus_cluster.errors import UsageError
from citus_cluster.model.layout import SPEC_FILE
from citus_cluster.model.spec import API_VERSION, DEFAULT_BASE_PORT, DEFAULT_SERVICES, ClusterSpec
from citus_cluster.model.spec_reading import parse_spec
from citus_cluster.operations.directory import read_spec
from citus_cluster.runtime.store import secrets


def ask_for_setup(root: Path) -> tuple[dict[str, Any], str | None, bool]:
    """Ask for the most important settings; Enter accepts the default."""
    own = root / SPEC_FILE
    now: ClusterSpec | None = parse_spec(read_spec(own, SPEC_FILE)) if own.exists() else None
    screen.err.print("Set up a Citus cluster on Docker Compose. Press Enter to accept the value in brackets.")
    default = str(len(now.worker_numbers) if now else 2)
    workers = typer.prompt("Workers", default=default, value_proc=_checked("workers", int), err=True)
    chosen = ",".join(now.wanted if now else DEFAULT_SERVICES)
    services = typer.prompt("Services", default=chosen, value_proc=_checked("services", read_services), err=True)
    base = str(now.ports.citus if now else DEFAULT_BASE_PORT)
    port = typer.prompt("Port of the coordinator", default=base, value_proc=_checked_port, err=True)
    password = None
    if secrets.saved(root, secrets.SUPERUSER_PASSWORD) is None:
        password = typer.prompt(
            "Password (press Enter for a random one)", default="", hide_input=True, show_default=False, err=True
        )
    up = typer.confirm("Start the cluster now?", default=True, err=True)
    return {"workers": workers, "services": services, "ports.citus": port}, password or None, up


def _checked(path: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Validate an answer at once, with the rules of the specification."""

    def check(text: str) -> Any:
        try:
            value = read(text)
            parse_spec({"apiVersion": API_VERSION, path: value}, origins={path: "answer"}, source="")
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not a whole number.") from None
        except UsageError as error:
            raise typer.BadParameter("; ".join(error.details) or error.message) from None
        return value

    return check


def _checked_port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise typer.BadParameter(f"{text!r} is not a port; ports are numbers from 1 to 65535.")
    return int(text)
