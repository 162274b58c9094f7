"""Lesson 5: what the checks do not show."""

import os

import pytest

from lessons.catalogue import unit
from lessons.check import Lab, free_port
from lessons.cluster import Servers

LESSON = unit("5")
USES_REDIS = [lab.path.name for lab in LESSON.labs if "redis" in lab.needs]


@pytest.mark.parametrize("script", USES_REDIS)
@pytest.mark.parametrize(
    "url", [f"redis://:geheim@127.0.0.1:{free_port()}/15", "nonsense"], ids=["refused", "nonsense"]
)
def test_without_redis_a_lab_says_what_to_do_and_keeps_the_password(script: str, url: str) -> None:
    out = Lab(LESSON, Servers({**os.environ})).run(script, status=1, REDIS_URL=url)
    assert out.startswith("Redis cannot be used: ")
    assert "set REDIS_URL" in out
    assert "Traceback" not in out
    assert "geheim" not in out


def test_retries_end_with_the_first_success(capsys: pytest.CaptureFixture[str]) -> None:
    retry = LESSON.lab("retry").load()
    failures = iter([ConnectionError("away"), ConnectionError("away")])

    def call() -> str:
        for failure in failures:
            raise failure
        return "success"

    slept: list[float] = []
    assert retry.retry_with_backoff(call, sleep=slept.append) == "success"
    assert len(slept) == 2
    assert capsys.readouterr().out.count("failed") == 2


def test_other_errors_are_not_retried() -> None:
    retry = LESSON.lab("retry").load()

    def call() -> str:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        retry.retry_with_backoff(call, sleep=lambda _: pytest.fail("waited for a bug to go away"))


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("consumer.py", "--timeout=0"),
        ("consumer.py", "--slowest=-1"),
        ("sync_vs_async.py", "--workers=0"),
        ("sync_vs_async.py", "--seconds=-1"),
        ("parallel.py", "--consumers=0"),
        ("retry.py", "--base-delay=-1"),
    ],
)
def test_values_out_of_range_are_told(script: str, option: str) -> None:
    out = Lab(LESSON, Servers({**os.environ})).run(script, option, status=2)
    assert option.partition("=")[0] in out.splitlines()[-1]
