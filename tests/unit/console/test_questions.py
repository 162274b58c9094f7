"""Questions that an operation asks while it runs: Ctrl-C and Ctrl-D end them, whatever else waits for Ctrl-C."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from rich.prompt import Confirm, Prompt

from citus_cluster.console import screen


def press_ctrl_c(*words: object, **more: object) -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return "an answer that nobody gave"


def press_ctrl_d(*words: object, **more: object) -> str:
    raise EOFError


@pytest.mark.parametrize("press", [press_ctrl_c, press_ctrl_d])
@pytest.mark.parametrize("question", [screen.confirm, screen.ask])
def test_a_question_within_an_operation_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, press: Callable[..., str], question: Callable[[str], object]
) -> None:
    """asyncio takes note of Ctrl-C, and cancels what runs once it waits for something."""
    monkeypatch.setattr(Confirm, "ask", press)
    monkeypatch.setattr(Prompt, "ask", press)
    answers: list[object] = []

    async def operation() -> None:
        with screen.Progress():
            answers.append(question("Remove it?"))

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(operation())
    assert (answers, signal.getsignal(signal.SIGINT)) == ([], before)
