"""Checks of project 2, the job queue. Each works in a queue of its own, which it drops."""

import contextlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import redis

from lessons.check import Lab, Seen, check, free_port, stop, wait_for
from lessons.projects.job_queue.crash_test import crash_test
from lessons.projects.job_queue.handlers import PermanentError
from lessons.projects.job_queue.queue import Job, JobQueue, Priority, State
from lessons.projects.job_queue.worker import Worker

MODULE = "lessons.projects.job_queue"
VISIBILITY_S = 30.0
"""Long enough that no lease ends by itself while a check runs."""


@contextlib.contextmanager
def _queue(lab: Lab) -> Iterator[JobQueue]:
    queue = JobQueue(lab.redis, f"check:{uuid.uuid4().hex[:8]}:")
    try:
        yield queue
    finally:
        queue.drop()


def _claimed(queue: JobQueue, *types: str, visibility_s: float = VISIBILITY_S, worker: str = "check") -> Job:
    job = queue.claim(types, worker=worker, visibility_s=visibility_s)
    assert isinstance(job, Job), f"no job of {types} is ready; the next in {job} s"
    return job


@check("G-17", expected="high, high, normal, normal, low, low; first in, first out within each", needs=("redis",))
def priorities(lab: Lab) -> Seen:
    """High runs before normal, normal before low, also across types."""
    done: list[str] = []
    with _queue(lab) as queue:
        for priority in ("low", "normal", "high"):
            for job_type in ("b", "a"):
                queue.enqueue(job_type, {"name": f"{priority} {job_type}"}, priority=Priority(priority))

        def record(job: Job) -> None:
            done.append(job.payload["name"])

        Worker(queue, {"a": record, "b": record}).run(drain=True)
    wanted = ["high b", "high a", "normal b", "normal a", "low b", "low a"]
    return Seen(done == wanted, ", ".join(done))


@check(
    "G-17", expected="5 attempts; waits of 0.05-0.1, 0.1-0.2, 0.2-0.4, 0.4-0.8 s; then a dead letter", needs=("redis",)
)
def retries_with_backoff(lab: Lab) -> Seen:
    """A job that always fails is retried with exponential backoff and jitter, and becomes a dead letter."""
    planned: list[float] = []
    with _queue(lab) as queue:

        class Observed(JobQueue):
            def fail(self, job: Job, error: str, *, delay_s: float, permanent: bool = False) -> State | None:
                planned.append(delay_s)
                # Sooner, so that the check need not wait; the delay itself has a check of its own.
                return super().fail(job, error, delay_s=0.01, permanent=permanent)

        def fail(job: Job) -> None:
            raise ConnectionError("away")

        job_id = queue.enqueue("fails")
        done = Worker(Observed(queue.client, queue.prefix), {"fails": fail}, base_delay_s=0.1).run(drain=True)
        job, stats = queue.get(job_id), queue.stats()
    waits, in_range = planned[:4], [0.1 * 2**n for n in range(4)]
    passed = (
        job is not None
        and (done, len(planned), job.state, job.attempts, stats.dead) == (0, 5, State.DEAD, 5, 1)
        and all(longest / 2 <= one <= longest for one, longest in zip(waits, in_range, strict=True))
        and job.error == "ConnectionError: away"
        and (stats.totals["failed"], stats.totals["retried"]) == (5, 4)
    )
    return Seen(
        passed, f"{len(planned)} attempts, waits {', '.join(f'{one:.2f}' for one in waits)} s, {stats.dead} dead"
    )


@check("G-17", expected="not before its time, whether it was delayed or failed", needs=("redis",))
def delayed_jobs_wait(lab: Lab) -> Seen:
    """A job that is delayed, or waits for its next attempt, is not given out before its time."""
    with _queue(lab) as queue:
        queue.enqueue("a", delay_s=1000)
        due = queue.claim(["a"], worker="check", visibility_s=VISIBILITY_S)
        assert isinstance(due, float), "given out at once"
        start = time.monotonic()
        queue.enqueue("a", delay_s=0.3)
        wait_for(lambda: isinstance(queue.claim(["a"], worker="check", visibility_s=VISIBILITY_S), Job), "the job")
        first_s = time.monotonic() - start
        queue.enqueue("b")
        start = time.monotonic()
        queue.fail(_claimed(queue, "b"), "away", delay_s=0.3)
        wait_for(lambda: isinstance(queue.claim(["b"], worker="check", visibility_s=VISIBILITY_S), Job), "the retry")
        second_s = time.monotonic() - start
    # The clocks of Redis and of this process may differ by less than a millisecond in their speed.
    return Seen(500 < due <= 1000 and first_s > 0.29 and second_s > 0.29, f"after {first_s:.2f} s and {second_s:.2f} s")


