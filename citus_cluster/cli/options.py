"""What the commands share: options with their environment variables, the format of the answer, redaction."""

import re
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer

PREFIX = "CITUS_CLUSTER_"
_SECRET_FLAGS = frozenset({"--pass", "--dsn"})
# For every command alike: an option of this name takes a value wherever it stands.
_LEFT_OUT = {"--watch": "2"}
VALUE_MAY_BE_LEFT_OUT = frozenset(_LEFT_OUT)
_VALUE = re.compile(r"-?[0-9.]+|[^-].*")


class Format(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


def option(*names: str, help: str, variable: str | None = None, **more: Any) -> Any:
    """Declare an option and its environment variable, which is named after the first flag unless given."""
    named = variable or names[0].split("/")[0].strip().lstrip("-").upper().replace("-", "_")
    return typer.Option(*names, help=help, envvar=PREFIX + named, **more)


FormatOption = Annotated[Format, option("--format", help="How the result is printed.")]
DirectoryOption = Annotated[Path, option("--dir", help="The cluster's generated directory.", show_default="here")]
TimeoutOption = Annotated[float, option("--timeout", help="Seconds to wait.", min=1, max=86400)]
WatchOption = Annotated[
    float | None,
    option(
        "--watch",
        help="Repeat until Ctrl-C, every SECONDS (default 2).",
        metavar="[SECONDS]",
        min=0.1,
        max=86400,
    ),
]
# Taken from the arguments before they are parsed (see run); declared so that --help shows it.
DebugOption = Annotated[bool, option("--debug", help="Show tracebacks.")]
ShowSecretsOption = Annotated[bool, option("--show-secrets", help="Print passwords instead of masking them.")]

_chosen = Format.TEXT


def choose_format(chosen: Format) -> None:
    """Remember the format, so that an error is printed in it too."""
    global _chosen
    _chosen = chosen


def chosen_format() -> Format:
    """Give the format that was remembered; text before any was."""
    return _chosen


def completed(arguments: list[str]) -> list[str]:
    """Give options whose value may be left out one: the parser knows no such options."""
    made = []
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        default = _LEFT_OUT.get(argument)
        made.append(argument if default is None or _VALUE.fullmatch(following) else f"{argument}={default}")
    return made


def redacted(arguments: list[str]) -> list[str]:
    """Give the arguments without the password and without credentials in a DSN."""
    shown = []
    hide_next = False
    for argument in arguments:
        flag, separator, _ = argument.partition("=")
        shown.append("***" if hide_next else f"{flag}=***" if separator and flag in _SECRET_FLAGS else argument)
        hide_next = argument in _SECRET_FLAGS
    return shown
