"""Checks of lesson 5, queues."""

import contextlib
import io
import json
import random
import re
import time
from collections import Counter

from lessons.catalogue import unit
from lessons.check import Lab, Seen, check

QUEUE, DEAD_LETTERS = "task_queue", "dead_letter_queue"


@check(
    "E5-01", expected="5 tasks: 2 send_email, 2 resize_image, 1 generate_report, each with queued_at", needs=("redis",)
)
def producer_queues_five_tasks(lab: Lab) -> Seen:
    """producer.py puts five tasks into the list task_queue."""
    lab.redis.delete(QUEUE)
    before = time.time()
    out = lab.run("producer.py")
    tasks = [json.loads(one) for one in lab.redis.lrange(QUEUE, 0, -1)]
    lab.redis.delete(QUEUE)
    kinds = Counter(one["type"] for one in tasks)
    passed = (
        "Queue length: 5\n" in out
        and kinds == {"send_email": 2, "resize_image": 2, "generate_report": 1}
        # The labs run on this machine, so its clock is theirs.
        and all(before <= one["queued_at"] <= time.time() for one in tasks)
    )
    return Seen(passed, f"length {len(tasks)}: {', '.join(f'{times} {kind}' for kind, times in kinds.items())}")


@check(
    "E5-02", expected="5 tasks with their waiting times, in order; 5 s later: No more tasks. Exiting.", needs=("redis",)
)
def consumer_ends_when_the_queue_is_empty(lab: Lab) -> Seen:
    """consumer.py takes all tasks, first in, first out, and ends 5 s after the last."""
    lab.run("producer.py", "--clear", "--count", 5)
    start = time.monotonic()
    out = lab.run("consumer.py", "--slowest", 0.01, "--failure-rate", 0)
    took_s = time.monotonic() - start
    taken = re.findall(r"^consumer: (task_\d) waited \d+\.\d s$", out, re.MULTILINE)
    passed = (
        taken == [f"task_{number}" for number in range(5)]
        and out.endswith("consumer: No more tasks. Exiting.\n")
        # Never less than the time-out of 5 s; how much more is a matter of the machine.
        and 5 <= took_s < 60
    )
    return Seen(passed, f"{len(taken)} tasks, ended after {took_s:.1f} s: {out.splitlines()[-1]}")


@check("E5-03", expected="all 5 tasks in dead_letter_queue, with the error; the queue empty", needs=("redis",))
def failed_tasks_become_dead_letters(lab: Lab) -> Seen:
    """Tasks that fail go to dead_letter_queue; here all do."""
    lab.run("producer.py", "--clear")
    out = lab.run("consumer.py", "--slowest", 0.01, "--failure-rate", 1, "--timeout", 0.2)
    letters = [json.loads(one) for one in lab.redis.lrange(DEAD_LETTERS, 0, -1)]
    left = lab.redis.llen(QUEUE)
    lab.redis.delete(QUEUE, DEAD_LETTERS)
    told = re.findall(r"dead letters: (\d)", out)
    passed = len(letters) == 5 and left == 0 and told == list("12345") and all(one["error"] for one in letters)
    return Seen(passed, f"{len(letters)} dead letters, {left} tasks left")


@check("E5-03", expected="0.1 to 0.5 s a task, and 10 % fail: 100 of 1000, within 4 standard deviations (62 to 138)")
def one_task_in_ten_fails(lab: Lab) -> Seen:
    """Without options, tasks take 0.1 to 0.5 s, and one in ten fails."""
    module = unit("5").lab("consumer").load()
    usage = lab.run("consumer.py", "--help")
    slept: list[float] = []
    module.time.sleep, real_sleep, state = slept.append, module.time.sleep, random.getstate()
    random.seed(5)
    try:
        failures = 0
        for _ in range(1000):
            try:
                module.work({"type": "any"}, 0.1, 0.5)
            except RuntimeError:
                failures += 1
    finally:
        module.time.sleep = real_sleep
        random.setstate(state)
    defaults = "fail (0.1)" in usage and "slowest task (0.5)" in " ".join(usage.split())
    passed = defaults and 62 <= failures <= 138 and 0.1 <= min(slept) < max(slept) <= 0.5
    return Seen(passed, f"{failures} of 1000 failed, {min(slept):.2f} to {max(slept):.2f} s")


