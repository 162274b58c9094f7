"""The declaration of an option of the set-up, at the field of the specification that it sets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """The option that sets a field; the command line derives its environment variable, its help and its default.

    ``name`` is the flag, or a pair such as ``--pg14-sync/--pg14-async``. ``default`` is shown if the field's own is
    not clear; ``help`` if the option accepts other values than the field's description says.
    """

    name: str
    default: str | None = None
    help: str | None = None