@check(
    "G-17", expected="3 dead letters, 1 after one attempt; 2 replayed and done, 1 discarded; 0 left", needs=("redis",)
)
def dead_letters_are_replayed(lab: Lab) -> Seen:
    """Dead letters are listed with their errors, replayed with all attempts, or discarded."""
    repaired = False

    def work(job: Job) -> None:
        if job.payload.get("hopeless"):
            raise PermanentError("no such address")
        if not repaired:
            raise ConnectionError("away")

    with _queue(lab) as queue:
        worker = Worker(queue, {"mail": work}, base_delay_s=0.01)
        ids = [queue.enqueue("mail", max_attempts=2), queue.enqueue("mail", max_attempts=2)]
        hopeless = queue.enqueue("mail", {"hopeless": True}, max_attempts=2)
        worker.run(drain=True)
        attempts = {job.id: job.attempts for job in queue.dead_letters()}
        command = ["-m", MODULE, "--prefix", queue.prefix, "dead"]
        listed = lab.run(*command, "list")
        discarded = lab.run(*command, "discard", hopeless)
        replayed = lab.run(*command, "replay", "--all")
        repaired = True
        done = worker.run(drain=True)
        after = [(job.state, job.attempts) if (job := queue.get(one)) else None for one in (*ids, hopeless)]
        left = queue.stats().dead
        again = queue.replay(ids[0])
    passed = (
        attempts == {ids[0]: 2, ids[1]: 2, hopeless: 1}
        and listed.count("ConnectionError: away") == 2
        and listed.count("PermanentError: no such address") == 1
        and (discarded, replayed) == ("discard: 1 jobs\n", "replay: 2 jobs\n")
        and (done, left, again) == (2, 0, False)
        # Counted anew: the first attempt after the replay.
        and after == [(State.DONE, 1), (State.DONE, 1), None]
    )
    return Seen(passed, f"{len(attempts)} dead letters, {done} done after the replay, {left} left")


@check("G-17", expected="each worker only jobs of its types; a type without a worker waits", needs=("redis",))
def worker_types(lab: Lab) -> Seen:
    """Several types of workers share the queue, and each does the jobs of its types only."""
    done: dict[str, list[str]] = {"mail": [], "image": []}
    with _queue(lab) as queue:
        for number in range(12):
            queue.enqueue(("mail", "image", "report")[number % 3])
        workers = {
            "mail": Worker(queue, {"mail": lambda job: done["mail"].append(job.type)}),
            "image": Worker(queue, {"image": lambda job: done["image"].append(job.type)}),
        }
        threads = [threading.Thread(target=worker.run, kwargs={"drain": True}) for worker in workers.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        depth = {name: sum(one.values()) for name, one in queue.stats().depth_by_type.items()}
    passed = done == {"mail": ["mail"] * 4, "image": ["image"] * 4} and depth == {"mail": 0, "image": 0, "report": 4}
    return Seen(passed, f"{Counter(done['mail'])}, {Counter(done['image'])}, {depth['report']} of report wait")


@check("G-17", expected="200 jobs done at least once, 0 lost, 0 dead; killed jobs begun again", needs=("redis",))
def killed_workers_lose_nothing(lab: Lab) -> Seen:
    """kill -9 of workers in the middle of their jobs, under load: every job is done at least once, none is lost."""
    ledger = crash_test(
        lab.redis_url, "check:", jobs=200, kills=8, visibility_s=1.0, work_s=0.05, report=lambda text: None
    )
    passed = (
        (ledger.done, ledger.lost, ledger.dead) == (200, 0, 0)
        # On a busy machine the jobs may be done before the last kill. Without any, the check would show nothing.
        and ledger.kills >= 4
        and ledger.begun_again > 0
    )
    return Seen(
        passed,
        f"{ledger.done} done, {ledger.lost} lost, {ledger.dead} dead; {ledger.kills} killed, "
        f"{ledger.begun_again} begun again",
    )


def _docker(*arguments: str) -> None:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.strip()}"


def _with_patience(call: Callable[[], Any]) -> Any:
    """Call until Redis answers, at most a minute, as a producer does that must not lose its job."""
    for _ in range(120):
        try:
            return call()
        except redis.RedisError:
            time.sleep(0.5)
    return call()


