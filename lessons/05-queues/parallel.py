"""Queue 20 tasks, start consumers as processes of their own, and show the queue's depth until it is empty."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
QUEUE, DEAD_LETTERS = "task_queue", "dead_letter_queue"
CONSUMER = Path(__file__).with_name("consumer.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--consumers", type=int, default=3)
    parser.add_argument("--slowest", type=float, default=0.5, help="seconds of the slowest task (0.5)")
    options = parser.parse_args()
    if min(options.tasks, options.consumers) < 1 or options.slowest < 0:
        parser.error("--tasks and --consumers must be at least 1, and --slowest at least 0")

    client = redis.Redis.from_url(REDIS_URL, decode_responses=True)
    client.delete(QUEUE, DEAD_LETTERS)
    for number in range(options.tasks):
        client.lpush(QUEUE, json.dumps({"type": f"task_{number}", "queued_at": time.time()}))
    command = [sys.executable, str(CONSUMER), "--timeout=1", f"--slowest={options.slowest}"]
    consumers = [
        subprocess.Popen([*command, f"--name=consumer-{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(1, options.consumers + 1)
    ]
    start = time.monotonic()
    while any(consumer.poll() is None for consumer in consumers):
        depth = client.llen(QUEUE)
        print(f"{time.monotonic() - start:5.1f} s  depth {depth:3}  {'█' * depth}", flush=True)
        time.sleep(0.2)

    seen: list[str] = []
    for number, consumer in enumerate(consumers, 1):
        mine = re.findall(r"(task_\d+) waited", consumer.communicate()[0])
        print(f"consumer-{number}: {', '.join(mine)}")
        seen += mine
    twice, missing = len(seen) - len(set(seen)), options.tasks - len(set(seen))
    print(f"{options.tasks} tasks: {twice} taken twice, {missing} missing, {client.llen(DEAD_LETTERS)} dead letters")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
