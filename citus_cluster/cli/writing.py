"""How a set-up writes: planned, shown, agreed to, written under the directory's lock, and noted in the journal."""

from typing import NoReturn

import typer

from citus_cluster.cli.options import Format, Invocation
from citus_cluster.console import screen
from citus_cluster.console.plan import print_plan
from citus_cluster.errors import ConsentNeededError, ExitStatus
from citus_cluster.model.units import count
from citus_cluster.operations.setup.plan import SetupPlan, apply_setup, plan_setup
from citus_cluster.operations.setup.request import SetupRequest
from citus_cluster.render.bundle import API_CONTEXT_FOLDER
from citus_cluster.runtime.store import files, journal


def write(invocation: Invocation, request: SetupRequest, *, ask: bool, consent: bool, show: bool) -> SetupPlan:
    """Plan, show, ask and write. Usage errors come before the first byte, also of the lock, is written."""
    plan = plan_setup(request)
    if plan.nothing_to_do and not plan.unfinished:
        _show(plan, show=show, diffs=False)
        return plan
    with files.locked(request.root):
        # Planned again under the lock: another run may have ended in between.
        plan = plan_setup(request)
        asked = plan.needs_consent and not consent and ask and screen.interactive() and not plan.replaced_edits
        _show(plan, show=show, diffs=asked)
        if asked:
            consent = screen.confirm("Write these changes?")
            if not consent:
                raise ConsentNeededError("Nothing was written.", hint="Run the command again when you agree.")
        finishing = plan.unfinished  # a run that was killed could not record itself
        apply_setup(plan, consent=consent, replace_edited=request.replace_edited)
        if plan.all_changes or finishing:
            # The build context of the admin API's image is one thing to the reader of a journal.
            changed = dict.fromkeys(
                API_CONTEXT_FOLDER if change.path.startswith(f"{API_CONTEXT_FOLDER}/") else change.path
                for change in plan.all_changes
            )
            details = {"arguments": invocation.redacted, "files": list(changed)}
            journal.record(request.root, "setup", "done", details)
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
    """Show what would be written, and end with the status that says whether anything would."""
    plan = plan_setup(request)
    if format_ is Format.JSON:
        screen.print_json(plan.as_dict())
    else:
        _show(plan, show=True, diffs=True, brief=False)
        if not plan.nothing_to_do:
            screen.err.print("Nothing was written (--dry-run).")
    raise typer.Exit(ExitStatus.DONE if plan.nothing_to_do else ExitStatus.WOULD_CHANGE)
