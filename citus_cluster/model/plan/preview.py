"""What a change would do, as a value: a dry run prints it, the page shows it, and an operation keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from citus_cluster.errors import BlockedError, CitusClusterError
from citus_cluster.model.documents import Documented


class Severity(StrEnum):
    """What a finding means for the change."""

    BLOCKS = "blocks"
    """The change would fail, so it does not start."""
    WARNS = "warns"
    """The change works, but has an effect that an operator may not expect."""


@dataclass(frozen=True)
class Finding(Documented):
    """One result of the checks before a change. ``fix`` is the SQL statement or the command that mends it.

    ``cause`` is the error that the change would raise, and raises if nothing else prevents it.
    """

    severity: Severity
    message: str
    fix: str | None = None
    cause: CitusClusterError | None = field(default=None, repr=False, compare=False)

    def document(self) -> Mapping[str, object]:
        return {"severity": self.severity, "message": self.message, "fix": self.fix}


def blocks(message: str, fix: str | None = None) -> Finding:
    """Return a finding that prevents the change."""
    return Finding(Severity.BLOCKS, message, fix)


def refusal(error: CitusClusterError) -> Finding:
    """Return an error as a finding that prevents the change; its fix are the statements in its details, or its hint."""
    statements = [one for one in error.details if one.endswith(";")]
    return Finding(Severity.BLOCKS, error.message, " ".join(statements) or error.hint, error)


def warns(message: str, fix: str | None = None) -> Finding:
    """Return a finding that an operator should know."""
    return Finding(Severity.WARNS, message, fix)


@dataclass(frozen=True)
class PreviewDocument:
    """What a change would do: its steps in order, what the checks found, and the figures of its kind."""

    steps: tuple[str, ...]
    findings: tuple[Finding, ...]
    details: Documented | Mapping[str, object]


@dataclass(frozen=True)
class Preview(Documented):
    """What a change would do.

    ``steps`` are sentences, in order; without steps, there is nothing to do. ``details`` are the figures of this kind
    of change, such as the moves of a rebalance.
    """

    steps: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    details: Documented | Mapping[str, object] = field(default_factory=dict)

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.severity is Severity.BLOCKS)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.severity is Severity.WARNS)

    def refuse(self) -> None:
        """Raise an error if a finding prevents the change; its details are the statements that mend it.

        It is the cause of the only such finding, or has the type of all causes; otherwise it is BlockedError.
        """
        found = self.blocking
        if not found:
            return
        if len(found) == 1 and found[0].cause is not None:
            raise found[0].cause
        kinds = {type(one.cause) if one.cause else BlockedError for one in found}
        kind = kinds.pop() if len(kinds) == 1 else BlockedError
        fixes = tuple(one.fix for one in found if one.fix)
        hint = None
        if fixes:
            hint = "Run what is listed, then try again." if len(fixes) > 1 else f"Run this, then try again: {fixes[0]}"
        raise kind(
            "Nothing was changed: "
            + "; ".join([*(one.message.removesuffix(".") for one in found[:-1]), found[-1].message]),
            hint=hint,
            details=fixes if len(fixes) > 1 else (),
        )

    def document(self) -> PreviewDocument:
        return PreviewDocument(self.steps, self.findings, self.details)
