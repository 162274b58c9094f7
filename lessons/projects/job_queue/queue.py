"""The queue: jobs in Redis, and the steps of a job's life. Each step is one Lua script, so it happens wholly or not.

    enqueue ──> ready ──claim──> leased ──finish──> done
                  ▲                │ │
                  │   lease ended  │ └─fail─> delayed ──when due──> ready
                  └────────────────┘    └───> dead ──replay──> ready

A lease ends ``visibility_s`` after it was given or extended. What a worker says about a job counts only if it shows the
token of the last claim, so a worker that was away too long cannot fail a job that another one has by now.

Keys begin with ``prefix``: ``job:ID`` (hash), ``ready:TYPE``, ``delayed``, ``leased``, ``dead`` (sorted sets),
``bell:TYPE`` (list), ``types`` (set), ``counts`` (hash), ``rate:done:SECOND``, ``rate:failed:SECOND``, ``sequence``,
``tokens``.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import redis

_LUA = Path(__file__).parent / "lua"
MAX_ATTEMPTS = 5
MAX_PAYLOAD_BYTES = 64 * 1024
_KEEP_DONE_S = 3600
_MAX_ERROR_LENGTH = 500
_PLACES_OF_A_PRIORITY = 2**48
LONGEST_WINDOW_S = 600
PREFIX = "job_queue:"


class Priority(StrEnum):
    """Every ready job of a higher priority is taken before any of a lower one."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class State(StrEnum):
    READY = "ready"
    DELAYED = "delayed"
    LEASED = "leased"
    DEAD = "dead"
    DONE = "done"


@dataclass(frozen=True)
class Job:
    """A job as Redis has it. ``attempts`` counts claims since it was enqueued or replayed."""

    id: str
    type: str
    priority: Priority
    payload: Mapping[str, Any]
    state: State
    attempts: int
    max_attempts: int
    enqueued_at_s: float
    error: str = ""
    worker: str = ""
    token: str = ""

    @classmethod
    def of(cls, job_id: str, fields: Mapping[str, str]) -> "Job":
        return cls(
            id=job_id,
            type=fields["type"],
            priority=Priority(fields["priority"]),
            payload=json.loads(fields["payload"]),
            state=State(fields["state"]),
            attempts=int(fields["attempts"]),
            max_attempts=int(fields["max_attempts"]),
            enqueued_at_s=float(fields["enqueued_at"]),
            error=fields.get("error", ""),
            worker=fields.get("worker", ""),
            token=fields.get("token", ""),
        )


@dataclass(frozen=True)
class Stats:
    """What the dashboard shows. Rates are of the last ``window_s`` seconds.

    ``failure_rate`` is the part of the attempts that failed: 0 to 1; a time-out is a failure.
    """

    depth: Mapping[str, int]
    depth_by_type: Mapping[str, Mapping[str, int]]
    delayed: int
    in_progress: int
    dead: int
    window_s: int
    processing_rate_per_s: float
    failure_rate: float
    totals: Mapping[str, int]

    @property
    def unfinished(self) -> int:
        """Jobs that are neither done nor dead."""
        return sum(self.depth.values()) + self.delayed + self.in_progress


