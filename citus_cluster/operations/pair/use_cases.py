"""Requests that change the PostgreSQL 14 pair's roles: under the lock, with consent and a journal line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from citus_cluster.errors import ConsentNeededError
from citus_cluster.model.plan.events import Emit
from citus_cluster.model.replication import PairStatus
from citus_cluster.operations.directory import Directory, load
from citus_cluster.operations.journaled import Journal
from citus_cluster.operations.pair import promotion, rebuild
from citus_cluster.operations.pair.promotion import Promotion
from citus_cluster.operations.pair.rebuild import Rebuild
from citus_cluster.runtime.docker.engine import Engine, in_thread
from citus_cluster.runtime.store import files

Agree = Callable[[str, tuple[str, ...]], bool]
"""Gets a question with the consequences of a yes, and returns whether the user agrees."""


async def promote(
    root: Path,
    journal: Journal,
    server: str | None,
    emit: Emit,
    *,
    agree: Agree,
    accept_loss: bool,
    timeout_s: float,
) -> Promotion:
    """Make a server the primary; arguments and errors as in ``promotion.promote``.

    Raises ConsentNeededError if the user does not agree.
    """
    with _locked(root) as directory, journal.entry("pg14-promote", server=server, accept_loss=accept_loss) as entry:
        engine = await in_thread(Engine.connect)
        plan = await promotion.plan_promotion(directory, server, engine)
        entry.tell(primary=plan.target)
        # A loss that was not accepted is refused below without a question.
        if not plan.already and (accept_loss or not plan.losses):
            _require(agree, f"Make {plan.target} the primary?", (*plan.losses, *plan.notes))
        done = await promotion.promote(directory, plan, engine, emit, accept_loss=accept_loss, timeout_s=timeout_s)
        entry.tell(losses=done.losses)
        return done


async def rebuild_replica(
    root: Path,
    journal: Journal,
    server: str | None,
    emit: Emit,
    *,
    agree: Agree,
    discard: bool,
    timeout_s: float,
) -> tuple[Rebuild, PairStatus]:
    """Make a server a fresh replica; arguments and errors as in ``rebuild.rebuild``.

    Raises ConsentNeededError if the user does not agree.
    """
    with _locked(root) as directory, journal.entry("pg14-rebuild-replica", server=server, discard=discard) as entry:
        engine = await in_thread(Engine.connect)
        plan = await rebuild.plan_rebuild(directory, server, engine, discard=discard)
        entry.tell(replica=plan.target, primary=plan.primary, kept_as=plan.keep_as)
        if plan.losses:
            _require(agree, f"Make {plan.target} a fresh replica of {plan.primary}?", plan.losses)
        return plan, await rebuild.rebuild(directory, plan, engine, emit, timeout_s=timeout_s)


@contextmanager
def _locked(root: Path) -> Iterator[Directory]:
    """Hold the directory's lock, and yield the cluster as it is from then on."""
    load(root)  # refuses a directory without a cluster before a lock file is created there
    with files.locked(root):
        yield load(root)


def _require(agree: Agree, question: str, consequences: tuple[str, ...]) -> None:
    if not agree(question, consequences):
        raise ConsentNeededError(
            f"{question} This was not confirmed; nothing was done.", details=consequences, hint="To agree, add --yes."
        )
