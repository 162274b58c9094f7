"""The command line: ``citus-cluster`` and both entry scripts. A command runs here, and its error ends here.

Every option has an environment variable CITUS_CLUSTER_…; an option wins over it.
"""

import errno
import os
import sys
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer.exceptions import Abort, Exit, TyperException

from citus_cluster import __version__
from citus_cluster.cli.examples import PROGRAM, show_examples
from citus_cluster.cli.options import PREFIX, DebugOption, Format, choose_format, chosen_format, completed
from citus_cluster.cli.setup import setup
from citus_cluster.console import screen
from citus_cluster.entry import INTERRUPTED, release
from citus_cluster.errors import CitusClusterError, ExitStatus, UsageError
from citus_cluster.runtime.environment import drop_libpq_variables

_PROGRAM = {"__main__.py": "citus-cluster"}.get(Path(sys.argv[0]).name, Path(sys.argv[0]).name)


def _version(wanted: bool) -> None:
    if wanted:
        screen.out.print(f"citus-cluster {__version__}")
        raise typer.Exit


def run(app: typer.Typer) -> NoReturn:
    """Run a command, print its error at the edge, and exit with the documented status."""
    try:
        try:
            status = _status_of(app)
        except SystemExit as ended:
            # The parser makes a status of its own of a reader that has gone.
            if isinstance(ended.__context__, BrokenPipeError):
                raise ended.__context__ from None
            status = ended.code if isinstance(ended.code, int) else ExitStatus.DONE
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        if not _is_lost_output(error):
            raise
        status = _give_up_output(error)
    sys.exit(status)


def _status_of(app: typer.Typer) -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    drop_libpq_variables()
    screen.show_logs()
    if len(arguments) != len(sys.argv) - 1:
        os.environ[f"{PREFIX}DEBUG"] = "1"
    if "--format=json" in arguments or "--format json" in " ".join(arguments):
        choose_format(Format.JSON)  # before the parser, whose complaints are printed in it too
    try:
        release()
        command = typer.main.get_command(app)
        _show_values(command)
        single = not hasattr(command, "commands")
        show_examples(command, command.name or "" if single else "", f"python {_PROGRAM}" if single else PROGRAM)
        status = command(args=completed(arguments), prog_name=_PROGRAM, standalone_mode=False)
        if status == INTERRUPTED:  # so the parser tells of Ctrl-C, without a word
            raise KeyboardInterrupt
        return status if isinstance(status, int) else ExitStatus.DONE
    except Exit as ended:
        return ended.exit_code
    except TyperException as error:
        # The parser's own complaint; a program that was called without any command shows its help.
        text = error.format_message()
        if text.startswith("Usage:"):
            screen.err.print(text, markup=False)
        else:
            context = getattr(error, "ctx", None)
            place = context.command_path if context else _PROGRAM
            _print_failure(UsageError(_complaint(error), hint=f"{place} --help shows what it takes."))
        return ExitStatus.USAGE
    except (Abort, KeyboardInterrupt):
        screen.err.print("Interrupted. Nothing is lost; run the command again to go on.")
        return INTERRUPTED
    except CitusClusterError as error:
        _print_failure(error)
        return error.exit_status
    except Exception as error:  # a defect of ours: told in one line, in full with --debug
        if _is_lost_output(error):
            raise
        if os.environ.get(f"{PREFIX}DEBUG"):
            screen.print_traceback(error)
            return ExitStatus.FAILED
        place = traceback.extract_tb(error.__traceback__)[-1]
        screen.err.print(
            f"Error: this should not have happened: {type(error).__name__}: {error} "
            f"({Path(place.filename).name}:{place.lineno}). Please report it with the output of --debug.",
            markup=False,
        )
        return ExitStatus.FAILED


_OUTPUT_LOST = 141
"""The status of a program that SIGPIPE ends; also where the output has no room. No command gives it otherwise."""
_UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def _is_lost_output(error: BaseException) -> bool:
    """Tell whether stdout or stderr refused what was printed; errors of files have a name, or are errors of ours."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None


def _give_up_output(error: OSError) -> int:
    """Have nothing more written to a stream that refuses it, as Python would at exit; say why where that can be."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    if not isinstance(error, BrokenPipeError):
        with suppress(OSError):
            screen.err.print(f"[red]Error:[/] The output cannot be written: {error.strerror}.")
    return _OUTPUT_LOST


def _complaint(error: TyperException) -> str:
    """Say what the parser complains of, without the words of the library that checks its values."""
    cause = error.__cause__
    if not isinstance(error, typer.BadParameter) or not isinstance(cause, ValidationError) or error.param is None:
        return error.format_message()
    found, name = cause.errors()[0], max(error.param.opts, key=len)
    source = error.ctx and error.param.name and error.ctx.get_parameter_source(error.param.name)
    if source and source.name == "ENVIRONMENT":
        name = str(error.param.envvar)
    elif error.param.param_type_name == "argument":
        name = error.param.metavar or name
    given, kind, limits = found["input"], found["type"], found.get("ctx", {})
    match kind:
        case "value_error":
            problem = str(limits["error"]).rstrip(".")
        case "greater_than_equal":
            problem = f"{given} is too small: the least is {limits['ge']:g}"
        case "less_than_equal":
            problem = f"{given} is too large: the most is {limits['le']:g}"
        case _ if kind.startswith("int_"):
            problem = f"{given!r} is not a whole number"
        case _ if kind.startswith("float_"):
            problem = f"{given!r} is not a number"
        case _ if kind.startswith("bool_"):
            problem = f"{given!r} is neither true nor false"
        case _:
            problem = f"{given!r}: {found['msg']}"
    return f"{name}: {problem}."


_VALUES = {"int": "NUMBER", "int range": "NUMBER", "float": "NUMBER", "float range": "NUMBER", "path": "PATH"}


def _show_values(command: Any) -> None:
    """Have the help name values as people do, ``NUMBER`` or ``text|json``, in place of types, ``<list[str]>``."""
    context = typer.Context(command)
    for parameter in command.params:
        kind = parameter.display_type(context).strip("<>")
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
        elif not parameter.is_flag and parameter.metavar is None:
            parameter.metavar = _VALUES.get(kind, kind if "|" in kind else "TEXT")
    for below in getattr(command, "commands", {}).values():
        _show_values(below)


def _print_failure(error: CitusClusterError) -> None:
    if os.environ.get(f"{PREFIX}DEBUG"):
        screen.print_traceback(error)
    if chosen_format() is Format.JSON:
        screen.print_json({"error": error.as_dict()})
    screen.print_error(error)


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
    from citus_cluster.cli.cluster import add_worker

    app = _typer()
    app.command()(add_worker)
    run(app)


def main() -> None:
    """Run ``citus-cluster`` or ``python -m citus_cluster``."""
    from citus_cluster.cli import cluster, completion, containers, leaving, pg14, roles

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
    leaving.add_commands(cluster.add_commands(app, _typer))
    roles.add_commands(app, _typer)
    pg14.add_commands(app, _typer)
    containers.add_commands(app, _typer)
    completion.add_commands(app, _typer)
    run(app)