class JobQueue:
    """One queue. ``client`` must decode its answers; threads and processes may share the queue."""

    def __init__(self, client: redis.Redis, prefix: str = PREFIX) -> None:
        self.client = client
        self.prefix = prefix
        common = (_LUA / "common.lua").read_text(encoding="utf-8")
        self._scripts = {
            path.stem: client.register_script(common + path.read_text(encoding="utf-8"))
            for path in _LUA.glob("*.lua")
            if path.stem != "common"
        }

    @classmethod
    def at(cls, url: str, prefix: str = PREFIX) -> "JobQueue":
        """Return the queue in the database ``url``. Connects with the first call of a method."""
        return cls(redis.Redis.from_url(url, decode_responses=True, socket_timeout=10), prefix)

    def _run(self, script: str, *arguments: str | int | float) -> Any:
        return self._scripts[script](keys=[self.prefix], args=arguments)

    def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        priority: Priority = Priority.NORMAL,
        max_attempts: int = MAX_ATTEMPTS,
        delay_s: float = 0,
        job_id: str | None = None,
    ) -> str:
        """Add a job. Returns its id.

        Give ``job_id`` if you may call this twice for one job, for example after a lost connection: while Redis has a
        job with this id (finished ones for an hour), nothing is added. Raises ValueError for values out of range.
        """
        if not job_type or max_attempts < 1 or delay_s < 0:
            raise ValueError("A job needs a type, at least 1 attempt, and a delay of 0 seconds or more.")
        text = json.dumps(dict(payload or {}))
        if len(text) > MAX_PAYLOAD_BYTES:
            raise ValueError(
                f"The payload has {len(text)} bytes, but at most {MAX_PAYLOAD_BYTES} are allowed. "
                "Store the data elsewhere and put its address into the payload."
            )
        job_id = job_id or uuid.uuid4().hex
        self._run("enqueue", job_id, job_type, Priority(priority).value, text, max_attempts, delay_s)
        return job_id

    def claim(self, types: Sequence[str], *, worker: str, visibility_s: float) -> Job | float:
        """Lease the first job of these types. Returns it, or the seconds after which there may be one (or infinity)."""
        answer = self._run("claim", visibility_s, worker, *types)
        if len(answer) == 1:
            return max(0.0, float(answer[0]))
        job_id, flat = answer
        return Job.of(job_id, dict(zip(flat[::2], flat[1::2], strict=True)))

    def wait_for_bell(self, types: Sequence[str], timeout_s: float) -> None:
        """Wait until a job of these types may be ready, at most ``timeout_s``."""
        self.client.blpop([f"{self.prefix}bell:{one}" for one in types], timeout=timeout_s)

    def extend(self, job: Job, visibility_s: float) -> bool:
        """Begin the lease anew. Returns False if it has ended: another worker may have the job."""
        return bool(self._run("extend", job.id, job.token, visibility_s))

    def finish(self, job: Job) -> bool:
        """Say that the job is done. Returns False if another worker has claimed it since, whose word counts."""
        return bool(self._run("finish", job.id, job.token, _KEEP_DONE_S))

    def fail(self, job: Job, error: str, *, delay_s: float, permanent: bool = False) -> State | None:
        """Say that the attempt failed. Returns whether the job is delayed or dead, or None: the lease had ended."""
        state = self._run("fail", job.id, job.token, error[:_MAX_ERROR_LENGTH], delay_s, int(permanent))
        return State(state) if state else None

    def get(self, job_id: str) -> Job | None:
        fields: dict[str, str] = self.client.hgetall(f"{self.prefix}job:{job_id}")  # type: ignore[assignment]
        return Job.of(job_id, fields) if fields else None

    def dead_letters(self, limit: int | None = None) -> Iterator[Job]:
        """Return dead letters, the oldest first."""
        ids: list[str] = self.client.zrange(f"{self.prefix}dead", 0, -1 if limit is None else limit - 1)  # type: ignore[assignment]
        return (job for one in ids if (job := self.get(one)))

    def replay(self, job_id: str) -> bool:
        """Make a dead letter ready again, with all its attempts. Returns False if it is none."""
        return bool(self._run("replay", job_id))

    def discard(self, job_id: str) -> bool:
        """Delete a dead letter. Returns False if it is none."""
        return bool(self._run("discard", job_id))

    def stats(self, window_s: int = 60) -> Stats:
        """Count everything. ``window_s`` is at most LONGEST_WINDOW_S: older counts have expired."""
        with self.client.pipeline() as pipe:
            pipe.time()
            pipe.smembers(f"{self.prefix}types")
            pipe.hgetall(f"{self.prefix}counts")
            for name in ("delayed", "leased", "dead"):
                pipe.zcard(f"{self.prefix}{name}")
            (second, _), types, counts, delayed, leased, dead = pipe.execute()
            types = sorted(types)
            for one in types:
                for rank, _priority in enumerate(Priority):
                    first = rank * _PLACES_OF_A_PRIORITY
                    pipe.zcount(f"{self.prefix}ready:{one}", first, f"({first + _PLACES_OF_A_PRIORITY}")
            seconds = range(int(second) - window_s + 1, int(second) + 1)
            for what in ("done", "failed"):
                pipe.mget([f"{self.prefix}rate:{what}:{one}" for one in seconds])
            *ready, done_by_second, failed_by_second = pipe.execute()
        depths = iter(ready)
        by_type = {one: {priority.value: next(depths) for priority in Priority} for one in types}
        done, failed = (sum(int(one or 0) for one in bucket) for bucket in (done_by_second, failed_by_second))
        return Stats(
            depth={priority.value: sum(one[priority.value] for one in by_type.values()) for priority in Priority},
            depth_by_type=by_type,
            delayed=delayed,
            in_progress=leased,
            dead=dead,
            window_s=window_s,
            processing_rate_per_s=done / window_s,
            failure_rate=failed / (done + failed) if done + failed else 0.0,
            totals={
                name: int(counts.get(name, 0))
                for name in ("enqueued", "done", "failed", "retried", "timed_out", "dead", "replayed", "discarded")
            },
        )

    def may_lose_jobs(self) -> str | None:
        """Return why Redis may remove jobs by itself; None if it does not, or does not say."""
        try:
            policy = str(self.client.info("memory").get("maxmemory_policy", ""))
        except redis.ResponseError:
            return None
        if not policy.startswith("allkeys"):
            return None
        return (
            f"Redis removes keys when its memory is full (maxmemory-policy {policy}), and jobs are keys. Set "
            "redis.maxmemory_policy to noeviction in cluster.yaml, then run citus-cluster up."
        )

    def drop(self) -> None:
        """Delete every key of this queue."""
        for key in list(self.client.scan_iter(match=f"{self.prefix}*", count=1000)):
            self.client.unlink(key)
