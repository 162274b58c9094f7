"""How the API listens: the arguments of its server, what each protocol may do, and who may call."""

import asyncio
import gc
import json
import logging
import logging.config
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from api_support import ADMIN_TOKEN, READ_TOKEN, Api, ApiFiles, serve
from fastapi import Response
from starlette.types import Message

from admin_api import __main__ as program
from admin_api import healthcheck, server, settings
from admin_api.app import create_app
from admin_api.auth import Authenticator, RequireToken
from admin_api.configuration import Configuration, ConfigurationError
from admin_api.server import PatientProtocol
from admin_api.sessions import Sessions
from admin_api.settings import MAX_CHANGES, MAX_CONNECTIONS, Settings
from citus_cluster.errors import UsageError
from citus_cluster.model.api_config import hash_token
from citus_cluster.model.component_name import ComponentName
from citus_cluster.model.components import COMPONENTS
from citus_cluster.runtime.log_lines import JsonFormatter


def test_the_program_serves_the_app_as_the_compose_file_expects_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    configured: list[object] = []
    monkeypatch.setattr(uvicorn, "run", lambda *args, **more: calls.append((args, more)))
    monkeypatch.setattr(logging.config, "dictConfig", configured.append)
    monkeypatch.setenv("PGOPTIONS", "-c search_path=evil")
    program.main()
    assert calls == [
        (
            (program.create_lasting_app,),
            {
                "factory": True,
                "host": "0.0.0.0",
                "port": 8000,
                "http": PatientProtocol,
                "loop": "asyncio",
                "ws": "none",
                # The log is ours, and has no line for a health check, which is made every few seconds.
                "log_config": None,
                "access_log": False,
                "server_header": False,
                "timeout_graceful_shutdown": settings.SHUTDOWN_TIMEOUT_S,
            },
        )
    ]
    assert configured == [program.LOGGING]
    assert "PGOPTIONS" not in os.environ


