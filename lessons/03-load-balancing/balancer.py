"""A load balancer in Python: round robin or least connections, and no requests to a worker that failed for 10 s.

python balancer.py [--port 8080] [--workers 8081 8082 8083] [--method least-connections]
"""

import argparse
import http.client
import os
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REST_S = 10  # nginx's fail_timeout


class Pool:
    """The workers by port: how many requests each has under way, and until when it rests."""

    def __init__(self, ports: list[int], method: str) -> None:
        self.under_way = dict.fromkeys(ports, 0)
        self.rests_until = dict.fromkeys(ports, 0.0)
        self.method = method
        self.lock = threading.Lock()

    def candidates(self) -> Iterator[int]:
        """Give the workers in the order in which to try them: those that work, then those that rest."""
        with self.lock:
            ports = list(self.under_way)
            self.under_way[ports[0]] = self.under_way.pop(ports[0])  # the next request begins with the next worker
            if self.method == "least-connections":
                ports.sort(key=self.under_way.__getitem__)  # stable: among equals, the rounds decide
        yield from sorted(ports, key=lambda port: self.rests_until[port] > time.monotonic())

    def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of the first worker that answers; 502 if none does."""
        for port in self.candidates():
            with self.lock:
                self.under_way[port] += 1
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.rests_until[port] = time.monotonic() + REST_S
                print(f"worker {port} failed: {error}; trying the next one", file=sys.stderr, flush=True)
            finally:
                connection.close()
                with self.lock:
                    self.under_way[port] -= 1
        return 502, b"No worker answers."


class Handler(BaseHTTPRequestHandler):
    pool: Pool

    def do_GET(self) -> None:
        status, body = (200, b"ok") if self.path == "/health" else self.pool.ask(self.path)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log no requests."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    parser.add_argument("--workers", type=int, nargs="+", default=[8081, 8082, 8083], metavar="PORT")
    parser.add_argument("--method", choices=["round-robin", "least-connections"], default="round-robin")
    options = parser.parse_args()
    Handler.pool = Pool(options.workers, options.method)
    try:
        server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    except OSError as error:
        sys.exit(f"Cannot listen on port {options.port}: {error.strerror}. Choose another one: --port 8090")
    print(f"http://127.0.0.1:{options.port}, {options.method}; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Ended.")
