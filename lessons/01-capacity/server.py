"""A web server that handles one request at a time.

It answers every GET with the status and the time, on PORT (8080): python server.py [--port 8080] [--work-ms 0]
"""

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

WORK_S = 0.0


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


class Server(HTTPServer):
    request_queue_size = 128  # connections that wait; with the default of 5, some of 50 clients would wait a second

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that leave before they have their answer."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8080"), help="default: PORT, or 8080")
    parser.add_argument("--work-ms", type=float, default=0, help="how long each request takes (default: 0)")
    options = parser.parse_args()
    WORK_S = options.work_ms / 1000
    try:
        server = Server(("127.0.0.1", options.port), Handler)
    except OSError as error:
        sys.exit(f"Cannot listen on port {options.port}: {error.strerror}. Choose another one: --port 8090")
    print(f"http://127.0.0.1:{options.port}, one request at a time; Ctrl-C ends it", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("Ended.")
