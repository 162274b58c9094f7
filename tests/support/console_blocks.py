"""The commands that a README shows in its ``console`` blocks, each with its output."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_STEP = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_END = "@@@"


def console_commands(readme: Path) -> list[tuple[str, str]]:
    """Return each command, with the output that the README shows."""
    blocks = [block.group(1) for block in _BLOCK.finditer(readme.read_text(encoding="utf-8"))]
    return [step for block in blocks for step in _STEP.findall(block)]


def check_console_blocks(
    readme: Path, environment: Mapping[str, str], adapt: Callable[[str], str] = lambda script: script, *, least: int
) -> None:
    """Run all commands in one shell, and compare what each prints; ``…`` stands for anything.

    ``adapt`` changes the script, such as its ports; ``least`` is the least number of commands.
    """
    steps = console_commands(readme)
    assert len(steps) >= least
    # A line of its own ends each output.
    script = adapt("".join(f"{command}\necho; echo '{_END}'\n" for command, _ in steps))
    done = subprocess.run(
        ["bash", "-c", script], cwd=readme.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    # A cqlsh that is older than the server says so.
    printed = re.sub(r"^WARNING: cqlsh was built.*\n", "", done.stdout.replace("\r", ""), flags=re.MULTILINE)
    for (command, wanted), got in zip(steps, printed.split(f"{_END}\n"), strict=False):
        pattern = ".*".join(map(re.escape, wanted.strip().split("…")))
        assert re.fullmatch(pattern, got.strip()), f"{command}\n{got}\n{done.stderr}"
