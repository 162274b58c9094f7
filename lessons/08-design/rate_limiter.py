"""A server that allows each client 10 requests in any 60 seconds: a sliding window in a sorted set of Redis.

Try: for i in $(seq 12); do curl -s -o /dev/null -w '%{http_code}\\n' localhost:8080; done | sort | uniq -c
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis


class SlidingWindow:
    """Counts the requests of each client; the score of a request in ``ratelimit:{client}`` is its time."""

    def __init__(
        self, client: redis.Redis, limit: int = 10, window_s: float = 60, clock: Callable[[], float] = time.time
    ):
        self.redis, self.limit, self.window_s, self.clock = client, limit, window_s, clock

    def take(self, client: str) -> tuple[int, int]:
        """Return how many requests the client has used, and after how many seconds it may send another; 0 is now."""
        key, now, member = f"ratelimit:{client}", self.clock(), str(uuid.uuid4())
        pipeline = self.redis.pipeline()  # MULTI … EXEC: no other client's command comes in between
        pipeline.zremrangebyscore(key, "-inf", now - self.window_s)
        pipeline.zadd(key, {member: now})  # not the time as the member: two requests of one moment would count as one
        pipeline.zcard(key)
        pipeline.zrange(key, 0, 0, withscores=True)
        pipeline.expire(key, math.ceil(self.window_s))
        _, _, used, [(_, oldest)], _ = pipeline.execute()
        if used <= self.limit:
            return used, 0
        self.redis.zrem(key, member)  # a refused request does not count, or a client that insists would wait forever
        return self.limit, math.ceil(oldest + self.window_s - now)


class Handler(BaseHTTPRequestHandler):
    window: SlidingWindow

    def do_GET(self) -> None:
        used, retry_after_s = self.window.take(self.client_address[0])
        allowed = {"message": "Hello!", "requests_used": used}
        body = "Rate limit exceeded" if retry_after_s else json.dumps(allowed)
        self.send_response(429 if retry_after_s else 200)
        if retry_after_s:
            self.send_header("Retry-After", str(retry_after_s))
        self.send_header("X-RateLimit-Remaining", str(self.window.limit - used))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    parser.add_argument("--window-s", type=float, default=60, help="default: 60")
    options = parser.parse_args()
    server = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/15"), decode_responses=True)
    Handler.window = SlidingWindow(server, window_s=options.window_s)
    try:
        server.ping()
        web = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    except (redis.RedisError, OSError) as error:
        sys.exit(f"Cannot start: {error}. Start Redis or set REDIS_URL, or choose another port: --port 8090")
    with contextlib.suppress(KeyboardInterrupt):
        web.serve_forever()
