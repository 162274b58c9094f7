"""Showing and confirming the plan of a set-up on the command line."""

from typing import NoReturn

import typer

from citus_cluster.cli.options import Format, Invocation
from citus_cluster.console import screen
from citus_cluster.console.plan import print_plan
from citus_cluster.errors import ConsentNeededError, ExitStatus
from citus_cluster.model.units import count
from citus_cluster.operations.journaled import of_command
from citus_cluster.operations.setup import use_cases
from citus_cluster.operations.setup.plan import SetupPlan, plan_setup
from citus_cluster.operations.setup.request import SetupRequest


def write(invocation: Invocation, request: SetupRequest, *, ask: bool, consent: bool, show: bool) -> SetupPlan:
    """Plan, show, ask for consent if it was not given yet, and write."""

    def agree(plan: SetupPlan) -> bool:
        asked = plan.needs_consent and not consent and ask and screen.interactive() and not plan.replaced_edits
        _show(plan, show=show, diffs=asked)
        if asked and not screen.confirm("Write these changes?"):
            raise ConsentNeededError(
                "The changes were not confirmed; nothing was written.", hint="To agree, run the command again."
            )
        return consent or asked

    plan = use_cases.write(request, of_command(request.root, invocation.redacted), agree)
    if show and plan.all_changes:
        screen.err.print(f"Wrote {count(len(plan.all_changes), 'file')}.")
    return plan


def _show(plan: SetupPlan, *, show: bool, diffs: bool, brief: bool = True) -> None:
    if show:
        print_plan(plan, diffs=diffs, brief=brief)
    screen.print_warnings(plan.warnings)
    if show:
        screen.print_notes(plan.notes)


def show_dry_run(request: SetupRequest, format_: Format) -> NoReturn:
    """Show what would be written, and exit with the status that reports whether anything would change."""
    plan = plan_setup(request)
    if format_ is Format.JSON:
        screen.print_json(plan.as_dict())
    else:
        _show(plan, show=True, diffs=True, brief=False)
        if not plan.nothing_to_do:
            screen.err.print("Nothing was written (--dry-run).")
    raise typer.Exit(ExitStatus.DONE if plan.nothing_to_do else ExitStatus.WOULD_CHANGE)