def _enqueue_200(queue: JobQueue, ledger: str, half_time: Callable[[], None]) -> set[str]:
    """Enqueue jobs, whatever happens at ``half_time``. Returns their ids; an id makes the call repeatable."""
    ids = [uuid.uuid4().hex for _ in range(200)]
    for number, one in enumerate(ids):
        if number == 100:
            half_time()
        _with_patience(
            partial(queue.enqueue, "crash_test", {"ledger": ledger, "work_s": 0.005}, job_id=one, max_attempts=20)
        )
    return set(ids)


@check("G-17", expected="200 jobs done at least once, 0 lost, although Redis was killed in between", needs=("docker",))
def killed_redis_loses_nothing(lab: Lab) -> Seen:
    """docker kill of a Redis with a log, under load: workers wait for it, and no job that it confirmed is lost."""
    name, port = f"lessons-check-{uuid.uuid4().hex[:8]}", free_port()
    url, ledger = f"redis://127.0.0.1:{port}/15", "check:ledger:"
    workers = []

    def kill_redis() -> None:
        wait_for(lambda: queue.client.llen(f"{ledger}ended") >= 20, "the first jobs", 60)
        _docker("kill", name)
        _docker("start", name)

    try:
        # As on the stack: the log is written before an answer, and synced once a second.
        options = ("--appendonly", "yes", "--appendfsync", "everysec")
        _docker("run", "-d", "--name", name, "-p", f"127.0.0.1:{port}:6379", "redis:7", "redis-server", *options)
        queue = JobQueue.at(url, "check:")
        _with_patience(queue.client.ping)
        command = ["-m", MODULE, "--prefix", queue.prefix, "work", "--quiet", "--visibility", "2"]
        command += ["--handlers", f"{MODULE}.crash_test", "--types", "crash_test"]
        workers = [lab.start(*command, REDIS_URL=url) for _ in range(2)]
        # A worker that starts while Redis is away says so and ends.
        wait_for(lambda: len(queue.client.client_list()) == 3, "both workers to connect", 60)
        ids = _enqueue_200(queue, ledger, kill_redis)
        wait_for(lambda: not _with_patience(queue.stats).unfinished, "all jobs", 60)
        ended = set(queue.client.lrange(f"{ledger}ended", 0, -1))
        stats, alive = queue.stats(), sum(worker.poll() is None for worker in workers)
    finally:
        for worker in workers:
            stop(worker)
            worker.communicate()  # closes its output
        _docker("rm", "-f", "-v", name)
    passed = ended == ids and (stats.totals["done"], stats.dead, alive) == (200, 0, 2)
    return Seen(passed, f"{len(ended)} done, {len(ids - ended)} lost, {stats.dead} dead; {alive} workers live on")


@check(
    "G-17", expected="the second worker's word counts: finish and fail of the first change nothing", needs=("redis",)
)
def late_worker_is_refused(lab: Lab) -> Seen:
    """A worker that was stopped longer than the visibility time-out cannot end a job that another one has by now."""
    with _queue(lab) as queue:
        queue.enqueue("a")
        late = _claimed(queue, "a", visibility_s=0.01, worker="late")
        wait_for(
            lambda: queue.claim(["b"], worker="other", visibility_s=1) and queue.stats().in_progress == 0, "the end"
        )
        second = _claimed(queue, "a", worker="second")
        refused = (queue.finish(late), queue.fail(late, "late", delay_s=0), queue.extend(late, 1))
        job = queue.get(late.id)
        finished = (queue.finish(second), queue.finish(second))
        stats = queue.stats()
    passed = (
        second.id == late.id
        and refused == (False, None, False)
        and job is not None
        and (job.state, job.worker, job.attempts) == (State.LEASED, "second", 2)
        and finished == (True, True)
        and (stats.totals["done"], stats.totals["timed_out"], stats.unfinished) == (1, 1, 0)
    )
    return Seen(passed, f"late: {refused}; second: {finished}, {stats.totals['done']} done")


@check("G-17", expected="done; no second attempt", needs=("redis",))
def late_result_counts_if_nobody_else_began(lab: Lab) -> Seen:
    """Work that ends after the time-out counts, if no other worker has begun the job since."""
    with _queue(lab) as queue:
        queue.enqueue("a")
        late = _claimed(queue, "a", visibility_s=0.01)
        wait_for(
            lambda: queue.claim(["b"], worker="other", visibility_s=1) and queue.stats().in_progress == 0, "the end"
        )
        accepted = queue.finish(late)
        job, stats = queue.get(late.id), queue.stats()
    passed = accepted and job is not None and (job.state, job.attempts, stats.unfinished) == (State.DONE, 1, 0)
    return Seen(passed, f"{job and job.state}, {job and job.attempts} attempt, {stats.unfinished} unfinished")


