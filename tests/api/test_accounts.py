"""When the accounts of applications are created on the servers beside Citus, and what a failure delays."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from api_support import ApiFiles

from admin_api import accounts as accounts_module
from admin_api.accounts import Accounts
from admin_api.configuration import Configuration
from citus_cluster.errors import UnreachableError
from citus_cluster.model.api_config import ApiConfig
from citus_cluster.model.citus.nodes import NodeAddress
from citus_cluster.model.companion_target import Target
from citus_cluster.model.component import Account
from citus_cluster.model.component_name import ComponentName
from citus_cluster.operations.accounts import SecretOf

PAIR = Target(ComponentName.PG14, {"pg14-primary": NodeAddress("pg14-primary")})
CASSANDRA = Target(ComponentName.CASSANDRA, {"cassandra": NodeAddress("cassandra", 9042)})
EXAMPLE = Target(ComponentName.EXAMPLE_REPLICATION, {"example-replication": NodeAddress("example-replication", 8000)})
PAIR_FILE, CASSANDRA_FILE = "example_replication_password", "example_replication_cassandra_password"


@dataclass
class Made:
    """Records what is created in place of the servers; a server in ``failures`` refuses."""

    calls: list[tuple[ComponentName, str, str, str]] = field(default_factory=list)
    failures: dict[ComponentName, Exception] = field(default_factory=dict)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    interrupted: bool = False

    async def __call__(
        self, target: Target, password: str, accounts: Sequence[Account], secret_of: SecretOf, *_: object
    ) -> None:
        for account in accounts:
            self.calls.append((target.component, password, account.name, secret_of(account.secret)))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.interrupted = True
            raise
        if target.component in self.failures:
            raise self.failures[target.component]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    made.may_answer.set()
    monkeypatch.setattr(accounts_module, "make_accounts", made)
    return made


@pytest.fixture
def files(tmp_path: Any) -> ApiFiles:
    files = ApiFiles.of_cluster(tmp_path, NodeAddress("citus-coordinator"))
    for name in ("pg14_password", "cassandra_password", PAIR_FILE, CASSANDRA_FILE):
        files.password_file.with_name(name).write_text(f"of {name}")
    return files


def desired(*targets: Target) -> ApiConfig:
    address = NodeAddress("citus-coordinator")
    return ApiConfig("citus", "postgres", "postgres", address, address, (), components=targets)


def run(files: ApiFiles, act: Callable[[Accounts], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        accounts = Accounts(Configuration(files.settings()))
        try:
            await act(accounts)
        finally:
            await accounts.close()

    asyncio.run(asyncio.wait_for(whole(), 30))


async def attempt(accounts: Accounts, *targets: Target) -> None:
    accounts.begin(desired(*targets))
    assert accounts._task is not None
    await accounts._task


def test_each_account_is_created_once_for_each_password(files: ApiFiles, made: Made) -> None:
    async def act(accounts: Accounts) -> None:
        for _ in range(3):
            await attempt(accounts, PAIR, CASSANDRA, EXAMPLE)
        assert made.calls == [
            (ComponentName.PG14, "of pg14_password", "example_replication", f"of {PAIR_FILE}"),
            (ComponentName.CASSANDRA, "of cassandra_password", "example_replication", f"of {CASSANDRA_FILE}"),
        ]
        files.replace(PAIR_FILE, "another")
        await attempt(accounts, PAIR, CASSANDRA, EXAMPLE)
        assert made.calls[2:] == [(ComponentName.PG14, "of pg14_password", "example_replication", "another")]
        assert accounts.missing == {}

    run(files, act)


def test_a_server_that_is_not_in_this_cluster_gets_no_account(files: ApiFiles, made: Made) -> None:
    async def act(accounts: Accounts) -> None:
        await attempt(accounts, PAIR, EXAMPLE)
        await attempt(accounts, CASSANDRA, PAIR)

    run(files, act)
    assert [component for component, *_ in made.calls] == [ComponentName.PG14]


def test_a_failure_is_named_and_tried_again(files: ApiFiles, made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.failures[ComponentName.CASSANDRA] = UnreachableError("Cassandra does not answer.")

    async def act(accounts: Accounts) -> None:
        await attempt(accounts, PAIR, CASSANDRA, EXAMPLE)
        assert accounts.missing == {ComponentName.EXAMPLE_REPLICATION: "Cassandra does not answer."}
        made.failures[ComponentName.CASSANDRA] = ValueError("a bug")
        with caplog.at_level(logging.ERROR):
            for _ in range(2):
                await attempt(accounts, PAIR, CASSANDRA, EXAMPLE)
        assert accounts.missing == {
            ComponentName.EXAMPLE_REPLICATION: "account example_replication was not created (ValueError)"
        }
        assert len(caplog.records) == 1, "one line for a failure that stays the same"
        made.failures.clear()
        await attempt(accounts, PAIR, CASSANDRA, EXAMPLE)
        assert accounts.missing == {}

    run(files, act)
    servers = [component for component, *_ in made.calls]
    assert servers == [ComponentName.PG14, *[ComponentName.CASSANDRA] * 4]


def test_a_secret_that_is_missing_is_named(files: ApiFiles, made: Made) -> None:
    files.password_file.with_name(PAIR_FILE).unlink()

    async def act(accounts: Accounts) -> None:
        await attempt(accounts, PAIR, EXAMPLE)
        assert PAIR_FILE in accounts.missing[ComponentName.EXAMPLE_REPLICATION]

    run(files, act)
    assert made.calls == []


def test_a_server_that_is_silent_delays_nobody_and_ends_with_the_api(files: ApiFiles, made: Made) -> None:
    made.may_answer.clear()

    async def act(accounts: Accounts) -> None:
        for _ in range(3):
            accounts.begin(desired(PAIR, EXAMPLE))
            await asyncio.sleep(0)
        assert len(made.calls) == 1

    run(files, act)
    assert made.interrupted
