"""When the services beside Citus are asked, and how long an answer of theirs is shown."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from api_support import ApiFiles
from fake_coordinator import Clock

from admin_api import companions as companions_module
from admin_api.companions import CompanionWatch
from admin_api.configuration import Configuration
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_status import CompanionStatus, Condition
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component_name import ComponentName

REDIS, OTHER = NodeAddress("redis", 6379), NodeAddress("redis2", 6379)
PRIMARY, REPLICA, RING = NodeAddress("pg14-primary"), NodeAddress("pg14-replica"), NodeAddress("cassandra", 9042)
PAIR = {"pg14-primary": PRIMARY, "pg14-replica": REPLICA}
ONE_REDIS = (Target(ComponentName.REDIS, {"redis": REDIS}),)

INTERVAL_S, TIMEOUT_S = 5.0, 3.0


@dataclass
class Asked:
    """The companions behind the watch, which answer as ``conditions`` says once they may."""

    places: list[tuple[Target, ...]] = field(default_factory=list)
    passwords: list[Any] = field(default_factory=list)
    timeouts: list[float] = field(default_factory=list)
    closed: list[tuple[Target, ...]] = field(default_factory=list)
    interrupted: int = 0
    conditions: dict[ComponentName, Condition] = field(default_factory=dict)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    doubts: list[Any] = field(default_factory=list)

    def make(self, places: tuple[Target, ...], password_of: object, *, doubt: object) -> "_Companions":
        self.places.append(places)
        self.passwords.append(password_of)
        self.doubts.append(doubt)
        return _Companions(self, places)


class _Companions:
    def __init__(self, asked: Asked, places: tuple[Target, ...]) -> None:
        self._asked = asked
        self._places = places
        self.wanted = tuple(target.component for target in places)

    async def ask_all(self, timeout_s: float) -> tuple[CompanionStatus, ...]:
        self._asked.timeouts.append(timeout_s)
        try:
            await self._asked.may_answer.wait()
        except asyncio.CancelledError:
            self._asked.interrupted += 1
            raise
        return tuple(
            CompanionStatus(
                service, self._asked.conditions.get(service, Condition.OK), None, {"n": len(self._asked.timeouts)}
            )
            for service in self.wanted
        )

    async def close(self) -> None:
        self._asked.closed.append(self._places)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(companions_module, "time", clock)
    return clock


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    asked.may_answer.set()
    monkeypatch.setattr(companions_module, "Companions", asked.make)
    return asked


Act = Callable[[CompanionWatch], Coroutine[Any, Any, None]]
Run = Callable[[Act], None]


@pytest.fixture
def want(files: ApiFiles) -> Callable[[tuple[Target, ...]], None]:
    def write(components: tuple[Target, ...]) -> None:
        config = ApiConfig.from_json((files.folder / "cluster.json").read_bytes())
        files.write_cluster(replace(config, components=components))

    return write


@pytest.fixture
def run(files: ApiFiles, asked: Asked, clock: Clock) -> Iterator[Run]:
    settings = files.settings(companion_interval_s=INTERVAL_S, companion_timeout_s=TIMEOUT_S, companion_start_s=100)

    def scenario(act: Act) -> None:
        async def whole() -> None:
            watch = CompanionWatch(settings, Configuration(settings))
            try:
                await act(watch)
            finally:
                await watch.close()

        asyncio.run(asyncio.wait_for(whole(), 30))

    yield scenario


Want = Callable[[tuple[Target, ...]], None]


async def figures(watch: CompanionWatch, *, within_s: float = 10) -> list[object]:
    """Tell by which question each was answered."""
    return [status.figures.get("n") for status in await watch.known(within_s=within_s)]


def test_the_places_are_those_of_the_files(run: Run, want: Want, asked: Asked) -> None:
    wanted = (
        Target(ComponentName.PG14, PAIR, synchronous=True),
        Target(ComponentName.REDIS, {"redis": REDIS}),
        Target(ComponentName.CASSANDRA, {"cassandra": RING}),
    )
    want(wanted)

    async def act(watch: CompanionWatch) -> None:
        assert [status.service.value for status in await watch.known(within_s=10)] == ["pg14", "redis", "cassandra"]

    run(act)
    assert asked.places == [(), wanted]
    # Each set of clients is closed, the last one with the watch.
    assert asked.closed == asked.places
    assert asked.timeouts == [TIMEOUT_S]


def test_each_is_asked_with_the_password_of_its_file(run: Run, want: Want, asked: Asked, files: ApiFiles) -> None:
    want(ONE_REDIS)
    (files.folder / "redis_password").write_text("of redis\n")

    async def act(watch: CompanionWatch) -> None:
        await watch.known(within_s=10)
        assert asked.passwords[-1](ComponentName.REDIS) == "of redis"

    run(act)


def test_an_answer_is_good_for_an_interval(run: Run, want: Want, clock: Clock) -> None:
    want(ONE_REDIS)

    async def act(watch: CompanionWatch) -> None:
        assert await figures(watch) == [1]
        clock.now_s += INTERVAL_S - 1
        assert await figures(watch) == [1]
        clock.now_s += 1
        assert await figures(watch) == [2]

    run(act)


def test_who_asks_at_the_same_time_shares_a_question(run: Run, want: Want, asked: Asked) -> None:
    want(ONE_REDIS)

    async def act(watch: CompanionWatch) -> None:
        asked.may_answer.clear()
        waiting = [asyncio.create_task(figures(watch)) for _ in range(20)]
        await asyncio.sleep(0.01)
        # Who leaves does not end the question of the others.
        waiting[0].cancel()
        asked.may_answer.set()
        assert await asyncio.gather(*waiting[1:]) == [[1]] * 19

    run(act)


def test_an_old_answer_is_shown_while_the_next_does_not_come_but_not_for_ever(
    run: Run, want: Want, asked: Asked, clock: Clock
) -> None:
    want(ONE_REDIS)

    async def act(watch: CompanionWatch) -> None:
        assert await figures(watch) == [1]
        asked.may_answer.clear()
        clock.now_s += 6 * INTERVAL_S - 1
        assert await figures(watch, within_s=0.01) == [1]
        clock.now_s += 1
        (status,) = await watch.known(within_s=0.01)
        assert status == CompanionStatus(ComponentName.REDIS, Condition.DOWN, "no answer within 0.01 s", {})
        assert len(asked.timeouts) == 2
        asked.may_answer.set()
        assert await figures(watch) == [2]

    run(act)


ALL = (
    Target(ComponentName.PG14, {"pg14-primary": PRIMARY}),
    Target(ComponentName.REDIS, {"redis": REDIS}),
    Target(ComponentName.CASSANDRA, {"cassandra": RING}),
)


def conditions(statuses: tuple[CompanionStatus, ...]) -> list[str]:
    return [status.condition.value for status in statuses]


def test_who_has_not_been_well_yet_is_starting_for_as_long_as_that_may_take(
    run: Run, want: Want, asked: Asked, clock: Clock
) -> None:
    want(ALL)
    asked.conditions = dict.fromkeys((ComponentName.PG14, ComponentName.REDIS, ComponentName.CASSANDRA), Condition.DOWN)

    async def act(watch: CompanionWatch) -> None:
        assert conditions(await watch.known(within_s=10)) == ["starting"] * 3
        clock.now_s += 99
        assert conditions(await watch.known(within_s=10)) == ["starting"] * 3
        clock.now_s += 1
        assert conditions(await watch.known(within_s=10)) == ["down", "down", "starting"]
        clock.now_s += 150
        assert conditions(await watch.known(within_s=10)) == ["down"] * 3

    run(act)


def test_one_of_several_servers_may_be_starting_and_a_single_one_that_complains_is_not(
    run: Run, want: Want, asked: Asked
) -> None:
    want(ALL)
    asked.conditions = dict.fromkeys(
        (ComponentName.PG14, ComponentName.REDIS, ComponentName.CASSANDRA), Condition.DEGRADED
    )

    async def act(watch: CompanionWatch) -> None:
        assert conditions(await watch.known(within_s=10)) == ["starting", "degraded", "starting"]

    run(act)


def test_who_was_well_is_down_at_once(run: Run, want: Want, asked: Asked, clock: Clock) -> None:
    want(ONE_REDIS)

    async def act(watch: CompanionWatch) -> None:
        assert conditions(await watch.known(within_s=10)) == ["ok"]
        asked.conditions[ComponentName.REDIS] = Condition.DOWN
        clock.now_s += INTERVAL_S
        assert conditions(await watch.known(within_s=10)) == ["down"]

    run(act)


def test_another_address_is_asked_at_once_and_the_question_to_the_former_is_ended(
    run: Run, want: Want, asked: Asked
) -> None:
    want(ONE_REDIS)

    async def act(watch: CompanionWatch) -> None:
        asked.may_answer.clear()
        (status,) = await watch.known(within_s=0.01)
        assert status.reason == "no answer within 0.01 s"
        want((Target(ComponentName.REDIS, {"redis2": OTHER}),))
        asked.may_answer.set()
        assert await figures(watch) == [2]
        assert asked.interrupted == 1
        assert [[target.component for target in places] for places in asked.closed] == [[], [ComponentName.REDIS]]

    run(act)


@pytest.mark.parametrize(
    ("is_own", "doubt"),
    [(True, None), (False, "not asked: redis is not in the cluster's network, so its container does not run")],
)
def test_a_name_outside_the_own_network_is_not_asked(
    run: Run, asked: Asked, monkeypatch: pytest.MonkeyPatch, is_own: bool, doubt: str | None
) -> None:
    hosts: list[str] = []

    def look(host: str) -> bool:
        hosts.append(host)
        return is_own

    monkeypatch.setattr(companions_module, "is_own", look)

    async def act(watch: CompanionWatch) -> None:
        assert await asked.doubts[0](REDIS) == doubt

    run(act)
    assert hosts == ["redis"]