@check("E5-04", expected="task_0 to task_19, each taken once, by 3 consumers", needs=("redis",))
def no_task_is_taken_twice(lab: Lab) -> Seen:
    """Three consumers share 20 tasks, and none is taken twice."""
    out = lab.run("parallel.py", "--slowest", 0.1)
    lab.redis.delete(QUEUE, DEAD_LETTERS)
    by_consumer = re.findall(r"^consumer-\d: (.*)$", out, re.MULTILINE)
    taken = [one for line in by_consumer for one in line.split(", ") if one]
    passed = len(by_consumer) == 3 and sorted(taken) == sorted(f"task_{number}" for number in range(20))
    return Seen(
        passed and "20 tasks: 0 taken twice, 0 missing" in out,
        f"{len(taken)} taken, {len(set(taken))} different, by {sum(bool(line) for line in by_consumer)} consumers",
    )


@check("E5-05", expected="50 results each; more than 8 times faster (10 workers could be 10 times as fast)")
def workers_wait_at_the_same_time(lab: Lab) -> Seen:
    """Ten workers do 50 tasks of 0.1 s ten times as fast as one."""
    best, text = 0.0, ""
    for _ in range(2):  # the better of two: another program can only make it slower
        text = lab.run("sync_vs_async.py")
        speed_up = float(re.findall(r"Speed-up: +([\d.]+)x", text)[0])
        best = max(best, speed_up)
        if best > 8:
            break
    results = re.findall(r"(\d+) results", text)
    return Seen(best > 8 and results == ["50", "50"], f"{best:.1f} times faster, {' and '.join(results)} results")


@check("E5-06", expected="delays in 0.1-0.2, 0.2-0.3, 0.4-0.5, 0.8-0.9 s; Failed after 5 attempts; none after the last")
def delays_double(lab: Lab) -> Seen:
    """The waiting time doubles, has jitter, and ends with the last attempt."""
    retry = unit("5").lab("retry").load()
    delays: list[list[float]] = []
    for _ in range(50):
        delays.append([])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                retry.retry_with_backoff(lambda: retry.flaky_service(1.0), sleep=delays[-1].append)
        except TimeoutError as error:
            assert str(error) == "Failed after 5 attempts", error
    in_range = all(
        len(four) == 4 and all(base <= one <= base + 0.1 for base, one in zip((0.1, 0.2, 0.4, 0.8), four, strict=True))
        for four in delays
    )
    jitter = len({four[0] for four in delays}) > 40
    out = lab.run("retry.py", "--failure-rate", 1, "--base-delay", 0.001)
    told = out.count("failed: ") == 5 and out.count("waiting") == 4 and out.endswith("Failed after 5 attempts\n")
    return Seen(in_range and jitter and told, ", ".join(f"{one:.2f}" for one in delays[0]))


@check("E5-06", expected="0.7^5 = 16.8 % of 5000 runs, within 4 standard deviations (14.7 to 18.9 %)")
def one_run_in_six_fails(lab: Lab) -> Seen:
    """With 70 % failures, five attempts fail in 16.8 % of all runs."""
    retry = unit("5").lab("retry").load()
    state = random.getstate()
    random.seed(5)
    failed = 0
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for _ in range(5000):
                try:
                    retry.retry_with_backoff(lambda: retry.flaky_service(0.7), sleep=lambda _: None)
                except TimeoutError:
                    failed += 1
    finally:
        random.setstate(state)
    return Seen(0.147 <= failed / 5000 <= 0.189, f"{failed / 5000:.1%}")


@check("E5-07", expected="decouple, absorb spikes, retries, scale the consumers, dead letter, poison message")
def reasons_are_explained(lab: Lab) -> Seen:
    """The page says what queues are for."""
    return lab.page_names(
        "decouple", "absorbs spikes", "retries", "scale the consumers", "dead letter queue", "poison message"
    )


@check("E5-08", expected="20 tasks, 3 consumers, LRANGE dead_letter_queue, atomic")
def exercise_explains_brpop(lab: Lab) -> Seen:
    """The exercise reads the dead letters and explains why no task is taken twice: BRPOP is atomic."""
    return lab.page_names("20 tasks", "3 consumers", "LRANGE dead_letter_queue", "BRPOP is atomic")
