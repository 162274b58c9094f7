"""Links to the forms of changes: from a name and values, and from the command that a finding recommends."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from admin_api.pages import forms
from citus_cluster.operations.change import AnyChange


@dataclass(frozen=True)
class Action:
    """A link to the form of a change, for one row."""

    title: str
    url: str


def form_url(change: AnyChange, values: Mapping[str, object] | None = None) -> str:
    """Return the address of the form of a change, filled in with values; then it shows the plan at once."""
    if not values:
        return f"/changes/{change.name}"
    return f"/changes/{change.name}?{urlencode({name: str(value) for name, value in values.items()})}"


def short_title(name: str) -> str:
    """Return the last words of a change's name: ``nodes-activate`` becomes ``Activate``."""
    words = name.partition("-")[2].replace("-", " ") or name
    return words[:1].upper() + words[1:]


def action_of(changes: Mapping[str, AnyChange], text: str | None) -> Action | None:
    """Return the link to the form of the change that a command runs; None for any other text.

    A command with options is none of these, because the form could not show what they mean.
    """
    words = _words(text or "")
    if words[:1] != ["citus-cluster"]:
        return None
    for change in changes.values():
        command = change.command.split()
        given = words[1 + len(command) :]
        required = [one.name for one in forms.fields_of(change.parameters) if one.is_required]
        if words[1 : 1 + len(command)] != command or len(given) != len(required):
            continue
        if not any(word.startswith("-") for word in given):
            return Action(f"{short_title(change.name)}…", form_url(change, dict(zip(required, given, strict=True))))
    return None


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []
