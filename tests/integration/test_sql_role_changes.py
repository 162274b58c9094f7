"""Declared changes of roles, on real servers: without a directory, as in the admin API."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from declared_support import messages, preview, read, run, run_for_result
from pydantic import SecretStr
from sql_servers import COORDINATOR, Servers

from citus_cluster.errors import UsageError
from citus_cluster.operations.roles.changes import CREATE, DROP, PASSWORD, Dropping, NewPassword, NewRole
from citus_cluster.operations.roles.passwords import opens
from citus_cluster.operations.roles.views import LIST

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("only_newest", "credentials")]


def can_log_in(cluster: Servers, role: str, password: str) -> bool:
    info = replace(cluster.info(COORDINATOR.host), user=role, password=password)
    return asyncio.run(opens(info))


def test_a_random_password_is_shown_once_and_recorded_nowhere(cluster: Servers, tmp_path: Path) -> None:
    nowhere = preview(cluster, CREATE, NewRole("app"))
    assert "cannot be kept without the cluster's directory" in messages(nowhere.blocking)
    wanted = NewRole("app", show_password=True)
    assert "shown once" in messages(preview(cluster, CREATE, wanted).warnings)
    made = run_for_result(cluster, CREATE, wanted, tmp_path)
    assert made.once is not None
    password = made.once["password"]
    assert can_log_in(cluster, "app", password)
    recorded = json.dumps(made.as_dict()) + (tmp_path / "generated" / "journal.jsonl").read_text()
    assert password not in recorded
    assert '"operation": "roles-create"' in recorded
    again = run_for_result(cluster, CREATE, wanted, tmp_path)
    assert again.once is None, "an existing password is never shown"
    assert not again.as_dict()["changed"]

    changed = run_for_result(cluster, PASSWORD, NewPassword("app", show_password=True), tmp_path)
    assert changed.once is not None
    assert changed.once["password"] != password
    assert can_log_in(cluster, "app", changed.once["password"])
    assert (
        run_for_result(cluster, PASSWORD, NewPassword("app", SecretStr("another-one-1"), True), tmp_path).once is None
    )
    assert can_log_in(cluster, "app", "another-one-1")
    assert "another-one-1" not in (tmp_path / "generated" / "journal.jsonl").read_text()

    (row,) = [row for row in read(cluster, LIST) if row.role == "app"]
    assert (row.managed, row.access.value, row.problems, row.not_asked) == (True, "write", (), ())
    assert run(cluster, DROP, Dropping("app"))["changed"]
    assert preview(cluster, DROP, Dropping("app")).steps == ()


def test_what_would_refuse_a_change_of_a_role_is_in_its_plan(cluster: Servers) -> None:
    with pytest.raises(UsageError):
        preview(cluster, CREATE, NewRole("postgres", show_password=True))
    with pytest.raises(UsageError, match="Schema 'nowhere' does not exist"):
        preview(cluster, CREATE, NewRole("app", schema=("nowhere",), show_password=True))
    with pytest.raises(UsageError, match="not a name in PostgreSQL"):
        preview(cluster, CREATE, NewRole("app", schema=("a\0",), show_password=True))
    with pytest.raises(UsageError):
        preview(cluster, CREATE, NewRole("app", limit=("sleep=1",), show_password=True))
    assert "does not exist" in messages(preview(cluster, PASSWORD, NewPassword("app", show_password=True)).blocking)
    run(cluster, CREATE, NewRole("app", password=SecretStr("a-password-1")))
    info = cluster.info(COORDINATOR.host)
    with psycopg.connect(
        host=info.host,
        port=info.port,
        user="app",
        password="a-password-1",
        dbname=info.database,
    ):
        assert "has open sessions" in messages(preview(cluster, DROP, Dropping("app")).blocking)
        assert preview(cluster, DROP, Dropping("app", disconnect=True)).blocking == ()
    cluster.sql(COORDINATOR.host, "CREATE TABLE mine (id int)", "ALTER TABLE mine OWNER TO app")
    owns = messages(preview(cluster, DROP, Dropping("app")).blocking)
    assert "owns 1 object" in owns
    given = preview(cluster, DROP, Dropping("app", reassign=True))
    assert any("mine to owner_of_public" in step for step in given.steps)
    with cluster.paused("citus-worker1"):
        silent = preview(cluster, CREATE, NewRole("app"))
        assert "only be changed while every node answers" in messages(silent.blocking)
    run(cluster, DROP, Dropping("app", reassign=True))
    cluster.sql(COORDINATOR.host, "DROP TABLE mine")
