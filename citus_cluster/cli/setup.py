"""The command ``setup``: parse the options, plan, show, ask, write, and with --up start the cluster."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from citus_cluster.cli.options import (
    Format,
    FormatOption,
    ShowSecretsOption,
    TimeoutOption,
    invocation_of,
    is_on_command_line,
    option,
)
from citus_cluster.cli.setup_options import takes_spec_options
from citus_cluster.cli.start import start
from citus_cluster.entry import importing
from citus_cluster.errors import UsageError


@takes_spec_options
def setup(
    context: typer.Context,
    chosen: Mapping[str, tuple[str, Any]],
    password: Annotated[
        str | None,
        option("--pass", help="Password of the superuser; visible in the process list.", show_default="random"),
    ] = None,
    password_file: Annotated[
        Path | None, option("--password-file", help="File that holds the password of the superuser.")
    ] = None,
    no_prompt: Annotated[bool, option("--no-prompt", help="Do not ask questions.")] = False,
    yes: Annotated[bool, option("--yes", help="Agree to the changes that are shown.")] = False,
    force: Annotated[
        bool,
        option("--force", help="Agree, and replace files that were edited by hand; the edited files are kept as .bak."),
    ] = False,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show the plan; write nothing; exit 4 if something would change.")
    ] = False,
    format_: FormatOption = Format.TEXT,
    retune: Annotated[
        bool,
        # No environment variable: it would restart servers at each set-up.
        typer.Option(
            "--retune", help="Divide the memory again among all services; PostgreSQL servers restart at the next up."
        ),
    ] = False,
    up: Annotated[bool, option("--up", help="Start and verify the cluster after writing.")] = False,
    timeout: TimeoutOption = 300,
    show_secrets: ShowSecretsOption = False,
    spec: Annotated[
        Path | None,
        option(
            "--spec",
            help="Read this specification instead; it may be a pipe (/dev/stdin).",
            show_default="cluster.yaml in the directory",
        ),
    ] = None,
    output_dir: Annotated[Path, option("--output-dir", help="Directory to write to.", show_default="here")] = Path(),
) -> None:
    """Generate all files of a Citus cluster on Docker Compose, and start it with --up."""
    with importing():
        from citus_cluster.cli.questions import ask_for_setup
        from citus_cluster.cli.writing import show_dry_run, write
        from citus_cluster.console import screen
        from citus_cluster.console.plan import print_next_steps
        from citus_cluster.operations.setup.request import SetupRequest

    given = dict(chosen)
    root = output_dir.absolute()
    given_password = _given_password(context, password, password_file)
    if screen.interactive() and not any(is_on_command_line(context, name) for name in context.params):
        answers, given_password, up = ask_for_setup(root)
        given |= {path: (origin, answers.get(path, value)) for path, (origin, value) in given.items()}
    redetect = {path for path in ("resources.memory_mb", "resources.cpus") if given[path][1] == "auto"}
    request = SetupRequest(
        root=root,
        spec_file=spec.absolute() if spec else None,
        values={path: value for path, (_, value) in given.items() if value is not None and path not in redetect},
        origins={path: origin for path, (origin, _) in given.items()},
        password=given_password,
        redetect=frozenset(path.removeprefix("resources.") for path in redetect),
        replace_edited=force,
        retune=retune,
    )
    if dry_run:
        show_dry_run(request, format_)
    plan = write(
        invocation_of(context),
        request,
        ask=not (no_prompt or yes or force),
        consent=yes or force,
        show=format_ is Format.TEXT,
    )
    result: dict[str, Any] = {"setup": plan.as_dict()}
    if up:
        result["up"] = start(
            invocation_of(context),
            root,
            timeout_s=timeout,
            show_secrets=show_secrets,
            show=format_ is Format.TEXT,
            # The confirmed plan explains the new image, and that it needs a backup.
            upgrade_citus=plan.upgrades_citus,
        )
    elif format_ is Format.TEXT:
        print_next_steps(plan)
    if format_ is Format.JSON:
        screen.print_json(result)


def _given_password(context: typer.Context, password: str | None, password_file: Path | None) -> str | None:
    with importing():
        from citus_cluster.console import screen
        from citus_cluster.runtime.store import secrets

    if password is not None and password_file is not None:
        raise UsageError("--pass and --password-file cannot be combined.", hint="Use one of them; the file is safer.")
    if password_file is not None:
        text = secrets.read_password_file(password_file)
        if not text:
            raise UsageError(f"The password file {password_file} is empty.", hint="Write the password into it.")
        return text
    if password is not None and is_on_command_line(context, "password"):
        screen.print_warnings(
            ["--pass is visible in the process list and in the shell's history. Use --password-file instead."]
        )
    return password