@check("G-17", expected="the lease ends later than it did at first; done in 1 attempt", needs=("redis",))
def long_jobs_keep_their_lease(lab: Lab) -> Seen:
    """A worker extends the lease of a job while it runs."""
    leases: list[float] = []

    with _queue(lab) as queue:

        def lease_end() -> float:
            (end,) = queue.client.zrange(f"{queue.prefix}leased", 0, -1, withscores=True)
            return float(end[1])

        def work(job: Job) -> None:
            leases.append(lease_end())
            wait_for(lambda: lease_end() > leases[0], "the lease to be extended")
            leases.append(lease_end())

        queue.enqueue("long")
        Worker(queue, {"long": work}, visibility_s=6).run(drain=True)
        totals = queue.stats().totals
    passed = len(leases) == 2 and leases[1] > leases[0] and (totals["done"], totals["timed_out"]) == (1, 0)
    return Seen(passed, f"{leases[1] - leases[0]:.1f} s later, {totals['done']} done, {totals['timed_out']} timed out")


@check("G-17", expected="a dead letter after 3 workers; its error names the last one", needs=("redis",))
def job_that_kills_its_workers(lab: Lab) -> Seen:
    """A job that kills every worker becomes a dead letter, too, and does not come back for ever."""
    with _queue(lab) as queue:
        job_id = queue.enqueue("poison", max_attempts=3)
        for number in range(3):
            wait_for(
                lambda name=f"worker-{number}": isinstance(  # type: ignore[misc]
                    queue.claim(["poison"], worker=name, visibility_s=0.01), Job
                ),
                "the poison",
            )
        wait_for(lambda: queue.claim(["poison"], worker="check", visibility_s=1) and queue.stats().dead, "its death")
        job = queue.get(job_id)
    wanted = "worker worker-2 did not finish within the visibility time-out"
    passed = job is not None and (job.state, job.attempts, job.error) == (State.DEAD, 3, wanted)
    return Seen(passed, f"{job and job.state} after {job and job.attempts} attempts: {job and job.error}")


@check("G-17", expected="400 jobs, each given out once", needs=("redis",))
def no_job_is_given_out_twice(lab: Lab) -> Seen:
    """Workers that ask at the same time get different jobs."""
    given: list[str] = []
    with _queue(lab) as queue:
        ids = [queue.enqueue("a") for _ in range(400)]

        def take() -> None:
            while isinstance(job := queue.claim(["a"], worker="check", visibility_s=VISIBILITY_S), Job):
                given.append(job.id)
                assert len(given) <= len(ids), "more jobs are given out than there are"

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    return Seen(sorted(given) == sorted(ids), f"{len(given)} given out, {len(set(given))} different")


@check("G-17", expected="1 job, done once, the second call adds nothing", needs=("redis",))
def enqueue_may_be_repeated(lab: Lab) -> Seen:
    """A producer that gives an id may repeat its call, and the job is there once."""
    with _queue(lab) as queue:
        first = queue.enqueue("a", {"n": 1}, job_id="order-1")
        second = queue.enqueue("a", {"n": 2}, job_id="order-1")
        done = Worker(queue, {"a": lambda job: None}).run(drain=True)
        queue.enqueue("a", {"n": 3}, job_id="order-1")
        job, stats = queue.get("order-1"), queue.stats()
        kept_s = queue.client.ttl(f"{queue.prefix}job:order-1")
    passed = (
        first == second
        and done == 1
        and job is not None
        and (job.payload, job.state, stats.totals["enqueued"], stats.unfinished) == ({"n": 1}, State.DONE, 1, 0)
        and 3500 < kept_s <= 3600
    )
    return Seen(passed, f"{stats.totals['enqueued']} enqueued, {done} done")


def _get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            body = answer.read().decode()
            return answer.status, json.loads(body) if "json" in answer.headers["Content-Type"] else body
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, json.load(answer)


