"""A replica follows a counter through Redis pub/sub: read it while an update is on its way, and again later."""

import argparse
import json
import os
import sys
import threading
import uuid

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
CHANNEL = "updates"  # channels are common to all databases of a server: two runs tell their messages apart by "run"


class Replica:
    """Keeps a copy of its own, which a thread updates from the channel."""

    def __init__(self, client: redis.Redis, run: str) -> None:
        self.value: int | None = None
        self.run = run
        self.changed = threading.Condition()
        self.network = threading.Event()  # cleared: messages are on their way, but have not arrived
        self.network.set()
        self.subscription = redis.client.PubSub(client.connection_pool, ignore_subscribe_messages=True)
        self.subscription.subscribe(**{CHANNEL: self.receive})
        self.subscription.get_message(timeout=5)  # pub/sub keeps nothing for those who subscribe later
        self.thread = self.subscription.run_in_thread(sleep_time=0.1, daemon=True)

    def receive(self, message: dict[str, str]) -> None:
        update = json.loads(message["data"])
        if update.get("run") == self.run:
            self.network.wait()
            with self.changed:
                self.value = update["counter"]
                self.changed.notify_all()

    def wait_for(self, value: int, timeout_s: float = 10) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.value == value, timeout_s)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    client = redis.Redis.from_url(REDIS_URL)
    run = uuid.uuid4().hex
    replica = Replica(client, run)

    def write(counter: int) -> None:
        client.publish(CHANNEL, json.dumps({"run": run, "counter": counter}))
        print(f"primary: counter = {counter}")

    for counter in (1, 2):
        write(counter)
        replica.wait_for(counter)
        print(f"replica: counter = {replica.value} (synced)")

    replica.network.clear()
    write(3)
    print(f"replica: counter = {replica.value} (stale!)")
    replica.network.set()
    replica.wait_for(3)
    print(f"replica: counter = {replica.value} (eventually consistent)")
    replica.thread.stop()
    replica.thread.join()


if __name__ == "__main__":
    try:
        main()
    except (redis.RedisError, ValueError) as error:
        sys.exit(f"Redis cannot be used: {error} Start a cluster with Redis, or set REDIS_URL.")
