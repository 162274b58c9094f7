"""What an option of the set-up is: declared at the field of the specification that it sets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """The option that sets a field; the command line makes its environment variable, its help and its default of it.

    ``name`` is the flag, or a pair such as ``--pg14-sync/--pg14-async``. ``default`` is shown where the field's own
    says too little; ``help`` where the option takes less, or something else, than the field's description says.
    """

    name: str
    default: str | None = None
    help: str | None = None