@check(
    "G-17",
    expected="depth high 1, normal 2, low 3; 1 delayed, 1 dead, 1 in progress; 6 done in 600 s; 4 of 10 failed",
    needs=("redis",),
)
def dashboard_numbers(lab: Lab) -> Seen:
    """The dashboard gives depth by priority and type, processing rate, failure rate, and dead letters."""
    with _queue(lab) as queue:
        for _ in range(6):
            queue.enqueue("mail")
            queue.finish(_claimed(queue, "mail"))
        queue.enqueue("mail", max_attempts=3)
        for _ in range(3):
            queue.fail(_claimed(queue, "mail"), "<b>away</b>", delay_s=0)
        queue.enqueue("mail")
        queue.fail(_claimed(queue, "mail"), "away", delay_s=1000)
        queue.enqueue("mail")
        _claimed(queue, "mail")
        for priority, times in ((Priority.HIGH, 1), (Priority.NORMAL, 2), (Priority.LOW, 3)):
            for _ in range(times):
                queue.enqueue("image", priority=priority)
        with lab.server("-m", MODULE, "--prefix", queue.prefix, "dashboard") as server:
            # The longest window, so that a slow machine does not push the first jobs out of it.
            status, stats = _get(f"{server.url}/stats?window_s=600")
            _, dead = _get(f"{server.url}/dead")
            page_status, page = _get(f"{server.url}/")
            missing, _ = _get(f"{server.url}/jobs/none")
            found, job = _get(f"{server.url}/jobs/{dead[0]['id']}")
            wrong, _ = _get(f"{server.url}/stats?window_s=601")
    passed = (
        (status, page_status, missing, found, wrong) == (200, 200, 404, 200, 422)
        and stats["depth"] == {"high": 1, "normal": 2, "low": 3}
        and stats["depth_by_type"]
        == {"image": {"high": 1, "normal": 2, "low": 3}, "mail": {"high": 0, "normal": 0, "low": 0}}
        and (stats["delayed"], stats["in_progress"], stats["dead"]) == (1, 1, 1)
        and (stats["processing_rate_per_s"], stats["failure_rate"]) == (6 / 600, 0.4)
        and (stats["totals"]["enqueued"], stats["totals"]["done"], stats["totals"]["failed"]) == (15, 6, 4)
        and [(one["error"], one["attempts"]) for one in dead] == [("<b>away</b>", 3)]
        and "token" not in job
        and "<title>Job queue</title>" in page
    )
    return Seen(
        passed,
        f"depth {stats['depth']}; {stats['delayed']} delayed, {stats['dead']} dead, {stats['in_progress']} leased; "
        f"{stats['processing_rate_per_s'] * 600:.0f} done in 600 s; failure rate {stats['failure_rate']}",
    )


@check("G-17", expected="the job under way is done, no other is begun, status 0", needs=("redis",))
def worker_ends_after_its_job(lab: Lab) -> Seen:
    """SIGTERM ends a worker after the job under way."""
    with _queue(lab) as queue:
        ids = [queue.enqueue("generate_report", {"seconds": 1}) for _ in range(5)]
        process = lab.start("-m", MODULE, "--prefix", queue.prefix, "work")
        try:
            wait_for(lambda: queue.stats().in_progress == 1, "the job to begin")
            process.terminate()
            output, _ = process.communicate(timeout=60)
        finally:
            stop(process)
        states = Counter(job.state if (job := queue.get(one)) else None for one in ids)
    # On a busy machine the signal may come later, so it is not always the first job.
    passed = (
        process.returncode == 0
        and set(states) == {State.DONE, State.READY}
        and output.endswith(f"{states[State.DONE]} jobs done\n")
    )
    return Seen(passed, f"{states[State.DONE]} done, {states[State.READY]} ready, status {process.returncode}")


@check("G-17", expected="the handlers of a module of one's own", needs=("redis",))
def handlers_of_your_own(lab: Lab) -> Seen:
    """work --handlers imports a module that declares handlers, from the current directory or installed."""
    with _queue(lab) as queue:
        ledger = f"{queue.prefix}ledger:"
        job_id = queue.enqueue("crash_test", {"ledger": ledger, "work_s": 0})
        lab.run(
            *("-m", MODULE, "--prefix", queue.prefix, "work", "--drain"),
            *("--handlers", f"{MODULE}.crash_test", "--types", "crash_test"),
        )
        ended = queue.client.lrange(f"{ledger}ended", 0, -1)
    return Seen(ended == [job_id], f"{len(ended)} job done by the module")


@check("G-17", expected="at-least-once, idempotent, visibility time-out, appendfsync")
def guarantees_are_explained(lab: Lab) -> Seen:
    """The page says what the queue guarantees, and what it does not."""
    return lab.page_names("at least once", "idempotent", "visibility time-out", "appendfsync", "noeviction", "poison")
