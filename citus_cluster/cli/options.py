"""Options that commands share, with their environment variables, and the invocation of the program.

This module is light, like every module here that declares commands, because shell completion and ``--help`` import it.
A command imports the modules that it needs when it runs, within :func:`citus_cluster.entry.importing`.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from citus_cluster.errors import UsageError

PREFIX = "CITUS_CLUSTER_"
_SECRET_FLAGS = frozenset({"--pass", "--dsn"})


class Format(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


@dataclass
class Invocation:
    """One run of the program: its arguments, and the values that the parser has read so far (``context.obj``)."""

    arguments: tuple[str, ...] = ()
    format: Format = Format.TEXT
    debug: bool = False

    @property
    def redacted(self) -> list[str]:
        """The arguments without passwords, and without credentials in a DSN."""
        return redacted(self.arguments)


def invocation_of(context: typer.Context) -> Invocation:
    """Return the run that a command belongs to."""
    return context.find_root().ensure_object(Invocation)


def is_on_command_line(context: typer.Context, name: str) -> bool:
    """Return whether a parameter was given as an argument, not by the environment, which is only a preference."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_idle_interval(context: typer.Context, *, watch: bool) -> None:
    """Refuse ``--interval`` without ``--watch``."""
    if not watch and is_on_command_line(context, "interval"):
        raise UsageError("--interval requires --watch.", hint="Add --watch, or omit --interval.")


def _keep_format(context: typer.Context, chosen: Format) -> Format:
    if not context.resilient_parsing:
        invocation_of(context).format = chosen
    return chosen


def _keep_debug(context: typer.Context, chosen: bool) -> bool:
    if chosen and not context.resilient_parsing:
        invocation_of(context).debug = True
    return chosen


def variable_of(flag: str) -> str:
    """Return the environment variable of a flag such as ``--pg14-port`` or ``--sync/--async``."""
    return PREFIX + flag.split("/")[0].strip().lstrip("-").upper().replace("-", "_")


def option(*names: str, help: str, variable: str | None = None, **more: Any) -> Any:
    """Declare an option and its environment variable, which is named after the first flag by default."""
    return typer.Option(*names, help=help, envvar=PREFIX + variable if variable else variable_of(names[0]), **more)


FormatOption = Annotated[
    Format, option("--format", help="Output format of the result.", is_eager=True, callback=_keep_format)
]
DirectoryOption = Annotated[Path, option("--dir", help="The cluster's generated directory.", show_default="here")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan; change nothing; exit 4 if it has steps.")]
TimeoutOption = Annotated[float, option("--timeout", help="Seconds to wait.", min=1, max=86400)]
WatchOption = Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")]
IntervalOption = Annotated[
    float, option("--interval", help="Seconds between two refreshes of --watch.", metavar="SECONDS", min=0.1, max=86400)
]
DEFAULT_INTERVAL_S = 2.0
DebugOption = Annotated[
    bool, option("--debug", help="Show tracebacks.", is_eager=True, expose_value=False, callback=_keep_debug)
]
"""Every command has it (see tree.py), so no command declares it."""
ShowSecretsOption = Annotated[bool, option("--show-secrets", help="Print passwords instead of masking them.")]
DsnOption = Annotated[
    str | None,
    option("--dsn", help="Connection string of the coordinator, if its directory is elsewhere.", show_default=False),
]
UrlOption = Annotated[
    str | None,
    option("--url", help="Address of the API, if its directory is elsewhere.", variable="API_URL", show_default=False),
]
TokenFileOption = Annotated[
    Path | None,
    option(
        "--token-file", help="File with the token.", variable="API_TOKEN_FILE", show_default="that of the directory"
    ),
]
TrustOption = Annotated[
    bool,
    # No environment variable: nobody should trust code by accident.
    typer.Option(
        "--trust-functions",
        help="Proceed even if code of ordinary roles would run as the superuser; its owners could become superuser.",
    ),
]


def redacted(arguments: tuple[str, ...]) -> list[str]:
    """Return the arguments without the password and without credentials in a DSN."""
    shown = []
    hide_next = False
    for argument in arguments:
        flag, separator, _ = argument.partition("=")
        shown.append("***" if hide_next else f"{flag}=***" if separator and flag in _SECRET_FLAGS else argument)
        hide_next = argument in _SECRET_FLAGS
    return shown