def test_the_garbage_collector_skips_the_app(files: ApiFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_app(files.settings())
    monkeypatch.setattr("admin_api.app.create_app", lambda: made)
    before = gc.get_freeze_count()
    try:
        assert program.create_lasting_app() is made
        assert gc.get_freeze_count() > before
        assert not any(one is made for one in gc.get_objects())
    finally:
        gc.unfreeze()


def test_log_lines_are_json_with_time_level_and_place_and_hide_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    root, logger = logging.getLogger(), logging.getLogger("admin_api.tested")
    before = root.level, root.handlers[:]
    try:
        logging.config.dictConfig(program.LOGGING)
        assert logger.disabled is False
        logger.info("it is \x1b[31mso")
        (handler,) = root.handlers
        assert isinstance(handler.formatter, JsonFormatter)
    finally:
        root.level, root.handlers = before
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    record = json.loads(line)
    assert datetime.fromisoformat(record.pop("time")).utcoffset() == timedelta(0)
    assert record == {"level": "INFO", "logger": "admin_api.tested", "message": "it is \x1b[31mso"}
    assert "\x1b" not in line


def test_times_and_numbers_fit_each_other() -> None:
    """Each of them is bounded by what waits for it."""
    default = Settings()
    assert default.reconciler is True
    # docker's own limit for the health check, and the check's, are longer than the answer takes.
    assert default.connect_timeout_s <= healthcheck.TIMEOUT_S
    assert default.health_timeout_s < healthcheck.TIMEOUT_S
    assert default.refusal_life_s < default.health_life_s < default.health_timeout_s
    assert default.connect_timeout_s < default.request_timeout_s
    assert default.register_timeout_s + default.lock_timeout_s < default.change_timeout_s < default.plan_timeout_s
    assert default.busy_interval_s < default.idle_interval_s
    assert default.idle_interval_s <= default.companion_interval_s < default.disk_interval_s == default.data_interval_s
    assert default.companion_timeout_s < default.companion_interval_s
    assert MAX_CHANGES < MAX_CONNECTIONS - 1
    assert settings.SHUTDOWN_TIMEOUT_S < 10  # then Docker kills it
    assert healthcheck.PORT == settings.HTTP_PORT
    assert server.MAX_CLIENTS > settings.MAX_REQUESTS


def test_the_paths_are_those_of_the_container() -> None:
    default = Settings.from_environ({})
    assert default.config_dir == Path("/etc/citus-cluster")
    assert default.password_file == Path("/run/secrets/superuser_password")
    assert default.start_s(ComponentName.CASSANDRA) > default.companion_start_s
    assert default.start_s(ComponentName.REDIS) == default.start_s(ComponentName.PG14) == default.companion_start_s


def test_a_service_without_secrets_is_asked_without_a_password(
    files: ApiFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application that only answers HTTP has none."""
    monkeypatch.setattr(type(COMPONENTS[ComponentName.REDIS]), "secrets", ())
    (files.folder / "cassandra_password").write_text("of cassandra")
    configuration = Configuration(files.settings())
    assert configuration.password_of(ComponentName.REDIS) == ""
    assert configuration.password_of(ComponentName.CASSANDRA) == "of cassandra"


@pytest.mark.parametrize(("text", "is_on"), [("on", True), (" ON ", True), ("off", False), ("Off", False)])
def test_the_reconciler_is_switched_in_words(text: str, is_on: bool) -> None:
    assert Settings.from_environ({"CITUS_CLUSTER_RECONCILER": text}).reconciler is is_on


def test_a_word_that_is_none_is_refused_with_what_to_set() -> None:
    with pytest.raises(UsageError) as refused:
        Settings.from_environ({"CITUS_CLUSTER_RECONCILER": "perhaps"})
    assert refused.value.message == "CITUS_CLUSTER_RECONCILER is 'perhaps'."
    assert refused.value.hint == "Set CITUS_CLUSTER_RECONCILER to on or off."


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {READ_TOKEN}", 200),
        (f"BEARER   {READ_TOKEN}", 200),
        (f"Basic {READ_TOKEN}", 401),
        (f"Bearer{READ_TOKEN}", 401),
        (READ_TOKEN, 401),
        (f"Bearer {READ_TOKEN}x", 401),
        (f"Bearer {hash_token(READ_TOKEN)}", 401),
    ],
)
def test_a_token_is_read_from_its_header_alone(away: Api, header: str, status: int) -> None:
    assert away.client.get("/openapi.json", headers={"Authorization": header}).status_code == status
    assert away.client.get(f"/openapi.json?token={ADMIN_TOKEN}").status_code == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_the_read_token_may_ask_in_every_way(away: Api, method: str) -> None:
    assert away.client.request(method, "/api/v1/services", headers=away.read).status_code in {200, 204}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_the_read_token_may_change_nothing_in_any_way(away: Api, method: str) -> None:
    assert away.client.request(method, "/api/v1/rebalance", headers=away.read).status_code == 403


def run_middleware(files: ApiFiles, scope: dict[str, Any]) -> tuple[list[Message], bool]:
    """Return what a client is sent, and whether the app saw the request."""
    sent: list[Message] = []
    reached: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(True)

    async def receive() -> Message:
        raise AssertionError("nothing is to be read")

    async def send(message: Message) -> None:
        sent.append(message)

    settings = files.settings()
    authenticator = Authenticator(settings, Configuration(settings))
    sessions = Sessions(authenticator.identify)
    asyncio.run(RequireToken(app, authenticator, sessions, lambda *_: Response())(scope, receive, send))
    return sent, bool(reached)


def test_a_websocket_is_closed_before_the_app_sees_it(files: ApiFiles) -> None:
    scope = {"type": "websocket", "path": "/health", "headers": []}
    assert run_middleware(files, scope) == ([{"type": "websocket.close", "code": 1008}], False)


def test_the_start_of_the_app_needs_no_token(files: ApiFiles) -> None:
    assert run_middleware(files, {"type": "lifespan"}) == ([], True)


def test_passwords_and_tokens_are_read_anew_when_they_change(files: ApiFiles) -> None:
    configuration = Configuration(files.settings())
    assert configuration.tokens() is configuration.tokens()
    files.write_tokens("another", "one")
    assert configuration.tokens().admin == hash_token("another")
    for service in (ComponentName.PG14, ComponentName.REDIS, ComponentName.CASSANDRA):
        (files.folder / f"{service.value}_password").write_text(f"of {service.value}")
        assert configuration.password_of(service) == f"of {service.value}"
    before = configuration.password()
    files.replace("superuser_password", "new")
    assert (before, configuration.password()) != (before, before)


def test_a_file_that_is_missing_or_unreadable_is_named(files: ApiFiles) -> None:
    files.password_file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError) as refused:
        Configuration(files.settings()).password()
    assert refused.value.message == "A password file is not UTF-8 text."
    files.password_file.unlink()
    with pytest.raises(ConfigurationError) as refused:
        Configuration(files.settings()).password()
    assert refused.value.message == f"{files.password_file} cannot be read: No such file or directory."
    assert refused.value.hint == "Run setup_citus_cluster.py again, then docker compose up -d"
    assert (refused.value.http_status, refused.value.code) == (503, "configuration")
    files.replace("cluster.json", "{}")
    with pytest.raises(ConfigurationError) as refused:
        Configuration(files.settings()).cluster()
    assert any(line.startswith("cluster:") for line in refused.value.details)


class Transport(asyncio.Transport):
    """A connection that only notes whether it was ended."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.ends = 0

    def abort(self) -> None:
        self.ends += 1

    def close(self) -> None:
        pass


def test_one_client_too_many_is_hung_up_on(files: ApiFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)

    async def scenario() -> None:
        config = uvicorn.Config(create_app(files.settings()), log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        transports = [Transport() for _ in range(3)]
        protocols = [PatientProtocol(config, state, {}) for _ in transports]
        for protocol, transport in zip(protocols, transports, strict=True):
            protocol.connection_made(transport)
        assert [transport.ends for transport in transports] == [0, 0, 1]
        # asyncio reads that much in one go.
        assert transports[0].max_size == 16 * 1024  # type: ignore[attr-defined]
        for protocol in protocols[:2]:
            protocol.connection_lost(None)
            assert protocol._timer is not None
            assert protocol._timer.cancelled()

    asyncio.run(scenario())


def test_the_health_check_asks_its_own_port_unless_told_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []
    answers = [
        b"HTTP/1.1 200 OK\r\n\r\n{}",
        b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status": "degraded", "reason": "a worker is silent"}',
        b"HTTP/1.1 500 Internal Server Error\r\nServer: x\r\n\r\nno JSON",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n[]",
        b"",
    ]

    def ask(port: int) -> bytes:
        asked.append(port)
        return answers.pop(0)

    monkeypatch.setattr(healthcheck, "_ask", ask)
    monkeypatch.setattr(sys, "argv", ["healthcheck.py"])
    statuses = [healthcheck.main() for _ in range(4)]
    monkeypatch.setattr(sys, "argv", ["healthcheck.py", "8001"])
    statuses.append(healthcheck.main())
    assert (statuses, asked) == ([0, 1, 1, 1, 1], [8000, 8000, 8000, 8000, 8001])
    assert capsys.readouterr().out.splitlines() == [
        "degraded: a worker is silent",
        "HTTP/1.1 500 Internal Server Error",
        "HTTP/1.1 503 Service Unavailable",
        "the admin API gave no answer",
    ]


def test_an_answer_of_many_parts_is_read_to_its_end(files: ApiFiles) -> None:
    app = create_app(files.settings(reconciler=False))
    with serve(app) as api:
        answer = healthcheck._ask(api.port)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"}")
