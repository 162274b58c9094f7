"""The load tester of project 3, on servers that behave as each test says."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from setup_support import ROOT

from lessons.check import free_port
from lessons.projects.load_tester.loop import Run
from lessons.projects.load_tester.plan import Plan, PlanError, target_of
from lessons.projects.load_tester.results import Results, percentile, summary_ms

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def serving(handler: Handler) -> Iterator[str]:
    """Serve with ``handler``, which gets each connection, in a thread; yields the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(handler, "127.0.0.1", 0, backlog=200)

    async def end() -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Server:
    """Answers each request on a connection by ``answer``, which gets the number of the request, from 0."""

    def __init__(self, answer: Callable[[int], Awaitable[bytes | None]]) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._answer = answer

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
                self.requests.append(head + body)
                answer = await self._answer(len(self.requests) - 1)
                writer.write(answer or b"")
                if answer is None:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def always(answer: bytes | None) -> Server:
    async def same(number: int) -> bytes | None:
        return answer

    return Server(same)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "lessons.projects.load_tester", *map(str, arguments)]


def loadtest(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60)


def report(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = loadtest(*arguments, "--quiet", "--json", "-")
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_percentiles_are_nearest_rank_g_18() -> None:
    hundred = [float(one) for one in range(1, 101)]
    assert [percentile(hundred, part) for part in (0.5, 0.95, 0.99, 1)] == [50, 95, 99, 100]
    assert [percentile([7.0], part) for part in (0, 0.5, 1)] == [7, 7, 7]
    assert summary_ms([]) is None
    assert summary_ms([0.003, 0.001]) == {
        "min": 1.0,
        "mean": 2.0,
        "p50": 1.0,
        "p95": 3.0,
        "p99": 3.0,
        "p99_9": 3.0,
        "max": 3.0,
    }


def test_rates_are_of_answers_and_errors_of_requests_g_18() -> None:
    results = Results(latencies_s=[0.1] * 8, service_s=[0.1] * 8, elapsed_s=2.0, received_bytes=500)
    results.statuses.update({200: 6, 503: 2})
    results.errors.update({"timeout": 2})
    found = results.as_dict()
    assert (found["requests"], found["failed"], found["error_rate"], found["timeouts"]) == (10, 4, 0.4, 2)
    assert (found["requests_per_second"], found["bytes_per_second"]) == (4.0, 250.0)
    assert Results().as_dict()["error_rate"] == 0.0


def test_each_client_keeps_its_connection_g_18() -> None:
    server = always(OK)
    with serving(server) as url:
        found = report(url, "-n", 1000, "-c", 10)
    assert (found["requests"], found["failed"], found["statuses"], found["loop"]) == (1000, 0, {"200": 1000}, "closed")
    assert len(server.requests) == 1000
    assert server.connections == 11, "the first only looks whether the server is there"
    assert found["received_bytes"] == 1000 * len(OK)
    assert found["latency_ms"] == found["uncorrected_latency_ms"]


def test_without_keepalive_each_request_has_its_connection() -> None:
    server = always(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
    with serving(server) as url:
        assert report(url, "-n", 50, "-c", 5, "--no-keepalive")["failed"] == 0
    assert server.connections == 51
    assert all(b"connection: close" in request for request in server.requests)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
    ],
    ids=["chunked", "continue", "empty", "redirect"],
)
def test_every_form_of_an_answer_is_understood(answer: bytes) -> None:
    with serving(always(answer)) as url:
        found = report(url, "-n", 20, "-c", 2)
    assert (found["requests"], found["failed"]) == (20, 0)


def test_an_answer_without_length_ends_with_its_connection() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nall that comes")
        await reader.read(10_000)
        writer.close()

    with serving(old) as url:
        found = report(url, "-n", 20, "-c", 2)
    assert (found["requests"], found["failed"]) == (20, 0)


