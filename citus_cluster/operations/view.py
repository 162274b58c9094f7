"""Views of a cluster, each declared once: the command line, the admin API and its page show the same rows."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from citus_cluster.model.parameters import NoParameters
from citus_cluster.operations.cluster import Cluster

Q = TypeVar("Q")


@dataclass(frozen=True)
class View(Generic[Q]):
    """A kind of view.

    ``path`` is where it is read below the API's prefix, and ``command`` the words after ``citus-cluster``. ``read``
    returns rows of the data class ``row``, whose field ``key`` is unique, or one such value if ``key`` is None. Rows
    hold plain numbers (sizes in bytes), times in UTC, and text.

    The admin API reads as a role that may do little more than monitor (``model/citus/reader.py``). A view that needs a
    ``superuser`` reads what PostgreSQL or Citus shows to nobody else.

    An answer may be ``max_age_s`` old, because its query is expensive; its age is shown. ``columns`` are those that
    the command line shows as text; by default all.
    """

    name: str
    summary: str
    path: str
    command: str
    row: type
    read: Callable[[Cluster, Q], Coroutine[Any, Any, Any]]
    parameters: type[Q] = NoParameters  # type: ignore[assignment]
    key: str | None = None
    superuser: bool = False
    max_age_s: float = 0
    columns: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        return self.key is not None


AnyView = View[Any]
