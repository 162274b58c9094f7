"""A requested set-up: planned, shown, confirmed, written under the directory's lock, and recorded in the journal."""

from collections.abc import Callable

from citus_cluster.errors import ConsentNeededError, EditedFileError
from citus_cluster.model.components import context_of
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.setup.plan import SetupPlan, apply_setup, plan_setup
from citus_cluster.operations.setup.request import SetupRequest
from citus_cluster.runtime.store import files


def write(request: SetupRequest, journal: Journal, agree: Callable[[SetupPlan], bool]) -> SetupPlan:
    """Plan and write. Returns what was written.

    ``agree`` gets the plan and returns whether the user agrees to change the files of an existing cluster. Usage
    errors are raised before anything is written, including the lock file. Raises what plan_setup, locked and
    apply_setup raise.
    """
    plan = plan_setup(request)
    if plan.nothing_to_do and not plan.unfinished:
        agree(plan)
        return plan
    with files.locked(request.root):
        # Plan again under the lock: another run may have ended in between.
        plan = plan_setup(request)
        # A run that was killed could not write its line.
        is_noted = plan.unfinished or not plan.nothing_to_do
        consent = agree(plan)
        asked = {"values": request.values, "retune": request.retune, "replace_edited": request.replace_edited}
        with journal.entry("setup", **asked) as entry:
            entry.is_noted = is_noted
            entry.tell(files=_changed(plan))
            try:
                apply_setup(plan, consent=consent, replace_edited=request.replace_edited)
            except (ConsentNeededError, EditedFileError):
                entry.is_noted = False  # "nothing was written" includes the journal
                raise
    return plan


def _changed(plan: SetupPlan) -> list[str]:
    """Name the files; the build context of an image is one thing to the reader of a journal."""
    return list(dict.fromkeys(context_of(change.path) or change.path for change in plan.all_changes))
