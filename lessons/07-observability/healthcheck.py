"""Answer GET /health: 200 if Redis and the database answer, 503 if one does not."""

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import redis

REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/15")
DATABASE = Path(tempfile.gettempdir()) / "health.db"


def ask_redis() -> None:
    # A short time-out and no retries: a check must answer before those who ask give up.
    with redis.Redis.from_url(REDIS_URL, socket_timeout=1, socket_connect_timeout=1, retry=None) as client:
        client.ping()


def ask_database() -> None:
    with sqlite3.connect(DATABASE, timeout=1) as database:
        database.execute("SELECT 1 FROM sqlite_schema")  # reads the file; a plain SELECT 1 would not
    database.close()


def check(ask: Callable[[], None]) -> dict[str, object]:
    start = time.perf_counter()
    try:
        ask()
    except (redis.RedisError, sqlite3.Error, ValueError) as error:
        return {"status": "unhealthy", "error": str(error)}
    return {"status": "healthy", "latency_ms": round((time.perf_counter() - start) * 1000, 2)}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        checks = {"redis": check(ask_redis), "database": check(ask_database)}
        healthy = all(one["status"] == "healthy" for one in checks.values())
        status = (200 if healthy else 503) if self.path == "/health" else 404
        answer = {"status": "healthy" if healthy else "unhealthy", "checks": checks}
        body = json.dumps(answer if status != 404 else {"error": "ask for /health"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    port = parser.parse_args().port
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        sys.exit(f"Cannot listen on port {port}: {error.strerror}. Choose another one: --port 8090")
    print(f"http://127.0.0.1:{port}/health", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
