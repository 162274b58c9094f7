"""Printing the plan of a set-up: files, containers, differences."""

import difflib
from collections.abc import Iterable, Sequence

from citus_cluster.console import screen
from citus_cluster.console.screen import escape
from citus_cluster.model.components import context_of
from citus_cluster.model.plan.changes import Action, FileChange
from citus_cluster.model.plan.effects import Effect, EffectKind
from citus_cluster.model.units import count
from citus_cluster.operations.setup.plan import SetupPlan

_GENERATED = "generated"
_NAMED_FILES = 8
"""The maximum number of new files that are named individually; a new worker has one or two."""


def print_plan(plan: SetupPlan, *, diffs: bool, later: bool = False, brief: bool = False) -> None:
    """Print the files that change, the effects on containers, and the differences.

    ``brief``: many new files below ``generated/`` are counted instead of named.

    ``later``: the effects on containers happen at the next ``up``, not now.
    """
    if plan.nothing_to_do:
        for path in plan.kept_edits:
            screen.err.print(f"Keeping {escape(path)} (edited by hand; it needs no change)")
        screen.out.print(f"Nothing to do: {escape(str(plan.root))} matches cluster.yaml.")
        return
    if diffs:
        for change in plan.all_changes:
            if not context_of(change.path):  # our own code does not interest the user
                _print_diff(change)
    screen.out.print(f"[bold]Cluster {escape(plan.spec.name)}[/] in {escape(str(plan.root))}")
    for line in _file_lines(plan.all_changes, brief=brief):
        screen.out.print(f"  {line}")
    for path in plan.kept_edits:
        screen.out.print(f"  keep      {escape(path)} (edited by hand; it needs no change)")
    effects = [effect for effect in plan.effects if not (later and effect.kind is EffectKind.REMOVE)]
    if later and effects:
        screen.out.print("  at the next citus-cluster up:")
    for line in _effect_lines(effects):
        screen.out.print(f"  {'  ' if later else ''}{line}")
    if not plan.restarts and any(effect.kind is EffectKind.ADD for effect in effects):
        screen.out.print("  restart   none: running services keep their memory and connections")


def _file_lines(changes: Sequence[FileChange], *, brief: bool) -> Iterable[str]:
    new = [one for one in changes if one.action is Action.CREATE and one.path.startswith(f"{_GENERATED}/")]
    if brief and len(new) > _NAMED_FILES:
        yield from _file_lines([one for one in changes if one not in new], brief=False)
        folders = sorted({one.path.split("/")[1] for one in new if one.path.count("/") > 1})
        yield f"{Action.CREATE.value:<9} {_GENERATED}/ ({count(len(new), 'file')}: {', '.join(folders)})"
        return
    contexts: dict[str, list[FileChange]] = {}
    for change in changes:
        if folder := context_of(change.path):
            contexts.setdefault(folder, []).append(change)
        else:
            edited = " (edited by hand; the edited file is kept as .bak)" if change.edited else ""
            yield f"{change.action.value:<9} {escape(change.path)}{edited}"
    for folder, context in contexts.items():
        actions = {change.action.value for change in context}
        action = actions.pop() if len(actions) == 1 else Action.UPDATE.value
        yield f"{action:<9} {folder}/ ({count(len(context), 'file')}, the build context of an image)"


def _effect_lines(effects: Sequence[Effect]) -> Iterable[str]:
    """Yield one line for all services with the same effect for the same reasons."""
    grouped: dict[tuple[EffectKind, tuple[str, ...]], list[str]] = {}
    for effect in effects:
        grouped.setdefault((effect.kind, effect.reasons), []).append(effect.service)
    words = {
        EffectKind.ADD: "add",
        EffectKind.RECREATE: "restart",
        EffectKind.RELOAD: "reload",
        EffectKind.REMOVE: "stop",
    }
    for (kind, reasons), services in grouped.items():
        why = f": {', '.join(reasons)}" if reasons else ""
        yield escape(f"{words[kind]:<9} {', '.join(services)}{why}")


def _print_diff(change: FileChange) -> None:
    if change.action is not Action.UPDATE or change.old is None or change.wanted is None:
        return
    old, new = (text.decode(errors="replace").splitlines() for text in (change.old, change.wanted.content))
    for line in difflib.unified_diff(old, new, f"{change.path} (now)", f"{change.path} (new)", lineterm="", n=1):
        colour = {"+": "green", "-": "red"}.get(line[:1])
        screen.out.print(f"[{colour}]{escape(line)}[/]" if colour else escape(line))


def print_next_steps(plan: SetupPlan) -> None:
    """Print the commands that start the cluster."""
    lines = {
        "docker compose up -d --wait": "starts all services",
        "citus-cluster up": "also checks, shows progress, and verifies",
    }
    lines = {screen.pasteable(command, plan.root): meaning for command, meaning in lines.items()}
    if plan.topology.coordinator is None:
        lines |= {
            f"python add_worker.py --host {worker.address.host} --port {worker.address.port}": "on the coordinator's "
            "server, once the worker runs"
            for worker in plan.topology.workers
        }
    width = max(len(command) for command in lines)
    screen.out.print("Next:")
    for command, meaning in lines.items():
        screen.out.print(f"  {escape(command):<{width}}   # {meaning}")
