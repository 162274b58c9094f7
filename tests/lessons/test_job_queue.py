"""The job queue without Redis: what is computed, and what a person is told. The checks have the rest."""

import os
import random
import subprocess
import sys

import pytest
import redis
from service_kit.testing import Client
from setup_support import ROOT

from lessons.check import free_port
from lessons.projects.job_queue.backoff import backoff_s
from lessons.projects.job_queue.dashboard import create_app
from lessons.projects.job_queue.handlers import HANDLERS, PermanentError
from lessons.projects.job_queue.queue import Job, JobQueue, Priority, State


def nowhere() -> str:
    return f"redis://:geheim@127.0.0.1:{free_port()}/15"


def command(*arguments: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lessons.projects.job_queue", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": url or nowhere()},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("attempts", "longest_s"), [(1, 1), (2, 2), (3, 4), (4, 8), (9, 256), (10, 300), (5000, 300)])
def test_the_wait_doubles_up_to_a_limit_and_half_of_it_is_random(attempts: int, longest_s: float) -> None:
    waits = [backoff_s(attempts, dice=random.Random(seed)) for seed in range(200)]
    assert all(longest_s / 2 <= one <= longest_s for one in waits)
    assert min(waits) < longest_s * 0.55
    assert max(waits) > longest_s * 0.95


def test_jobs_that_failed_together_do_not_come_back_together() -> None:
    assert len({backoff_s(3) for _ in range(100)}) > 90


@pytest.mark.parametrize(
    "arguments", [("stats",), ("work",), ("enqueue", "send_email"), ("dead", "list"), ("crash-test",), ("dashboard",)]
)
def test_without_redis_every_command_says_what_to_do_and_keeps_the_password(arguments: tuple[str, ...]) -> None:
    done = command(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Redis cannot be used: ")
    assert "set REDIS_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "url", "told"),
    [
        (("--prefix", "a*", "stats"), None, "The prefix 'a*' may have letters"),
        (("stats",), "nonsense", "Redis URL must specify"),
    ],
)
def test_wrong_values_are_told(arguments: tuple[str, ...], url: str | None, told: str) -> None:
    done = command(*arguments, url=url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(told)
    assert "Traceback" not in done.stderr


@pytest.fixture
def away() -> JobQueue:
    return JobQueue(redis.Redis.from_url(nowhere(), retry=None))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"job_type": ""}, "a type"),
        ({"max_attempts": 0}, "at least 1 attempt"),
        ({"delay_s": -1}, "0 seconds or more"),
        ({"payload": {"text": "x" * 70_000}}, "at most 65536 are allowed"),
        ({"priority": "urgent"}, "'urgent' is not a valid Priority"),
    ],
)
def test_a_job_out_of_range_is_refused_before_redis_is_asked(
    away: JobQueue, values: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        away.enqueue(**{"job_type": "send_email", **values})  # type: ignore[arg-type]


def test_the_dashboard_says_that_redis_is_away(away: JobQueue) -> None:
    client = Client(create_app(away))
    answer = client.request("GET", "/stats", headers={"Host": "localhost:8080"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["detail"].startswith("Redis cannot be used: ")
    page = client.request("GET", "/", headers={"Host": "127.0.0.1:8080"})
    assert page.status_code == 200, "the page itself shows what is wrong"


def test_the_dashboard_answers_under_the_names_of_this_machine_only(away: JobQueue) -> None:
    assert Client(create_app(away)).request("GET", "/", headers={"Host": "elsewhere.example"}).status_code == 400


def test_text_of_jobs_never_becomes_html() -> None:
    page = (ROOT / "lessons/projects/job_queue/dashboard.html").read_text(encoding="utf-8")
    assert "textContent" in page
    assert "innerHTML" not in page


def test_an_address_that_is_none_is_a_permanent_error() -> None:
    job = Job("1", "send_email", Priority.NORMAL, {"to": "nobody"}, State.LEASED, 1, 5, 0)
    with pytest.raises(PermanentError, match="nobody is not an address"):
        HANDLERS["send_email"](job)


class Policy:
    """A Redis that only tells its policy, or refuses to."""

    def __init__(self, policy: str | None) -> None:
        self.policy = policy

    def register_script(self, script: str) -> None: ...

    def info(self, section: str) -> dict[str, str]:
        if self.policy is None:
            raise redis.ResponseError("NOPERM")
        return {"maxmemory_policy": self.policy}


@pytest.mark.parametrize(
    ("policy", "warns"), [("noeviction", False), ("volatile-lru", False), ("allkeys-lru", True), (None, False)]
)
def test_a_redis_that_evicts_jobs_is_told(policy: str | None, warns: bool) -> None:
    warning = JobQueue(Policy(policy)).may_lose_jobs()  # type: ignore[arg-type]
    assert (warning is not None and "noeviction" in warning) == warns
