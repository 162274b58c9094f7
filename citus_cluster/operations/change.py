"""Changes of a cluster, each declared once: the command line, the admin API and its page plan and run them alike."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import MISSING, dataclass, fields
from shlex import quote
from typing import Any, Generic, TypeVar

from pydantic import SecretStr

from citus_cluster.model.documents import Documented, as_data
from citus_cluster.model.parameters import NoParameters
from citus_cluster.model.plan.events import Emit, Event
from citus_cluster.model.plan.preview import Preview
from citus_cluster.operations.cluster import Cluster
from citus_cluster.operations.journaled import Journal

P = TypeVar("P")


@dataclass(frozen=True)
class Change(Generic[P]):
    """A kind of change.

    ``name`` is the operation's name in the journal, and its OpenAPI operation id. ``path`` is where it is posted below
    the API's prefix, and ``command`` the words after ``citus-cluster``. ``summary`` says what it does, in one sentence.

    ``plan`` changes nothing. It raises NotFoundError and UsageError for parameters that fit nothing, and otherwise
    returns everything that would make ``run`` fail as findings that block. ``run`` is idempotent: each of its steps
    checks, acts and verifies, so an interrupted change is resumed by running it again.

    Two changes with the same ``scope`` exclude each other. ``lasts``: it can take minutes, always or with some
    parameters; ``plans_long``: it is short, but plans all shards, or waits for moves to end. ``asks``: it is hard to
    undo, so a person confirms it. ``options`` are the parameters without a default that a command with options of its
    own does not take as arguments.

    Three functions of the result as plain data: ``outcome`` returns what the journal keeps of it, by default all;
    ``creates`` whether something new exists now; ``progress`` the path below the API's prefix that shows how what it
    has begun goes on, None if nothing does. ``shows_once`` is a function of the parameters: whether the result has a
    secret that only the answer to the request shows, so that this answer must wait for the end.

    ``notes`` are the keys in the data of its events that the journal keeps although the change fails later.

    ``stop`` ends what ``run`` began elsewhere, when an operation is cancelled; without it, only ``run`` ends.
    ``continues`` is the key in the data of its events that identifies what goes on without this process, such as the
    ``job_id`` of Citus' own job. An operation that was interrupted after such an event is resumed with ``follow``,
    which gets that value.

    ``completed`` is for a change that cannot be planned again once it has happened. It gets the details of the earlier
    plan, and returns the result if the change has happened, and None if it is still to do.
    """

    name: str
    summary: str
    path: str
    command: str
    plan: Callable[[Cluster, P], Coroutine[Any, Any, Preview]]
    run: Callable[[Cluster, P, Preview, Emit], Coroutine[Any, Any, Documented]]
    parameters: type[P] = NoParameters  # type: ignore[assignment]
    scope: Callable[[P], str] | None = None
    lasts: bool | Callable[[P], bool] = False
    plans_long: bool = False
    asks: bool = False
    outcome: Callable[[Any], Mapping[str, object]] | None = None
    notes: frozenset[str] = frozenset()
    creates: Callable[[Any], bool] | None = None
    progress: Callable[[Any], str | None] | None = None
    shows_once: Callable[[P], bool] = lambda _: False
    options: frozenset[str] = frozenset()
    stop: Callable[[Cluster, P, Emit], Coroutine[Any, Any, None]] | None = None
    continues: str | None = None
    follow: Callable[[Cluster, P, Any, Emit], Coroutine[Any, Any, Documented]] | None = None
    completed: Callable[[Cluster, P, Mapping[str, object], Emit], Coroutine[Any, Any, Documented | None]] | None = None

    def scope_of(self, wanted: P) -> str:
        """Return the scope of one change: by default all parameters, so that the same change does not run twice."""
        if self.scope is not None:
            return self.scope(wanted)
        return f"{self.name} {wanted}"

    def takes_long(self, wanted: P) -> bool:
        """Return whether it can take minutes with these parameters."""
        return self.lasts(wanted) if callable(self.lasts) else self.lasts


AnyChange = Change[Any]


def command_line(change: AnyChange, wanted: Any) -> str:
    """Return the command that does the same. A secret, which a command reads from a file, is shown as a placeholder."""
    arguments: list[str] = []
    options: list[str] = []
    for one in fields(wanted):
        value, flag = getattr(wanted, one.name), f"--{one.name.replace('_', '-')}"
        if one.default is MISSING and one.default_factory is MISSING and one.name not in change.options:
            arguments += map(_word, value if isinstance(value, tuple) else [value])
        elif value == one.default or (one.default_factory is not MISSING and value == one.default_factory()):
            continue
        elif isinstance(value, SecretStr):
            options += [f"{flag}-file", "FILE"]
        elif isinstance(value, bool):
            options.append(flag if value else f"--no-{flag[2:]}")
        else:
            for part in value if isinstance(value, tuple) else [value]:
                options += [flag, _word(part)]
    # Without --, an argument such as -5 is taken for an option.
    is_odd = any(one.startswith("-") for one in arguments)
    rest = [*options, "--", *arguments] if is_odd else [*arguments, *options]
    return " ".join(["citus-cluster", change.command, *rest])


def _word(value: object) -> str:
    return quote(str(as_data(value)))


async def perform(
    change: Change[P],
    cluster: Cluster,
    journal: Journal,
    wanted: P,
    emit: Emit,
    *,
    preview: Preview | None = None,
    follows: object = None,
    planned: Mapping[str, object] | None = None,
    show: Callable[[Preview], None] | None = None,
) -> Documented:
    """Plan a change unless its ``preview`` is known, run it, and record it in the journal.

    ``follows``: what an interrupted run of it has begun, which is followed instead (see ``Change.continues``).
    ``planned``: the details of the plan of an earlier run, which may have done all of it (see ``Change.completed``).
    ``show`` gets a plan that is made here, unless it is refused, before anything changes.
    Raises BlockedError if the checks found what would make it fail, and what the change's ``plan`` and ``run`` raise.
    """
    asked = {one.name: getattr(wanted, one.name) for one in fields(wanted)}  # type: ignore[arg-type]
    with journal.entry(change.name, **asked) as entry:

        def report(event: Event) -> None:
            entry.tell(**{key: value for key, value in event.data.items() if key in change.notes})
            emit(event)

        result: Documented | None = None
        if follows is not None and change.follow is not None:
            result = await change.follow(cluster, wanted, follows, report)
        elif planned is not None and change.completed is not None:
            result = await change.completed(cluster, wanted, planned, report)
        if result is None:
            is_new = preview is None
            preview = preview or await change.plan(cluster, wanted)
            entry.plan = preview.steps
            preview.refuse()
            if is_new and show is not None:
                show(preview)
            result = await change.run(cluster, wanted, preview, report)
        found = result.as_dict()
        entry.tell(**(change.outcome(found) if change.outcome else found))
        return result
