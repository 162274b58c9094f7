"""Take tasks from the list task_queue, one at a time; those that fail go to dead_letter_queue."""

import argparse
import json
import os
import random
import sys
import time

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
QUEUE, DEAD_LETTERS = "task_queue", "dead_letter_queue"


def work(task: dict[str, str], failure_rate: float, slowest_s: float) -> None:
    """Stand in for the real work: take some time, and fail now and then."""
    time.sleep(random.uniform(slowest_s / 5, slowest_s))
    if random.random() < failure_rate:
        raise RuntimeError(f"{task['type']} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="consumer", help="printed in front of every line")
    parser.add_argument(
        "--timeout", type=float, default=5, help="stop after so many seconds without a task (%(default)s)"
    )
    parser.add_argument("--failure-rate", type=float, default=0.1, help="part of the tasks that fail (%(default)s)")
    parser.add_argument(
        "--slowest",
        type=float,
        default=0.5,
        help="seconds of the slowest task (%(default)s); the fastest takes a fifth",
    )
    options = parser.parse_args()
    if options.timeout <= 0 or options.slowest < 0:
        parser.error("--timeout must be more than 0, and --slowest at least 0")

    # The client must wait longer for an answer than Redis waits for a task.
    client = redis.Redis.from_url(REDIS_URL, socket_timeout=options.timeout + 5, decode_responses=True)
    while item := client.brpop([QUEUE], timeout=options.timeout):
        task = json.loads(item[1])
        waited_s = time.time() - task["queued_at"]
        print(f"{options.name}: {task['type']} waited {waited_s:.1f} s", flush=True)
        try:
            work(task, options.failure_rate, options.slowest)
            print(f"{options.name}: {task['type']} done", flush=True)
        except RuntimeError as error:
            dead = client.lpush(DEAD_LETTERS, json.dumps({**task, "error": str(error)}))
            print(f"{options.name}: {error}; dead letters: {dead}", flush=True)
    print(f"{options.name}: No more tasks. Exiting.")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The task under way is lost: BRPOP had removed it. The others are still in the queue.")
