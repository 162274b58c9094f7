"""The generator killed at each of its steps, run twice at once, and under a wrong clock: the real command."""

import json
import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from setup_support import attempt, contents, plan, snapshot

from citus_cluster.model.layout import MANIFEST_FILE
from citus_cluster.runtime.store.journal import JOURNAL_FILE

FIRST = ("--workers=2", "--services=citus,redis", "--memory=7840", "--cpus=2")
# Takes Redis away too, so that files are removed.
REGENERATION = ("--workers=5", "--services=citus", "--memory=12000", "--yes")
NOTHING = "Nothing to do"

# Python imports this at its start. It counts the calls that change something below a folder, says at the end how many
# there were, and kills the process right after the one that it was told. What an open has made is then still empty.
KILLER = """
import atexit, os, signal, sys

ROOT, LAST = os.environ["KILL_BELOW"], int(os.environ["KILL_AFTER"])
done = 0

def is_step(name, arguments, named):
    if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR):
        return False
    where = arguments[0]
    return isinstance(where, int) or "dir_fd" in named or os.fspath(where).startswith(ROOT)

def counted(name, real):
    def call(*arguments, **named):
        global done
        result = real(*arguments, **named)
        if is_step(name, arguments, named):
            done += 1
            if done == LAST:
                os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

for name in ("open", "replace", "rename", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "chmod", "fchmod",
             "fsync", "truncate", "ftruncate", "utime"):
    setattr(os, name, counted(name, getattr(os, name)))
atexit.register(lambda: print("steps:", done, file=sys.stderr))
"""


@pytest.fixture
def killer(tmp_path: Path) -> Path:
    folder = tmp_path / "killer"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(KILLER)
    return folder


