"""Runs a command for ``citus-cluster`` and both entry scripts, and prints its errors.

Every option has an environment variable CITUS_CLUSTER_…; the option takes precedence.
"""

import errno
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.exceptions import Abort, Exit, TyperException

from citus_cluster.cli import tree
from citus_cluster.cli.completion import prepare as prepare_completion
from citus_cluster.cli.examples import PROGRAM
from citus_cluster.cli.options import Format, FormatOption, Invocation
from citus_cluster.entry import INTERRUPTED, importing, release
from citus_cluster.errors import CitusClusterError, ExitStatus, UsageError
from citus_cluster.runtime.environment import drop_libpq_variables
from citus_cluster.runtime.log_lines import show_logs


def run(command: Any, program: str) -> NoReturn:
    """Run a command, print its error at the edge, and exit with the documented status."""
    try:
        try:
            status = _status_of(command, program, Invocation(tuple(sys.argv[1:])))
        except SystemExit as ended:
            # The parser replaces the status if its reader has exited.
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


def _status_of(command: Any, program: str, invocation: Invocation) -> int:
    drop_libpq_variables()
    show_logs()
    try:
        release()
        status = command(args=list(invocation.arguments), prog_name=program, standalone_mode=False, obj=invocation)
        if status == INTERRUPTED:  # the parser reports Ctrl-C silently in this way
            raise KeyboardInterrupt
        return status if isinstance(status, int) else ExitStatus.DONE
    except Exit as ended:
        return ended.exit_code
    except TyperException as error:
        # An error of the parser; a program that was called without a command shows its help.
        text = error.format_message()
        if text.startswith("Usage:"):
            _screen().err.print(text, markup=False)
        else:
            invocation.format = _format_in(invocation)
            _print_failure(UsageError(_complaint(error), hint=_hint(error, program)), invocation)
        return ExitStatus.USAGE
    except (Abort, KeyboardInterrupt):
        _screen().err.print("Interrupted. Nothing is lost. To continue, run the command again.")
        return INTERRUPTED
    except CitusClusterError as error:
        _print_failure(error, invocation)
        return error.exit_status
    except Exception as error:  # a bug: one line, the traceback with --debug
        if _is_lost_output(error):
            raise
        if invocation.debug:
            _screen().print_traceback(error)
            return ExitStatus.FAILED
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("citus_cluster"):
            _screen().err.print(
                f"The Python package {error.name} is not installed. Run 'make venv', then .venv/bin/{PROGRAM} …",
                markup=False,
            )
            return ExitStatus.FAILED
        place = traceback.extract_tb(error.__traceback__)[-1]
        _screen().err.print(
            f"Error: internal error: {type(error).__name__}: {error} "
            f"({Path(place.filename).name}:{place.lineno}). This is a bug. Please report it with the output of "
            "--debug.",
            markup=False,
        )
        return ExitStatus.FAILED


def _screen() -> Any:
    with importing():
        from citus_cluster.console import screen
    return screen


def _format_in(invocation: Invocation) -> Format:
    """Read the output format for an error, from arguments that the command's own parser did not read completely."""
    asked = Invocation()

    def any_command(format_: FormatOption = Format.TEXT) -> None: ...

    app = typer.Typer(add_completion=False)
    app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(any_command)
    with suppress(TyperException):  # --format itself has a wrong value
        typer.main.get_command(app)(args=list(invocation.arguments), standalone_mode=False, obj=asked)
    return asked.format


_OUTPUT_LOST = 141
"""The status of a program that SIGPIPE ends, also if the output has no space. No command returns it otherwise."""
_UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def _is_lost_output(error: BaseException) -> bool:
    """Return whether stdout or stderr failed; errors of files have a name, or are our own exceptions."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None


def _give_up_output(error: OSError) -> int:
    """Redirect a failed stream to the null device, since Python would write to it at exit; print the reason."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    if not isinstance(error, BrokenPipeError):
        with suppress(OSError):
            _screen().err.print(f"[red]Error:[/] The output cannot be written: {error.strerror}.")
    return _OUTPUT_LOST


def _complaint(error: TyperException) -> str:
    """Describe the parser's error, without the terms of the library that validates the values."""
    from pydantic import ValidationError

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
            problem = f"{given} is too small; the minimum is {limits['ge']:g}"
        case "less_than_equal":
            problem = f"{given} is too large; the maximum is {limits['le']:g}"
        case _ if kind.startswith("int_"):
            problem = f"{given!r} is not a whole number"
        case _ if kind.startswith("float_"):
            problem = f"{given!r} is not a number"
        case _ if kind.startswith("bool_"):
            problem = f"{given!r} is neither true nor false"
        case _:
            problem = f"{given!r}: {found['msg']}"
    return f"{name}: {problem}."


def _hint(error: TyperException, program: str) -> str:
    context, text = getattr(error, "ctx", None), error.format_message()
    watches = context and any(parameter.name == "watch" for parameter in context.command.params)
    if "--watch" in text or (watches and "extra argument" in text):
        return "--watch takes no value. Set the seconds between two refreshes with --interval: --watch --interval 5"
    return f"To see the options, run: {context.command_path if context else program} --help"


def _print_failure(error: CitusClusterError, invocation: Invocation) -> None:
    screen = _screen()
    if invocation.debug:
        screen.print_traceback(error)
    if invocation.format is Format.JSON:
        screen.print_json({"error": error.as_dict()})
    screen.print_error(error)


def setup_main() -> None:
    """Run ``python setup_citus_cluster.py``."""
    script = "setup_citus_cluster.py"
    run(tree.single("setup:setup", "setup", f"python {script}"), script)


def add_worker_main() -> None:
    """Run ``python add_worker.py``."""
    script = "add_worker.py"
    run(tree.single("nodes:add_worker", "add-worker", f"python {script}"), script)


def main() -> None:
    """Run ``citus-cluster`` or ``python -m citus_cluster``."""
    prepare_completion()
    run(tree.program(), PROGRAM)
