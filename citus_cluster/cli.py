"""The command line: ``citus-cluster`` and both entry scripts. A command runs here, and its error ends here.

Every option has an environment variable CITUS_CLUSTER_…; an option wins over it.
"""

import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import Abort, Exit, TyperException

from citus_cluster import __version__, console
from citus_cluster.cli_options import PREFIX, DebugOption, Format, choose_format, chosen_format, completed
from citus_cluster.cli_setup import setup
from citus_cluster.errors import CitusClusterError, ExitStatus, UsageError

_PROGRAM = {"__main__.py": "citus-cluster"}.get(Path(sys.argv[0]).name, Path(sys.argv[0]).name)

_INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        console.out.print(f"citus-cluster {__version__}")
        raise typer.Exit


def run(app: typer.Typer) -> None:
    """Run a command, print its error at the edge, and exit with the documented status."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    for variable in _MISLEADING:
        os.environ.pop(variable, None)
    if len(arguments) != len(sys.argv) - 1:
        os.environ[f"{PREFIX}DEBUG"] = "1"
    if "--format=json" in arguments or "--format json" in " ".join(arguments):
        choose_format(Format.JSON)  # before the parser, whose complaints are printed in it too
    command: Callable[..., Any] = typer.main.get_command(app)
    try:
        status = command(args=completed(arguments), prog_name=_PROGRAM, standalone_mode=False)
        if status == _INTERRUPTED:  # so the parser tells of Ctrl-C, without a word
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else ExitStatus.DONE)
    except Exit as ended:
        sys.exit(ended.exit_code)
    except TyperException as error:
        # The parser's own complaint; a program that was called without any command shows its help.
        text = error.format_message()
        if text.startswith("Usage:"):
            console.err.print(text, markup=False)
        else:
            _print_failure(UsageError(text, hint=f"{_PROGRAM} --help shows every option."))
        sys.exit(ExitStatus.USAGE)
    except (Abort, KeyboardInterrupt):
        console.err.print("Interrupted. Nothing is lost; run the command again to go on.")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitStatus.FAILED)
    except CitusClusterError as error:
        _print_failure(error)
        sys.exit(error.exit_status)
    except Exception as error:  # a defect of ours: told in one line, in full with --debug
        if os.environ.get(f"{PREFIX}DEBUG"):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        console.err.print(
            f"Error: this should not have happened: {type(error).__name__}: {error} "
            f"({Path(place.filename).name}:{place.lineno}). Please report it with the output of --debug.",
            markup=False,
        )
        sys.exit(ExitStatus.FAILED)


def _print_failure(error: CitusClusterError) -> None:
    if os.environ.get(f"{PREFIX}DEBUG"):
        traceback.print_exception(error)
    if chosen_format() is Format.JSON:
        console.print_json(
            {
                "error": {
                    "code": error.code,
                    "message": error.message,
                    "details": list(error.details),
                    "hint": error.hint,
                    "exit_status": int(error.exit_status),
                }
            }
        )
    console.print_error(error)


# libpq would read them, and connect elsewhere or otherwise than the cluster's own files say.
_MISLEADING = ("PGSERVICE", "PGSERVICEFILE", "PGHOSTADDR", "PGOPTIONS", "PGTARGETSESSIONATTRS")

_typer = partial(
    typer.Typer,
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    rich_markup_mode=None,
)


def setup_main() -> None:
    """Run ``python setup_citus_cluster.py``."""
    app = _typer()
    app.command()(setup)
    run(app)


def add_worker_main() -> None:
    """Run ``python add_worker.py``."""
    from citus_cluster.cli_cluster import add_worker

    app = _typer()
    app.command()(add_worker)
    run(app)


def main() -> None:
    """Run ``citus-cluster`` or ``python -m citus_cluster``."""
    from citus_cluster import cli_cluster, cli_completion, cli_leaving, cli_pg14, cli_roles

    app = _typer(no_args_is_help=True)

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
        ] = False,
        debug: DebugOption = False,
    ) -> None:
        """Run Citus (distributed PostgreSQL) on Docker Compose."""

    app.command("setup")(setup)
    cli_leaving.add_commands(cli_cluster.add_commands(app, _typer))
    cli_roles.add_commands(app, _typer)
    cli_pg14.add_commands(app, _typer)
    cli_completion.add_commands(app, _typer)
    run(app)