def run(root: Path, *options: str, before: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    done = attempt(root, *options, before=before)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def killed(root: Path, *options: str, killer: Path, step: int) -> None:
    """Run it until it is killed, after ``step``."""
    done = attempt(root, *options, before=killer, KILL_BELOW=str(root), KILL_AFTER=str(step))
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def steps(root: Path, *options: str, killer: Path) -> int:
    """Run it to its end, and count its steps."""
    done = attempt(root, *options, before=killer, KILL_BELOW=str(root), KILL_AFTER="-1")
    counted = re.search(r"^steps: (\d+)$", done.stderr, re.MULTILINE)
    assert done.returncode == 0 and counted, done.stdout + done.stderr
    return int(counted[1])


def generated(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and mode of every file but the journal."""
    return {path: (content, mode) for path, (content, _, mode) in snapshot(root).items() if path != JOURNAL_FILE}


def check_half_way(root: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    """Check that each file is the old one or the new one, whole."""
    for path, content in contents(root).items():
        if path == MANIFEST_FILE:
            json.loads(content)
        elif path != JOURNAL_FILE and not path.startswith(".citus-cluster.staging-"):
            assert content in {before.get(path), after.get(path)}, f"{path} is neither old nor new"


def test_a_regeneration_killed_after_every_step(tmp_path: Path, killer: Path) -> None:
    start, goal = tmp_path / "start", tmp_path / "goal"
    run(start, *FIRST)
    spec = start / "cluster.yaml"
    spec.write_text(spec.read_text() + "settings:  # mine\n  worker: {work_mem: 5MB, max_parallel_workers: 3}\n")
    before = contents(start)
    shutil.copytree(start, goal)
    counted = steps(goal, *REGENERATION, killer=killer)
    wanted, after = generated(goal), contents(goal)
    assert counted > 30
    assert any("redis" in path for path in before.keys() - wanted.keys())

    def check(step: int) -> None:
        root = tmp_path / f"killed-{step}"
        shutil.copytree(start, root)
        killed(root, *REGENERATION, killer=killer, step=step)
        check_half_way(root, before, after)
        again = run(root, *REGENERATION)
        assert generated(root) == wanted, f"after step {step}: the files of a whole run, and nothing beside them"
        records = [json.loads(line)["operation"] for line in (root / JOURNAL_FILE).read_text().splitlines()]
        assert records in (["setup"], ["setup", "setup"]), f"after step {step}: done once, by this run or that one"
        assert (NOTHING in again.stdout) or len(records) == 2
        assert plan(root).nothing_to_do and not plan(root).unfinished

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(check, range(1, counted + 1)):
            pass


def test_a_first_run_killed_after_some_steps(tmp_path: Path, killer: Path) -> None:
    """The password is made once: whichever of them reached its place is kept."""
    goal = tmp_path / "goal"
    # As below: to make the folder would be one step more.
    goal.mkdir()
    counted = steps(goal, *FIRST, killer=killer)
    wanted = generated(goal)
    secret = "generated/secrets/superuser_password"

    def check(step: int) -> None:
        root = tmp_path / f"first-{step}"
        root.mkdir()
        killed(root, *FIRST, killer=killer, step=step)
        kept = root / secret
        password = kept.read_bytes() if kept.exists() else None
        run(root, *FIRST, "--yes")
        found = generated(root)
        assert {path: mode for path, (_, mode) in found.items()} == {path: mode for path, (_, mode) in wanted.items()}
        assert password in {None, kept.read_bytes()}
        assert plan(root).nothing_to_do and not plan(root).unfinished

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # From the last step back, so that a wrong count shows: nobody would be killed there.
        for _ in pool.map(check, range(counted, 0, -7)):
            pass


def test_runs_at_once(tmp_path: Path) -> None:
    """One of them is refused, or finds everything done; the files are those of one run."""
    start, goal, root = tmp_path / "start", tmp_path / "goal", tmp_path / "root"
    run(start, *FIRST)
    shutil.copytree(start, goal)
    run(goal, *REGENERATION)
    for runs in (2, 3, 12):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(start, root)
        with ThreadPoolExecutor(max_workers=runs) as pool:
            ended = list(pool.map(lambda _: attempt(root, *REGENERATION), range(runs)))
        assert 0 in {done.returncode for done in ended}
        for done in ended:
            assert done.returncode == 0 or "Another run (process" in done.stderr
            assert "Traceback" not in done.stderr
        assert generated(root) == generated(goal)
        run(root, *REGENERATION)
        assert generated(root) == generated(goal)


# Python imports this at its start: the clock was put back by a day, for whatever asks Python.
CLOCK = """
import datetime, sys, time

BACK = 86400
real, real_datetime = time.time, datetime.datetime

def put_back():
    return real() - BACK

class PutBack(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(put_back(), tz)

time.time = put_back
time.time_ns = lambda: int(put_back() * 10**9)
datetime.datetime = PutBack
# Also where it was imported before, in a process that was forked.
for module in [*sys.modules.values()]:
    if getattr(module, "datetime", None) is real_datetime:
        module.datetime = PutBack
"""


def test_a_clock_that_was_put_back(tmp_path: Path) -> None:
    """Files and journal are of the future then: nothing differs but the journal's own times."""
    start, goal = tmp_path / "start", tmp_path / "goal"
    clock = tmp_path / "clock"
    clock.mkdir()
    (clock / "sitecustomize.py").write_text(CLOCK)
    run(start, *FIRST)
    shutil.copytree(start, goal)
    run(goal, *REGENERATION)
    assert NOTHING in run(start, *FIRST, before=clock).stdout
    journal = (start / JOURNAL_FILE).read_bytes()
    run(start, *REGENERATION, before=clock)
    assert generated(start) == generated(goal)
    assert (start / JOURNAL_FILE).read_bytes().startswith(journal)
    times = [json.loads(line)["time"] for line in (start / JOURNAL_FILE).read_text().splitlines()]
    assert times == sorted(times, reverse=True)
    assert len(times) == 2
    before = snapshot(start)
    assert NOTHING in run(start, *REGENERATION, before=clock).stdout
    assert NOTHING in run(start, *REGENERATION).stdout
    assert snapshot(start) == before