def test_an_idle_connection_that_the_server_closed_is_replaced() -> None:
    """As nginx does after keepalive_requests, without saying so before."""

    async def one_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):
            writer.write(OK)
            await writer.drain()
        writer.close()

    with serving(one_each) as url:
        assert report(url, "-n", 200, "-c", 4)["failed"] == 0
        # A POST may have had its effect, so it is not repeated: it may be counted as failed, and the run goes on.
        assert report(url, "-n", 20, "-c", 1, "-X", "POST")["requests"] == 20


def test_failures_are_counted_by_their_kind() -> None:
    async def several(number: int) -> bytes | None:
        return [OK, b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n", b"SSH-2.0-x\r\n\r\n", None][number % 4]

    with serving(Server(several)) as url:
        found = report(url, "-n", 8, "-c", 1, "-X", "POST")
    assert found["statuses"] == {"200": 2, "503": 2}
    assert found["errors"] == {"connection closed": 2, "not HTTP/1.1": 2}
    assert (found["failed"], found["error_rate"]) == (6, 0.75)


def test_a_request_without_an_answer_times_out() -> None:
    async def never(number: int) -> bytes | None:
        await asyncio.sleep(60)
        return None

    with serving(Server(never)) as url:
        found = report(url, "-n", 3, "-c", 3, "--timeout", 0.2, status=1)
    assert (found["timeouts"], found["failed"], found["latency_ms"]) == (3, 3, None)


def test_a_server_that_dies_is_an_error_and_no_end() -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "lessons/01-capacity/server.py"), f"--port={(port := free_port())}"],
        stdout=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.readline()
    testing = subprocess.Popen(
        command(f"http://127.0.0.1:{port}", "-d", 30, "-c", 2, "--json", "-"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert testing.stderr and testing.stdout
    assert "requests" in testing.stderr.readline()
    process.kill()
    process.communicate()
    while ", 0 failed" in testing.stderr.readline():
        pass
    testing.send_signal(signal.SIGINT)
    found = json.loads(testing.communicate(timeout=30)[0])
    assert found["errors"].keys() <= {"connection refused", "connection closed"}
    assert 0 < found["failed"] < found["requests"]
    assert found["interrupted"]


def test_the_open_loop_counts_the_wait_of_what_was_due_g_18() -> None:
    """One stall of 0.5 s: a closed loop would see one slow request; 100 were due in that time."""

    async def stalls(number: int) -> bytes | None:
        if number == 20:
            await asyncio.sleep(0.5)
        return OK

    with serving(Server(stalls)) as url:
        found = report(url, "-n", 300, "-c", 1, "--rate", 200)
    assert (found["loop"], found["requests"], found["failed"]) == ("open", 300, 0)
    # A third of all requests was late, of which the largest tenth is above 0.4 s; sent late, they were fast.
    assert found["latency_ms"]["p95"] > 250
    assert found["latency_ms"]["p95"] > 5 * found["uncorrected_latency_ms"]["p95"]
    assert found["uncorrected_latency_ms"]["max"] > 490


def test_the_open_loop_keeps_its_rate_g_18() -> None:
    server = always(OK)
    with serving(server) as url:
        found = report(url, "-d", 1, "--rate", 100, "-c", 5)
    assert (found["requests"], found["unfinished"]) == (100, 0)
    assert found["elapsed_s"] > 0.98


def test_the_open_loop_says_what_it_could_not_finish() -> None:
    async def slow(number: int) -> bytes | None:
        await asyncio.sleep(0.1)
        return OK

    with serving(Server(slow)) as url:
        done = loadtest(url, "-d", 0.5, "--rate", 1000, "-c", 1, "--timeout", 0.5)
    assert done.returncode == 0, done.stderr
    assert "requests were due and had no answer when the run ended" in done.stdout


def test_the_duration_ends_a_closed_loop() -> None:
    with serving(always(OK)) as url:
        found = report(url, "-d", 0.5, "-c", 3)
    assert found["failed"] == 0
    # A timer may ring a millisecond early.
    assert 0.49 < found["elapsed_s"] < 5


def test_ctrl_c_prints_what_there_is_g_18(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    with serving(always(OK)) as url:
        process = subprocess.Popen(
            command(url, "-d", 60, "-c", 2, "--json", file),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        assert "requests, " in process.stderr.readline(), "a line a second"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")
    assert "interrupted" in out
    found = json.loads(file.read_text())
    assert found["interrupted"] is True
    assert found["requests"] > 0


def test_method_headers_and_body_are_sent(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b'{"a": 1}')
    server = always(OK)
    with serving(server) as url:
        report(f"{url}/p?q=1", "-n", 1, "-c", 1, "--data", f"@{tmp_path / 'body'}", "-H", "Content-Type: text/x")
    (request,) = server.requests
    assert request.startswith(b"POST /p?q=1 HTTP/1.1\r\n")
    assert b"\r\ncontent-type: text/x\r\n" in request
    assert b"\r\ncontent-length: 8\r\n" in request
    assert request.endswith(b'\r\n\r\n{"a": 1}')


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ftp://x"], "not an HTTP URL"),
        (["http://x:99999"], "The port"),
        (["http://x/a b"], "must encode"),
        (["http://x", "-n", "0"], "at least 1"),
        (["http://x", "--rate", "-1"], "above 0"),
        (["http://x", "--rate", "nan"], "above 0"),
        (["http://x", "-H", "nonsense"], "is not a header"),
        (["http://x", "--data", "@/nonexistent"], "No such file"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], says: str) -> None:
    done = loadtest(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_named() -> None:
    done = loadtest(f"localhost:{free_port()}")
    assert done.returncode == 1
    assert "connection refused. Start the server, or correct the URL." in done.stderr


def test_a_report_that_cannot_be_written_is_still_printed() -> None:
    with serving(always(OK)) as url:
        done = loadtest(url, "-n", 5, "--json", "/nonexistent/r.json")
    assert (done.returncode, "Throughput" in done.stdout) == (1, True)
    assert "was not written to /nonexistent/r.json: No such file or directory." in done.stderr


def test_a_target_is_parsed_once() -> None:
    target = target_of("https://user@Example.org:444/x", headers=("Host: other",))
    assert (target.host, target.port, target.tls) == ("example.org", 444, True)
    assert target.request.count(b"host: other\r\n") == 1
    assert b"example" not in target.request.lower()
    assert (target_of("https://a").port, target_of("a:1/b").port) == (443, 1)
    with pytest.raises(PlanError):
        target_of("http://x", headers=("a: b\r\nc: d",))


def test_the_command_is_installed() -> None:
    script = Path(sys.executable).with_name("loadtest")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, env=dict(os.environ), timeout=60)
    assert done.returncode == 0
    assert "coordinated" in done.stdout or "closed" in done.stdout


@pytest.mark.parametrize(
    ("rate", "duration_s", "requests", "wanted"),
    [
        (100, 1, None, 100),
        (0.1 * 3, 10, None, 3),
        (1.5, 1, None, 2),
        (0.5, 1, None, 1),
        (100, 1, 7, 7),
        (10, None, 7, 7),
    ],
)
def test_the_open_loop_knows_what_will_be_due(
    rate: float, duration_s: float | None, requests: int | None, wanted: int
) -> None:
    plan = Plan(target_of("http://x"), requests=requests, duration_s=duration_s, rate=rate)
    assert Run(plan)._all == wanted


def test_progress_goes_on_through_a_second_without_an_answer() -> None:
    async def never(number: int) -> bytes | None:
        await asyncio.sleep(60)
        return None

    with serving(Server(never)) as url:
        done = loadtest(url, "-d", 2.5, "-c", 1, "--timeout", 0.4)
    assert len(re.findall(r"^ +\d s  \d+ requests, \d/s, \d+ failed$", done.stderr, re.MULTILINE)) == 2, done.stderr
