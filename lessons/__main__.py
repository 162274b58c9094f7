"""``python -m lessons``: lists the course, runs its labs on the cluster, and checks it."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lessons.catalogue import ROOT, SERVER_VARIABLES, Script, Unit, UnknownNameError, unit, units
from lessons.check import Check, Seen, all_checks
from lessons.cluster import LessonsError, Servers

_COMMANDS = ("list", "run", "env", "check", "figures")
_FILE_WIDTH = 1000
_EXAMPLES = """\
examples:
  python -m lessons                                    list lessons, labs and projects
  python -m lessons 2 cache_demo --ttl 2               run a lab of lesson 2 with an option
  python -m lessons load_tester http://localhost:8080  run a project
  eval "$(python -m lessons env)"                      then run the scripts by hand
  python -m lessons check 1 2                          check two lessons
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        given = ["list"]
    elif given[0] not in _COMMANDS and not given[0].startswith("-"):
        given = ["run", *given]
    asked = _parser().parse_args(given)
    try:
        match asked.command:
            case "run":
                return _run(asked.lesson, asked.arguments)
            case "env":
                return _env()
            case "check":
                return _check([unit(key) for key in asked.lessons] or list(units()))
            case "figures":
                return _figures([unit(key) for key in asked.lessons] or list(units()))
            case _:
                return _list()
    except (LessonsError, UnknownNameError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, UnknownNameError) else 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lessons",
        description="A course in system design: lessons with labs, and projects, on this stack.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("list", help="list lessons, labs and projects")
    run = commands.add_parser("run", help="run a lab or a project; 'run' may be omitted")
    run.add_argument("lesson", help="number of the lesson, or name of the project")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="name of the lab, and options of the script")
    commands.add_parser("env", help="print REDIS_URL and DATABASE_URL (with passwords) as export lines for a shell")
    check = commands.add_parser("check", help="run the checks and print what was expected and seen")
    figures = commands.add_parser("figures", help="measure, and draw the figures of the READMEs")
    for one in (check, figures):
        one.add_argument("lessons", nargs="*", metavar="N", help="lessons or projects; all if omitted")
    return parser


def _list() -> int:
    console = Console(soft_wrap=True)
    width = max(len(lab.name) for one in units() for lab in one.labs) + 2
    for one in units():
        console.print(f"[bold]{escape(one.title)}[/]" + (f"  ({one.key})" if one.is_project else ""))
        for lab in one.labs:
            console.print(f"  {lab.name:<{width}}{escape(lab.summary)}")
    print("\nRun a lab: python -m lessons 1 server; a project: python -m lessons load_tester --help")
    return 0


def _run(key: str, arguments: Sequence[str]) -> int:
    """Replace this process by the script, so that signals and the exit status are the script's own."""
    chosen = unit(key)
    servers = Servers()
    if chosen.is_project:
        command, needs = ["-m", f"lessons.projects.{chosen.key}", *arguments], chosen.needs
    elif not arguments:
        labs = ", ".join(lab.name for lab in chosen.labs)
        raise UnknownNameError(
            f"Name a lab of lesson {chosen.key}, as in: python -m lessons {chosen.key} LAB. Its labs are: {labs}."
        )
    else:
        lab: Script = chosen.lab(arguments[0])
        command, needs = [str(lab.path), *arguments[1:]], lab.needs
    environment = _environment(servers, needs)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *command], environment)


def _environment(servers: Servers, needs: tuple[str, ...]) -> dict[str, str]:
    """Return the environment of a script; says what is missing, because the script then uses its default."""
    known = servers.variables_at_hand(needs)
    if absent := [name for name, need in SERVER_VARIABLES.items() if need in needs and name not in known]:
        what = "is" if len(absent) == 1 else "are"
        print(f"{' and '.join(absent)} {what} not set, and there is no cluster here that provides it.", file=sys.stderr)
    path = os.pathsep.join(filter(None, [str(ROOT), servers.environment.get("PYTHONPATH")]))
    return servers.environment | known | {"PYTHONPATH": path}


def _env() -> int:
    known = Servers().variables()
    if not known:
        raise LessonsError(
            "There is no cluster with Redis or a coordinator in CLUSTER_DIR or here. Change to the directory of a "
            "cluster, set CLUSTER_DIR to it, or start one: make up"
        )
    for name, value in known.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _check(chosen: Sequence[Unit]) -> int:
    keys = {one.key for one in chosen}
    checks = sorted((one for one in all_checks() if one.unit_key in keys), key=lambda one: one.row)
    if not checks:
        raise UnknownNameError(f"There are no checks for {', '.join(sorted(keys))}.")
    servers = Servers()
    # Long texts wrap on a terminal; in a file every row is one line.
    console, progress = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH), Console(stderr=True)
    table = Table("row", "step", "expected", "seen", "passed", box=None, pad_edge=False)
    results: list[str] = []
    with progress.status("Checking") as status:
        for number, one in enumerate(checks, 1):
            status.update(f"{number}/{len(checks)}  {one.row}  {escape(one.step)}")
            result, seen = _result(one, servers)
            results.append(result)
            colour = {"yes": "green", "NO": "red"}.get(result, "yellow")
            table.add_row(one.row, escape(one.step), escape(one.expected), escape(seen), f"[{colour}]{result}[/]")
    console.print(table)
    failed, left = results.count("NO"), results.count("not run")
    print(f"\n{results.count('yes')} passed, {failed} failed, {left} not run")
    return 1 if failed else 0


def _result(one: Check, servers: Servers) -> tuple[str, str]:
    """Return ``yes``, ``NO`` or ``not run``, and what was seen or what is missing."""
    try:
        reasons = [reason for need in one.needs if (reason := servers.missing(need))]
    except LessonsError as error:
        return "not run", str(error)
    if reasons:
        return "not run", reasons[0]
    seen: Seen = one.run(servers)
    return "yes" if seen.passed else "NO", seen.text


def _figures(chosen: Sequence[Unit]) -> int:
    servers = Servers()
    if reason := servers.missing("matplotlib"):
        raise LessonsError(f"The figures cannot be drawn: {reason}.")
    for one in chosen:
        for script in one.figures:
            print(f"{script.relative_to(ROOT)}", file=sys.stderr)
            if status := subprocess.call(
                [sys.executable, str(script)], env=_environment(servers, Script(script).needs)
            ):
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
