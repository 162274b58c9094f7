"""Log requests as JSON, one object on a line, with the request's id in every line."""

import argparse
import itertools
import json
import random
import signal
import time
import uuid


def log(level: str, message: str, request_id: str, **fields: object) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(json.dumps({"timestamp": now, "level": level, "message": message, "request_id": request_id, **fields}))


def handle(path: str, failure_rate: float, speed: float) -> None:
    request_id = uuid.uuid4().hex[:8]
    start = time.perf_counter()
    log("INFO", "request started", request_id, path=path)
    time.sleep(0.05 / speed)
    log("INFO", "database query", request_id, table="users", rows=42)
    time.sleep(0.02 / speed)
    failed = random.random() < failure_rate
    duration_ms = round((time.perf_counter() - start) * 1000, 1)
    level, status = ("ERROR", 500) if failed else ("INFO", 200)
    log(level, "request completed", request_id, path=path, status=status, duration_ms=duration_ms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--failure-rate", type=float, default=0.0, help="part of the requests that fail (0)")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster than 70 ms a request (1)")
    options = parser.parse_args()
    if options.speed <= 0:
        parser.error("--speed must be more than 0")
    for path in itertools.islice(itertools.cycle(["/api/users", "/api/orders"]), options.requests):
        handle(path, options.failure_rate, options.speed)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly in: structured_log.py | head -1
    main()
