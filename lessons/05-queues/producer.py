"""Put tasks into the list task_queue on Redis: five of three types, or --count numbered ones."""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
QUEUE, DEAD_LETTERS = "task_queue", "dead_letter_queue"
TASKS = [
    {"type": "send_email", "to": "alice@example.com"},
    {"type": "resize_image", "file": "photo_1.jpg"},
    {"type": "send_email", "to": "bob@example.com"},
    {"type": "resize_image", "file": "photo_2.jpg"},
    {"type": "generate_report", "month": "2024-12"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=0, help="put task_0, task_1 … instead, so many")
    parser.add_argument("--clear", action="store_true", help="delete both lists of this lesson first")
    options = parser.parse_args()

    client = redis.Redis.from_url(REDIS_URL)
    if options.clear:
        client.delete(QUEUE, DEAD_LETTERS)
    tasks = [{"type": f"task_{number}"} for number in range(options.count)] or TASKS
    for task in tasks:
        client.lpush(QUEUE, json.dumps({**task, "queued_at": time.time()}))
    for kind, times in Counter(re.sub(r"\d+$", "N", task["type"]) for task in tasks).items():
        print(f"queued {times} {kind}")
    print(f"Queue length: {client.llen(QUEUE)}")


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
