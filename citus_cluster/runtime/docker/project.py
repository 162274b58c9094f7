"""A Compose project on the engine, during one command: connected once, and inspected once for all callers."""

import asyncio
import math
import time
from collections.abc import Callable

from citus_cluster.errors import EngineUnavailableError
from citus_cluster.runtime.docker.engine import Container, Engine, in_thread


class Project:
    """The containers of a project at the last inspection; several tasks may call it at once.

    ``engine`` is an open connection; otherwise the first inspection opens one with ``connect``.
    """

    def __init__(
        self, name: str, engine: Engine | None = None, *, connect: Callable[[], Engine] = Engine.connect
    ) -> None:
        self.name = name
        self._engine = engine
        self._connect = connect
        self._look: asyncio.Task[tuple[Container, ...]] | None = None
        self._looked_at = 0.0

    async def look(self, *, max_age_s: float = math.inf) -> tuple[Engine, tuple[Container, ...]]:
        """Return the engine and the containers, from an inspection that is at most ``max_age_s`` old, or still running.

        A failed inspection is not kept, but its waiting callers fail too. Raises EngineUnavailableError.
        """
        if self._look is None or (self._look.done() and not self._is_usable(self._look, max_age_s)):
            self._look = asyncio.create_task(self._look_now())
        # A caller that gives up does not cancel the inspection for the others.
        containers = await asyncio.shield(self._look)
        assert self._engine is not None, "a successful inspection has opened it"  # noqa: S101
        return self._engine, containers

    def _is_usable(self, look: asyncio.Task[tuple[Container, ...]], max_age_s: float) -> bool:
        failed = look.cancelled() or look.exception() is not None
        return not failed and time.monotonic() - self._looked_at <= max_age_s

    async def _look_now(self) -> tuple[Container, ...]:
        """Inspect, and retry once if an existing engine did not answer in time."""
        for last in (False, True):
            try:
                if self._engine is None:
                    self._engine = await in_thread(self._connect)
                found = await in_thread(self._engine.project_containers, self.name)
            except EngineUnavailableError as error:
                if last or "does not answer" not in error.message:
                    raise
            else:
                self._looked_at = time.monotonic()
                return found
        raise AssertionError("the second try returns or raises")
