"""The same web server with a thread for each connection, so that requests wait at the same time.

Each request takes 10 ms, on PORT (8080): python threaded_server.py [--port 8080] [--work-ms 10]
"""

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn

WORK_S = 0.01


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(WORK_S)  # stands for a query or a call of another service
        body = json.dumps({"status": "ok", "timestamp": time.time()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log no requests: writing the log would be a part of what we measure."""


class ThreadedServer(ThreadingMixIn, HTTPServer):
    daemon_threads = True  # Ctrl-C does not wait for requests under way
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that leave before they have their answer."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    parser.add_argument("--work-ms", type=float, default=10, help="how long each request takes (default: 10)")
    options = parser.parse_args()
    WORK_S = options.work_ms / 1000
    try:
        server = ThreadedServer(("127.0.0.1", options.port), Handler)
    except OSError as error:
        sys.exit(f"Cannot listen on port {options.port}: {error.strerror}. Choose another one: --port 8090")
    print(f"http://127.0.0.1:{options.port}, a thread for each connection; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Ended.")
