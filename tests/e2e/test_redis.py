"""Redis as the generator makes it, started by plain Docker Compose; the tests build on each other."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import redis
from cluster_support import require_images
from generated_cluster import GeneratedCluster, Result
from waiting import eventually

pytestmark = pytest.mark.cluster

MB = 1024 * 1024


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratedCluster]:
    require_images("redis:7")
    # No Citus runs here, so that its image need not be on the engine.
    made = GeneratedCluster(tmp_path_factory.mktemp("redis"), "citusdata/citus:13.2.0")
    try:
        made.create("--services=redis", "--yes")
        made.compose("up", "-d", "--wait")
        yield made
    finally:
        made.remove()


def session(one: GeneratedCluster) -> redis.Redis:
    return redis.Redis(port=one.redis_port, password=one.secret("redis_password"), socket_timeout=10)


def redis_cli(one: GeneratedCluster, *arguments: str, password: str | None) -> Result:
    given = [] if password is None else ["-e", f"REDISCLI_AUTH={password}"]
    return one.docker("exec", *given, one.container("redis"), "redis-cli", *arguments, check=False)


def inspect(one: GeneratedCluster, form: str) -> str:
    return one.docker("inspect", "--format", form, one.container("redis")).out.strip()


def wait_until_it_answers(one: GeneratedCluster) -> None:
    with session(one) as client:
        log = lambda: one.docker("logs", one.container("redis")).text  # noqa: E731
        eventually(client.ping, log, 30, ignoring=redis.exceptions.RedisError)


def test_nobody_gets_in_without_the_password(one: GeneratedCluster) -> None:
    assert redis_cli(one, "ping", password=one.secret("redis_password")).out.strip() == "PONG"
    assert "NOAUTH" in redis_cli(one, "ping", password=None).text
    assert "WRONGPASS" in redis_cli(one, "ping", password="guessed").text
    with pytest.raises(redis.exceptions.AuthenticationError), redis.Redis(port=one.redis_port, password="") as client:
        client.ping()


def test_the_password_is_nowhere_but_in_its_file(one: GeneratedCluster) -> None:
    password = one.secret("redis_password")
    seen = one.docker("inspect", one.container("redis")).text + one.docker("logs", one.container("redis")).text
    seen += one.docker("top", one.container("redis"), "-o", "pid,args").text
    seen += "".join(path.read_text() for path in (one.root / "generated/config/redis").iterdir())
    assert password not in seen


def test_one_question_without_an_answer_in_time_is_asked_again(one: GeneratedCluster) -> None:
    with session(one) as client:
        client.execute_command("CLIENT", "PAUSE", "12000", "ALL")  # longer than one question waits, less than two
    found = one.cli("status", "--format=json").json()
    assert (found["state"], found["problems"]) == ("ok", [])


def test_the_session_that_is_shown_opens(one: GeneratedCluster) -> None:
    shown = one.cli("up", "--format=json").json()["companions_access"]["redis"]
    done = one.run("sh", "-c", shown.replace("docker exec -it", "echo PING | docker exec -i"))
    assert done.out.strip() == "PONG"


def test_no_client_can_harm_the_server(one: GeneratedCluster) -> None:
    commands = (
        ("REPLICAOF", "10.0.0.1", "6379"),
        ("SHUTDOWN", "NOSAVE"),
        ("MIGRATE", "10.0.0.1", "6379", "key", "0", "10"),
        ("DEBUG", "SLEEP", "0"),
        ("MODULE", "LOAD", "/tmp/module.so"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("CONFIG", "REWRITE"),
        ("ACL", "SAVE"),
    )
    with session(one) as client:
        for command in commands:
            with pytest.raises(redis.exceptions.ResponseError):
                client.execute_command(*command)
        assert client.flushall()  # what developers expect of a server of their own
    assert (
        inspect(one, "{{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.HostConfig.ReadonlyRootfs}}") == "[ALL] [] true"
    )


def test_no_client_can_give_itself_more_rights(one: GeneratedCluster) -> None:
    """Neither by ACL itself, nor through a script, a function, a transaction or a setting; also after a restart."""
    grant = ("ACL", "SETUSER", "default", "+@all")
    called = "redis.call('ACL', 'SETUSER', 'default', '+@all')"
    library = f"#!lua name=rights\nredis.register_function('rights', function() return {called} end)"
    refused = (
        grant,
        ("ACL", "SETUSER", "another", "on", "nopass", "~*", "&*", "+@all"),
        ("ACL", "DELUSER", "default"),
        ("ACL", "LOAD"),
        ("ACL", "SAVE"),
        ("EVAL", f"return {called}", "0"),
        ("EVAL", "return redis.call('REPLICAOF', '10.0.0.1', '6379')", "0"),
        ("FCALL", "rights", "0"),
        ("MODULE", "LOADEX", "/tmp/module.so"),
        ("CONFIG", "SET", "aclfile", "/data/users.acl"),
        ("CONFIG", "SET", "enable-module-command", "yes"),
        ("CONFIG", "SET", "enable-debug-command", "yes"),
        ("CONFIG", "SET", "enable-protected-configs", "yes"),
        ("CONFIG", "SET", "replicaof", "10.0.0.1 6379"),
        ("CONFIG", "SET", "user", "default on nopass ~* &* +@all"),
        ("REPLICAOF", "10.0.0.1", "6379"),
        ("FAILOVER",),
    )
    for restarted in (False, True):
        if restarted:
            one.docker("restart", one.container("redis"))
            wait_until_it_answers(one)
        with session(one) as client:
            client.execute_command("FUNCTION", "LOAD", "REPLACE", library)
            before = client.execute_command("ACL", "LIST")
            for command in refused:
                with pytest.raises(redis.exceptions.ResponseError):
                    client.execute_command(*command)
            transaction = client.pipeline(transaction=True)
            transaction.execute_command(*grant)
            with pytest.raises(redis.exceptions.RedisError):
                transaction.execute()
            assert client.execute_command("ACL", "WHOAMI") == b"default"
            assert client.execute_command("ACL", "LIST") == before
            assert len(before) == 1
            client.function_flush()


def test_status_tells_its_figures(one: GeneratedCluster) -> None:
    found = one.cli("status", "--format=json").json()
    assert found["state"] == "ok"
    (companion,) = found["companions"]
    assert (companion["service"], companion["condition"]) == ("redis", "ok")
    assert companion["max_memory_bytes"] == 48 * MB
    assert "of 48 MB" in one.cli("status").out


def test_kill_loses_a_second_of_writes_at_most(one: GeneratedCluster) -> None:
    """Four writers note every write that was acknowledged, with its time; the server dies under them, twice.

    The second time the end of its file is cut too, as a crash of the machine can do: it starts all the same.
    """
    for cut in (False, True):
        acknowledged: list[tuple[float, str]] = []

        def write(writer: int, acknowledged: list[tuple[float, str]] = acknowledged) -> None:
            with session(one) as client, suppress(redis.exceptions.RedisError):
                for number in range(10**9):
                    key = f"kill:{writer}:{number}"
                    client.set(key, "x" * 100)
                    acknowledged.append((time.monotonic(), key))

        writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(2)
        killed = time.monotonic()
        one.docker("kill", "--signal", "KILL", one.container("redis"))
        for writer in writers:
            writer.join()
        if cut:
            script = 'set -e; cd /data/appendonlydir; truncate -s -3 "$(ls -t *.incr.aof | head -n 1)"'
            one.docker("run", "--rm", "-v", f"{one.name}_redis-data:/data", "redis:7", "sh", "-c", script)
        one.docker("start", one.container("redis"))
        wait_until_it_answers(one)
        with session(one) as client:
            there = client.pipeline(transaction=False)
            for _, key in acknowledged:
                there.exists(key)
            lost = [at for (at, _), found in zip(acknowledged, there.execute(), strict=True) if not found]
            client.flushall()
        assert len(acknowledged) > 1000
        assert not [at for at in lost if at < killed - 1], f"{len(lost)} of {len(acknowledged)} writes were lost"


def test_down_and_up_keep_data_and_password(one: GeneratedCluster) -> None:
    password = one.secret("redis_password")
    with session(one) as client:
        client.set("kept", "yes")
    one.compose("down")
    one.compose("up", "-d", "--wait")
    with session(one) as client:
        assert client.get("kept") == b"yes"
    started = inspect(one, "{{.State.StartedAt}}")
    one.setup("--yes", "--up")
    assert one.secret("redis_password") == password
    assert inspect(one, "{{.State.StartedAt}}") == started


def test_a_full_server_refuses_writes_and_lives(one: GeneratedCluster) -> None:
    """Filled, rewritten while everything changes, and read by clients that do not take what they asked for."""
    with session(one) as client:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill(client)
        assert client.get("kept") == b"yes"
        found = one.cli("status", "--format=json", check=False)
        assert found.status == 1
        assert found.json()["companions"][0]["condition"] == "degraded"
        assert "writes are refused" in found.json()["problems"][0]
        client.delete(*(f"fill:{number}" for number in range(6)))
        client.rpush("list", *[b"x" * 500_000] * 8)
        done = threading.Event()
        writer = threading.Thread(target=overwrite, args=(one, done))
        writer.start()
        try:
            slow = [slow_reader(one) for _ in range(20)]
            for _ in range(3):
                client.bgrewriteaof()
                eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"], "the rewrite ends", 30)
        finally:
            done.set()
            writer.join()
        for reader in slow:
            reader.close()
        assert client.get("kept") == b"yes"
        client.flushall()
    assert inspect(one, "{{.State.OOMKilled}} {{.State.Running}} {{.RestartCount}}") == "false true 0"


def fill(client: redis.Redis) -> None:
    for number in range(10**6):
        client.set(f"fill:{number}", os.urandom(MB))


def overwrite(one: GeneratedCluster, done: threading.Event) -> None:
    with session(one) as client:
        number = 6
        while not done.is_set():
            with suppress(redis.exceptions.OutOfMemoryError):
                client.setrange(f"fill:{number}", 0, os.urandom(MB - 100))
            number = number + 1 if number < 30 else 6


def slow_reader(one: GeneratedCluster) -> socket.socket:
    password = one.secret("redis_password")
    reader = socket.create_connection(("127.0.0.1", one.redis_port))
    reader.sendall(f"AUTH {password}\r\nLRANGE list 0 -1\r\nLRANGE list 0 -1\r\n".encode())
    return reader


def test_a_changed_password_is_taken_by_the_next_start(one: GeneratedCluster) -> None:
    before = one.secret("redis_password")
    path = one.root / "generated/secrets/redis_password"
    path.write_text("another 'one'")
    done = one.setup("--yes", "--up")
    assert "restarting redis: its password, or what its user may do, was changed" in done.err
    assert redis_cli(one, "ping", password="another 'one'").out.strip() == "PONG"
    assert "WRONGPASS" in redis_cli(one, "ping", password=before).text
    assert "restarting redis" not in one.cli("up").err


def test_the_rights_of_an_earlier_version_are_taken_back_and_its_password_stays(one: GeneratedCluster) -> None:
    acl, manifest = one.root / "generated/config/redis/users.acl", one.root / "generated/manifest.json"
    now = acl.read_bytes()
    earlier = now.split(b" -acl")[0] + b"\n"
    acl.write_bytes(earlier)
    digests = [hashlib.sha256(content).hexdigest() for content in (now, earlier)]
    manifest.write_text(manifest.read_text().replace(digests[0], digests[1]))
    one.docker("restart", one.container("redis"))
    wait_until_it_answers(one)
    with session(one) as client:
        client.execute_command("ACL", "SETUSER", "default", "+replicaof")
    assert "restarting redis: its password, or what" in one.setup("--yes", "--up").err
    with session(one) as client:
        assert client.ping()
        for refused in (("ACL", "SETUSER", "default", "+replicaof"), ("REPLICAOF", "10.0.0.1", "6379")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*refused)


def test_a_changed_policy_restarts_it_and_nothing_is_lost(one: GeneratedCluster) -> None:
    with session(one) as client:
        client.set("kept", "still")
    started = inspect(one, "{{.State.StartedAt}}")
    spec = one.root / "cluster.yaml"
    text = spec.read_text()
    assert "maxmemory_policy: noeviction" in text
    spec.write_text(text.replace("maxmemory_policy: noeviction", "maxmemory_policy: allkeys-lru"))
    one.setup("--yes", "--up")
    assert inspect(one, "{{.State.StartedAt}}") != started
    with session(one) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
        assert client.get("kept") == b"still"
        for number in range(80):
            client.set(f"fill:{number}", os.urandom(MB))
        assert client.info("stats")["evicted_keys"] > 0


def test_a_server_that_is_stopped_is_told(one: GeneratedCluster) -> None:
    one.docker("kill", one.container("redis"))
    found = one.cli("status", "--format=json", check=False)
    assert found.status == 1
    assert found.json()["state"] == "down"
    (companion,) = found.json()["companions"]
    assert companion["condition"] == "down"
    assert companion["reason"].startswith("its container is exited")
    one.cli("up")
    assert one.cli("status", "--format=json").json()["state"] == "ok"
